"""The labels of a scan as a DICOM SEG object that refers to its series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from tomodex.phantom import dicom
from tomodex.phantom.cases import Case
from tomodex.phantom.names import STRUCTURES
from tomodex.phantom.scan import Scan
from tomodex.terminology import SNOMED_SIDES, Structure, load_terminology

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_SIDES = {code: side.capitalize() for side, code in SNOMED_SIDES.items()}


def make_segmentation(case: Case, scan: Scan, images: Sequence[Dataset], seed: int) -> Dataset:
    """One segment for each structure in the scan, coded as our terminology codes it.

    `images` are the instances of the series as `forms.make_series` gives them, not compressed.
    """
    # Half a second to import, and nobody else needs it.
    from highdicom.seg import Segmentation

    names, segments = _number_segments(scan)
    frames = segments[::-1] if case.form == "enhanced" else segments
    made: Dataset = Segmentation(
        source_images=[_with_meta(ds) for ds in images],
        pixel_array=frames,
        segmentation_type=case.seg,
        segment_descriptions=[_describe(n, name) for n, name in enumerate(names, start=1)],
        series_instance_uid=dicom.make_uid(seed, case.name, "segmentation series"),
        series_number=100 + case.series_number,
        sop_instance_uid=dicom.make_uid(seed, case.name, "segmentation"),
        instance_number=1,
        manufacturer="Tomodex phantom",
        manufacturer_model_name="phantom",
        software_versions=dicom.MARKER,
        device_serial_number="PHANTOM",
        content_label="PHANTOM",
        content_description="Truth of a synthetic phantom; not a patient",
        series_description="Phantom truth",
    )
    return _dated(made, case, seed)


def _number_segments(scan: Scan) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Names of the structures in a scan, and its labels numbered by their place among these."""
    present = np.flatnonzero(np.bincount(scan.labels.ravel(), minlength=256)[1:]) + 1
    numbers = np.zeros(256, np.uint8)
    numbers[present] = np.arange(1, len(present) + 1)
    return [STRUCTURES[label - 1] for label in present], numbers[scan.labels]


def _with_meta(ds: Dataset) -> Dataset:
    """The instance with a file header, which highdicom wants to see."""
    ds.file_meta = dicom.file_meta(ds, ExplicitVRLittleEndian)
    return ds


def _describe(number: int, name: str) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription

    structure = load_terminology().structures[name]
    description = SegmentDescription(
        segment_number=number,
        segment_label=structure.display,
        segmented_property_category=_code(structure.category_code, structure.category_display),
        segmented_property_type=_code(structure.snomed_base, structure.snomed_base_display),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="Tomodex phantom",
            version=dicom.MARKER,
            family=Code("123109", "DCM", "Manual Processing"),
        ),
        anatomic_regions=_site(structure),
    )
    _add_side(description, structure)
    return description


def _code(value: str, display: str) -> Code:
    """In SNOMED CT; without the kind of concept that its full name ends on, at most 64 long."""
    return Code(value, "SCT", display.split(" (")[0][:64])


def _site(structure: Structure) -> list[Code] | None:
    """Where a finding is; anatomy is where it is."""
    if not structure.site_code:
        return None
    return [_code(structure.site_code, structure.site_display)]


def _add_side(description: Dataset, structure: Structure) -> None:
    """Left or right, as a modifier of the type or of the region (PS3.3 C.8.20.4, 10.5)."""
    if structure.type_modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_side(structure.type_modifier)]
    if structure.site_modifier:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_side(structure.site_modifier)]


def _side(code: str) -> Dataset:
    side = Dataset()
    side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = code, "SCT", _SIDES[code]
    return side


def _dated(ds: Dataset, case: Case, seed: int) -> Dataset:
    """The same on the day of the study and with known UIDs, so that it is the same every time."""
    ds.ContentDate = ds.SeriesDate = case.study_date
    ds.ContentTime = ds.SeriesTime = "170000"
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in ds:
            delattr(ds, keyword)
    for item in ds.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = f"{case.study_date}170000"
    uid = dicom.make_uid(seed, case.name, "segmentation dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
    return ds
