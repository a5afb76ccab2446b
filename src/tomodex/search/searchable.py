"""What a series can be asked for besides the structures it shows, and what is counted of many."""

from __future__ import annotations

from collections.abc import Mapping

from tomodex.annotation import AnnotatedSeries, Image
from tomodex.instance import ATTRIBUTES, FREE_TEXT, Kind
from tomodex.series import Series

#: What names a series, and stands beside its attributes in a hit. Upper and lower case differ.
IDENTIFIERS: Mapping[str, Kind] = {"SeriesInstanceUID": "text", "StudyInstanceUID": "text"}

#: What the image itself says, where a header may be silent or wrong.
DERIVED: Mapping[str, Kind] = {
    "slice_count": "number",
    "slice_spacing_mm": "number",
    "scan_length_mm": "number",  # from foot to head
    "scan_bottom_mm": "number",  # z in LPS of its lower end
    "scan_top_mm": "number",
    "tilt_deg": "number",
    "plane": "text",  # "axial", "coronal", "sagittal"
    "size_bytes": "number",  # of its pixels, not compressed
    "segmented": "text",  # "yes", "no" where only the tags are known, "waiting" where it is to be
}

SEARCHABLE: Mapping[str, Kind] = {**ATTRIBUTES, **FREE_TEXT, **DERIVED}

#: Everything that a term may compare.
ASKABLE: Mapping[str, Kind] = {**IDENTIFIERS, **SEARCHABLE}

#: Classes of slice thickness by their upper ends in mm, which belong to them.
THICKNESSES: Mapping[float, str] = {
    1.0: "up to 1 mm",
    1.5: "over 1 to 1.5 mm",
    3.0: "over 1.5 to 3 mm",
    5.0: "over 3 to 5 mm",
    float("inf"): "over 5 mm",
}

#: Fields whose values are counted; what a series has of the first three is any number of them.
FIELDS = (
    "structure",
    "complete",
    "cut",
    "StudyYear",
    "AgeDecade",
    "SliceThicknessClass",
    *(keyword for keyword, kind in SEARCHABLE.items() if kind == "text"),
)

BYTES_PER_VOXEL = 2

#: SOP classes with many images in one instance, so that instances do not tell how many.
_MULTI_FRAME = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})


def attributes_of(annotated: AnnotatedSeries) -> Mapping[str, str | float]:
    """Everything of `SEARCHABLE` that is known of a series; other keywords are left out."""
    image = annotated.image
    known = {k: v for k, v in annotated.series.attributes.items() if k in SEARCHABLE}
    if image is None:
        return {**known, **_listed_size(annotated.series), "segmented": "waiting"}
    return {
        **known,
        **_measured(image),
        "segmented": "yes" if annotated.provenance.algorithm else "no",
    }


def _measured(image: Image) -> Mapping[str, str | float]:
    slices, rows, columns = image.shape
    return {
        "slice_count": slices,
        "slice_spacing_mm": image.spacing_mm[0],
        "scan_length_mm": image.box_max_mm[2] - image.box_min_mm[2],
        "scan_bottom_mm": image.box_min_mm[2],
        "scan_top_mm": image.box_max_mm[2],
        "tilt_deg": image.tilt_deg,
        "plane": image.plane,
        "size_bytes": slices * rows * columns * BYTES_PER_VOXEL,
    }


def _listed_size(series: Series) -> Mapping[str, float]:
    """The size of a series that nobody has read yet, where its archive says enough of it."""
    rows, columns = series.attributes.get("Rows"), series.attributes.get("Columns")
    if not series.instance_count or _MULTI_FRAME & set(series.sop_classes):
        return {}
    if not isinstance(rows, int | float) or not isinstance(columns, int | float):
        return {}
    return {"size_bytes": series.instance_count * rows * columns * BYTES_PER_VOXEL}
