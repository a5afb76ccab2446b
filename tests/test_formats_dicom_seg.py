"""Masks as DICOM SEG: what others read in it is what was segmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.masked import (
    ALGORITHM,
    AT,
    AXIAL,
    ENHANCED,
    GRIDS,
    NAMES,
    SHAPE,
    SUBJECT,
    UNEVEN,
    enhanced_origin,
    labels,
    masks_of,
    origin_of,
    segmentation_of,
    volume_of,
)
from tomodex.errors import Misconfigured
from tomodex.formats.dicom_header import subject_of
from tomodex.formats.dicom_seg import Kind, Origin, Packing, tracking_uid, write_segs
from tomodex.formats.lossy import Lossy
from tomodex.masks import Masks, masks_on_frames
from tomodex.measurement import measure
from tomodex.segmenters.dicomseg import DicomSegSegmenter
from tomodex.segmenters.dicomseg.naming import name_segment
from tomodex.segmenters.dicomseg.seg import read_seg
from tomodex.terminology import load_terminology

TERMINOLOGY = load_terminology()
FORMS: list[tuple[Kind, Packing]] = [
    ("LABELMAP", "native"),
    ("LABELMAP", "rle"),
    ("LABELMAP", "deflated"),
    ("BINARY", "native"),
    ("BINARY", "deflated"),
]


def made(masks: Masks, origin: Origin, kind: Kind = "LABELMAP", packing: Packing = "native"):
    return list(write_segs(masks, origin, TERMINOLOGY, kind, packing, AT))


def saved(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    paths = [folder / f"{ds.SOPInstanceUID}.dcm" for ds in datasets]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


def segment_numbers(ds: Dataset) -> dict[str, int]:
    """Our name of each segment -> its number."""
    return {
        s.SegmentDescription: s.SegmentNumber for s in ds.SegmentSequence if s.SegmentNumber > 0
    }


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("kind", "packing"), FORMS)
def test_our_own_segmenter_reads_the_same_voxels_and_measures_the_same(
    tmp_path, kind, packing, grid
):
    origin = origin_of(GRIDS[grid])
    files = saved(made(masks_of(origin), origin, kind, packing), tmp_path)
    read = DicomSegSegmenter("dicomseg:", TERMINOLOGY).segment(volume_of(origin), files)
    assert read is not None
    assert measure(read) == measure(segmentation_of(origin))
    assert set(measure(read)) == set(NAMES.values())
    assert read.unmapped == ()


@pytest.mark.parametrize(("kind", "packing"), [f for f in FORMS if f[1] != "deflated"])
def test_pydicom_reads_every_frame_where_it_belongs(tmp_path, kind, packing):
    origin = origin_of(AXIAL)
    (file,) = saved(made(masks_of(origin), origin, kind, packing), tmp_path)
    ds = pydicom.dcmread(file)
    pixels = ds.pixel_array
    numbers = segment_numbers(ds)
    drawn = np.zeros((len(numbers) + 1, *SHAPE), bool)
    for frame, item in zip(pixels, ds.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        k = round((z - 40) / 2)
        if kind == "LABELMAP":
            for number in numbers.values():
                drawn[number, k] |= frame == number
        else:
            segment = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            drawn[segment, k] |= frame > 0
    for label, name in NAMES.items():
        assert (drawn[numbers[name]] == (labels() == label)).all()


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
def test_highdicom_reads_the_same_segments_by_source_image(tmp_path, kind):
    origin = origin_of(AXIAL)
    (file,) = saved(made(masks_of(origin), origin, kind), tmp_path)
    seg = highdicom.seg.segread(file)
    uids = [i.sop_uid for i in origin.instances]
    numbers = segment_numbers(seg)
    found = seg.get_pixels_by_source_instance(
        uids, segment_numbers=sorted(numbers.values()), ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    for label, name in NAMES.items():
        assert (found[..., numbers[name] - 1] == (labels() == label)).all()
    kidney = seg.get_segment_description(numbers["kidney_left"])
    assert kidney.segmented_property_type.value == "64033007"
    assert kidney.segmented_property_category.value == "91723000"
    assert kidney.algorithm_identification[0].AlgorithmVersion == "2"


def test_every_structure_is_coded_so_that_it_is_recognised_again(tmp_path):
    """All 430, in as many objects as label maps have room for."""
    origin = origin_of(AXIAL)
    wanted = sorted(TERMINOLOGY.structures)
    lost = {}
    for first in range(0, len(wanted), 250):
        some = dict(enumerate(wanted[first : first + 250], start=1))
        cells = np.resize(np.arange(1, len(some) + 1), SHAPE).astype(np.uint8)
        masks = Masks(
            layers=(cells,), names=(some,), affine=origin.geometry.affine, algorithm=ALGORITHM
        )
        (file,) = saved(made(masks, origin), tmp_path)
        seg = read_seg(file)
        for segment in seg.segments[1:]:
            name = some[segment.number]
            found = name_segment(segment, TERMINOLOGY)
            if found is None or _alike(found) != _alike(name):
                lost[name] = found
    assert lost == {}


def _alike(name: str) -> str:
    structure = TERMINOLOGY.structures[name]
    return structure.same_as or structure.name


def test_a_side_is_a_modifier_of_the_type_and_a_finding_has_its_site():
    origin = origin_of(AXIAL)
    (ds,) = made(masks_of(origin), origin)
    by_name = {s.SegmentDescription: s for s in ds.SegmentSequence if s.SegmentNumber}
    kind = by_name["kidney_left"].SegmentedPropertyTypeCodeSequence[0]
    side = kind.SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning) == (
        "7771000", "SCT", "Left",
    )  # fmt: skip
    cyst = by_name["kidney_cyst_right"]
    assert cyst.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    site = cyst.AnatomicRegionSequence[0]
    assert site.CodeValue == "64033007"
    assert site.AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    liver = by_name["liver"].SegmentedPropertyTypeCodeSequence[0]
    (radlex,) = liver.EquivalentCodeSequence
    assert (radlex.CodeValue, radlex.CodingSchemeDesignator) == ("RID58", "RADLEX")


def test_frames_of_an_uneven_series_lie_where_its_images_lie():
    origin = origin_of(AXIAL, UNEVEN)
    assert origin.geometry.places is not None
    (ds,) = made(masks_on_frames(segmentation_of(origin), origin.geometry), origin)
    z = [
        float(item.PlanePositionSequence[0].ImagePositionPatient[2])
        for item in ds.PerFrameFunctionalGroupsSequence
    ]
    assert z == pytest.approx([40 + 2 * place for place in UNEVEN])


def test_frames_refer_to_their_own_image_and_frame():
    origin = enhanced_origin(AXIAL)
    (ds,) = made(masks_of(origin), origin)
    sources = [
        item.DerivationImageSequence[0].SourceImageSequence[0]
        for item in ds.PerFrameFunctionalGroupsSequence
    ]
    assert [(s.ReferencedSOPInstanceUID, s.ReferencedFrameNumber) for s in sources] == [
        *(("1.2.3.2", n) for n in (1, 2, 3, 4)),
        *(("1.2.3.1", n) for n in (1, 2)),
    ]
    assert {s.ReferencedSOPClassUID for s in sources} == {ENHANCED}
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3"
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == {
        "1.2.3.1", "1.2.3.2",
    }  # fmt: skip


def test_the_frame_of_reference_is_kept_and_made_up_only_where_there_is_none():
    (ds,) = made(masks_of(origin_of(AXIAL)), origin_of(AXIAL))
    assert ds.FrameOfReferenceUID == "1.2.99"
    nowhere = origin_of(AXIAL, frame_of_reference_uid="")
    (one,), (other,) = made(masks_of(nowhere), nowhere), made(masks_of(nowhere), nowhere)
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.FrameOfReferenceUID.startswith("2.25.")


def test_structures_that_overlap_come_in_an_object_of_their_own(tmp_path):
    origin = origin_of(AXIAL)
    over = np.zeros(SHAPE, np.uint8)
    over[2, 2:6, 2:8] = 1
    one = segmentation_of(origin)
    both = replace(one, layers=(*one.layers, over), names=(*one.names, {1: "aorta"}))
    segs = made(masks_on_frames(both, origin.geometry), origin)
    assert len({s.SOPInstanceUID for s in segs}) == 2
    read = DicomSegSegmenter("dicomseg:", TERMINOLOGY).segment(
        volume_of(origin), saved(segs, tmp_path)
    )
    assert read is not None
    assert measure(read) == measure(both)


def test_the_same_again_is_the_same_object_and_anything_else_another():
    origin = origin_of(AXIAL)
    masks = masks_of(origin)

    def uid(masks: Masks, origin: Origin = origin, kind: Kind = "LABELMAP") -> str:
        return str(made(masks, origin, kind)[0].SOPInstanceUID)

    other_weights = replace(ALGORITHM, weights_sha256="cd")
    fewer = masks_on_frames(segmentation_of(origin), origin.geometry, ("liver",))
    other_images = origin_of(AXIAL, sop_uid="1.2.3.77")
    assert uid(masks) == uid(masks)
    uids = [
        uid(masks),
        uid(masks, kind="BINARY"),
        uid(replace(masks, algorithm=other_weights)),
        uid(fewer),
        uid(masks, other_images),
        uid(masks, replace(origin, series_uid="1.2.4")),
    ]
    assert len(set(uids)) == len(uids)
    tracked = {s.TrackingUID for s in made(masks, origin)[0].SegmentSequence[1:]}
    assert tracking_uid("1.2.3", "liver") in tracked
    assert len(tracked) == len(NAMES)


def test_an_object_of_another_moment_is_another_object():
    origin = origin_of(AXIAL)
    made_at = [
        next(write_segs(masks_of(origin), origin, TERMINOLOGY, "LABELMAP", "native", at))
        for at in (AT, AT.astimezone(timezone(timedelta(hours=9))), AT + timedelta(seconds=1))
    ]
    first, elsewhere, later = [(ds.SOPInstanceUID, ds.SeriesInstanceUID) for ds in made_at]
    assert first == elsewhere
    assert set(first).isdisjoint(later)


@pytest.mark.parametrize("lossy", [None, Lossy(ratios=(8.0,), methods=("ISO_10918_1",)), Lossy()])
def test_masks_of_images_that_lost_something_say_so(lossy):
    origin = replace(origin_of(AXIAL), lossy=lossy)
    (ds,) = made(masks_of(origin), origin)
    assert ds.LossyImageCompression == ("01" if lossy else "00")
    assert ds.get("LossyImageCompressionRatio") == (8.0 if lossy and lossy.ratios else None)
    method = lossy.methods[0] if lossy and lossy.methods else None
    assert ds.get("LossyImageCompressionMethod") == method


def test_patient_and_study_are_those_of_the_series():
    origin = origin_of(AXIAL)
    (ds,) = made(masks_of(origin), origin)
    assert (ds.PatientID, str(ds.PatientName), ds.StudyInstanceUID, ds.StudyDate) == (
        SUBJECT.patient_id, SUBJECT.patient_name, "1.2", "20260102",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keyword", "said", "kept"),
    [
        ("PatientName", "A" * 65, ""),
        ("PatientName", "Ä^B=山^田", "Ä^B=山^田"),
        ("PatientName", "a\x1b[2Jb", ""),
        ("PatientID", "1\\2", ""),
        ("PatientID", "x" * 65, ""),
        ("PatientBirthDate", "19700230", ""),
        ("PatientBirthDate", "1970.02.03", ""),
        ("StudyTime", "25", ""),
        ("StudyTime", "235960.123456", "235960.123456"),
        ("PatientSex", "MF", ""),
        ("AccessionNumber", "12345678901234567", ""),
    ],
)
def test_a_value_that_dicom_does_not_allow_is_left_out(keyword, said, kept):
    subject = subject_of(lambda k: said if k == keyword else "", "1.2")
    field = {
        "PatientName": "patient_name",
        "PatientID": "patient_id",
        "PatientBirthDate": "birth_date",
        "StudyTime": "study_time",
        "PatientSex": "sex",
        "AccessionNumber": "accession_number",
    }[keyword]
    assert getattr(subject, field) == kept


def test_one_bit_a_pixel_is_not_packed_by_rle():
    origin = origin_of(AXIAL)
    with pytest.raises(Misconfigured, match="one bit a pixel"):
        made(masks_of(origin), origin, "BINARY", "rle")


@pytest.mark.parametrize(
    ("offset", "day", "clock"),
    [
        ("+0100", "20261123", "130000"),
        ("-1130", "20261123", "003000"),
        ("+1300", "20261124", "010000"),
    ],
)
def test_one_offset_holds_for_the_times_of_the_study_and_our_own(offset, day, clock):
    origin = origin_of(AXIAL)
    subject = replace(SUBJECT, timezone=offset, study_time="080000")
    ds = made(masks_of(origin), replace(origin, subject=subject))[0]
    assert ds.TimezoneOffsetFromUTC == offset
    assert (ds.StudyDate, ds.StudyTime) == ("20260102", "080000")
    assert (ds.ContentDate, ds.ContentTime) == (day, clock)


def test_where_nobody_says_the_offset_of_the_study_we_say_none():
    origin = origin_of(AXIAL)
    ds = made(masks_of(origin), origin)[0]
    assert "TimezoneOffsetFromUTC" not in ds
    assert ds.ContentTime == f"{AT.astimezone():%H%M%S}"


@pytest.mark.parametrize(
    ("text", "kept"), [("+0530", "+0530"), ("-0000", ""), ("0100", ""), ("+2500", ""), ("UTC", "")]
)
def test_an_offset_that_is_none_is_left_out(text, kept):
    said = {"TimezoneOffsetFromUTC": text}
    assert subject_of(lambda keyword: said.get(keyword, ""), "1.2").timezone == kept
