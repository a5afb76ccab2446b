from __future__ import annotations

import hashlib
import tracemalloc
from fractions import Fraction
from itertools import permutations, product
from math import ceil, floor, trunc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomodex.errors import Unsuitable
from tomodex.resampling import carry_labels, face_patient, is_upright, resample, straighten
from tomodex.volume import Volume

MM = (3.0, 3.0, 3.0)


def axial(voxels, spacing_mm, origin_mm=(0, 0, 0)):
    """Slices from foot to head, rows from back to front, columns from left to right (RAS)."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = np.array(spacing_mm) * (1, -1, -1)
    affine[:, 3] = *origin_mm, 1
    return Volume(np.asarray(voxels, np.int16), affine)


def turned(volume, degrees, around):
    """The volume with its affine turned around a patient axis."""
    a = np.radians(degrees)
    one, other = (i for i in range(3) if i != around)
    turn = np.eye(4)
    turn[[one, other], [one, other]] = np.cos(a)
    turn[one, other], turn[other, one] = -np.sin(a), np.sin(a)
    return Volume(volume.voxels, turn @ volume.affine)


def tilted(volume, degrees):
    """The volume as a leaning gantry sees it: slices lean, the table goes straight on."""
    affine = turned(volume, degrees, around=0).affine
    affine[:3, 0] = volume.affine[:3, 0]
    return Volume(volume.voxels, affine)


def ramp(volume, at=(0.5, -0.25, 1.0)):
    """The same grid, each voxel with a HU that grows evenly along the patient's axes."""
    indices = np.indices(volume.voxels.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ indices + volume.affine[:3, 3:]
    return Volume(np.rint(at @ places).reshape(volume.voxels.shape).astype(np.int16), volume.affine)


def slow_zoom(values, sizes):
    """Linear zoom with aligned corners in exact fractions, cut off towards zero."""
    out = np.empty(sizes, int)
    steps = [
        Fraction(n - 1, m - 1) if m > 1 else 0 for n, m in zip(values.shape, sizes, strict=True)
    ]
    for place in np.ndindex(*sizes):
        at = [i * step for i, step in zip(place, steps, strict=True)]
        total = Fraction(0)
        for corner in np.ndindex(2, 2, 2):
            weight, index = Fraction(1), []
            for x, up in zip(at, corner, strict=True):
                weight *= (x - floor(x)) if up else 1 - (x - floor(x))
                index.append(ceil(x) if up else floor(x))
            total += weight * int(values[tuple(index)])
        out[place] = trunc(total)
    return out


@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.sampled_from([0.7, 1.25, 2.0, 3.0, 5.0])] * 3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_a_resampled_volume_is_linear_between_its_voxels(shape, spacing_mm, seed):
    hu = np.random.default_rng(seed).integers(-1024, 3000, shape)
    found = resample(axial(hu, spacing_mm), MM).voxels
    wanted = slow_zoom(hu, found.shape)
    assert np.abs(found - wanted).max() <= 1
    assert found.shape == tuple(
        max(1, round(n * mm / 3)) for n, mm in zip(shape, spacing_mm, strict=True)
    )


def test_resampling_equals_scipy_to_the_last_bit():
    # SHA-256 of scipy.ndimage.zoom(order=1, mode="nearest").astype(int), scipy 1.17.1.
    rng = np.random.default_rng(297)
    hu = rng.integers(-1024, 3072, (23, 41, 37))
    hu[:, :, 20:] = -1000
    found = resample(axial(hu, (4.1, 1.9, 0.7)), MM).voxels
    assert (
        hashlib.sha256(found.astype("<i2").tobytes()).hexdigest()
        == "7d2e310a9a3e9474ef79d17d155da578bc35ceeb70f5c4bc99ae27bc5efa8f7d"
    )


def test_a_volume_that_has_the_spacing_already_is_untouched():
    hu = np.random.default_rng(0).integers(-32768, 32767, (5, 7, 9))
    found = resample(axial(hu, MM, (10, 20, 30)), MM)
    assert (found.voxels == hu).all()
    assert (found.affine == axial(hu, MM, (10, 20, 30)).affine).all()


@pytest.mark.parametrize("degrees", [0, 12])
def test_every_new_voxel_lies_where_its_value_was(degrees):
    volume = ramp(tilted(axial(np.zeros((20, 31, 27)), (2.5, 1.1, 0.9), (40, -60, -300)), degrees))
    for found in (resample(volume, MM), resample(volume, (1.5, 2.0, 6.0))):
        expected = ramp(found).voxels
        assert np.abs(found.voxels - expected).max() <= 2


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_axes_are_ordered_as_nibabel_orders_them(seed):
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = (turn + rng.normal(size=(3, 3)) * 0.05) @ np.diag(rng.uniform(0.5, 5, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    volume = Volume(rng.integers(-1000, 1000, (3, 4, 5)).astype(np.int16), affine)
    # NIfTI: columns, rows, slices; to the right, to the front, upwards.
    ras = np.diag([-1, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.voxels.T, ras))
    found = face_patient(volume)
    assert (found.voxels == np.asarray(canonical.dataobj).T).all()
    assert np.diag([-1, -1, 1, 1]) @ found.affine[:, [2, 1, 0, 3]] == pytest.approx(
        canonical.affine
    )


class Unheld(Volume):
    """A volume of which there is never more than a slice, as while it is decoded."""

    @property
    def shape(self):
        return self._voxels.shape

    @property
    def voxels(self):
        raise AssertionError("all voxels at once")

    def slices(self):
        self.taken = 0
        for hu in self._voxels:
            self.taken += 1
            yield hu.copy()


@pytest.mark.parametrize("spacing_mm", [MM, (0.7, 0.9, 1.1), (20, 50, 3)], ids=str)
@pytest.mark.parametrize("back", list(product((1, -1), repeat=3)), ids=str)
@pytest.mark.parametrize("axes", list(permutations(range(3))), ids=str)
def test_slices_that_come_one_by_one_are_resampled_to_the_same_voxels(axes, back, spacing_mm):
    hu = np.random.default_rng(5).integers(-1024, 3000, (7, 9, 8)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([1.3, 1.7, 2.1]) * back)[:, axes]
    held, coming = Volume(hu, affine), Unheld(hu, affine)
    if abs(affine[2, 0]) == 0:  # coronal and sagittal slices are needed all at once
        with pytest.raises(AssertionError, match="at once"):
            resample(coming, spacing_mm)
        return
    found, wanted = resample(coming, spacing_mm), resample(held, spacing_mm)
    assert (found.voxels == wanted.voxels).all()
    assert (found.affine == wanted.affine).all()
    # Also those that nothing is read from: one of them may be broken.
    assert coming.taken == 7


def test_nothing_is_copied_to_face_the_patient():
    volume = turned(axial(np.zeros((3, 4, 5)), MM), 180, around=2)
    assert np.shares_memory(face_patient(volume).voxels, volume.voxels)


def test_a_mirrored_series_keeps_the_patients_sides():
    # Columns from right to left instead of from left to right: the same patient.
    hu = np.random.default_rng(1).integers(-1000, 1000, (4, 6, 9))
    one = axial(hu, (3, 2, 2))
    back = one.affine.copy()
    back[:3, 3] += back[:3, 2] * 8
    back[:3, 2] *= -1
    other = Volume(one.voxels[:, :, ::-1], back)
    assert (resample(one, MM).voxels == resample(other, MM).voxels).all()
    assert resample(one, MM).affine == pytest.approx(resample(other, MM).affine)


@pytest.mark.parametrize(
    ("change", "upright"),
    [
        (lambda v: v, True),
        (lambda v: turned(v, 90, around=0), True),
        (lambda v: turned(v, 180, around=2), True),
        (lambda v: turned(v, 14, around=1), True),
        (lambda v: turned(v, 16, around=1), False),
        (lambda v: turned(v, 45, around=2), False),
        (lambda v: tilted(v, 0.5), True),
        (lambda v: tilted(v, 4), False),
        (lambda v: tilted(v, -18.5), False),
    ],
    ids=[
        "axial",
        "coronal",
        "prone",
        "14 deg",
        "16 deg",
        "45 deg",
        "tilt 0.5 deg",
        "tilt 4 deg",
        "tilt 18.5 deg",
    ],
)
def test_a_grid_is_upright_unless_sheared_or_oblique(change, upright):
    assert is_upright(change(axial(np.zeros((4, 5, 6)), (2, 1, 1)))) is upright


@pytest.mark.parametrize(
    "change",
    [lambda v: tilted(v, 20), lambda v: turned(v, 30, around=1), lambda v: v],
    ids=["tilted", "oblique", "axial"],
)
def test_a_straightened_volume_has_every_value_where_it_truly_lies(change):
    volume = ramp(change(axial(np.zeros((25, 30, 28)), (2.0, 1.5, 1.2), (15, 20, -100))))
    found = straighten(volume, MM)
    inside = found.voxels != -1024
    assert inside.mean() > 0.3
    # Half a new voxel beyond the outermost centres the nearest value counts.
    assert np.abs(found.voxels - ramp(found).voxels)[inside].max() <= 6
    assert np.median(np.abs(found.voxels - ramp(found).voxels)[inside]) < 1
    assert found.affine[:3, :3] == pytest.approx(np.array([[0, 0, -3], [0, -3, 0], [3, 0, 0]]))


def test_labels_come_back_to_where_they_were():
    volume = tilted(axial(np.zeros((25, 30, 28)), (2.0, 1.5, 1.2), (15, 20, -100)), 20)
    upright, own = straighten(volume, MM), resample(volume, MM)
    centre = own.affine[:3, :3] @ (np.array(own.voxels.shape) / 2) + own.affine[:3, 3]

    def ball(grid):
        indices = np.indices(grid.voxels.shape).reshape(3, -1)
        places = grid.affine[:3, :3] @ indices + grid.affine[:3, 3:]
        away = np.linalg.norm(places - centre[:, None], axis=0)
        return (away < 12).reshape(grid.voxels.shape).astype(np.uint8)

    carried, wanted = carry_labels(ball(upright), upright, own), ball(own)
    overlap = 2 * (carried & wanted).sum() / (carried.sum() + wanted.sum())
    assert overlap > 0.85


def test_whatever_lies_in_a_scan_has_a_filled_voxel_next_to_it():
    volume = tilted(axial(np.full((25, 30, 28), 40), (2.0, 1.5, 1.2), (15, 20, -100)), 20)
    upright, own = straighten(volume, MM), resample(volume, MM)
    filled = (upright.voxels == 40).astype(np.uint8)
    assert not filled.all()
    assert carry_labels(filled, upright, own).all()


@pytest.mark.parametrize("slices", [1, 2])
def test_the_thinnest_volumes_keep_their_thickness(slices):
    for mm in (0.7, 5.0):
        found = resample(axial(np.zeros((slices, 9, 9)), (mm, 3, 3)), MM)
        if 1 in (slices, len(found.voxels)):
            assert len(found.voxels) * found.affine[2, 0] == pytest.approx(slices * mm)


@pytest.mark.parametrize("make", [resample, straighten])
def test_a_grid_beyond_the_budget_is_refused_before_it_is_made(make):
    volume = axial(np.zeros((2, 200, 200)), (20, 20, 20))
    with pytest.raises(Unsuitable, match="more than") as refused:
        make(volume, (0.1, 0.1, 0.1))
    assert refused.value.reason == "too_large"


def test_resampling_holds_the_result_and_a_few_slices():
    volume = axial(np.zeros((200, 256, 256)), (1, 1, 1))
    tracemalloc.start()
    found = resample(volume, MM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < found.voxels.nbytes + 24 * found.voxels[0].size * 8 + 4 * 256 * 256 * 8
