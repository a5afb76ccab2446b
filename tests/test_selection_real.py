"""What selection says of every series of the real test data, as decided in docs/reference."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from zipfile import ZipFile

import pytest

from tomodex.errors import Unsuitable
from tomodex.instance import Instance, read_instance
from tomodex.selection import load_rules, select
from tomodex.series import Listing, Series

DATA = os.environ.get("TOMODEX_REAL_DATA", "")
REFERENCE = Path(
    os.environ.get("TOMODEX_REAL_REFERENCE", Path(__file__).parents[2] / "shared/data/_reference")
)
RULES = load_rules()

#: By item; by (item, folder, file or end of the series UID) where its series differ. "" is wanted.
REASONS = {
    "acrin-flt-coronal": "",
    "broken-files": "not_ct",
    ("broken-files", "GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm"): "unreadable",
    ("broken-files", "GH178.dcm"): "secondary_capture",
    ("broken-files", "bad_sequence.dcm"): "single_slice",
    ("broken-files", "badVR.dcm"): "sop_class",
    ("broken-files", "empty_charset_LEI.dcm"): "unreadable",
    ("broken-files", "explicit_VR-UN.dcm"): "single_slice",
    ("broken-files", "meta_missing_tsyntax.dcm"): "unreadable",
    ("broken-files", "no_meta_group_length.dcm"): "sop_class",
    ("broken-files", "rtplan_truncated.dcm"): "sop_class",
    "cornerstone-ctimage-transfer-syntaxes": "repeated_position",
    "d2n-bolus-tracking": "repeated_position",
    "d2n-gantrytilt-4": "too_few_slices",
    "d2n-missing-slice": "missing_slice",
    "dcmqi-23x38x3-classic-mf-seg": "too_few_slices",
    ("dcmqi-23x38x3-classic-mf-seg", ".764873"): "segmentation",
    "dcmqi-ct3slice-liver-seg": "segmentation",
    ("dcmqi-ct3slice-liver-seg", "ct-3slice"): "too_few_slices",
    "dupe-positions-lymphoma": "repeated_position",
    "ge-tilt-uneven": "uneven_spacing",
    "japanese-charset-tilted-j2k": "not_ct",
    ("japanese-charset-tilted-j2k", "550003340146"): "single_slice",
    "juno-ct-wb-5mm": "",
    "juno-pet-wb-corrected": "not_ct",
    "kits-00072-arterial-overlap": "",
    "lidc-0314-thin-axial": "",
    "mr-flair-with-ct-sopclass": "not_ct",
    "mr-sagittal-t1": "not_ct",
    "nema-enhanced-ct-perfusion": "derived",
    "nonimage-objects": "sop_class",
    "nopreamble-files": "sop_class",
    ("nopreamble-files", "0922174333.1"): "single_slice",
    ("nopreamble-files", "None"): "no_geometry",
    "panimg-4d-ct-tiny": "sop_class",
    ("panimg-4d-ct-tiny", "multiframe"): "secondary_capture",
    ("panimg-classic-vs-multiframe-sc", "classic"): "too_few_slices",
    ("panimg-classic-vs-multiframe-sc", "multiframe"): "secondary_capture",
    "philips-exam-summary": "secondary_capture",
    "philips-head-5mm": "",
    "philips-surview": "localizer",
    "philips-tilt-neg18": "",
    "pydicom-dicomdir-tree": "not_ct",
    ("pydicom-dicomdir-tree", "064330327590"): "no_pixels",
    ("pydicom-dicomdir-tree", ".28319.0.2"): "missing_slice",
    ("pydicom-dicomdir-tree", ".16302.0.6"): "too_few_slices",
    ("pydicom-dicomdir-tree", ".16302.0.2"): "localizer",
    "rtutils-oblique-slope": "too_few_slices",
    "rtutils-phantom-ct-rtstruct": "sop_class",
    ("rtutils-phantom-ct-rtstruct", "471.893.88"): "too_few_slices",
    "sc-ankle-3d": "secondary_capture",
    "siemens-topograms-juno": "localizer",
    "single-slice-ct": "single_slice",
    "slicer-cthead-64": "",
    "torchio-flipped-iop": "",
    "ts-example-ct-dicom": "",
}


def rows() -> list[dict[str, str]]:
    """Series of the table that have a header of their own: all but DICOMDIRs and fragments."""
    table = REFERENCE.parent / "SERIES.csv"
    if not DATA or not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["expected"] != "not an image"]


def expected(row: dict[str, str]) -> str:
    """The reason that the test states for a row: the most special one counts."""
    where = row["subdir"].removeprefix("file:")
    for key, reason in REASONS.items():
        if isinstance(key, tuple) and key[0] == row["id"]:
            uid = row["series_uid"]
            if key[1] == where or (uid and uid.endswith(key[1])):
                return reason
    return REASONS[row["id"]]


@cache
def headers(item: str) -> Sequence[tuple[Path, Instance | Unsuitable]]:
    """Every header of an item, with where it lies inside the item."""
    folder = next(Path(DATA).glob(f"*/{item}"))
    for archive in folder.glob("*.zip"):
        folder = Path(mkdtemp(prefix="tomodex-test-"))
        with ZipFile(archive) as members:
            members.extractall(folder)
    read = ((file, header(file)) for file in sorted(folder.rglob("*")) if file.is_file())
    return [(file.relative_to(folder), found) for file, found in read if found is not None]


def header(file: Path) -> Instance | Unsuitable | None:
    try:
        return read_instance(file, lambda identifier: "p")
    except Unsuitable as wrong:
        return wrong


def series_of(row: dict[str, str]) -> list[Instance | Unsuitable]:
    """Headers of one row of the table."""
    found, where = headers(row["id"]), row["subdir"]
    if where.startswith("file:"):
        return [h for path, h in found if path.name == where.removeprefix("file:")]
    uid = "" if row["series_uid"] == "None" else row["series_uid"]
    return [
        h
        for path, h in found
        if isinstance(h, Instance)
        and (h.series_uid, h.modality) == (uid, row["modality"])
        and (not where or path.parts[0] == where)
    ]


@pytest.mark.skipif(not rows(), reason="TOMODEX_REAL_DATA is not set")
@pytest.mark.parametrize(
    "row", rows(), ids=lambda r: f"{r['id']}-{r['subdir']}-{r['series_uid'][-12:]}"
)
def test_every_real_series_gets_its_reason(row):
    found = series_of(row)
    assert found
    if isinstance(found[0], Unsuitable):
        assert found[0].reason == expected(row)
        return
    series = Series(
        series_uid=row["series_uid"], study_uid="", patient="p", modality=row["modality"]
    )
    selection = select(Listing(series=series, instances=tuple(found)), RULES)
    assert (selection.wanted, selection.reason) == (not expected(row), expected(row))


@pytest.mark.skipif(not rows(), reason="TOMODEX_REAL_DATA is not set")
def test_a_capture_in_the_series_of_its_source_is_left_out():
    found = tuple(h for _, h in headers("panimg-classic-vs-multiframe-sc"))
    assert len({h.series_uid for h in found}) == 1
    series = Series(series_uid=found[0].series_uid, study_uid="", patient="p", modality="CT")
    selection = select(Listing(series=series, instances=found), RULES)
    assert (selection.reason, selection.left_out) == ("too_few_slices", {"secondary_capture": 1})


@pytest.mark.skipif(not rows(), reason="TOMODEX_REAL_DATA is not set")
def test_what_must_be_processed_is_wanted():
    small = {"dcmqi-23x38x3-classic-mf-seg"}
    processed = {row["id"] for row in rows() if row["expected"] == "process"} - small
    assert {expected(row) for row in rows() if row["id"] in processed} == {""}
    assert len(processed) >= 7
