"""What an image answers of single series: pages, rows, totals, and what series show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.ordering import in_turn, least
from tomodex.indexes.duckdb.pages import require_attributes
from tomodex.indexes.duckdb.resident.bits import Bits, Rows, has, ranks, rows_in
from tomodex.indexes.duckdb.resident.block import BOTTOM_MM, MEAN_HU, TOP_MM, VOLUME_ML, Block
from tomodex.indexes.duckdb.resident.image import Image, Part
from tomodex.indexes.duckdb.resident.matching import AskTheFile, Matcher
from tomodex.search import (
    NEWEST,
    SEARCHABLE,
    Hit,
    Measured,
    Order,
    Page,
    Query,
    Seen,
    Totals,
    key_of,
)
from tomodex.search.order import Measure


@dataclass(frozen=True, slots=True)
class Found:
    """Series of one block that a query found, in the order of pages."""

    block: Block
    rows: Rows


def find(image: Image, query: Query) -> tuple[Found, Found]:
    """What a query finds in the two blocks of an image.

    Raises:
        BadQuery, AskTheFile: as `Matcher.find`.
    """
    # A page asks several things of what one query finds.
    sets = image.recent.get(query.term)
    if sets is None:
        sets = tuple(_matching(part, image.labels, query) for part in image.parts)
        image.recent.put(query.term, sets)
    base, late = (
        Found(part.block, rows_in(bits, len(part.block)))
        for part, bits in zip(image.parts, sets, strict=True)
    )
    return base, late


def _matching(part: Part, labels: Mapping[str, int], query: Query) -> Bits:
    return Matcher(part.block, labels).find(query.term) & part.living


def page_of(image: Image, query: Query, limit: int, offset: int, order: Order = NEWEST) -> Page:
    """Exact counts of what a query finds, and some of it."""
    found = find(image, query)
    patients = marked(found, "patient")
    keys = image.patient_keys[: len(patients)][patients]
    return Page(
        series=sum(len(some.rows) for some in found),
        studies=int(np.count_nonzero(marked(found, "study"))),
        patients=len(keys),
        hits=_hits(image, _first(image, found, order, offset + limit)[offset:], tuple(SEARCHABLE)),
        offset=offset,
        patients_key=int(np.add.reduce(keys, dtype=np.uint64)),
        size_bytes=size_of(found),
    )


def keys_of(image: Image, query: Query, order: Order) -> npt.NDArray[np.uint64]:
    """Keys of the series that a query finds, in an order."""
    found = find(image, query)
    return _all_keys(image)[_first(image, found, order, sum(len(some.rows) for some in found))]


def hits_of(image: Image, keys: npt.NDArray[np.uint64], keywords: Sequence[str]) -> tuple[Hit, ...]:
    """The series that have these keys, as far as they are there, in the order of the keys."""
    base, late = _keyed(image, keys)
    places = np.concatenate([base.rows, late.rows + len(base.block)])
    known = np.concatenate([some.block.series_key[some.rows] for some in (base, late)])
    return _hits(image, places[in_turn(known, keys)], keywords)


def seen_in(image: Image, series_uids: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
    """The structures of these series, from head to foot.

    Raises:
        AskTheFile: the image does not know what is measured.
    """
    names = {number: name for name, number in image.labels.items()}
    wanted = set(series_uids)
    keys = np.array([key_of(uid) for uid in wanted], np.uint64)
    seen: dict[str, Sequence[Seen]] = {}
    for found in _keyed(image, keys):
        uids = [found.block.series_uids.at(row) for row in found.rows.tolist()]
        known = zip(uids, _seen(found, names), strict=True)
        # Two series could share a key, so the UID decides.
        seen |= {uid: of_one for uid, of_one in known if uid in wanted}
    return seen


def totals_of(image: Image) -> Totals:
    """What is in the index."""
    found = find(image, Query(text="", term=None))
    states = [_values(some, "segmented") for some in found]
    newest = max(_newest(some) for some in found)
    return Totals(
        series=sum(len(some.rows) for some in found),
        studies=int(np.count_nonzero(marked(found, "study"))),
        patients=int(np.count_nonzero(marked(found, "patient"))),
        segmented=sum(int(np.count_nonzero(some == "yes")) for some in states),
        waiting=sum(int(np.count_nonzero(some == "waiting")) for some in states),
        newest=date.fromordinal(int(newest)) if newest > 0 else None,
    )


def marked(found: Sequence[Found], what: str) -> npt.NDArray[np.bool_]:
    """By number, the studies or patients that were found, but 0."""
    numbers = [getattr(some.block, what)[some.rows] for some in found]
    seen = np.zeros(max(int(some.max(initial=0)) for some in numbers) + 1, np.bool_)
    for some in numbers:
        seen[some] = True
    seen[0] = False
    return seen


def size_of(found: Sequence[Found]) -> int:
    """Of all pixels, not compressed, as far as it is known."""
    sizes = 0.0
    for some in found:
        column = some.block.columns["size_bytes"]
        counts = np.bincount(column.codes[some.rows], minlength=1)
        sizes += float(counts[1:] @ column.values[1 : len(counts)])
    return int(sizes)


def _newest(found: Found) -> float:
    column = found.block.columns["StudyDate"]
    days = column.values[np.bincount(column.codes[found.rows], minlength=len(column.values)) > 0]
    return float(np.nan_to_num(days, nan=-1.0).max(initial=-1.0))


def _values(found: Found, keyword: str) -> npt.NDArray[np.generic]:
    column = found.block.columns[keyword]
    return column.values[column.codes[found.rows]]


def _first(image: Image, found: tuple[Found, Found], order: Order, many: int) -> Rows:
    """So many of the first in an order; those of the small block count on."""
    base, late = found
    before = np.searchsorted(base.rows, image.late_places[late.rows])
    if order == NEWEST:
        first = base.rows[:many]
        soon = before <= len(first)
        soonest: Rows = np.insert(first, before[soon], late.rows[soon] + len(base.block))
        return soonest[:many]
    # Blocks are newest study first, so that what is alike is in its order.
    places: Rows = np.insert(base.rows, before, late.rows + len(base.block))
    keys = np.insert(_sorted_by(image, base, order), before, _sorted_by(image, late, order))
    sure, alike = least(keys, many)
    turns: Rows = np.concatenate([sure[np.argsort(keys[sure], kind="stable")], alike])
    return places[turns[:many]]


def _sorted_by(image: Image, found: Found, order: Order) -> npt.NDArray[np.float64]:
    """For each of the series a number, less for what comes sooner; NaN for what comes last."""
    match order.by:
        case Measured():
            values = _measured(found, image.labels.get(order.by.structure), order.by.what)
        case keyword:
            values = _values(found, keyword).astype(np.float64)
    return -values if order.greatest_first else values


def _measured(found: Found, structure: int | None, what: Measure) -> npt.NDArray[np.float64]:
    block, values = found.block, np.full(len(found.rows), np.nan)
    if block.measures is None:
        raise AskTheFile
    if structure is not None and structure < len(block.measures):
        shown = block.showing(structure)
        showing = has(shown, found.rows)
        measures = block.measures[structure][{"volume_ml": VOLUME_ML, "mean_hu": MEAN_HU}[what]]
        values[showing] = measures[ranks(shown, found.rows[showing])]
    return values


def _all_keys(image: Image) -> npt.NDArray[np.uint64]:
    return np.concatenate([part.block.series_key for part in image.parts])


def _keyed(image: Image, keys: npt.NDArray[np.uint64]) -> tuple[Found, Found]:
    base, late = (_living(part, part.block.keyed(keys)) for part in image.parts)
    return base, late


def _living(part: Part, rows: Rows) -> Found:
    return Found(part.block, np.unique(rows[has(part.living, rows)]))


def _hits(image: Image, places: Rows, keywords: Sequence[str]) -> tuple[Hit, ...]:
    require_attributes(keywords)
    size = len(image.base.block)
    base, late = (part.block for part in image.parts)
    texts = _Said(base, keywords), _Said(late, keywords)
    return tuple(
        texts[0].hit(place) if place < size else texts[1].hit(place - size)
        for place in places.tolist()
    )


class _Said:
    """What series of a block say of themselves, as people read it."""

    def __init__(self, block: Block, keywords: Sequence[str]) -> None:
        self._block = block
        self._columns = [
            (keyword, block.columns[keyword].codes, _plain(block, keyword)) for keyword in keywords
        ]

    def hit(self, row: int) -> Hit:
        block = self._block
        known = ((keyword, codes[row], plain) for keyword, codes, plain in self._columns)
        return Hit(
            series_uid=block.series_uids.at(row),
            study_uid=block.study_uids.at(row),
            patient=block.pseudonyms.at(row),
            attributes={keyword: plain(code) for keyword, code, plain in known if code},
            structure_count=int(block.structure_count[row]),
        )


def _plain(block: Block, keyword: str) -> Callable[[int], str | float]:
    """What turns a code of an attribute into what it says."""
    values = block.columns[keyword].values
    match SEARCHABLE[keyword]:
        case "text":
            return lambda code: str(values[code])
        case "date":
            return lambda code: date.fromordinal(int(values[code])).isoformat()
    return lambda code: float(values[code])


def _seen(found: Found, names: Mapping[int, str]) -> list[tuple[Seen, ...]]:
    """What each of the series shows, from head to foot."""
    if found.block.measures is None:
        raise AskTheFile
    seen: list[list[Seen]] = [[] for _ in found.rows]
    for structure, measures in enumerate(found.block.measures):
        showing = has(found.block.showing(structure), found.rows)
        rows = found.rows[showing]
        if not len(rows):
            continue
        whole = has(found.block.completing(structure), rows).tolist()
        values = measures[:, ranks(found.block.showing(structure), rows)].T.tolist()
        for place, complete, measured in zip(np.flatnonzero(showing), whole, values, strict=True):
            seen[place].append(_one_seen(names[structure], complete, measured))
    return [tuple(sorted(some, key=lambda s: (-s.top_mm, s.structure))) for some in seen]


def _one_seen(name: str, complete: bool, measured: Sequence[float]) -> Seen:
    return Seen(
        structure=name,
        volume_ml=measured[VOLUME_ML],
        mean_hu=measured[MEAN_HU],
        bottom_mm=measured[BOTTOM_MM],
        top_mm=measured[TOP_MM],
        complete=complete,
    )
