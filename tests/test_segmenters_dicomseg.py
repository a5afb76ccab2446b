from __future__ import annotations

import logging
import math
import os
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from tests.contracts.segmenter import SegmenterContract
from tests.segs import (
    ALTERED,
    DEFLATED_FRAMES,
    KIDNEY,
    LEFT,
    LIVER,
    RIGHT,
    SPLEEN,
    TISSUE,
    Frame,
    Seg,
    frame_affine,
    frames_of,
    write_seg,
)
from tomodex.errors import Misconfigured
from tomodex.segmentation import Segmentation
from tomodex.segmenters import Segmenter, open_segmenter
from tomodex.segmenters.dicomseg import painting, placing
from tomodex.volume import Volume

# No two axes share a length or a spacing. Rows x columns is no multiple of 8, so that packed
# frames begin within a byte.
SHAPE = (6, 9, 11)
AXIAL = np.array([[0, 0, 0.7, -3.0], [0, 0.9, 0, 5.0], [2.0, 0, 0, 40.0], [0, 0, 0, 1.0]])
Mask = npt.NDArray[np.bool_]


def volume_of(affine: npt.NDArray[np.float64] = AXIAL) -> Volume:
    return Volume(np.zeros(SHAPE, np.int16), affine)


def mask_of(*box: slice, shape: tuple[int, ...] = SHAPE) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[box] = True
    # Without a symmetry, so that no flip goes unseen.
    mask[tuple(s.start for s in box)] = False
    return mask


LIVER_MASK = mask_of(slice(1, 4), slice(2, 7), slice(1, 6))
SPLEEN_MASK = mask_of(slice(2, 6), slice(1, 8), slice(6, 10))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return open_segmenter("dicomseg:")


def found_masks(found: Segmentation | None) -> dict[str, Mask]:
    """Each structure by its name, from whichever layer it lies in."""
    if found is None:
        return {}
    return {
        name: layer == label
        for layer, names in zip(found.layers, found.names, strict=True)
        for label, name in names.items()
    }


def assert_shows(found: Segmentation | None, **expected: Mask) -> None:
    masks = found_masks(found)
    assert set(masks) == set(expected)
    for name, mask in expected.items():
        assert np.array_equal(masks[name], mask), name


class TestDicomSegSegmenter(SegmenterContract):
    @pytest.fixture
    def segmenter(self) -> Segmenter:
        return open_segmenter("dicomseg:")

    @pytest.fixture
    def volume(self) -> Volume:
        return volume_of()

    @pytest.fixture
    def stored(self, tmp_path: Path) -> Sequence[Path]:
        frames = [*frames_of(LIVER_MASK, AXIAL), *frames_of(SPLEEN_MASK, AXIAL, segment=2)]
        return [write_seg(tmp_path / "a.dcm", frames, [Seg(), Seg(kind=SPLEEN)])]

    @pytest.fixture
    def structures(self) -> set[str]:
        return {"liver", "spleen"}


class TestNoSegmenter(SegmenterContract):
    @pytest.fixture
    def segmenter(self) -> Segmenter:
        return open_segmenter("none:")

    @pytest.fixture
    def volume(self) -> Volume:
        return volume_of()


# --- as others write them -----------------------------------------------------------------------


def ct_slices(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> list[Dataset]:
    """The CT instances that a highdicom segmentation is made of."""
    down, along = affine[:3, 1], affine[:3, 2]
    spacing = [float(np.linalg.norm(down)), float(np.linalg.norm(along))]
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for k in range(shape[0]):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.FrameOfReferenceUID, ds.Modality = frame_of_reference, "CT"
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "1", "Test^A", "", ""
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "", "", "", ""
        ds.ReferringPhysicianName, ds.InstanceNumber = "", k + 1
        ds.Rows, ds.Columns = shape[1:]
        ds.ImagePositionPatient = frame_affine(affine, k)[:3, 3].tolist()
        ds.ImageOrientationPatient = [*(along / spacing[1]), *(down / spacing[0])]
        ds.PixelSpacing, ds.SliceThickness = spacing, 2.0
        slices.append(ds)
    return slices


def write_by_highdicom(
    path: Path, kind: str, syntax: str, affine: npt.NDArray[np.float64] = AXIAL
) -> Path:
    highdicom = pytest.importorskip("highdicom")
    codes = pydicom.sr.codedict.codes
    description = highdicom.seg.SegmentDescription
    described = [
        description(
            segment_number=number,
            segment_label=f"Segment {number}",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=kind_code,
            algorithm_type="MANUAL",
        )
        for number, kind_code in enumerate((codes.SCT.Liver, codes.SCT.Spleen), start=1)
    ]
    masks = np.stack([LIVER_MASK, SPLEEN_MASK], axis=-1)
    highdicom.seg.Segmentation(
        source_images=ct_slices(affine, SHAPE),
        pixel_array=masks.astype(np.float32) if kind == "FRACTIONAL" else masks.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=7,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Tests",
        manufacturer_model_name="highdicom",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=syntax,
    ).save_as(path)
    return path


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("BINARY", ImplicitVRLittleEndian),
        ("FRACTIONAL", ExplicitVRLittleEndian),
        ("FRACTIONAL", RLELossless),
        ("FRACTIONAL", JPEGLSLossless),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", RLELossless),
        ("LABELMAP", JPEGLSLossless),
    ],
)
def test_reads_what_highdicom_writes(
    segmenter: Segmenter, tmp_path: Path, kind: str, syntax: str
) -> None:
    path = write_by_highdicom(tmp_path / "a.dcm", kind, syntax)
    found = segmenter.segment(volume_of(), [path])
    assert_shows(found, liver=LIVER_MASK, spleen=SPLEEN_MASK)
    assert found
    assert found.algorithm.name == "DICOM SEG"
    assert found.algorithm.version == "Tests highdicom 1"
    assert found.algorithm.model == "(MANUAL)"
    assert found.algorithm.segmentation_uids == (pydicom.dcmread(path).SOPInstanceUID,)
    assert found.algorithm.options == ({"threshold": "0.5"} if kind == "FRACTIONAL" else {})


# --- frames -------------------------------------------------------------------------------------


def labelmap_frames(affine: npt.NDArray[np.float64], dtype: Any = np.uint8) -> list[Frame]:
    labels = (LIVER_MASK + 2 * SPLEEN_MASK).astype(dtype)
    return frames_of(labels, affine)


def test_frames_of_jpeg_2000_are_decoded(segmenter: Segmenter, tmp_path: Path) -> None:
    """highdicom does not write them smaller than 32 x 32."""
    frames = labelmap_frames(AXIAL)
    path = write_seg(
        tmp_path / "a.dcm",
        frames,
        [Seg(), Seg(kind=SPLEEN)],
        kind="LABELMAP",
        transfer_syntax=JPEG2000Lossless,
        encoded=[imagecodecs.jpeg2k_encode(f.pixels, codecformat="j2k") for f in frames],
    )
    found = segmenter.segment(volume_of(), [path])
    assert_shows(found, liver=LIVER_MASK, spleen=SPLEEN_MASK)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_deflated_frames_are_inflated(segmenter: Segmenter, tmp_path: Path, bits: int) -> None:
    if bits == 1:
        frames, kind = frames_of(LIVER_MASK, AXIAL), "BINARY"
        raw = [np.packbits(f.pixels, bitorder="little").tobytes() for f in frames]
    else:
        frames, kind = labelmap_frames(AXIAL, f"<u{bits // 8}"), "LABELMAP"
        raw = [f.pixels.tobytes() for f in frames]
    path = write_seg(
        tmp_path / "a.dcm",
        frames,
        [Seg(), Seg(kind=SPLEEN)],
        kind=kind,
        transfer_syntax=DEFLATED_FRAMES,
        encoded=[zlib.compress(one, wbits=-15) for one in raw],
    )
    expected = {"liver": LIVER_MASK} if bits == 1 else {"liver": LIVER_MASK, "spleen": SPLEEN_MASK}
    assert_shows(segmenter.segment(volume_of(), [path]), **expected)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_deflated_or_implicit_object_is_read_alike(
    segmenter: Segmenter, tmp_path: Path, syntax: str
) -> None:
    frames = frames_of(LIVER_MASK, AXIAL)
    path = write_seg(tmp_path / "a.dcm", frames, transfer_syntax=syntax)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=LIVER_MASK)


def test_frames_may_come_in_any_order(segmenter: Segmenter, tmp_path: Path) -> None:
    frames = [*frames_of(LIVER_MASK, AXIAL), *frames_of(SPLEEN_MASK, AXIAL, segment=2)]
    shuffled = [frames[k] for k in np.random.default_rng(5).permutation(len(frames))]
    path = write_seg(tmp_path / "a.dcm", shuffled, [Seg(), Seg(kind=SPLEEN)])
    assert_shows(segmenter.segment(volume_of(), [path]), liver=LIVER_MASK, spleen=SPLEEN_MASK)


@pytest.mark.parametrize("between_mm", [None, 2.0])
def test_frames_that_were_left_out_are_empty(
    segmenter: Segmenter, tmp_path: Path, between_mm: float | None
) -> None:
    gapped = LIVER_MASK.copy()
    gapped[2] = False
    path = write_seg(tmp_path / "a.dcm", frames_of(gapped, AXIAL), between_mm=between_mm)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=gapped)


def test_label_maps_of_16_bits_have_segment_numbers_that_need_them(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    frames = [replace(f, pixels=f.pixels * 300) for f in labelmap_frames(AXIAL, np.uint16)]
    path = write_seg(tmp_path / "a.dcm", frames, [Seg(), Seg(kind=SPLEEN)], kind="LABELMAP")
    ds = pydicom.dcmread(path)
    for segment in ds.SegmentSequence:
        segment.SegmentNumber *= 300
    ds.save_as(path)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=LIVER_MASK, spleen=SPLEEN_MASK)


def test_background_and_padding_of_a_label_map_are_no_segments(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    frames = labelmap_frames(AXIAL)
    for frame in frames:
        frame.pixels[0, 0] = 5
    background = Seg(kind=("125040", "DCM", "Background"), category=None)
    path = write_seg(
        tmp_path / "a.dcm", frames, [Seg(), background], kind="LABELMAP", PixelPaddingValue=5
    )
    found = segmenter.segment(volume_of(), [path])
    assert_shows(found, liver=LIVER_MASK)
    assert found
    assert found.unmapped == ()


def test_a_fraction_counts_from_the_threshold_on(tmp_path: Path) -> None:
    pixels = np.zeros(SHAPE[1:], np.uint8)
    pixels[1, :4] = (99, 100, 139, 140)  # of 200
    frames = [Frame(pixels=pixels, affine=AXIAL)]
    path = write_seg(tmp_path / "a.dcm", frames, kind="FRACTIONAL")
    for threshold, columns in (("", 3), ("?threshold=0.7", 1), ("?threshold=0.01", 4)):
        found = open_segmenter(f"dicomseg:{threshold}").segment(volume_of(), [path])
        assert found
        assert found_masks(found)["liver"].sum() == columns
        assert found.algorithm.options == {"threshold": threshold.partition("=")[2] or "0.5"}


@pytest.mark.parametrize("options", ["?threshold=2", "?threshold=0", "?threshold=x", "?level=1"])
def test_a_threshold_that_is_no_fraction_stops_the_operator(options: str) -> None:
    with pytest.raises(Misconfigured, match="threshold"):
        open_segmenter(f"dicomseg:{options}")


# --- overlaps -----------------------------------------------------------------------------------


def test_structures_that_overlap_lie_in_layers_of_their_own(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    kidney = mask_of(slice(0, 1), slice(0, 3), slice(0, 3))
    overlapping = LIVER_MASK | SPLEEN_MASK
    frames = [
        *frames_of(LIVER_MASK, AXIAL),
        # From its other end, so that it is half painted when it meets the liver.
        *frames_of(overlapping, AXIAL, segment=2)[::-1],
        *frames_of(kidney, AXIAL, segment=3),
    ]
    segments = [Seg(), Seg(kind=SPLEEN), Seg(kind=KIDNEY, modifier=LEFT)]
    path = write_seg(tmp_path / "a.dcm", frames, segments)
    found = segmenter.segment(volume_of(), [path])
    assert_shows(found, liver=LIVER_MASK, spleen=overlapping, kidney_left=kidney)
    assert found
    assert [set(names.values()) for names in found.names] == [{"liver", "kidney_left"}, {"spleen"}]


def test_what_overlaps_too_many_others_is_said_and_not_cut(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "MAX_LAYERS", 1)
    frames = [*frames_of(LIVER_MASK, AXIAL), *frames_of(LIVER_MASK, AXIAL, segment=2)]
    path = write_seg(tmp_path / "a.dcm", frames, [Seg(), Seg(kind=SPLEEN)])
    found = segmenter.segment(volume_of(), [path])
    assert_shows(found, liver=LIVER_MASK)
    assert found
    assert found.unmapped == ("spleen: overlaps too many others",)


def test_segments_of_one_structure_are_one(segmenter: Segmenter, tmp_path: Path) -> None:
    left, right = LIVER_MASK.copy(), LIVER_MASK.copy()
    left[:, :, 4:] = False
    right[:, :, :3] = False
    frames = [*frames_of(left, AXIAL), *frames_of(right, AXIAL, segment=2)]
    path = write_seg(tmp_path / "a.dcm", frames, [Seg(), Seg()])
    assert_shows(segmenter.segment(volume_of(), [path]), liver=LIVER_MASK)


@pytest.mark.parametrize("newest_last", [True, False])
def test_of_several_objects_the_newer_counts_for_a_structure(
    segmenter: Segmenter, tmp_path: Path, newest_last: bool
) -> None:
    spleen_frames = frames_of(SPLEEN_MASK, AXIAL, segment=2)
    old_liver = np.roll(LIVER_MASK, 1, axis=1)
    old = write_seg(
        tmp_path / "old.dcm",
        [*frames_of(old_liver, AXIAL), *spleen_frames],
        [Seg(), Seg(kind=SPLEEN)],
        made=("20200101", "235959"),
    )
    new = write_seg(
        tmp_path / "new.dcm", frames_of(LIVER_MASK, AXIAL), made=("20200102", "000001.5")
    )
    stored = [old, new] if newest_last else [new, old]
    found = segmenter.segment(volume_of(), [*stored, *stored])
    assert_shows(found, liver=LIVER_MASK, spleen=SPLEEN_MASK)
    assert found
    uids = tuple(pydicom.dcmread(path).SOPInstanceUID for path in (new, old))
    assert found.algorithm.segmentation_uids == uids


def test_a_newer_object_without_a_voxel_leaves_the_older_one(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    old = write_seg(tmp_path / "old.dcm", frames_of(LIVER_MASK, AXIAL), made=("20200101", ""))
    elsewhere = frame_affine(AXIAL, 100)
    new = write_seg(tmp_path / "new.dcm", frames_of(LIVER_MASK, elsewhere), made=("20210101", ""))
    assert_shows(segmenter.segment(volume_of(), [old, new]), liver=LIVER_MASK)


# --- placing ------------------------------------------------------------------------------------


def turn(axis: int, degrees: float) -> npt.NDArray[np.float64]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.eye(4)
    one, other = (axis + 1) % 3, (axis + 2) % 3
    turned[[one, other, one, other], [one, other, other, one]] = cos, cos, -sin, sin
    return turned


TILTED = AXIAL + np.array([[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
CORONAL = np.array([[0, 0, 0.7, 1.0], [2.0, 0, 0, 5.0], [0, -0.9, 0, 40.0], [0, 0, 0, 1]])
OBLIQUE = turn(0, 20) @ turn(2, 33) @ AXIAL
UPSIDE_DOWN = AXIAL @ np.diag([-1, -1, 1, 1])


@pytest.mark.parametrize("affine", [AXIAL, TILTED, CORONAL, OBLIQUE, UPSIDE_DOWN, OBLIQUE @ TILTED])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_on_the_slices_are_copied(
    segmenter: Segmenter,
    tmp_path: Path,
    affine: npt.NDArray[np.float64],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever way the volume lies; positions are written as DICOM's decimals."""
    monkeypatch.delattr(placing.Placer, "_resample")
    frames = (
        labelmap_frames(affine)
        if kind == "LABELMAP"
        else [*frames_of(LIVER_MASK, affine), *frames_of(SPLEEN_MASK, affine, segment=2)]
    )
    path = write_seg(tmp_path / "a.dcm", frames, [Seg(), Seg(kind=SPLEEN)], kind=kind)
    found = segmenter.segment(volume_of(affine), [path])
    assert_shows(found, liver=LIVER_MASK, spleen=SPLEEN_MASK)


def test_a_part_of_the_image_is_copied_to_its_place(segmenter: Segmenter, tmp_path: Path) -> None:
    """Frames that are cropped, that reach out of the volume, or lie beside it."""
    cropped = AXIAL.copy()
    cropped[:3, 3] = AXIAL[:3] @ (0, 3, -2, 1)
    part = np.zeros((9, 4, 7), np.bool_)
    part[1:, 1:3, 1:] = True
    part[1, 1, 3] = False
    frames = frames_of(part, frame_affine(cropped, -2))
    expected = np.zeros(SHAPE, np.bool_)
    expected[:, 4:6, 0:5] = part[2:8, 1:3, 2:7]
    path = write_seg(tmp_path / "a.dcm", frames)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=expected)


def nearest(seg: Mask, seg_affine: npt.NDArray[np.float64], volume: Volume) -> tuple[Mask, Mask]:
    """The slow way: for each voxel the nearest sample; and which voxels are half-way to two."""
    index = np.moveaxis(np.indices(volume.voxels.shape), 0, -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    inverse = np.linalg.inv(seg_affine)
    exact = world @ inverse[:3, :3].T + inverse[:3, 3]
    near = np.floor(exact + 0.5).astype(int)
    inside = ((near >= 0) & (near < seg.shape)).all(axis=-1)
    clipped = np.clip(near, 0, np.array(seg.shape) - 1)
    tied = (np.abs(exact + 0.5 - np.round(exact + 0.5)) < 2e-3).any(axis=-1)
    return inside & seg[tuple(np.moveaxis(clipped, -1, 0))], tied


SAGITTAL = np.array([[1.1, 0, 0, -3.4], [0, 0, 0.8, 4.3], [0, -0.6, 0, 50.1], [0, 0, 0, 1]])
FINER = AXIAL @ np.diag([0.31, 0.45, 0.4, 1])
COARSER = AXIAL @ np.diag([2.7, 1.9, 1.7, 1])


@pytest.mark.parametrize(
    "seg_affine",
    [
        SAGITTAL,
        FINER,
        COARSER,
        turn(0, 12) @ FINER,
        turn(1, 40) @ SAGITTAL,
        turn(2, 90) @ AXIAL,
        AXIAL @ np.diag([-1, 1, 1, 1]),
        AXIAL @ np.diag([1.37, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("volume_affine", [AXIAL, TILTED, OBLIQUE])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_frames_on_a_grid_of_their_own_give_the_nearest_label(
    segmenter: Segmenter,
    tmp_path: Path,
    seg_affine: npt.NDArray[np.float64],
    volume_affine: npt.NDArray[np.float64],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "_CHUNK", chunk)
    volume = volume_of(volume_affine)
    # Centred on the volume, and a little beside any tie.
    centred = seg_affine.copy()
    shape = (17, 19, 21)
    centred[:3, 3] += volume.affine[:3] @ (2.6, 4.013, 5.107, 1)
    centred[:3, 3] -= seg_affine[:3] @ (8, 9, 10, 1)
    mask = np.random.default_rng(1).random(shape) < 0.5
    # Empty frames are not written; their neighbours do not take their place.
    mask[[5, 8, 9]] = False
    between_mm = float(np.linalg.norm(seg_affine[:3, 0]))
    path = write_seg(tmp_path / "a.dcm", frames_of(mask, centred), between_mm=between_mm)
    expected, tied = nearest(mask, centred, volume)
    assert expected.any()
    assert tied.mean() < 0.1
    found = found_masks(segmenter.segment(volume, [path]))["liver"]
    assert np.array_equal(found[~tied], expected[~tied])


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
@pytest.mark.parametrize("step_mm", [2.0, 1 / 3, 0.7, 1.1, 5.000001])
@pytest.mark.parametrize("place", [AXIAL, OBLIQUE])
def test_every_voxel_half_way_between_two_frames_belongs_to_one_of_them(
    segmenter: Segmenter,
    tmp_path: Path,
    kind: str,
    step_mm: float,
    place: npt.NDArray[np.float64],
) -> None:
    """Frames twice as far apart as slices: none is left out between them, and none is doubled."""
    affine = place @ np.diag([step_mm / 2.0, 1, 1, 1])
    full = np.ones(SHAPE[1:], np.uint8)
    frames = [
        Frame(
            pixels=full * (k + 1 if kind == "LABELMAP" else 1),
            affine=frame_affine(affine, 2 * k),
            segment=k + 1,
        )
        for k in range(3)
    ]
    segments = [Seg(), Seg(kind=SPLEEN), Seg(kind=KIDNEY, modifier=LEFT)]
    path = write_seg(tmp_path / "a.dcm", frames, segments, kind=kind, between_mm=2 * step_mm)
    masks = found_masks(segmenter.segment(volume_of(affine), [path]))
    slices = [mask.all(axis=(1, 2)) for mask in masks.values()]
    assert all(
        mask.any(axis=(1, 2)).sum() == mask.all(axis=(1, 2)).sum() for mask in masks.values()
    )
    # What is half-way goes to the later frame, so that nothing is left for the last slice.
    assert np.sum(slices, axis=0).tolist() == [1, 1, 1, 1, 1, 0]


def test_a_pixel_covers_all_voxels_in_it(segmenter: Segmenter, tmp_path: Path) -> None:
    coarse = AXIAL @ np.diag([3, 5, 5, 1])
    coarse[:3, 3] = AXIAL[:3] @ (-2, 1, 2, 1)
    pixels = np.zeros((3, 3), np.bool_)
    pixels[1, 1] = True
    frames = [Frame(pixels=pixels, affine=frame_affine(coarse, 1))]
    expected = np.zeros(SHAPE, np.bool_)
    expected[0:3, 4:9, 5:10] = True
    path = write_seg(tmp_path / "a.dcm", frames, between_mm=6.0)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=expected)


def test_a_slightly_uneven_stack_has_no_holes(segmenter: Segmenter, tmp_path: Path) -> None:
    places = (0, 0.9, 2.05, 3.1, 3.95, 5)
    full = np.ones(SHAPE[1:], np.bool_)
    frames = [Frame(pixels=full, affine=frame_affine(AXIAL, k)) for k in places]  # type: ignore[arg-type]
    path = write_seg(tmp_path / "a.dcm", frames, thickness_mm=1.0)
    assert_shows(segmenter.segment(volume_of(), [path]), liver=np.ones(SHAPE, np.bool_))


def test_a_segmentation_of_another_place_says_nothing(segmenter: Segmenter, tmp_path: Path) -> None:
    for k in (100, 100.3, -50):
        frames = frames_of(LIVER_MASK, frame_affine(AXIAL, k))  # type: ignore[arg-type]
        path = write_seg(tmp_path / f"{k}.dcm", frames)
        assert segmenter.segment(volume_of(), [path]) is None


# --- naming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        (Seg(kind=("T-62000", "SRT", "Liver"), category=("T-D0050", "SRT", "Tissue")), "liver"),
        (Seg(kind=("T-62000", "SNM3", "Liver"), category=None), "liver"),
        (Seg(kind=("7197", "FMA", "Liver")), "liver"),
        (Seg(kind=KIDNEY, modifier=LEFT), "kidney_left"),
        (Seg(kind=KIDNEY, modifier=("G-A100", "SRT", "Right")), "kidney_right"),
        (Seg(kind=TISSUE, category=TISSUE, region=LIVER), "liver"),
        (Seg(kind=TISSUE, region=KIDNEY, region_modifier=RIGHT), "kidney_right"),
        (Seg(kind=TISSUE, category=TISSUE, label="Left kidney"), "kidney_left"),
        (Seg(kind=TISSUE, category=TISSUE, label="vertebrae_L1"), "vertebrae_L1"),
        (Seg(kind=("1", "99MINE", "Some thing"), label="spleen"), "spleen"),
        (Seg(kind=("2", "99MINE", "Spleen"), label="liver"), "spleen"),
        (Seg(kind=KIDNEY, label="left kidney"), "kidney_left"),
        (
            Seg(
                kind=("367643001", "SCT", "Cyst"),
                category=ALTERED,
                region=KIDNEY,
                region_modifier=LEFT,
            ),
            "kidney_cyst_left",
        ),
        (
            Seg(kind=("108369006", "SCT", "Neoplasm"), category=ALTERED, region=LIVER),
            "liver_tumor",
        ),
    ],
)
def test_a_segment_is_named(segmenter: Segmenter, tmp_path: Path, segment: Seg, name: str) -> None:
    path = write_seg(tmp_path / "a.dcm", frames_of(LIVER_MASK, AXIAL), [segment])
    assert_shows(segmenter.segment(volume_of(), [path]), **{name: LIVER_MASK})


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        # A tumor in the liver is no liver, however it is written.
        (Seg(kind=("79654002", "SCT", "Edema"), category=ALTERED, region=LIVER), None),
        (Seg(kind=("108369006", "SCT", "Neoplasm"), category=ALTERED, label="liver"), None),
        (Seg(kind=LIVER, category=ALTERED), "SCT:10200004 Liver"),
        (Seg(kind=TISSUE, category=ALTERED, region=LIVER), None),
        (Seg(kind=KIDNEY, label="kidneys of Mr Smith"), "SCT:64033007 Kidney"),
        (Seg(kind=KIDNEY, modifier=LEFT, label="right kidney", region=None), "kidney_left"),
        (Seg(kind=KIDNEY, modifier=("51440002", "SCT", "Right and left")), None),
        (Seg(kind=LIVER, modifier=("50974003", "SCT", "Cortex")), "SCT:10200004 Liver"),
        (Seg(kind=KIDNEY, label="liver"), "SCT:64033007 Kidney"),
        (Seg(kind=("51114001", "SCT", "Artery"), label="liver"), "SCT:51114001 Artery"),
        (Seg(kind=("20982000", "SCT", "Capillary"), label="liver"), "SCT:20982000 Capillary"),
        (Seg(kind=TISSUE, category=TISSUE, label="kidney"), "SCT:85756007 Tissue"),
        (Seg(kind=None), "without a code"),
    ],
)
def test_what_is_no_structure_of_ours_is_not_taken_for_one(
    segmenter: Segmenter, tmp_path: Path, segment: Seg, text: str | None
) -> None:
    frames = [*frames_of(SPLEEN_MASK, AXIAL), *frames_of(LIVER_MASK, AXIAL, segment=2)]
    path = write_seg(tmp_path / "a.dcm", frames, [Seg(kind=SPLEEN), segment])
    found = segmenter.segment(volume_of(), [path])
    assert found
    if text == "kidney_left":
        assert_shows(found, spleen=SPLEEN_MASK, kidney_left=LIVER_MASK)
        return
    assert_shows(found, spleen=SPLEEN_MASK)
    assert len(found.unmapped) == 1
    assert found.unmapped[0] == (text or found.unmapped[0])
    assert "Smith" not in found.unmapped[0]


def test_objects_that_show_nothing_of_ours_leave_it_to_the_next_segmenter(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    segment = Seg(kind=("79654002", "SCT", "Edema"), category=ALTERED)
    path = write_seg(tmp_path / "a.dcm", frames_of(LIVER_MASK, AXIAL), [segment])
    assert segmenter.segment(volume_of(), [path]) is None
    assert segmenter.segment(volume_of(), []) is None


# --- broken and hostile ones --------------------------------------------------------------------

GOOD = frames_of(LIVER_MASK, AXIAL)


def nowhere(**change: tuple[int, float]) -> Frame:
    """A frame whose affine has one number changed."""
    affine = AXIAL.copy()
    for _, (index, value) in change.items():
        affine.flat[index] = value
    return replace(GOOD[0], affine=affine)


@pytest.mark.parametrize(
    "others",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 4096, "Columns": 4096},
        {"Rows": 0},
        {"NumberOfFrames": 1000},
        {"NumberOfFrames": 1},
        {"SegmentationType": "SURFACE"},
        {"BitsAllocated": 64, "BitsStored": 64},
        {"PixelData": b"\0\0"},
        {"PixelData": b""},
        {"PerFrameFunctionalGroupsSequence": []},
    ],
)
def test_an_object_that_lies_is_passed_over(
    segmenter: Segmenter,
    tmp_path: Path,
    others: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = write_seg(tmp_path / "broken.dcm", GOOD, made=("20220101", ""), **others)
    good = write_seg(tmp_path / "good.dcm", frames_of(SPLEEN_MASK, AXIAL), [Seg(kind=SPLEEN)])
    tracemalloc.start()
    with caplog.at_level(logging.WARNING):
        found = segmenter.segment(volume_of(), [broken, good])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_shows(found, spleen=SPLEEN_MASK)
    assert peak < 20 * 2**20
    assert [record.message for record in caplog.records] == ["segmentation_skipped"]


@pytest.mark.parametrize(
    "frame",
    [
        nowhere(x=(3, 1e7)),
        nowhere(x=(2, 1e5)),
        nowhere(x=(2, 1e-5)),
        nowhere(x=(1, 0.5)),
    ],
)
def test_a_frame_that_lies_nowhere_is_no_frame(
    segmenter: Segmenter, tmp_path: Path, frame: Frame, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_seg(tmp_path / "a.dcm", [*GOOD, frame])
    with caplog.at_level(logging.WARNING):
        assert segmenter.segment(volume_of(), [path]) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("syntax", [DEFLATED_FRAMES, str(RLELossless), str(JPEGLSLossless)])
def test_a_structure_with_a_broken_frame_is_left_out_and_the_rest_stays(
    segmenter: Segmenter, tmp_path: Path, syntax: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [*frames_of(LIVER_MASK, AXIAL), *frames_of(SPLEEN_MASK, AXIAL, segment=2)]
    frames = [replace(f, pixels=f.pixels.astype(np.uint8) * 200) for f in frames]
    encode = {
        DEFLATED_FRAMES: lambda pixels: zlib.compress(pixels.tobytes(), wbits=-15),
        str(RLELossless): _rle,
        str(JPEGLSLossless): imagecodecs.jpegls_encode,
    }[syntax]
    encoded = [encode(frame.pixels) for frame in frames]
    encoded[2] = encoded[2][: len(encoded[2]) // 2]
    path = write_seg(
        tmp_path / "a.dcm",
        frames,
        [Seg(), Seg(kind=SPLEEN)],
        kind="FRACTIONAL",
        transfer_syntax=syntax,
        encoded=encoded,
    )
    with caplog.at_level(logging.WARNING):
        assert_shows(segmenter.segment(volume_of(), [path]), spleen=SPLEEN_MASK)
    assert [record.message for record in caplog.records] == ["segmentation_skipped"]


def test_a_frame_is_not_decoded_to_more_than_can_be_meant(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Compressed pixels may be few for a frame of any size."""
    path = write_seg(
        tmp_path / "a.dcm",
        GOOD[:1],
        kind="FRACTIONAL",
        transfer_syntax=RLELossless,
        encoded=[_rle(GOOD[0].pixels.astype(np.uint8))],
        Rows=65535,
        Columns=65535,
    )
    with caplog.at_level(logging.WARNING):
        assert segmenter.segment(volume_of(), [path]) is None
    assert caplog.records[0].__dict__["reason"] == "too_large"


def _rle(pixels: npt.NDArray[np.uint8]) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    return next(
        RLELosslessEncoder.iter_encode(
            pixels,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            photometric_interpretation="MONOCHROME2",
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
        )
    )


def test_a_deflated_frame_is_not_inflated_beyond_its_pixels(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    bomb = zlib.compress(bytes(200 * 2**20), wbits=-15)
    path = write_seg(
        tmp_path / "a.dcm",
        GOOD[:1],
        transfer_syntax=DEFLATED_FRAMES,
        encoded=[bomb],
    )
    tracemalloc.start()
    segmenter.segment(volume_of(), [path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_frames_that_reach_over_everything_again_and_again_are_given_up(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = Frame(pixels=np.ones(SHAPE[1:], np.bool_), affine=frame_affine(AXIAL, 2.5))  # type: ignore[arg-type]
    path = write_seg(tmp_path / "a.dcm", [frame] * 2000, between_mm=900.0)
    with caplog.at_level(logging.WARNING):
        assert segmenter.segment(volume_of(), [path]) is None
    assert caplog.records[0].__dict__["reason"] == "too_large"


def test_files_that_are_no_segmentation_are_passed_over(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no DICOM at all")
    (tmp_path / "empty").write_bytes(b"")
    ct = write_seg(tmp_path / "ct.dcm", GOOD, SOPClassUID=CTImageStorage)
    stored = [tmp_path / "text", tmp_path / "empty", ct]
    assert segmenter.segment(volume_of(), stored) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_never_kills_the_series(
    segmenter: Segmenter, tmp_path: Path, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["BINARY", "LABELMAP"]))
    frames = GOOD if kind == "BINARY" else labelmap_frames(AXIAL)
    path = write_seg(
        tmp_path / "a.dcm", frames, [Seg(), Seg(kind=SPLEEN)], kind=kind, SOPInstanceUID="1.2.3"
    )
    damaged = bytearray(path.read_bytes())
    places = st.floats(0, 1, exclude_max=True)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[132 + int(data.draw(places) * (len(damaged) - 132))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(damaged[: 1 + int((1 - data.draw(places) ** 3) * len(damaged))])
    found = segmenter.segment(volume_of(), [path])
    assert found is None or any(mask.any() for mask in found_masks(found).values())


def test_what_a_person_typed_is_neither_kept_nor_logged(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segments = [Seg(label="SMITH^JOHN"), Seg(kind=TISSUE, category=TISSUE, label="SMITH^JOHN")]
    frames = [*GOOD, *frames_of(SPLEEN_MASK, AXIAL, segment=2)]
    path = write_seg(tmp_path / "a.dcm", frames, segments, ContentCreatorName="SMITH^JOHN")
    broken = write_seg(tmp_path / "b.dcm", frames, segments, NumberOfFrames=99)
    with caplog.at_level(logging.DEBUG):
        found = segmenter.segment(volume_of(), [path, broken])
    assert found
    assert "SMITH" not in repr((found.unmapped, found.algorithm, found.names))
    assert "SMITH" not in repr([record.__dict__ for record in caplog.records])


# --- real ones ----------------------------------------------------------------------------------


def real(*parts: str) -> Path:
    root = os.environ.get("TOMODEX_REAL_DATA")
    if not root:
        pytest.skip("TOMODEX_REAL_DATA is not set")
    return Path(root, *parts)


def read_nrrd(path: Path) -> Volume:
    """A label map as the NRRD format writes it: axes (column, row, slice), LPS or RAS."""
    header, _, content = path.read_bytes().partition(b"\n\n")
    pairs = (line.split(":", 1) for line in header.decode().splitlines() if ": " in line)
    said = {key.strip(): value.strip() for key, value in pairs}
    if said["encoding"] in ("gzip", "gz"):
        content = zlib.decompress(content, wbits=31)
    dtypes = {"short": "<i2", "unsigned short": "<u2", "int": "<i4"}
    sizes = [int(size) for size in said["sizes"].split()][::-1]
    labels = np.frombuffer(content, dtypes.get(said["type"], "u1")).reshape(sizes)
    vectors = [part.strip("()").split(",") for part in said["space directions"].split()]
    affine = np.eye(4)
    affine[:3, :3] = np.array(vectors, float).T[:, ::-1]
    affine[:3, 3] = np.array(said["space origin"].strip("()").split(","), float)
    if said["space"] == "right-anterior-superior":
        affine[:2] *= -1
    return Volume(labels.astype(np.int16), affine)


def real_volume(folder: Path) -> Volume:
    slices = sorted(
        (pydicom.dcmread(p) for p in folder.iterdir()), key=lambda ds: ds.ImagePositionPatient[2]
    )
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 0] = np.subtract(slices[1].ImagePositionPatient, slices[0].ImagePositionPatient)
    affine[1, 1], affine[0, 2] = map(float, slices[0].PixelSpacing)
    affine[:3, 3] = slices[0].ImagePositionPatient
    return Volume(np.zeros((len(slices), *slices[0].pixel_array.shape), np.int16), affine)


REAL_SEG = ("seg_in_pacs", "dcmqi-ct3slice-liver-seg")
REAL_MF = ("multiframe", "dcmqi-23x38x3-classic-mf-seg")


@pytest.mark.parametrize(
    ("image", "seg", "nrrd"),
    [
        ((*REAL_SEG, "ct-3slice"), (*REAL_SEG, "liver.dcm"), (*REAL_SEG, "liver_seg.nrrd")),
        ((*REAL_MF, "image"), (*REAL_MF, "seg", "label.seg"), (*REAL_MF, "nrrd", "label.nrrd")),
    ],
)
def test_a_real_segmentation_is_what_its_nrrd_says(
    segmenter: Segmenter, image: Sequence[str], seg: Sequence[str], nrrd: Sequence[str]
) -> None:
    volume = real_volume(real(*image))
    expected = read_nrrd(real(*nrrd))
    assert volume.affine == pytest.approx(expected.affine, abs=1e-4)
    found = segmenter.segment(volume, [real(*seg)])
    assert_shows(found, liver=expected.voxels > 0)


@pytest.mark.parametrize("which", ["noppv", "ppv5"])
def test_a_real_sparse_label_map_is_what_its_nrrd_says(segmenter: Segmenter, which: str) -> None:
    """The NRRD has the grid of the segmentation, one column wider than the image."""
    expected = read_nrrd(real(*REAL_SEG, f"sparse_labelmap_{which}_seg.nrrd"))
    for volume in (expected, real_volume(real(*REAL_MF, "image"))):
        found = segmenter.segment(volume, [real(*REAL_SEG, f"sparse-labelmap-{which}.dcm")])
        columns = volume.voxels.shape[2]
        assert_shows(found, liver=expected.voxels[:, :, :columns] == 1)


def test_a_real_segmentation_of_vessels_and_edema_names_no_structure(segmenter: Segmenter) -> None:
    volume = real_volume(real(*REAL_SEG, "ct-3slice"))
    assert segmenter.segment(volume, [real(*REAL_SEG, "partial_overlaps.dcm")]) is None
