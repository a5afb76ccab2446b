"""Compare our segmenter with the official package on series of an archive.

What `tomodex compare-engine` does: the acceptance test of an engine on a hospital's own images.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from tomodex.comparison import Comparison, LeftOut, Limits, Pair, SeriesComparison, compare
from tomodex.errors import Misconfigured, TomodexError, Unsuitable
from tomodex.pipeline import Tools, open_series, read_series
from tomodex.segmentation import Segmentation
from tomodex.segmenters import Segmenter
from tomodex.selection import Rules, select
from tomodex.series import Listing, Series
from tomodex.settings import Settings
from tomodex.sources import Progress
from tomodex.volume import Volume
from tomodex.wiring import segmenter_urls, tools_of

log = logging.getLogger(__name__)

#: Makes the progress of something that is about to be done, by its title.
ProgressOf = Callable[[str], Progress]

#: So many series are chosen for each that is wanted, as some turn out not to be suitable.
SPARE = 3

#: Our own engine, where no other segmenter is named.
ENGINE = "totalsegmentator:"

#: Options of ours that say which labels are meant, and so are asked of the reference too.
SHARED = ("task", "resolution", "weights")

#: Series that are held while one looks for those that are compared, besides four times as many.
_HELD = 1000

#: What a row of a table or file says, by column.
Row = Mapping[str, str | int | float | bool | None]


def engine_url(settings: Settings) -> str:
    """The first of the segmenters in force that is our engine on TotalSegmentator's weights."""
    found = (url for url in segmenter_urls(settings) if url.startswith(ENGINE))
    return next(found, ENGINE)


def reference_url(segmenter: str) -> str:
    """The official package, asked for what `segmenter` is asked for."""
    wanted = [(k, v) for k, v in parse_qsl(urlsplit(segmenter).query) if k in SHARED]
    return "reference:" + (f"?{urlencode(wanted)}" if wanted else "")


def compare_engines(
    settings: Settings, source: str, count: int, limits: Limits, progress: ProgressOf
) -> Comparison:
    """Compare two segmenters on `count` series of a source.

    Args:
        settings: its two segmenters are ours and the reference.
        source: URL or name of the archive.
        count: of series. One that cannot be compared does not count, as long as there are others.
        limits: what is asked of ours.
        progress: of looking through the archive, and of comparing.

    Raises:
        Misconfigured: the source or a segmenter cannot be opened, or cannot be compared.
        Unavailable: the archive could not be listed.
    """
    tools = tools_of(settings, source)
    listings = tools.source.find(progress("looking through files"))
    chosen = choose_series(listings, tools.rules, SPARE * count)
    for segmenter in tools.segmenters:
        warm_up(segmenter)
    compared, left_out = _compare_all(chosen, count, tools, progress("comparing series"))
    return Comparison(limits=limits, series=tuple(compared), left_out=tuple(left_out))


def choose_series(listings: Iterable[Listing], rules: Rules, count: int) -> tuple[Series, ...]:
    """`count` of the wanted series, always the same ones of the same archive.

    By the hash of their UIDs, so as blindly as by lot, and one of each study before a second one
    of any. Only a few are held at a time, however many there are.
    """
    drawn: list[Series] = []
    for listing in listings:
        if select(listing, rules).wanted:
            drawn.append(listing.series)
        if len(drawn) > _HELD + 4 * count:
            drawn = _draw(drawn, count)
    return tuple(_draw(drawn, count)[:count])


def _draw(series: Iterable[Series], count: int) -> list[Series]:
    """By lot the first of `count` studies, then the first `count` of all."""
    by_lot = sorted(series, key=lambda s: hashlib.sha256(s.series_uid.encode()).digest())
    firsts = {one.study_uid: one for one in reversed(by_lot)}
    of_studies = [one for one in by_lot if firsts[one.study_uid] is one][:count]
    return list({one.series_uid: one for one in (*of_studies, *by_lot[:count])}.values())


def warm_up(segmenter: Segmenter) -> None:
    """Let a segmenter do once, on an image of air, what it does the first time only."""
    air = np.full((30, 60, 60), -1000, np.int16)
    # One that refuses it says so of the series too.
    with suppress(Unsuitable):
        segmenter.segment(Volume(air, np.diag([5.0, 5.0, 5.0, 1.0])[[2, 1, 0, 3]]), ())


def _compare_all(
    chosen: Sequence[Series], count: int, tools: Tools, progress: Progress
) -> tuple[list[SeriesComparison], list[LeftOut]]:
    """The first `count` of the chosen series that can be compared, and those that cannot."""
    compared: list[SeriesComparison] = []
    left_out: list[LeftOut] = []
    for series in chosen:
        progress(len(compared), min(count, len(chosen)))
        if len(compared) == count:
            break
        try:
            compared.append(compare_series(series, tools))
        except Misconfigured:
            raise
        except TomodexError as trouble:
            left_out.append(LeftOut(series_uid=series.series_uid, sentence=str(trouble)))
            log.info("left out", extra=asdict(left_out[-1]))
        else:
            log.info("compared", extra=dict(_series_row(compared[-1])))
    progress(len(compared), len(compared))
    return compared, left_out


def compare_series(series: Series, tools: Tools) -> SeriesComparison:
    """Let both segmenters label one series, one after the other, and compare what they say.

    Raises:
        TomodexError: it cannot be retrieved, loaded or segmented, or not compared.
    """
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        files = tools.source.retrieve(series, into=Path(scratch))
        filed, _ = open_series(*read_series(series, files, tools), tools)
        # Decoded before any clock runs.
        volume = Volume(filed.voxels, filed.affine, filed.modality)
        stored: Sequence[Path] = ()
        if any(segmenter.reads_stored for segmenter in tools.segmenters):
            stored = tools.source.retrieve_segmentations(series, into=Path(scratch))
        ours, reference = (_timed(segmenter, volume, stored) for segmenter in tools.segmenters)
    return compare(
        ours.segmentation,
        reference.segmentation,
        series_uid=series.series_uid,
        seconds=ours.seconds,
        reference_seconds=reference.seconds,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    segmentation: Segmentation
    seconds: float


def _timed(segmenter: Segmenter, volume: Volume, stored: Sequence[Path]) -> _Timed:
    begin = perf_counter()
    segmentation = segmenter.segment(volume, stored)
    seconds = perf_counter() - begin
    if segmentation is None:
        raise TomodexError("one of the segmenters has nothing to say of it")
    if len(segmentation.layers) != 1:
        raise TomodexError("structures overlap, so that voxels have several labels")
    return _Timed(segmentation, seconds)


# --- rows of files and tables ---------------------------------------------------------------------


def series_rows(comparison: Comparison) -> list[Row]:
    """A row for each series."""
    return [
        {**_series_row(one), "accepted": not one.failures(comparison.limits)}
        for one in comparison.series
    ]


def _series_row(one: SeriesComparison) -> Row:
    return {
        "series_uid": one.series_uid,
        "grid": " x ".join(map(str, one.shape)),
        "carried": one.carried,
        "voxels": one.voxels,
        "agreement": one.agreement,
        "foreground_agreement": one.foreground_agreement,
        "structures": len(one.pairs),
        "dice_worst": min((pair.dice for pair in one.pairs), default=None),
        "seconds": round(one.seconds, 3),
        "reference_seconds": round(one.reference_seconds, 3),
    }


def pair_rows(comparison: Comparison) -> list[Row]:
    """A row for each structure of each series."""
    return [
        {"series_uid": one.series_uid, **_pair_row(pair)}
        for one in comparison.series
        for pair in one.pairs
    ]


def _pair_row(pair: Pair) -> Row:
    ours, reference = pair.ours, pair.reference
    cuts = [None if one is None else " ".join(one.cut) for one in (ours, reference)]
    return {
        "structure": pair.structure,
        "dice": pair.dice,
        "ml": pair.ml[0],
        "reference_ml": pair.ml[1],
        "volume_percent": pair.volume_percent,
        "mean_hu": ours.mean_hu if ours else None,
        "reference_mean_hu": reference.mean_hu if reference else None,
        "difference_hu": pair.difference_hu,
        "cut": cuts[0],
        "reference_cut": cuts[1],
    }


def document(comparison: Comparison) -> dict[str, object]:
    """All of it, for a program: what JSON can say, and no patient."""
    first = comparison.series[0] if comparison.series else None
    return {
        "accepted": comparison.accepted,
        "limits": comparison.limits,
        "failures": [{"series_uid": uid, "sentence": said} for uid, said in comparison.failures],
        "algorithm": first and first.algorithm,
        "reference_algorithm": first and first.reference_algorithm,
        "agreement": comparison.agreement,
        "foreground_agreement": comparison.foreground_agreement,
        "speed": comparison.speed,
        "series": series_rows(comparison),
        "structures": [asdict(one) for one in comparison.structures],
        "pairs": pair_rows(comparison),
        "left_out": [asdict(one) for one in comparison.left_out],
    }


def write_csv(comparison: Comparison, folder: Path) -> None:
    """`series.csv`, `structures.csv` and `pairs.csv`, a row for each series, structure and both.

    Raises:
        Misconfigured: they cannot be written there.
    """
    files: dict[str, Sequence[Row]] = {
        "series": series_rows(comparison),
        "structures": [asdict(one) for one in comparison.structures],
        "pairs": pair_rows(comparison),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            with (folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
                writer.writeheader()
                writer.writerows(rows)
    except OSError as refused:
        raise Misconfigured(f"cannot write to {folder}: {refused.strerror}") from refused
