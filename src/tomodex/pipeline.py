"""From a series to what the index says of it: the whole product on one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from tomodex.annotation import AnnotatedSeries, Annotation, Image, Provenance, annotate
from tomodex.bounds import Expect, ignore
from tomodex.errors import Unsuitable
from tomodex.expectation import expect_retrieval, expect_work
from tomodex.geometry import Geometry
from tomodex.instance import LPS, Instance
from tomodex.measurement import measure
from tomodex.segmentation import Segmentation
from tomodex.segmenters import Segmenter
from tomodex.selection import Rules, select
from tomodex.series import Listing, Series, series_from
from tomodex.sources import Source
from tomodex.terminology import Terminology
from tomodex.volume import FiledVolume, Volume, open_volume

#: What can change a number in a result, so its version goes into provenance.
SOFTWARE = ("tomodex", "numpy", "pydicom", "imagecodecs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a worker holds open from one series to the next."""

    source: Source
    read: Callable[[Path], Instance | None]  #: the header of a file; None: it is not DICOM
    rules: Rules
    segmenters: Sequence[Segmenter]  #: the first that has something to say counts
    terminology: Terminology
    expect: Expect = ignore  #: is told how long what comes next may take
    threads: int | None = None  #: that decode pixels; None: one for each core
    show: Callable[[str, Segmentation], None] | None = None  #: draws a series' preview


def annotate_series(listed: Series, tools: Tools, configuration: str) -> AnnotatedSeries:
    """Retrieve, select, open, segment, measure and annotate one series; keep nothing on disk.

    Raises:
        Unsuitable: its instances do not make a volume that is wanted, or not one that is whole.
        Unavailable: the source did not deliver it.
    """
    started = _now()
    seconds: dict[str, float] = {}
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        tools.expect(*expect_retrieval(listed))
        with _timed(seconds, "retrieve"):
            files = tools.source.retrieve(listed, into=Path(scratch))
        with _timed(seconds, "load"):
            series, instances = read_series(listed, files, tools)
            series = confirm_segmentations(series, instances, tools, Path(scratch))
            volume, image = open_series(series, instances, tools)
        tools.expect(*expect_work(volume, tools.segmenters))
        with _timed(seconds, "segment"):
            segmentation = segment(series, volume, tools, Path(scratch))
            volume.require_pixels()
        with _timed(seconds, "measure"):
            annotations = measure_and_code(segmentation, tools.terminology)
        if segmentation and tools.show:
            with _timed(seconds, "preview"):
                tools.show(series.series_uid, segmentation)
    return AnnotatedSeries(
        series=series,
        image=image,
        annotations=annotations,
        unmapped=segmentation.unmapped if segmentation else (),
        provenance=Provenance(
            algorithm=segmentation.algorithm if segmentation else None,
            terminology=tools.terminology.version,
            software=software_versions(),
            source=tools.source.url,
            configuration=configuration,
            started=started,
            finished=_now(),
            stage_seconds=seconds,
        ),
    )


def confirm_segmentations(
    series: Series, instances: tuple[Instance, ...], tools: Tools, scratch: Path
) -> Series:
    """The series with as many stored segmentations as really refer to it, where that decides.

    A PACS tells only of those in the same study, and a short series is wanted only if it has one.
    """
    alone = Listing(series=replace(series, segmentations=0), instances=instances)
    if not series.segmentations or select(alone, tools.rules).geometry is not None:
        return series
    stored = tools.source.retrieve_segmentations(series, into=scratch)
    return replace(series, segmentations=len(stored))


def read_series(
    listed: Series, files: Sequence[Path], tools: Tools
) -> tuple[Series, tuple[Instance, ...]]:
    """The series as the headers that really came describe it, and those headers.

    What the archive says of patient and study counts more than a header: studies are corrected and
    merged in its database, and the stored instances keep what they were written with.

    Raises:
        Unsuitable: an instance belongs to another series.
    """
    instances = tuple(found for found in map(tools.read, files) if found is not None)
    _require_own(listed, instances)
    read = series_from(
        instances, [0] * len(instances), series_uid=listed.series_uid, study_uid=listed.study_uid
    )
    series = replace(
        listed,
        patient=listed.patient or read.patient,
        modality=read.modality or listed.modality,
        sop_classes=read.sop_classes,
        instance_count=read.instance_count,
        attributes={**listed.attributes, **read.attributes},
    )
    return series, instances


def _require_own(series: Series, instances: Sequence[Instance]) -> None:
    """Refuse images that would be shown under the UID of another series.

    A series whose headers have no UID was given one when it was listed.
    """
    foreign = {i.series_uid for i in instances} - {series.series_uid, ""}
    if foreign:
        raise Unsuitable(
            "other_series",
            f"the archive sent instances of {len(foreign)} other series, such as {min(foreign)}",
        )


def open_series(
    series: Series, instances: Sequence[Instance], tools: Tools
) -> tuple[FiledVolume, Image]:
    """The volume that the instances make, judged once more by their headers.

    Its pixels are decoded when a segmenter takes them, and then or never held all at once.
    """
    chosen = select(Listing(series=series, instances=tuple(instances)), tools.rules)
    if chosen.geometry is None:
        raise Unsuitable(chosen.reason, chosen.sentence)
    volume = open_volume(chosen.instances, chosen.geometry, threads=tools.threads)
    return volume, describe(volume, chosen.geometry, chosen.left_out)


def segment(series: Series, volume: Volume, tools: Tools, scratch: Path) -> Segmentation | None:
    """What the first segmenter with an answer says; None where none has one."""
    stored: Sequence[Path] | None = None
    for segmenter in tools.segmenters:
        if segmenter.reads_stored and stored is None:
            stored = tools.source.retrieve_segmentations(series, into=scratch)
        if segmentation := segmenter.segment(volume, stored or ()):
            return segmentation
    return None


def measure_and_code(
    segmentation: Segmentation | None, terminology: Terminology
) -> tuple[Annotation, ...]:
    """Numbers and codes of everything that was segmented."""
    return annotate(measure(segmentation), terminology) if segmentation else ()


def describe(volume: Volume, geometry: Geometry, left_out: Mapping[str, int]) -> Image:
    """What a search or a viewer needs to know of a volume that is not kept."""
    steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
    lowest, highest = _corners(volume)
    return Image(
        shape=volume.shape,
        spacing_mm=_lps(steps),
        affine=tuple(tuple(map(float, row)) for row in volume.affine),
        plane=geometry.plane,
        oblique_deg=geometry.oblique_deg,
        tilt_deg=geometry.tilt_deg,
        box_min_mm=_lps(lowest),
        box_max_mm=_lps(highest),
        corrected=("uneven_spacing",) if geometry.places is not None else (),
        left_out=left_out,
    )


@cache
def software_versions() -> Mapping[str, str]:
    """Version of everything that could change a number, read from what runs."""
    return {name: version(name) for name in SOFTWARE}


def _corners(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest LPS coordinates, (3,) each in mm, of the corners of the volume."""
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.shape])).reshape(3, 8)
    corners = volume.affine[:3, :3] @ ends + volume.affine[:3, 3:]
    return corners.min(axis=1), corners.max(axis=1)


def _lps(values: np.ndarray) -> LPS:
    return float(values[0]), float(values[1]), float(values[2])


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = perf_counter()
    yield
    seconds[stage] = round(perf_counter() - begin, 3)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
