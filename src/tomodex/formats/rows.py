"""Annotated series as rows of three tables: series, annotations, structures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tomodex.annotation import RADLEX, SNOMED, AnnotatedSeries, Annotation, Image
from tomodex.instance import FREE_TEXT, Kind
from tomodex.parquet import Column, Type, Value
from tomodex.search import DERIVED, SEARCHABLE, attributes_of
from tomodex.segmentation import Algorithm
from tomodex.terminology import Structure

#: Changes when a reader of the old tables would misread the new ones.
TABLES_VERSION = "1.0"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cell(Generic[T]):
    """A column, and what it has of one thing."""

    column: Column
    of: Callable[[T], Value]


_TYPES: Mapping[Kind, Type] = {"text": "text", "number": "double", "date": "date"}

#: What attributes mean, where their DICOM keyword alone does not say it.
_MEANINGS: Mapping[str, str] = {
    "PatientAge": "at the study, years",
    "KVP": "kV",
    "XRayTubeCurrent": "mA, median of the instances",
    "SliceThickness": "mm",
    "SpacingBetweenSlices": "mm",
    "ReconstructionDiameter": "mm",
    "CTDIvol": "mGy",
    "GantryDetectorTilt": "degrees",
    "slice_count": "slices of the volume that was indexed",
    "slice_spacing_mm": "between centres of slices",
    "scan_length_mm": "from foot to head",
    "scan_bottom_mm": "z in LPS of its lower end",
    "scan_top_mm": "z in LPS of its upper end",
    "tilt_deg": "gantry tilt, as the positions of the slices say",
    "plane": "axial, coronal or sagittal",
    "size_bytes": "of its pixels, not compressed",
    "segmented": "yes; no: only the tags are known; waiting: nobody has read it yet",
}


def series_row(annotated: AnnotatedSeries) -> Sequence[Value]:
    """A value for each of `SERIES`."""
    attributes = attributes_of(annotated)
    return [*(attributes.get(k) for k in SEARCHABLE), *(c.of(annotated) for c in _SERIES)]


def annotation_rows(annotated: AnnotatedSeries) -> Sequence[Sequence[Value]]:
    """For each structure of a series a value for each of `ANNOTATIONS`."""
    uid = annotated.series.series_uid
    return [[uid, *(cell.of(one) for cell in _ANNOTATION)] for one in annotated.annotations]


def structure_row(structure: Structure) -> Sequence[Value]:
    """A value for each of `STRUCTURES`."""
    return [cell.of(structure) for cell in _STRUCTURE]


def _searchable(keyword: str) -> Column:
    said = _MEANINGS.get(keyword, "")
    if keyword in FREE_TEXT:
        said = "free text; empty unless the site has it read"
    meaning = said if keyword in DERIVED else f"DICOM {keyword}" + (f", {said}" if said else "")
    return Column(name=keyword, type=_TYPES[SEARCHABLE[keyword]], meaning=meaning)


def _cell(name: str, type_: Type, meaning: str, of: Callable[[T], Value]) -> Cell[T]:
    return Cell(Column(name=name, type=type_, meaning=meaning), of)


def _of_image(of: Callable[[Image], Value]) -> Callable[[AnnotatedSeries], Value]:
    return lambda annotated: None if annotated.image is None else of(annotated.image)


def _of_algorithm(of: Callable[[Algorithm], Value]) -> Callable[[AnnotatedSeries], Value]:
    def value(annotated: AnnotatedSeries) -> Value:
        algorithm = annotated.provenance.algorithm
        return None if algorithm is None else of(algorithm) or None

    return value


def _code(system: str) -> Callable[[Annotation], Value]:
    return lambda one: next((c.code for c in one.codings if c.system == system), None)


_SERIES: tuple[Cell[AnnotatedSeries], ...] = (
    _cell("SeriesInstanceUID", "text", "one row for each", lambda a: a.series.series_uid),
    _cell("StudyInstanceUID", "text", "", lambda a: a.series.study_uid),
    _cell(
        "patient", "text", "keyed pseudonym; empty: not known", lambda a: a.series.patient or None
    ),
    _cell("instance_count", "bigint", "in the archive", lambda a: a.series.instance_count),
    _cell(
        "fingerprint",
        "text",
        "changes when instances come or go",
        lambda a: a.series.fingerprint or None,
    ),
    _cell("row_spacing_mm", "double", "", _of_image(lambda i: i.spacing_mm[1])),
    _cell("column_spacing_mm", "double", "", _of_image(lambda i: i.spacing_mm[2])),
    _cell("oblique_deg", "double", "from the nearest plane", _of_image(lambda i: i.oblique_deg)),
    _cell(
        "corrected",
        "text",
        "what was put right, such as uneven_spacing",
        _of_image(lambda i: ",".join(i.corrected) or None),
    ),
    _cell(
        "instances_left_out",
        "bigint",
        "that are not in the volume",
        _of_image(lambda i: sum(i.left_out.values())),
    ),
    _cell("structure_count", "bigint", "rows in annotations", lambda a: len(a.annotations)),
    _cell(
        "unmapped",
        "text",
        "segments without a name of ours, commas between",
        lambda a: ",".join(a.unmapped) or None,
    ),
    _cell("algorithm", "text", "that segmented it", _of_algorithm(lambda one: one.name)),
    _cell("algorithm_version", "text", "", _of_algorithm(lambda one: one.version)),
    _cell("model", "text", "task or weights by name", _of_algorithm(lambda one: one.model)),
    _cell("weights_sha256", "text", "", _of_algorithm(lambda one: one.weights_sha256)),
    _cell(
        "terminology",
        "text",
        "version of the tables that coded it",
        lambda a: a.provenance.terminology,
    ),
    _cell(
        "software",
        "text",
        "JSON: versions of what could change a number",
        lambda a: json.dumps(dict(a.provenance.software)),
    ),
    _cell("configuration", "text", "", lambda a: a.provenance.configuration),
    _cell("source", "text", "URL of the archive", lambda a: a.provenance.source),
    _cell("started", "timestamptz", "", lambda a: a.provenance.started),
    _cell("finished", "timestamptz", "", lambda a: a.provenance.finished),
)

_ANNOTATION: tuple[Cell[Annotation], ...] = (
    _cell("structure", "text", "name, as in structures", lambda a: a.structure),
    _cell(
        "laterality", "text", "left or right; empty: has no side", lambda a: a.laterality or None
    ),
    _cell("snomed", "text", "SNOMED CT code", _code(SNOMED)),
    _cell("radlex", "text", "RadLex id", _code(RADLEX)),
    _cell("complete", "boolean", "whole inside the image", lambda a: a.measurement.complete),
    _cell(
        "cut",
        "text",
        "faces of the image that it touches, commas between; empty: none",
        lambda a: ",".join(a.measurement.cut) or None,
    ),
    _cell(
        "volume_ml",
        "double",
        "a lower bound where it is cut",
        lambda a: a.measurement.volume_ml,
    ),
    _cell("mean_hu", "double", "", lambda a: a.measurement.mean_hu),
    _cell("sd_hu", "double", "of its voxels", lambda a: a.measurement.sd_hu),
    _cell("voxel_count", "bigint", "on the segmented grid", lambda a: a.measurement.voxel_count),
    _cell("centroid_x_mm", "double", "LPS: to the left", lambda a: a.measurement.centroid_mm[0]),
    _cell("centroid_y_mm", "double", "LPS: to the back", lambda a: a.measurement.centroid_mm[1]),
    _cell("centroid_z_mm", "double", "LPS: to the head", lambda a: a.measurement.centroid_mm[2]),
    _cell("box_min_x_mm", "double", "right end", lambda a: a.measurement.box_min_mm[0]),
    _cell("box_min_y_mm", "double", "front end", lambda a: a.measurement.box_min_mm[1]),
    _cell("box_min_z_mm", "double", "lower end", lambda a: a.measurement.box_min_mm[2]),
    _cell("box_max_x_mm", "double", "left end", lambda a: a.measurement.box_max_mm[0]),
    _cell("box_max_y_mm", "double", "back end", lambda a: a.measurement.box_max_mm[1]),
    _cell("box_max_z_mm", "double", "upper end", lambda a: a.measurement.box_max_mm[2]),
)

_STRUCTURE: tuple[Cell[Structure], ...] = (
    _cell("structure", "text", "name, one row for each", lambda s: s.name),
    _cell("display", "text", "for people", lambda s: s.display),
    _cell("display_de", "text", "in German", lambda s: s.display_de or None),
    _cell(
        "laterality", "text", "left or right; empty: has no side", lambda s: s.laterality or None
    ),
    _cell("snomed", "text", "SNOMED CT code", lambda s: s.snomed or None),
    _cell("snomed_display", "text", "", lambda s: s.snomed_display or None),
    _cell("radlex", "text", "RadLex id", lambda s: s.radlex or None),
    _cell("radlex_display", "text", "", lambda s: s.radlex_display or None),
    _cell("body_region", "text", "", lambda s: s.body_region or None),
    _cell("organ_system", "text", "", lambda s: s.organ_system or None),
)

SERIES: tuple[Column, ...] = (
    *(_searchable(keyword) for keyword in SEARCHABLE),
    *(cell.column for cell in _SERIES),
)
ANNOTATIONS: tuple[Column, ...] = (
    Column(name="SeriesInstanceUID", type="text", meaning="as in series"),
    *(cell.column for cell in _ANNOTATION),
)
STRUCTURES: tuple[Column, ...] = tuple(cell.column for cell in _STRUCTURE)
