from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.errors import Unsuitable
from tomodex.geometry import Geometry, Tolerances, find_geometry
from tomodex.instance import Frame, Instance

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def frame(position, **changes) -> Frame:
    usual = Frame(
        position_mm=None if position is None else tuple(map(float, position)),
        orientation=AXIAL,
        pixel_spacing_mm=(0.9, 0.7),
        rescale_slope=1.0,
        rescale_intercept=-1024.0,
    )
    return replace(usual, **changes)


def instance(name: str, *frames: Frame, **changes) -> Instance:
    usual = Instance(
        path=f"{name}.dcm",
        series_uid="1.2.3",
        study_uid="1.2",
        sop_uid=f"1.2.3.{name}",
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        modality="CT",
        transfer_syntax="1.2.840.10008.1.2.1",
        rows=40,
        columns=50,
        number_of_frames=len(frames),
        has_pixels=True,
        frames=frames,
    )
    return replace(usual, **changes)


def stack(depths: Sequence[float], **changes) -> list[Instance]:
    """An axial slice at each z."""
    return [instance(str(k), frame((-10, -20, z), **changes)) for k, z in enumerate(depths)]


def refusal(instances: Sequence[Instance]) -> Unsuitable:
    with pytest.raises(Unsuitable) as caught:
        find_geometry(instances)
    return caught.value


def placed(geometry: Geometry, index: Sequence[float]) -> np.ndarray:
    return (geometry.affine @ [*index, 1])[:3]


# --- properties -------------------------------------------------------------------------------


def rotation(seed: int) -> np.ndarray:
    """(3, 3): a right-handed set of unit vectors in any direction."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.linalg.det(q)


ANY_STACK = {
    "seed": st.integers(0, 2**32 - 1),
    "count": st.integers(2, 40),
    "gap_mm": st.floats(0.3, 12),
    "spacing_mm": st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    "shear": st.floats(-0.6, 0.6),
    "towards": st.sampled_from([-1, 1]),
}


def any_stack(seed, count, gap_mm, spacing_mm, shear, towards) -> list[Instance]:
    """Slices in any direction, leaning along their columns, numbered up or down the normal."""
    along_row, along_column, normal = rotation(seed)
    step = towards * gap_mm * (normal + shear * along_column)
    first = np.random.default_rng(seed).uniform(-500, 500, 3)
    orientation = (*along_row, *along_column)
    return [
        instance(
            f"{k:03}", frame(first + k * step, orientation=orientation, pixel_spacing_mm=spacing_mm)
        )
        for k in range(count)
    ]


@given(**ANY_STACK)
def test_the_affine_places_the_first_pixel_of_every_slice(**drawn):
    instances = any_stack(**drawn)
    geometry = find_geometry(instances)
    for k, (i, f) in enumerate(geometry.slices):
        expected = instances[i].frames[f].position_mm
        assert placed(geometry, (k, 0, 0)) == pytest.approx(expected, abs=1e-6)


@given(**ANY_STACK)
def test_rows_and_columns_step_by_their_own_spacing(**drawn):
    geometry = find_geometry(any_stack(**drawn))
    along_row, along_column, _ = rotation(drawn["seed"])
    between_rows, between_columns = drawn["spacing_mm"]
    assert geometry.affine[:3, 1] == pytest.approx(along_column * between_rows)
    assert geometry.affine[:3, 2] == pytest.approx(along_row * between_columns)


@given(**ANY_STACK)
def test_slices_ascend_along_row_x_column_and_the_tilt_is_the_shear(**drawn):
    geometry = find_geometry(any_stack(**drawn))
    assert np.linalg.det(geometry.affine[:3, :3]) < 0
    assert geometry.tilt_deg == pytest.approx(np.degrees(np.arctan(abs(drawn["shear"]))), abs=1e-4)
    assert 0 <= geometry.oblique_deg <= 54.8
    assert geometry.places is None


@given(shuffle=st.randoms(use_true_random=False), **ANY_STACK)
def test_order_names_and_repeats_change_nothing(shuffle: random.Random, **drawn):
    instances = any_stack(**drawn)
    mixed = [*instances, replace(instances[0], path="zzz/again.dcm")]
    shuffle.shuffle(mixed)
    one, other = find_geometry(instances), find_geometry(mixed)
    assert [instances[i] for i, _ in one.slices] == [mixed[i] for i, _ in other.slices]
    assert np.array_equal(one.affine, other.affine)
    assert (one.duplicates, other.duplicates) == (0, 1)


@given(gaps=st.lists(st.floats(5, 5.45), min_size=2, max_size=30))
def test_a_slightly_uneven_stack_knows_where_its_slices_lie(gaps):
    gaps = [4.55, *gaps]
    depths = np.concatenate([[0], np.cumsum(gaps)])
    geometry = find_geometry(stack(depths))
    assert geometry.places is not None
    assert geometry.shape == (len(depths), 40, 50)
    for place, (i, _) in zip(geometry.places, geometry.slices, strict=True):
        assert placed(geometry, (place, 0, 0))[2] == pytest.approx(depths[i])


# --- planes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "plane", "normal"),
    [
        ((1, 0, 0, 0, 1, 0), "axial", (0, 0, 1)),
        ((-1, 0, 0, 0, 1, 0), "axial", (0, 0, -1)),
        ((1, 0, 0, 0, 0, -1), "coronal", (0, 1, 0)),
        ((0, 1, 0, 0, 0, -1), "sagittal", (-1, 0, 0)),
    ],
)
def test_any_plane_is_kept_by_its_affine(orientation, plane, normal):
    cosines = tuple(map(float, orientation))
    instances = [
        instance(str(k), frame(2.5 * k * np.array(normal), orientation=cosines)) for k in (2, 0, 1)
    ]
    geometry = find_geometry(instances)
    assert (geometry.plane, geometry.oblique_deg, geometry.tilt_deg) == (plane, 0, 0)
    assert geometry.affine[:3, 0] == pytest.approx(2.5 * np.array(normal))
    assert geometry.slices == ((1, 0), (2, 0), (0, 0))


def test_an_oblique_plane_is_named_after_the_nearest_one():
    lean = np.radians(26)
    cosines = (1.0, 0.0, 0.0, 0.0, np.cos(lean), -np.sin(lean))
    normal = np.array([0, np.sin(lean), np.cos(lean)])
    geometry = find_geometry(
        [instance(str(k), frame(k * 3 * normal, orientation=cosines)) for k in range(4)]
    )
    assert geometry.plane == "axial"
    assert geometry.oblique_deg == pytest.approx(26)
    assert geometry.tilt_deg == pytest.approx(0, abs=1e-6)


# --- frames and duplicates --------------------------------------------------------------------


def test_frames_of_several_instances_make_one_stack():
    one = instance("one", *(frame((0, 0, z)) for z in (4, 0)))
    other = instance("other", *(frame((0, 0, z)) for z in (2, 6)))
    assert find_geometry([one, other]).slices == ((0, 1), (1, 0), (0, 0), (1, 1))


def test_slices_that_all_have_one_uid_are_all_kept():
    instances = [replace(i, sop_uid="1.2.3.4") for i in stack([0, 2, 4])]
    assert find_geometry(instances).shape[0] == 3


def test_instances_without_a_uid_are_no_duplicates():
    instances = [replace(i, sop_uid="") for i in stack([0, 2, 2])]
    assert refusal(instances).reason == "repeated_position"


def test_frames_at_one_place_in_one_instance_are_no_duplicates():
    assert refusal([instance("one", *(frame((0, 0, z)) for z in (0, 0, 2)))]).reason == (
        "repeated_position"
    )


# --- even or not ------------------------------------------------------------------------------


def test_positions_with_one_decimal_are_even():
    """0.625 mm gaps written as 0.6, 1.2, 1.9, ... add up to no error."""
    geometry = find_geometry(stack([round(0.625 * k, 1) for k in range(200)]))
    assert geometry.places is None
    assert geometry.affine[2, 0] == pytest.approx(0.625, abs=0.001)


def test_a_thin_stack_cannot_hide_a_missing_slice_in_its_rounding():
    assert refusal(stack([0, 0.1, 0.2, 0.4, 0.5, 0.6])).reason == "missing_slice"


@pytest.mark.parametrize(
    ("depths", "reason"),
    [
        ([0, 5, 10, 20], "missing_slice"),
        ([0, 5, 15], "missing_slice"),
        ([0, 1.25, 2.5, 205, 206.25], "missing_slice"),
        ([0, 4, 8, 12, 19, 26, 33], "uneven_spacing"),
        ([0, 4, 8, 12, 13, 17, 21, 29], "uneven_spacing"),
        ([0, 5, 10, 16.5, 21.5], "uneven_spacing"),
        ([0, 4, 8, 8.5, 12.5, 16.5], "uneven_spacing"),
        ([0, 5, 5, 10], "repeated_position"),
        ([0, 5, 5.005, 10], "repeated_position"),
        ([3, 3, 3, 3], "repeated_position"),
        ([7], "single_slice"),
        ([], "no_instances"),
    ],
)
def test_what_makes_no_even_grid_is_refused_with_its_reason(depths, reason):
    assert refusal(stack(depths)).reason == reason


def test_a_missing_slice_is_counted():
    sentence = refusal(stack([0, 5, 10, 25, 35, 40])).sentence
    assert sentence == "slices are missing (3): gaps of up to 15.00 mm, usually 5.00 mm"


def test_how_uneven_a_stack_may_be_is_a_tolerance():
    instances = stack([0, 5, 10, 16.5, 21.5, 26.5])
    assert find_geometry(instances, Tolerances(uneven_share=0.35)).places is not None


def test_slices_that_wander_sideways_are_refused():
    instances = [instance(str(k), frame((x, 0, 3 * k))) for k, x in enumerate([0, 0, 1, 0, 0])]
    assert refusal(instances).reason == "uneven_spacing"
    assert "sideways by 1.0 mm" in refusal(instances).sentence


# --- time -------------------------------------------------------------------------------------


def test_positions_repeated_by_time_are_4d():
    instances = [
        instance(f"{t}{k}", frame((0, 0, 3 * k), time_point=str(t)))
        for t in range(4)
        for k in range(5)
    ]
    assert refusal(instances).reason == "4d"
    assert refusal(instances).sentence == "4 images over time at each of 5 positions"


def test_positions_repeated_by_acquisition_are_4d():
    instances = [
        instance(f"{t}{k}", frame((0, 0, 3 * k)), acquisition_number=t)
        for t in (7, 9)
        for k in range(5)
    ]
    assert refusal(instances).reason == "4d"


def test_times_that_do_not_cover_every_position_explain_nothing():
    instances = [
        instance(f"{t}{k}", frame((0, 0, 3 * k), time_point=str(t)))
        for t in range(2)
        for k in range(5 - t)
    ]
    assert refusal(instances).reason == "repeated_position"


def test_one_position_watched_over_time_is_no_4d_volume():
    """Bolus tracking."""
    instances = [instance(str(t), frame((0, 0, 3), time_point=str(t))) for t in range(4)]
    assert refusal(instances).reason == "repeated_position"


# --- what slices must share -------------------------------------------------------------------


def test_slices_of_two_orientations_are_refused():
    coronal = instance("c", frame((0, 9, 0), orientation=(1.0, 0, 0, 0, 0, -1.0)))
    assert refusal([*stack([0, 2, 4]), coronal]).reason == "mixed_orientation"
    sagittal = instance("s", frame((0, 9, 0), orientation=(0.0, 1, 0, 0, 0, -1.0)))
    assert refusal([*stack([0]), sagittal]).reason == "mixed_orientation"


def test_a_hair_of_difference_in_orientation_is_rounding():
    turned = frame((-10, -20, 2), orientation=(1.0, 0.0005, 0.0, -0.0005, 1.0, 0.0))
    assert find_geometry([*stack([0, 4]), instance("1x", turned)]).shape[0] == 3


NOISE = np.random.default_rng(7).uniform(-0.001, 0.001, (40, 6))


def test_cosines_that_are_noisy_in_the_third_digit_are_one_orientation():
    slices = [
        instance(str(k), frame((-10, -20, 2 * k), orientation=tuple(AXIAL + noise)))
        for k, noise in enumerate(NOISE)
    ]
    geometry = find_geometry(slices)
    np.testing.assert_allclose(placed(geometry, (39, 39, 49)), (24.3, 15.1, 78), atol=0.02)


def test_cosines_of_three_digits_are_at_right_angles():
    cosines = (-0.584, 0.682, -0.44, -0.604, -0.001, 0.797)
    normal = np.cross(cosines[:3], cosines[3:])
    slices = [instance(str(k), frame(2 * k * normal, orientation=cosines)) for k in range(4)]
    assert find_geometry(slices).tilt_deg < 0.1


def test_half_a_degree_of_gantry_between_two_scans_is_no_noise():
    turned = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(0.5))), float(np.sin(np.radians(0.5))))
    scans = [*stack([0, 2, 4]), *stack([6, 8, 10], orientation=turned)]
    assert refusal(scans).reason == "mixed_orientation"


@pytest.mark.parametrize("shift", [1.25, 11.25, -6.0])
@pytest.mark.parametrize("label", ["acquisition", "phase"])
def test_scans_between_each_others_slices_are_4d(shift, label):
    first, second = np.arange(14) * 2.5, np.arange(14) * 2.5 + shift
    scans = [*scan(first, label, 1), *scan(second, label, 2)]
    assert refusal(scans).reason == "4d"


def scan(depths: Sequence[float], label: str, number: int) -> list[Instance]:
    time_point = f"TemporalPositionIdentifier={number}" if label == "phase" else ""
    return [
        instance(
            f"{number}-{k}",
            frame((0, 0, z), time_point=time_point),
            acquisition_number=number if label == "acquisition" else None,
        )
        for k, z in enumerate(depths)
    ]


@pytest.mark.parametrize(
    "numbers",
    [
        [1] * 7 + [2] * 7,
        list(range(14)),
        [1, 1, 1, 2, 1, 2, 2, 2, 3, 2, 3, 3, 3, 3],
        # Numbers that follow no scan, such as the beat that a slice was taken in.
        [74, 75, 75, 74, 76, 75, 74, 74, 75, 76, 76, 74, 75, 76],
    ],
)
def test_one_scan_in_several_acquisitions_is_one_volume(numbers):
    slices = [
        instance(str(k), frame((0, 0, 2.5 * k)), acquisition_number=number)
        for k, number in enumerate(numbers)
    ]
    assert find_geometry(slices).shape == (14, 40, 50)


@pytest.mark.parametrize("changes", [{"rows": 41}, {"columns": 41}])
def test_slices_of_two_sizes_are_refused(changes):
    assert refusal([*stack([0, 2]), replace(stack([0, 2, 4])[2], **changes)]).reason == "mixed_size"


def test_slices_of_two_pixel_spacings_are_refused():
    other = instance("x", frame((-10, -20, 4), pixel_spacing_mm=(0.9, 0.71)))
    assert refusal([*stack([0, 2]), other]).reason == "mixed_size"


@pytest.mark.parametrize(
    "changes",
    [
        {"position_mm": None},
        {"position_mm": (0.0, float("nan"), 0.0)},
        {"position_mm": (0.0, 0.0, 1e30)},
        {"orientation": None},
        {"orientation": (1.0, 0.0, 0.0)},
        {"orientation": (0.0,) * 6},
        {"orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"orientation": (1.0, 0.0, 0.0, 0.02, 1.0, 0.0)},
        {"orientation": (2.0, 0.0, 0.0, 0.0, 2.0, 0.0)},
        {"orientation": (float("inf"), 0.0, 0.0, 0.0, 1.0, 0.0)},
        {"pixel_spacing_mm": None},
        {"pixel_spacing_mm": (0.0, 0.7)},
        {"pixel_spacing_mm": (-0.9, 0.7)},
        {"pixel_spacing_mm": (0.9, float("nan"))},
        {"pixel_spacing_mm": (900.0, 700.0)},
    ],
)
def test_absurd_and_missing_places_are_no_geometry(changes):
    broken = instance("x", replace(frame((-10, -20, 4)), **changes))
    assert refusal([*stack([0, 2]), broken]).reason == "no_geometry"
    assert refusal([replace(i, frames=broken.frames) for i in stack([0, 2])]).reason in (
        "no_geometry",
        "repeated_position",
    )


def test_frames_that_nobody_describes_are_no_geometry():
    instances = [replace(i, number_of_frames=600) for i in stack([0, 2, 4])]
    assert refusal(instances).reason == "no_geometry"


def test_an_instance_without_rows_is_no_geometry():
    assert refusal([replace(i, rows=0) for i in stack([0, 2])]).reason == "no_geometry"


def test_an_instance_without_pixels_is_refused():
    one, *others = stack([0, 2, 4])
    assert refusal([replace(one, has_pixels=False), *others]).reason == "no_pixels"


def test_every_tolerance_is_documented_with_its_default():
    page = (Path(__file__).parents[1] / "docs" / "reference" / "volumes.md").read_text()
    rows = [f"| `{field.name}` | {field.default:g} |" for field in fields(Tolerances)]
    assert [row for row in rows if row not in page] == []
