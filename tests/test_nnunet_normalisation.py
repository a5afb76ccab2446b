from __future__ import annotations

import numpy as np
import pytest

from tomodex.nnunet.nonzero import find_nonzero, find_nonzero_box
from tomodex.nnunet.normalisation import Normalisation, fit_scaling

IMAGE = np.random.default_rng(0).normal(100, 400, (5, 6, 7)).astype(np.float32)


def scaled(normalisation: Normalisation, mask: np.ndarray | None = None) -> np.ndarray:
    return fit_scaling(normalisation, IMAGE, mask).apply(IMAGE)


def test_ct_is_cut_and_scaled_by_what_the_training_data_had():
    ct = Normalisation(scheme="CTNormalization", low=-200, high=300, mean=50.5, std=123.25)
    expected = (IMAGE.clip(-200, 300) - np.float32(50.5)) / np.float32(123.25)
    assert np.array_equal(scaled(ct), expected)


def test_the_z_score_has_mean_0_and_deviation_1():
    found = scaled(Normalisation(scheme="ZScoreNormalization"))
    assert found.mean(dtype=float) == pytest.approx(0, abs=1e-6)
    assert found.std(dtype=float) == pytest.approx(1, abs=1e-6)


def test_a_masked_z_score_counts_only_what_is_inside():
    mask = IMAGE > 0
    found = scaled(Normalisation(scheme="ZScoreNormalization", masked=True), mask)[mask]
    assert found.mean(dtype=float) == pytest.approx(0, abs=1e-6)
    assert found.std(dtype=float) == pytest.approx(1, abs=1e-6)


def test_values_are_scaled_to_0_and_1():
    found = scaled(Normalisation(scheme="RescaleTo01Normalization"))
    assert (found.min(), found.max()) == (0, 1)
    assert np.array_equal(scaled(Normalisation(scheme="RGBTo01Normalization")), IMAGE / 255)
    assert np.array_equal(scaled(Normalisation(scheme="NoNormalization")), IMAGE)


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
def test_an_image_of_one_value_is_divided_by_nothing_smaller_than_nnunet_does(scheme):
    flat = np.full((2, 3, 4), 7, np.float32)
    fitted = fit_scaling(Normalisation(scheme=scheme), flat, None)
    assert fitted.scale == 1e-8
    assert np.array_equal(fitted.apply(flat), np.zeros((2, 3, 4)))


def test_scaling_leaves_the_image_as_it_was():
    before = IMAGE.copy()
    scaled(Normalisation(scheme="CTNormalization", low=0, high=1))
    assert np.array_equal(IMAGE, before)


# --- what is not 0 ------------------------------------------------------------------------------


def test_the_box_is_round_all_channels():
    image = np.zeros((2, 6, 7, 8), np.float32)
    image[0, 2, 3, 4] = -1000
    image[1, 4, 1, 5] = 0.5
    assert find_nonzero_box(image) == (slice(2, 5), slice(1, 4), slice(4, 6))


def test_an_image_of_nothing_but_0_is_its_own_box():
    assert find_nonzero_box(np.zeros((1, 3, 4, 5), np.float32)) == (
        slice(0, 3),
        slice(0, 4),
        slice(0, 5),
    )


def shell() -> np.ndarray:
    """A closed box of walls, empty inside."""
    image = np.zeros((1, 9, 10, 11), np.float32)
    image[0, 2:7, 2:8, 2:9] = -5
    image[0, 3:6, 3:7, 3:8] = 0
    return image


def test_holes_count_as_not_0():
    expected = np.zeros((9, 10, 11), bool)
    expected[2:7, 2:8, 2:9] = True
    assert np.array_equal(find_nonzero(shell()), expected)


def test_a_hole_with_a_way_out_is_no_hole():
    image = shell()
    image[0, 4, 4, 8] = 0
    assert np.array_equal(find_nonzero(image), image[0] != 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_a_pocket_that_opens_to_any_face_of_the_image_is_no_hole(axis, end):
    image = np.ones((1, 5, 6, 7), np.float32)
    pocket = np.moveaxis(image[0], axis, 0)
    pocket[:2, 3, 3] = pocket[-2:, 2, 2] = 0
    # Only one of the two opens.
    pocket[0 if end else -1, [2, 3], [2, 3]] = 1
    expected = np.ones((5, 6, 7), bool)
    opened = np.moveaxis(expected, axis, 0)
    opened[[0, 1] if end == 0 else [-1, -2], 3 if end == 0 else 2, 3 if end == 0 else 2] = False
    assert np.array_equal(find_nonzero(image), expected)


def test_a_way_out_over_an_edge_is_none():
    image = shell()
    # Only the edge of the wall is open: what lies behind it touches the inside at a corner.
    image[0, 2, 2, :] = 0
    filled = find_nonzero(image)
    assert filled[3:6, 3:7, 3:8].all()


def test_a_winding_way_out_is_followed_to_its_end():
    image = np.ones((1, 3, 21, 21), np.float32)
    # A spiral of corridors from the border to the middle.
    y, x, way, length = 1, 0, 0, 20
    for turn in range(18):
        dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][way]
        for _ in range(length - 1):
            image[0, 1, y, x] = 0
            y, x = y + dy, x + dx
        way, length = (way + 1) % 4, length - 2 * (turn % 2) - (turn == 0)
    open_voxels = image[0] == 0
    assert open_voxels.sum() > 100
    assert np.array_equal(find_nonzero(image), ~open_voxels)
