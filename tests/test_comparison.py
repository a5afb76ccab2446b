from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.test_resampling import axial
from tomodex.comparison import Comparison, Limits, compare
from tomodex.segmentation import Algorithm, Segmentation

NAMES = {1: "liver", 2: "kidney_left", 3: "kidney_right"}


def segmented(labels, names=NAMES, mm=(10.0, 10.0, 10.0), hu=None, weights="w"):
    labels = np.asarray(labels, np.uint8)
    volume = axial(np.zeros(labels.shape) if hu is None else hu, mm)
    algorithm = Algorithm(name="a test", weights_sha256=weights)
    return Segmentation(volume=volume, layers=(labels,), names=(names,), algorithm=algorithm)


def compared(ours, reference, uid="1.2"):
    return compare(ours, reference, series_uid=uid, seconds=2.0, reference_seconds=5.0)


def pairs_of(comparison):
    return {pair.structure: pair for pair in comparison.pairs}


def block(number=1, size=10, shape=(12, 12, 12)):
    """A box of `size` x 10 x 10 voxels of 1 ml that touches no face."""
    labels = np.zeros(shape, np.uint8)
    labels[1 : 1 + size, 1:11, 1:11] = number
    return labels


LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 4))


@given(LABELS, LABELS)
def test_voxels_are_counted_as_masks_would_count_them(one, other):
    """Label 4 has no name: for us it is background."""
    found = compared(segmented(one), segmented(other))
    a, b = np.where(one == 4, 0, one), np.where(other == 4, 0, other)
    either = (a > 0) | (b > 0)
    assert found.voxels == a.size
    assert found.agreement == pytest.approx((a == b).mean())
    if either.any():
        assert found.foreground_agreement == pytest.approx((a == b)[either].mean())
    for number, name in NAMES.items():
        size = (a == number).sum() + (b == number).sum()
        pair = pairs_of(found).get(name)
        assert (pair is None) == (size == 0)
        if pair:
            assert pair.dice == pytest.approx(2 * ((a == number) & (b == number)).sum() / size)


def test_a_name_counts_whatever_its_number():
    ours = segmented([[[0, 1, 2]]], {1: "liver", 2: "spleen"})
    reference = segmented([[[0, 9, 7]]], {7: "spleen", 9: "liver"})
    found = compared(ours, reference)
    assert (found.agreement, found.foreground_agreement) == (1.0, 1.0)


def test_volume_hu_and_cut_sides_are_held_against_each_other():
    hu = np.zeros((12, 12, 12))
    hu[1] = 1000
    small, large = segmented(block(size=9), hu=hu), segmented(block(size=10), hu=hu)
    (pair,) = compared(small, large).pairs
    assert pair.ml == (pytest.approx(900), pytest.approx(1000))
    assert pair.volume_percent == pytest.approx(-10)
    assert pair.difference_hu == pytest.approx(1000 / 9 - 100)
    assert pair.cut == ((), ())
    cut = segmented(np.ones((12, 12, 12)))
    (pair,) = compared(small, cut).pairs
    assert pair.cut[0] == ()
    assert len(pair.cut[1]) == 6


def test_what_only_one_has_found_is_all_of_a_difference():
    ours, none = segmented(block()), segmented(np.zeros((12, 12, 12)))
    (extra,) = compared(ours, none).pairs
    (missing,) = compared(none, ours).pairs
    assert (extra.dice, extra.volume_percent, extra.difference_hu) == (0.0, 100.0, None)
    assert (missing.dice, missing.volume_percent) == (0.0, -100.0)
    assert missing.cut == (None, ())


def test_nothing_found_by_both_is_agreement():
    none = segmented(np.zeros((2, 2, 2)))
    found = compared(none, none)
    assert (found.agreement, found.foreground_agreement, found.pairs) == (1.0, 1.0, ())


def test_exchanged_sides_are_named():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:, :, 0], labels[:, :, 3], labels[0, 0, 1] = 2, 3, 1
    mirrored = segmented(labels, {1: "liver", 2: "kidney_right", 3: "kidney_left"})
    found = compared(segmented(labels), mirrored)
    assert found.swapped == ("kidney_left", "kidney_right")
    assert any("exchanged: kidney_left" in said for said in found.failures(Limits()))
    assert compared(segmented(labels), segmented(labels)).swapped == ()


def test_labels_on_another_grid_are_brought_onto_ours():
    labels = block()[::2, ::2, ::2]
    fine, coarse = segmented(block()), segmented(labels, mm=(20, 20, 20))
    nearest = np.rint(np.arange(12) / 2).astype(int).clip(0, 5)
    carried = segmented(labels[np.ix_(nearest, nearest, nearest)])
    found, expected = compared(fine, coarse), compared(fine, carried)
    assert (found.carried, expected.carried) == (True, False)
    assert found.shape == (12, 12, 12)
    assert found.agreement == expected.agreement < 1
    (pair,) = found.pairs
    assert pair.dice == expected.pairs[0].dice
    # On its own grid, not on ours.
    assert pair.ml[1] == pytest.approx(5 * 5 * 5 * 8)


def test_the_same_voxels_at_another_place_are_another_grid():
    one, other = segmented(block()), segmented(block())
    other.volume.affine[0, 3] += 40
    assert compared(one, other).carried
    assert compared(one, other).agreement < 1


def test_overlapping_structures_have_no_one_label():
    one = segmented(block())
    two = replace(one, layers=one.layers * 2, names=(NAMES, {1: "spleen"}))
    with pytest.raises(ValueError, match="unpack"):
        compared(two, one)


# --- limits -------------------------------------------------------------------------------------


def test_a_series_within_the_limits_fails_nowhere():
    assert compared(segmented(block()), segmented(block())).failures(Limits()) == []


@pytest.mark.parametrize(
    ("limits", "fails"),
    [
        (Limits(agreement=0.99, volume_percent=1), True),
        (Limits(agreement=0.90, volume_percent=9), True),
        (Limits(agreement=0.95, volume_percent=10.1), True),
        (Limits(agreement=0.90, volume_percent=10.1), False),
        (Limits(agreement=0.90, volume_percent=1, over_ml=1001), False),
        (Limits(agreement=0.90, volume_percent=1, over_ml=999), True),
    ],
)
def test_each_limit_counts(limits, fails):
    """A tenth of a structure of 1,000 ml is missing, of 1,728 ml in all."""
    found = compared(segmented(block(size=9)), segmented(block(size=10)))
    assert found.agreement == pytest.approx(1 - 100 / 1728)
    assert bool(found.failures(limits)) == fails
    assert Comparison(limits=limits, series=(found,)).accepted != fails


def test_one_bad_series_among_good_ones_is_not_accepted():
    good = compared(segmented(block()), segmented(block()), "1.2")
    bad = compared(segmented(block(size=5)), segmented(block()), "1.3")
    together = Comparison(limits=Limits(), series=(good, bad, good))
    assert not together.accepted
    assert {uid for uid, _ in together.failures} == {"1.3"}


def test_nothing_compared_is_not_accepted():
    nothing = Comparison(limits=Limits(), series=())
    assert not nothing.accepted
    assert (nothing.agreement, nothing.speed, nothing.structures) == (None, None, ())


# --- all series together ------------------------------------------------------------------------


def test_a_structure_is_summed_up_over_all_series():
    sizes = {"1.1": 10, "1.2": 9, "1.3": 5}
    series = tuple(
        compared(segmented(block(size=size)), segmented(block()), uid)
        for uid, size in sizes.items()
    )
    (liver,) = Comparison(limits=Limits(), series=series).structures
    assert (liver.structure, liver.series) == ("liver", 3)
    assert liver.dice_median == pytest.approx(2 * 9 / 19)
    assert liver.dice_worst == pytest.approx(2 * 5 / 15)
    assert liver.volume_percent_worst == pytest.approx(-50)
    assert liver.difference_ml_worst == pytest.approx(-500)
    assert liver.cut_differs == 0


def test_large_series_count_for_more_voxels_and_all_for_time():
    small = compared(segmented(np.zeros((1, 1, 10))), segmented(np.ones((1, 1, 10))))
    large = compared(segmented(np.ones((1, 9, 10))), segmented(np.ones((1, 9, 10))))
    together = Comparison(limits=Limits(), series=(small, large))
    assert together.agreement == pytest.approx(0.9)
    assert together.foreground_agreement == pytest.approx(0.9)
    assert together.speed == pytest.approx(2.5)
