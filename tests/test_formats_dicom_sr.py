"""Measurements as a DICOM report: what highdicom and DCMTK's rules read in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import highdicom
import pytest
from pydicom.dataset import Dataset

from tests.annotated import LIVER, ONE, SPLEEN
from tests.masked import AT, AXIAL, SUBJECT, masks_of, origin_of, segmentation_of
from tomodex.annotation import AnnotatedSeries, Annotation
from tomodex.formats.dicom_seg import write_segs
from tomodex.formats.dicom_sr import Evidence, measurement_report
from tomodex.pipeline import measure_and_code
from tomodex.terminology import load_terminology

TERMINOLOGY = load_terminology()
CT = "1.2.840.10008.5.1.4.1.1.2"


LATER = AT + timedelta(seconds=1)


def report(
    annotated: AnnotatedSeries = ONE, evidence: Evidence | None = None, at: datetime = AT
) -> Dataset:
    return measurement_report(annotated, SUBJECT, TERMINOLOGY, evidence or Evidence(), at)


def with_structures(*structures: Annotation) -> AnnotatedSeries:
    return replace(ONE, annotations=structures)


def read(ds: Dataset, folder: Path) -> highdicom.sr.ComprehensiveSR:
    ds.save_as(folder / "sr.dcm", enforce_file_format=True)
    return highdicom.sr.srread(folder / "sr.dcm")


def groups(ds: Dataset) -> list[Dataset]:
    """The measurement groups."""
    return [
        group
        for item in ds.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
        for group in item.ContentSequence
    ]


def said(group: Dataset, meaning: str) -> list[Dataset]:
    return [
        item
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def numbers(group: Dataset) -> dict[tuple[str, str], tuple[float, str]]:
    """(what, derivation) -> (value, UCUM unit)."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            of = [i.ConceptCodeSequence[0].CodeMeaning for i in item.get("ContentSequence", [])]
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            unit = value.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            found[name, "".join(of)] = (float(value.NumericValue), unit.CodeValue)
    return found


def test_highdicom_finds_every_group_with_its_numbers_and_codes(tmp_path):
    kidney = replace(LIVER, structure="kidney_left")
    cyst = replace(SPLEEN, structure="kidney_cyst_right")
    content = read(report(with_structures(LIVER, kidney, cyst)), tmp_path).content
    found = content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in found] == [
        "tomodex liver", "tomodex kidney_left", "tomodex kidney_cyst_right",
    ]  # fmt: skip
    assert [group.finding_type.value for group in found] == ["10200004", "64033007", "367643001"]
    sites = [group.finding_sites[0] for group in found]
    assert sites[0].laterality is None
    assert [site.value.value for site in sites] == ["10200004", "64033007", "64033007"]
    assert [site.laterality.meaning for site in sites[1:]] == ["Left", "Right"]


def test_numbers_have_their_units(tmp_path):
    (group,) = groups(report(with_structures(LIVER)))
    assert numbers(group) == {
        ("Volume", ""): (1500.0, "ml"),
        ("Attenuation Coefficient", "Mean"): (61.5, "[hnsf'U]"),
        ("Attenuation Coefficient", "Standard deviation"): (12.25, "[hnsf'U]"),
    }


def test_what_is_no_ct_has_no_hounsfield_units():
    mr = replace(with_structures(LIVER), series=replace(ONE.series, modality="MR"))
    (group,) = groups(report(mr))
    assert numbers(group)["Attenuation Coefficient", "Mean"] == (61.5, "1")


def test_a_cut_structure_is_said_to_be_cut():
    cut, whole = groups(report(with_structures(LIVER, SPLEEN)))
    for group, answer in ((cut, "No"), (whole, "Yes")):
        (item,) = said(group, "Whole inside the image")
        assert item.ConceptCodeSequence[0].CodeMeaning == answer


def test_a_number_that_is_none_is_refused():
    nothing = replace(LIVER, measurement=replace(LIVER.measurement, sd_hu=float("inf")))
    with pytest.raises(ValueError, match="sd_hu"):
        report(with_structures(nothing))


@pytest.mark.parametrize("value", [1e-7, 0.1 + 0.2, 123456.789012345, 98765432.1])
def test_any_number_fits_into_a_decimal_string(value):
    odd = replace(LIVER, measurement=replace(LIVER.measurement, volume_ml=value))
    (group,) = groups(report(with_structures(odd)))
    assert numbers(group)["Volume", ""][0] == pytest.approx(value, rel=1e-8)


def test_nothing_found_is_nothing_to_report():
    with pytest.raises(ValueError, match="at least one"):
        report(with_structures())


def test_a_report_points_at_the_segments_of_its_segmentation(tmp_path):
    origin = origin_of(AXIAL)
    segs = list(write_segs(masks_of(origin), origin, TERMINOLOGY, "BINARY", "native", AT))
    annotated = with_structures(*measure_and_code(segmentation_of(origin), TERMINOLOGY))
    images = [(one.sop_class, one.sop_uid) for one in origin.instances]
    ds = report(annotated, Evidence(segmentations=segs, images=images))
    by_number = {s.SegmentNumber: s for s in segs[0].SegmentSequence}
    assert len(groups(ds)) == 4
    for group in groups(ds):
        (segment,) = said(group, "Referenced Segment")
        referred = segment.ReferencedSOPSequence[0]
        assert referred.ReferencedSOPInstanceUID == segs[0].SOPInstanceUID
        pointed_at = by_number[referred.ReferencedSegmentNumber]
        (tracked,) = said(group, "Tracking Unique Identifier")
        assert pointed_at.TrackingUID == tracked.UID
    evidence = _evidence(ds)
    assert evidence[segs[0].SeriesInstanceUID] == {segs[0].SOPInstanceUID}
    assert evidence["1.2.3"] == {f"1.2.3.{n}" for n in range(1, 7)}


def _evidence(ds: Dataset) -> dict[str, set[str]]:
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    return {
        series.SeriesInstanceUID: {
            one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence
        }
        for series in study.ReferencedSeriesSequence
    }


def test_without_a_segmentation_it_points_at_the_series():
    (group,) = groups(report(with_structures(LIVER), Evidence(images=[(CT, "1.2.3.1")])))
    (series,) = said(group, "Source Series for Segmentation")
    assert series.UID == "1.2.3"
    (image,) = said(group, "Source of Measurement")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.1"
    (group,) = groups(report(with_structures(LIVER)))
    assert said(group, "Source of Measurement") == []
    assert said(group, "Source Series for Segmentation")[0].UID == "1.2.3"


def test_the_same_result_is_the_same_report_and_another_one_is_not():
    other = with_structures(SPLEEN)
    assert report().SOPInstanceUID == report().SOPInstanceUID
    assert report().SOPInstanceUID != report(other).SOPInstanceUID
    assert report().SOPInstanceUID != report(at=LATER).SOPInstanceUID
    assert report().SeriesInstanceUID != report(at=LATER).SeriesInstanceUID
    assert report().SeriesInstanceUID == report(other).SeriesInstanceUID


def test_every_structure_of_the_terminology_can_be_reported():
    every = [replace(LIVER, structure=name) for name in TERMINOLOGY.structures]
    found = groups(report(with_structures(*every)))
    tracked = {said(group, "Tracking Unique Identifier")[0].UID for group in found}
    assert len(found) == len(tracked) == 430
