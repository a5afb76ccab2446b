"""Labels of a model's grid on the grid of the series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.masked import (
    ALGORITHM,
    AXIAL,
    CORONAL,
    GRIDS,
    SHAPE,
    TILTED,
    UNEVEN,
    origin_of,
    segmentation_of,
)
from tomodex.errors import Unsuitable
from tomodex.masks import carry, masks_on_frames, masks_on_grid
from tomodex.resampling import resample, straighten
from tomodex.segmentation import Segmentation
from tomodex.terminology import load_terminology
from tomodex.volume import Volume

RNG = np.random.default_rng(7)


def nearest(labels, affine, geometry, places):
    """What `carry` promises, voxel by voxel."""
    carried = np.zeros((len(places), *geometry.shape[1:]), np.uint8)
    for index in np.ndindex(carried.shape):
        at = geometry.affine @ [places[index[0]], index[1], index[2], 1.0]
        where = np.linalg.solve(affine, at)[:3]
        if ((where >= -1) & (where <= np.array(labels.shape))).all():
            z, y, x = np.clip(np.floor(where + 0.5 + 1e-9), 0, np.array(labels.shape) - 1)
            carried[index] = labels[int(z), int(y), int(x)]
    return carried


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("places", [range(SHAPE[0]), UNEVEN], ids=["even", "uneven"])
def test_every_voxel_has_the_label_that_lies_nearest(name, places):
    geometry = origin_of(GRIDS[name], places).geometry
    where = geometry.places if geometry.places is not None else np.arange(SHAPE[0])
    volume = Volume(np.zeros(SHAPE, np.int16), geometry.affine)
    grid = straighten(volume, (1.6, 1.1, 1.3))
    labels = RNG.integers(0, 250, grid.shape).astype(np.uint8)
    found = carry(labels, grid.affine, geometry, np.asarray(where, np.float64))
    assert (found == nearest(labels, grid.affine, geometry, where)).all()
    assert len(np.unique(found)) > 50


@given(spacing=st.tuples(*[st.floats(0.6, 5.0)] * 3), name=st.sampled_from(sorted(GRIDS)))
def test_a_model_grid_of_any_spacing_is_carried_to_the_nearest_voxels(spacing, name):
    geometry = origin_of(GRIDS[name]).geometry
    grid = resample(Volume(np.zeros(SHAPE, np.int16), geometry.affine), spacing)
    labels = RNG.integers(0, 250, grid.shape).astype(np.uint8)
    places = np.arange(SHAPE[0], dtype=np.float64)
    found = carry(labels, grid.affine, geometry, places)
    assert (found == nearest(labels, grid.affine, geometry, places)).all()


def test_labels_on_the_grid_of_the_series_stay_as_they_are():
    origin = origin_of(AXIAL)
    segmentation = segmentation_of(origin)
    masks = masks_on_frames(segmentation, origin.geometry)
    assert (masks.layers[0] == segmentation.layers[0]).all()
    assert masks.names == segmentation.names


def test_a_structure_keeps_its_side_on_a_grid_that_is_turned_round():
    """Left of the patient is left, however the model's and the series' axes run."""
    geometry = origin_of(CORONAL).geometry
    grid = straighten(Volume(np.zeros(SHAPE, np.int16), geometry.affine), (1.0, 1.0, 1.0))
    index = np.indices(grid.shape).reshape(3, -1)
    x = (grid.affine[:3, :3] @ index + grid.affine[:3, 3:])[0].reshape(grid.shape)
    middle = float(np.median(x))
    left = (x > middle).astype(np.uint8)
    found = carry(left, grid.affine, geometry, np.arange(SHAPE[0], dtype=np.float64))
    at = np.indices(SHAPE).reshape(3, -1)
    true_x = (geometry.affine[:3, :3] @ at + geometry.affine[:3, 3:])[0].reshape(SHAPE)
    assert (found[true_x > middle + 1] == 1).all()
    assert (found[true_x < middle - 1] == 0).all()


def test_frames_of_an_uneven_series_have_the_label_of_their_true_place():
    origin = origin_of(AXIAL, UNEVEN)
    assert origin.geometry.places is not None
    # A model's grid with ten planes for each step: each is labelled by its number.
    affine = origin.geometry.affine @ np.diag([0.1, 1.0, 1.0, 1.0])
    labels = np.arange(1, 52, dtype=np.uint8)[:, None, None].repeat(9, 1).repeat(11, 2)
    grid = Volume(np.zeros(labels.shape, np.int16), affine)
    names = dict(zip(range(1, 52), load_terminology().structures, strict=False))
    made = Segmentation(volume=grid, layers=(labels,), names=(names,), algorithm=ALGORITHM)
    assert masks_on_frames(made, origin.geometry).layers[0][:, 0, 0].tolist() == [
        1, 12, 22, 31, 42, 51,
    ]  # fmt: skip
    assert masks_on_grid(made, origin.geometry).layers[0][:, 0, 0].tolist() == [
        1, 11, 21, 31, 41, 51,
    ]  # fmt: skip


def test_what_lies_beyond_the_models_grid_is_background():
    geometry = origin_of(AXIAL).geometry
    labels = np.full((2, 9, 11), 3, np.uint8)
    found = carry(labels, geometry.affine, geometry, np.arange(6, dtype=np.float64))
    assert found[:, 0, 0].tolist() == [3, 3, 3, 0, 0, 0]


def test_only_what_is_wanted_is_shown():
    origin = origin_of(TILTED)
    segmentation = segmentation_of(origin)
    masks = masks_on_frames(segmentation, origin.geometry, ("spleen", "aorta"))
    assert masks.structures == ("spleen",)
    assert set(np.unique(masks.layers[0])) == {0, 200}
    assert (segmentation.layers[0] == 5).any()  # and the segmentation is left alone


def test_a_layer_without_anything_wanted_is_left_out():
    origin = origin_of(AXIAL)
    one = segmentation_of(origin)
    other = np.zeros(SHAPE, np.uint8)
    other[2, 2:5, 2:5] = 1
    both = replace(one, layers=(*one.layers, other), names=(*one.names, {1: "aorta"}))
    assert len(masks_on_frames(both, origin.geometry).layers) == 2
    assert masks_on_frames(both, origin.geometry, ("aorta",)).names == ({1: "aorta"},)


def test_a_wish_for_what_was_not_found_is_refused():
    origin = origin_of(AXIAL)
    with pytest.raises(Unsuitable, match="none of the structures") as refused:
        masks_on_frames(segmentation_of(origin), origin.geometry, ("aorta",))
    assert refused.value.reason == "no_structures"
