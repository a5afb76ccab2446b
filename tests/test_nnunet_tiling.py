from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.nnunet.tiling import gaussian, plan_starts

# Made by nnunetv2 2.8.1: compute_steps_for_sliding_window of (size,), (tile,), step.
OFFICIAL = [
    (137, 112, 0.8, (0, 25)),
    (137, 128, 0.8, (0, 9)),
    (112, 112, 0.8, (0,)),
    (113, 112, 0.8, (0, 1)),
    (633, 112, 0.8, (0, 87, 174, 260, 347, 434, 521)),
    (201, 112, 0.8, (0, 89)),
    (202, 112, 0.8, (0, 45, 90)),
    (167, 112, 0.5, (0, 55)),
    (300, 128, 0.5, (0, 57, 115, 172)),
    (15, 10, 0.5, (0, 5)),
    (19, 8, 1.0, (0, 6, 11)),
]


@pytest.mark.parametrize(("size", "tile", "step", "starts"), OFFICIAL)
def test_tiles_start_where_nnunet_starts_them(size, tile, step, starts):
    assert plan_starts(size, tile, step) == starts


@given(st.integers(1, 3000), st.integers(4, 200), st.sampled_from([0.25, 0.5, 0.8, 1.0]))
def test_tiles_reach_every_voxel_and_lie_no_further_apart_than_the_step(size, tile, step):
    starts = plan_starts(size, tile, step)
    reached = np.zeros(size, bool)
    for start in starts:
        reached[max(start, 0) : start + tile] = True
    assert reached.all()
    assert list(starts) == sorted(set(starts))
    assert max(np.diff(starts), default=0) < tile * step + 1
    if size > tile:
        assert starts[0] == 0
        assert starts[-1] + tile == size


@given(st.integers(1, 200), st.data())
def test_a_small_image_lies_in_the_middle_of_its_tile(tile, data):
    size = data.draw(st.integers(1, tile))
    (start,) = plan_starts(size, tile, 0.8)
    before, after = -start, tile - size + start
    assert after - before in (0, 1)


def test_the_gaussian_is_ten_in_the_middle_and_falls_by_an_eighth_of_the_tile():
    weights = gaussian((16, 24, 40))
    assert weights.shape == (16, 24, 40)
    assert weights[8, 12, 20] == 10
    for place, far in [
        ((10, 12, 20), 1),
        ((8, 15, 20), 1),
        ((8, 12, 25), 1),
        ((10, 15, 30), sqrt(6)),
    ]:
        assert weights[place] == pytest.approx(10 * exp(-(far**2) / 2), rel=1e-3)


def test_the_gaussian_is_half_precision_and_nowhere_zero():
    weights = gaussian((48, 48, 64))
    assert weights.min() == pytest.approx(2**-24)
    assert np.array_equal(weights, weights.astype(np.float16).astype(np.float32))


def test_the_gaussian_of_odd_tiles_is_the_same_from_both_sides():
    weights = gaussian((9, 11, 13))
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])
