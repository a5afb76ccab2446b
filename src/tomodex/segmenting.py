"""Masks on request: from a series to files with the voxels of the structures that somebody wants.

The same road as `pipeline.py`, and then, instead of measurements for the index, masks on the grid
of the series. Nothing of it stays here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from tomodex.annotation import AnnotatedSeries, Annotation, Provenance
from tomodex.errors import BadQuery, Unsuitable
from tomodex.formats.dicom_header import read_subject
from tomodex.formats.dicom_seg import Kind, Origin, Packing, write_segs
from tomodex.formats.dicom_sr import Evidence, measurement_report
from tomodex.formats.labelling import write_label_file, write_labels_json, write_statistics
from tomodex.formats.lossy import read_lossy
from tomodex.formats.nifti import write_nifti
from tomodex.formats.nrrd import write_nrrd
from tomodex.masks import Labels, Masks, masks_on_frames, masks_on_grid
from tomodex.pipeline import (
    Tools,
    describe,
    measure_and_code,
    open_series,
    read_series,
    segment,
    software_versions,
)
from tomodex.segmentation import Segmentation
from tomodex.selection import select
from tomodex.series import Listing, Series
from tomodex.stores import DICOM, Store
from tomodex.terminology import Terminology

#: seg: DICOM SEG as a label map. seg-binary: as one bit a pixel. sr: their measurements as a DICOM
#: report. nifti, nrrd: files for research. statistics: volumes and means, as TotalSegmentator.
Form = Literal["seg", "seg-binary", "sr", "nifti", "nrrd", "statistics"]

FORMS: tuple[Form, ...] = get_args(Form)

#: Forms that an archive takes.
OF_DICOM: frozenset[Form] = frozenset({"seg", "seg-binary", "sr"})

_KINDS: Mapping[Form, Kind] = {"seg": "LABELMAP", "seg-binary": "BINARY"}

#: What asks for everything that the segmenters find.
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which masks somebody wants, and how.

    Raises:
        BadQuery: no form is named, or one that there is not.
    """

    structures: tuple[str, ...] = ()  #: our names; () is all
    forms: tuple[Form, ...] = ("seg",)
    files: Literal["together", "each"] = "together"  #: each: one NIfTI or NRRD file a structure
    packing: Packing = "native"  #: of DICOM SEG
    folder: Literal["series", "none"] = "series"  #: series: the files lie in one with its UID

    def __post_init__(self) -> None:
        unknown = [form for form in self.forms if form not in FORMS]
        if unknown or not self.forms:
            raise BadQuery(f"{', '.join(unknown) or 'no form'}: masks come as {', '.join(FORMS)}")
        if self.packing == "rle" and "seg-binary" in self.forms:
            raise BadQuery("one bit a pixel cannot be packed by rle; use native or deflated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Masks that were made."""

    series_uid: str
    structures: tuple[str, ...]  #: that have a voxel
    missing: tuple[str, ...]  #: were wanted, and nothing was found of them
    places: tuple[str, ...]  #: where the files are
    algorithm: str = ""  #: what segmented it
    loading_s: float = field(default=0.0, compare=False)  #: until its voxels were there
    total_s: float = field(default=0.0, compare=False)  #: until its masks were in the store


def resolve_structures(texts: Sequence[str], terminology: Terminology) -> tuple[str, ...]:
    """Names of the structures that words mean, such as "liver" or "left kidney"; () for "all".

    Raises:
        BadQuery: words mean nothing that we know.
    """
    wanted = [text.strip() for text in texts if text.strip()]
    if not wanted or ALL in (text.casefold() for text in wanted):
        return ()
    found: dict[str, None] = {}
    for text in wanted:
        names = terminology.resolve(text)
        if not names:
            near = terminology.suggest(text)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BadQuery(f"no structure is called {text[:80]}{hint}", suggestions=tuple(near))
        found |= dict.fromkeys(names)
    return tuple(found)


def require_fit(wish: Wish, store: Store) -> None:
    """Refuse to send to an archive what it cannot take.

    Raises:
        BadQuery: a form is no DICOM, and the store takes nothing else.
    """
    foreign = [form for form in wish.forms if form not in OF_DICOM]
    if store.only_dicom and foreign:
        raise BadQuery(f"{store.url} takes DICOM only, and not {', '.join(foreign)}")


def segment_series(
    listed: Series, tools: Tools, wish: Wish, store: Store, configuration: str, at: datetime
) -> Delivered:
    """Retrieve a series, segment it, and put its masks into the store.

    The same wish of the same moment gives the same objects, so to try again does no harm.

    Args:
        at: when it was wished for, which DICOM objects say that they are of.

    Raises:
        Unsuitable: the series makes no volume, or nothing wanted was found in it.
        Unavailable: the source or the store does not answer.
    """
    require_fit(wish, store)
    begin_s = time.monotonic()
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        folder = Path(scratch, "masks")
        folder.mkdir()
        found = _find(listed, tools, Path(scratch), configuration)
        masks = masks_on_frames(found.segmentation, found.origin.geometry, wish.structures)
        files = _write(found, masks, wish, tools.terminology, folder, at)
        below = folder_name(listed.series_uid) if wish.folder == "series" else ""
        places = store.put(files, below)
    return Delivered(
        series_uid=listed.series_uid,
        structures=masks.structures,
        missing=tuple(name for name in wish.structures if name not in masks.structures),
        places=tuple(places),
        algorithm=found.segmentation.algorithm.name,
        loading_s=found.loaded_s - begin_s,
        total_s=time.monotonic() - begin_s,
    )


def folder_name(series_uid: str) -> str:
    """What the folder of a series' masks is called: its UID, or what is left of no UID."""
    return re.sub(r"[^0-9A-Za-z.-]", "_", series_uid)[:64].strip(".") or "series"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Found:
    """A series that was segmented."""

    origin: Origin
    segmentation: Segmentation
    annotated: AnnotatedSeries
    loaded_s: float  #: when its voxels were there, of the monotonic clock


def _find(listed: Series, tools: Tools, scratch: Path, configuration: str) -> _Found:
    started = _now()
    files = tools.source.retrieve(listed, into=scratch)
    series, instances = read_series(listed, files, tools)
    volume, _ = open_series(series, instances, tools)
    loaded_s = time.monotonic()
    segmentation = segment(series, volume, tools, scratch)
    volume.require_pixels()
    if segmentation is None:
        raise Unsuitable("no_structures", "no segmenter has anything to say of this series")
    chosen = select(Listing(series=series, instances=instances), tools.rules)
    assert chosen.geometry is not None  # or it could not have been opened
    origin = Origin(
        series_uid=series.series_uid,
        subject=read_subject(Path(chosen.instances[0].path), series.study_uid),
        instances=chosen.instances,
        geometry=chosen.geometry,
        lossy=read_lossy({i: chosen.instances[i] for i, _ in chosen.geometry.slices}.values()),
    )
    annotated = AnnotatedSeries(
        series=series,
        image=describe(volume, chosen.geometry, chosen.left_out),
        annotations=measure_and_code(segmentation, tools.terminology),
        unmapped=segmentation.unmapped,
        provenance=Provenance(
            algorithm=segmentation.algorithm,
            terminology=tools.terminology.version,
            software=software_versions(),
            source=tools.source.url,
            configuration=configuration,
            started=started,
            finished=_now(),
        ),
    )
    return _Found(origin=origin, segmentation=segmentation, annotated=annotated, loaded_s=loaded_s)


# --- files ----------------------------------------------------------------------------------------


def _write(
    found: _Found,
    masks: Masks,
    wish: Wish,
    terminology: Terminology,
    folder: Path,
    at: datetime,
) -> list[Path]:
    """The files that are wished for, in `folder`."""
    files = _write_dicom(found, masks, wish, terminology, folder, at)
    if any(form in wish.forms for form in ("nifti", "nrrd")):
        geometry = found.origin.geometry
        even = geometry.places is None
        grid = masks if even else masks_on_grid(found.segmentation, geometry, wish.structures)
        parts = _each(grid) if wish.files == "each" else _together(grid)
        for part in parts:
            files += _write_labels(part, grid.affine, wish, terminology, folder)
        described = folder / "labels.json"
        write_labels_json(described, grid, found.origin.series_uid, terminology)
        files.append(described)
    if "statistics" in wish.forms:
        statistics = folder / "statistics.json"
        write_statistics(statistics, _shown(found, masks))
        files.append(statistics)
    return files


def _write_dicom(
    found: _Found,
    masks: Masks,
    wish: Wish,
    terminology: Terminology,
    folder: Path,
    at: datetime,
) -> list[Path]:
    segs: list[Dataset] = []
    for form, kind in _KINDS.items():
        if form in wish.forms:
            packing = wish.packing
            segs += write_segs(masks, found.origin, terminology, kind, packing, at)
    objects = list(segs)
    if "sr" in wish.forms:
        objects.append(_report(found, masks, segs, terminology, at))
    return [_save(ds, folder) for ds in objects]


def _report(
    found: _Found, masks: Masks, segs: Sequence[Dataset], terminology: Terminology, at: datetime
) -> Dataset:
    """The measurements of what is shown, which point at its segments."""
    annotated = replace(found.annotated, annotations=_shown(found, masks))
    used = dict.fromkeys(i for i, _ in found.origin.geometry.slices)
    images = [found.origin.instances[i] for i in used]
    # Label maps are of 2024: where there is a choice, the report can be read by older software.
    known_first = sorted(segs, key=lambda ds: ds.SegmentationType != "BINARY")
    evidence = Evidence(
        segmentations=known_first, images=[(image.sop_class, image.sop_uid) for image in images]
    )
    return measurement_report(annotated, found.origin.subject, terminology, evidence, at)


def _shown(found: _Found, masks: Masks) -> tuple[Annotation, ...]:
    """What was measured of the structures that have a mask."""
    shown = set(masks.structures)
    return tuple(one for one in found.annotated.annotations if one.structure in shown)


def _save(ds: Dataset, folder: Path) -> Path:
    path = folder / f"{ds.Modality.lower()}-{ds.SOPInstanceUID.rpartition('.')[2][:12]}{DICOM}"
    ds.save_as(path, enforce_file_format=True)
    return path


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Part:
    """What becomes one file."""

    name: str
    labels: Labels
    names: Mapping[int, str]


def _together(masks: Masks) -> Iterator[_Part]:
    """A file for each layer; mostly there is one."""
    for number, (labels, names) in enumerate(zip(masks.layers, masks.names, strict=True), start=1):
        yield _Part(
            name="labels" if number == 1 else f"labels-{number}", labels=labels, names=names
        )


def _each(masks: Masks) -> Iterator[_Part]:
    """A file for each structure, whose voxels are 1."""
    for labels, names in zip(masks.layers, masks.names, strict=True):
        for label, name in names.items():
            yield _Part(name=name, labels=(labels == label).view(np.uint8), names={1: name})


def _write_labels(
    part: _Part,
    affine: npt.NDArray[np.float64],
    wish: Wish,
    terminology: Terminology,
    folder: Path,
) -> Iterator[Path]:
    if "nifti" in wish.forms:
        path = folder / f"{part.name}.nii.gz"
        write_nifti(path, part.labels, affine)
        yield path
    if "nrrd" in wish.forms:
        path = folder / f"{part.name}.seg.nrrd"
        write_nrrd(path, part.labels, part.names, affine, terminology)
        yield path
    if wish.files == "together":
        path = folder / f"{part.name}.label"
        write_label_file(path, part.names)
        yield path


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
