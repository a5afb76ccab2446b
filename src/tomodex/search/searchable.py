"""What a series can be asked for besides the structures it shows."""

from __future__ import annotations

from collections.abc import Mapping

from tomodex.annotation import AnnotatedSeries
from tomodex.instance import ATTRIBUTES, FREE_TEXT, Kind

#: What the image itself says, where a header may be silent or wrong.
DERIVED: Mapping[str, Kind] = {
    "slice_count": "number",
    "slice_spacing_mm": "number",
    "scan_length_mm": "number",  # from foot to head
    "tilt_deg": "number",
    "plane": "text",  # "axial", "coronal", "sagittal"
    "segmented": "text",  # "yes", "no" where only the tags are known, "waiting" where it is to be
}

SEARCHABLE: Mapping[str, Kind] = {**ATTRIBUTES, **FREE_TEXT, **DERIVED}


def attributes_of(annotated: AnnotatedSeries) -> Mapping[str, str | float]:
    """Everything of `SEARCHABLE` that is known of a series; other keywords are left out."""
    image = annotated.image
    known = {k: v for k, v in annotated.series.attributes.items() if k in SEARCHABLE}
    if image is None:
        return {**known, "segmented": "waiting"}
    return {
        **known,
        "slice_count": image.shape[0],
        "slice_spacing_mm": image.spacing_mm[0],
        "scan_length_mm": image.box_max_mm[2] - image.box_min_mm[2],
        "tilt_deg": image.tilt_deg,
        "plane": image.plane,
        "segmented": "yes" if annotated.provenance.algorithm else "no",
    }
