from __future__ import annotations

import json
import math
import os
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tomodex.measurement import SLAB_SLICES, Measurement, find_sides, measure
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.volume import Volume

# No two axes share a length, and there is more than one slab.
SHAPE = (SLAB_SLICES + 2, 4, 3)
NAMES = {1: "liver", 2: "spleen", 255: "aorta"}
DRAWN = Algorithm(name="drawn by hand")

label_maps = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2, 255]))
voxels = arrays(np.int16, SHAPE, elements=st.integers(-32768, 32767))


@st.composite
def affines(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Any order and direction of the axes, any spacing, tilted, turned and moved a little."""
    spacing = draw(st.tuples(*[st.floats(0.3, 5.0)] * 3))
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs * spacing
    # Below 1/4 of each other axis, so that every axis keeps the side that it is nearest to.
    shear = draw(arrays(np.float64, (3, 3), elements=st.floats(-0.24, 0.24)))
    np.fill_diagonal(shear, 0.0)
    affine[:3, :3] = (np.eye(3) + draw(st.sampled_from([0.0, 1.0])) * shear) @ affine[:3, :3]
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def measured(
    labels: npt.NDArray[np.uint8],
    hu: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64] | None = None,
) -> dict[str, Measurement]:
    volume = Volume(hu, np.eye(4) if affine is None else affine)
    return measure(Segmentation(volume, (labels,), (NAMES,), DRAWN))


def drawn(*boxes: tuple[int, tuple[slice, slice, slice]]) -> npt.NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    for label, box in boxes:
        labels[box] = label
    return labels


def corners_mm(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64]) -> Any:
    """(corners, 3): LPS of all eight corners of every voxel of `mask`."""
    centres = np.argwhere(mask)
    corners = np.concatenate([centres + half for half in product([-0.5, 0.5], repeat=3)])
    return corners @ affine[:3, :3].T + affine[:3, 3]


@given(label_maps, voxels, affines())
def test_agrees_with_a_mask_per_structure(
    labels: npt.NDArray[np.uint8],
    hu: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64],
) -> None:
    """The single pass gives what the obvious slow way gives, on grids of any direction."""
    found = measured(labels, hu, affine)
    for label, name in NAMES.items():
        mask = labels == label
        if not mask.any():
            assert name not in found
            continue
        one, corners = found[name], corners_mm(mask, affine)
        assert one.voxel_count == mask.sum()
        assert one.volume_ml == pytest.approx(mask.sum() * abs(np.linalg.det(affine)) / 1000)
        assert one.mean_hu == pytest.approx(hu[mask].mean(dtype=np.float64))
        assert one.sd_hu == pytest.approx(hu[mask].std(dtype=np.float64), abs=1e-6)
        assert one.centroid_mm == pytest.approx(corners.mean(axis=0), abs=1e-6)
        assert one.box_min_mm == pytest.approx(corners.min(axis=0), abs=1e-6)
        assert one.box_max_mm == pytest.approx(corners.max(axis=0), abs=1e-6)
        assert one.cut == sides_touched(mask, affine)
        assert one.complete == (one.cut == ())


def sides_touched(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """For axes that are each within 45 degrees of a patient axis of their own."""
    low, high = ("right", "anterior", "inferior"), ("left", "posterior", "superior")
    touched = []
    for axis in range(3):
        patient = int(np.argmax(np.abs(affine[:3, axis])))
        sides = (low, high) if affine[patient, axis] > 0 else (high, low)
        for end, names in zip((0, -1), sides, strict=True):
            if mask.take(end, axis).any():
                touched.append(names[patient])
    return tuple(sorted(touched))


@given(label_maps, voxels, st.floats(0.3, 5.0))
def test_volume_grows_with_the_cube_of_the_spacing(
    labels: npt.NDArray[np.uint8], hu: npt.NDArray[np.int16], spacing: float
) -> None:
    """Twice the spacing is eight times the volume, and the same density."""
    scaled = measured(labels, hu, np.diag([spacing, spacing, spacing, 1.0]))
    for name, one_mm in measured(labels, hu).items():
        assert scaled[name].volume_ml == pytest.approx(one_mm.volume_ml * spacing**3)
        assert scaled[name].mean_hu == one_mm.mean_hu
        assert scaled[name].sd_hu == one_mm.sd_hu


@given(label_maps, voxels, affines(), st.tuples(*[st.floats(-900, 900)] * 3))
def test_a_moved_patient_moves_the_places_and_nothing_else(
    labels: npt.NDArray[np.uint8],
    hu: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64],
    by_mm: tuple[float, float, float],
) -> None:
    moved = affine.copy()
    moved[:3, 3] += by_mm
    after = measured(labels, hu, moved)
    for name, before in measured(labels, hu, affine).items():
        for place in ("centroid_mm", "box_min_mm", "box_max_mm"):
            shift = np.subtract(getattr(after[name], place), getattr(before, place))
            assert shift == pytest.approx(by_mm, abs=1e-6)
        assert after[name].volume_ml == before.volume_ml
        assert after[name].sd_hu == before.sd_hu
        assert after[name].cut == before.cut


def test_the_box_of_a_tilted_series_holds_the_structure_and_not_its_index_box() -> None:
    """Two voxels at opposite corners of a sheared stack: the box of their box would be larger."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 1], [-1, 1, 0], [1, 0, 0]]  # each slice lies 1 mm further anterior
    labels = np.zeros((5, 5, 3), np.uint8)
    labels[0, 0, 1] = labels[4, 4, 1] = 1
    liver = measured(labels, np.zeros((5, 5, 3), np.int16), affine)["liver"]
    assert liver.box_min_mm == (0.5, -1.0, -0.5)
    assert liver.box_max_mm == (1.5, 1.0, 4.5)


def test_a_structure_inside_the_image_is_complete() -> None:
    labels = drawn((1, np.s_[1:-1, 1:-1, 1:-1]))
    assert measured(labels, np.zeros(SHAPE, np.int16))["liver"].complete


@pytest.mark.parametrize(
    ("face", "axial", "coronal"),
    [
        (np.s_[0, 2, 1], "inferior", "posterior"),
        (np.s_[-1, 2, 1], "superior", "anterior"),
        (np.s_[2, 0, 1], "anterior", "superior"),
        (np.s_[2, -1, 1], "posterior", "inferior"),
        (np.s_[2, 2, 0], "right", "right"),
        (np.s_[2, 2, -1], "left", "left"),
    ],
)
def test_a_cut_is_named_by_the_side_of_the_patient(face: Any, axial: str, coronal: str) -> None:
    labels = drawn((1, np.s_[2:3, 2:3, 1:2]), (1, face))
    hu = np.zeros(SHAPE, np.int16)
    axial_affine = np.zeros((4, 4))
    axial_affine[[2, 1, 0, 3], [0, 1, 2, 3]] = 1
    coronal_affine = np.zeros((4, 4))
    coronal_affine[[1, 2, 0, 3], [0, 1, 2, 3]] = [-1, -1, 1, 1]
    assert measured(labels, hu, axial_affine)["liver"].cut == (axial,)
    assert measured(labels, hu, coronal_affine)["liver"].cut == (coronal,)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("degrees", [0, 10, 30, 44])
def test_the_six_faces_of_a_turned_image_are_six_different_sides(
    order: tuple[int, ...], degrees: float
) -> None:
    """Turned about all axes one after the other, up to where two axes are nearest to one side."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    about_all = turn @ turn[[1, 2, 0]][:, [1, 2, 0]] @ turn[[2, 0, 1]][:, [2, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = about_all[:, order] * (0.7, 1.5, 3.0)
    pairs = find_sides(affine)
    assert len({side for pair in pairs for side in pair}) == 6
    if degrees <= 10:
        assert [pair[1] for pair in pairs] == [("left", "posterior", "superior")[i] for i in order]


def test_layers_that_overlap_are_each_measured_in_full() -> None:
    hu = np.arange(math.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    one, other = drawn((1, np.s_[:4])), drawn((1, np.s_[2:6]))
    volume = Volume(hu, np.eye(4))
    both = measure(Segmentation(volume, (one, other), ({1: "liver"}, {1: "spleen"}), DRAWN))
    assert both["liver"].voxel_count == both["spleen"].voxel_count == 4 * 4 * 3
    assert both["liver"].mean_hu == hu[:4].mean()
    assert both["spleen"].mean_hu == hu[2:6].mean()


def test_a_structure_with_two_labels_is_refused() -> None:
    volume = Volume(np.zeros(SHAPE, np.int16), np.eye(4))
    empty = drawn()
    with pytest.raises(ValueError, match="one name: liver"):
        Segmentation(volume, (empty, empty), ({1: "liver"}, {7: "liver"}), DRAWN)
    with pytest.raises(ValueError, match="one name: liver"):
        Segmentation(volume, (empty,), ({1: "liver", 2: "liver"},), DRAWN)


def test_labels_that_do_not_fit_the_volume_are_refused() -> None:
    volume = Volume(np.zeros(SHAPE, np.int16), np.eye(4))
    with pytest.raises(ValueError, match="not uint8"):
        Segmentation(volume, (np.zeros((2, 2, 2), np.uint8),), (NAMES,), DRAWN)
    with pytest.raises(ValueError, match="not uint8"):
        Segmentation(volume, (np.zeros(SHAPE, np.int16),), (NAMES,), DRAWN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 255"):
        Segmentation(volume, (drawn(),), ({0: "liver"},), DRAWN)
    with pytest.raises(ValueError, match="layers"):
        Segmentation(volume, (drawn(),), (), DRAWN)


def test_views_that_are_not_contiguous_are_measured_alike() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, SHAPE, dtype=np.uint8)
    hu = rng.integers(-1000, 1000, SHAPE, dtype=np.int16)
    turned = measured(labels[::-1, :, ::-1], hu[::-1, :, ::-1])
    copied = measured(labels[::-1, :, ::-1].copy(), hu[::-1, :, ::-1].copy())
    assert turned == copied


def real_nifti(name: str) -> Path:
    root = os.environ.get("TOMODEX_REAL_DATA")
    if not root:
        pytest.skip("TOMODEX_REAL_DATA is not set")
    return Path(root, "nifti_ref", "ts-nifti-multiorgan", name)


def read_nifti(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Voxels with axes (slice, row, column), and their affine to LPS."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(path)
    # NIfTI's axes are (column, row, slice) and its frame is RAS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine[:, [2, 1, 0, 3]]
    return np.asarray(image.dataobj).T, affine


def test_agrees_with_the_statistics_of_totalsegmentator() -> None:
    """For the same masks: each volume exactly, each mean within 0.01 HU, all 117 structures."""
    masks = real_nifti("example_seg_fast")
    expected = json.loads((masks / "statistics.json").read_text())
    hu, affine = read_nifti(real_nifti("example_ct_sm.nii.gz"))
    labels = np.zeros(hu.shape, np.uint8)
    names = dict(enumerate(expected, start=1))
    for label, name in names.items():
        labels[read_nifti(masks / f"{name}.nii.gz")[0] > 0] = label
    volume = Volume(hu.astype(np.int16), affine)
    found = measure(Segmentation(volume, (labels,), (names,), DRAWN))

    assert len(expected) == 117
    # Made without upstream's border rule, which gives 0 to all that is cut.
    for name, upstream in expected.items():
        if upstream["volume"] == 0:
            assert name not in found
            continue
        assert found[name].volume_ml * 1000 == pytest.approx(upstream["volume"], rel=1e-9)
        assert found[name].mean_hu == pytest.approx(upstream["intensity"], abs=0.01)
    assert sum(upstream["volume"] > 0 for upstream in expected.values()) == 40
    # The patient's liver is on the right: at negative x in LPS.
    assert found["liver"].centroid_mm[0] < found["spleen"].centroid_mm[0]
