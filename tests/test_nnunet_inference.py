from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nnunet_models import logits, random_weights, write_model
from tomodex.errors import Unsuitable
from tomodex.nnunet.inference import predict
from tomodex.nnunet.merging import open_slices_here
from tomodex.nnunet.model import ModelFolder, read_model
from tomodex.nnunet.normalisation import Normalisation
from tomodex.nnunet.openvino import OpenVinoRuntime
from tomodex.nnunet.tiling import gaussian, plan_starts

CT = Normalisation(scheme="CTNormalization", low=-900, high=800, mean=20, std=150)


@dataclass
class Seen:
    """A runtime whose features depend on the voxel and on its place in the tile, not on a network.

    Labels are the largest of (first feature, second feature, weight).
    """

    description: dict = field(default_factory=dict)
    patches: list[np.ndarray] = field(default_factory=list)
    threads: int = 1

    def open_slices(self, image, weights, features):
        return open_slices_here(self, image, weights, features, self.threads)

    def features(self, patch: np.ndarray) -> np.ndarray:
        self.patches.append(patch.copy())
        places = np.indices(patch.shape[1:]).sum(axis=0, dtype=np.float32)
        return np.stack([3 * patch[0], 0.1 * places * patch[-1], places * 0], axis=-1)

    def labels(self, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
        logits = [sums[..., 0], sums[..., 1], weights]
        return np.argmax(logits, axis=0).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelFolder:
    return read_model(write_model(tmp_path_factory.mktemp("model")))


def hu(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(20, 300, (1, *shape)).astype(np.float32)


def merged_at_once(runtime: Seen, model: ModelFolder, image: np.ndarray, step: float) -> np.ndarray:
    """The same in one piece: the image is padded, and all sums are kept to the end."""
    normal = (image.clip(-900, 800) - np.float32(20)) / np.float32(150)
    lows = [max(t - n, 0) // 2 for t, n in zip(model.patch, image.shape[1:], strict=True)]
    highs = [
        max(t - n, 0) - low for t, n, low in zip(model.patch, image.shape[1:], lows, strict=True)
    ]
    padded = np.pad(normal, [(0, 0), *zip(lows, highs, strict=True)])
    sums, counts = (
        np.zeros((*padded.shape[1:], 3), np.float32),
        np.zeros(padded.shape[1:], np.float32),
    )
    weights = gaussian(model.patch)
    steps = [plan_starts(n, t, step) for n, t in zip(padded.shape[1:], model.patch, strict=True)]
    for corner in np.ndindex(*map(len, steps)):
        at = [along[k] for along, k in zip(steps, corner, strict=True)]
        place = tuple(slice(a, a + t) for a, t in zip(at, model.patch, strict=True))
        sums[place] += runtime.features(padded[:, *place]) * weights[..., None]
        counts[place] += weights
    inner = tuple(slice(low, low + n) for low, n in zip(lows, image.shape[1:], strict=True))
    return runtime.labels(sums, counts)[inner]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 40)),
    st.sampled_from([0.5, 0.8, 1.0]),
    st.integers(1, 3),
)
def test_labels_slab_by_slab_are_those_of_the_whole(model, shape, step, threads):
    image = hu(*shape, seed=sum(shape))
    found = predict(Seen(threads=threads), model, image, step=step)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(found, merged_at_once(Seen(), model, image, step))


def test_labels_are_those_of_the_network_written_in_numpy(model):
    weights = random_weights(model.architecture, seed=5)

    class Logits(Seen):
        def features(self, patch: np.ndarray) -> np.ndarray:
            return np.moveaxis(logits(model.architecture, weights, patch), 0, -1)

        def labels(self, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
            return sums.argmax(axis=-1).astype(np.uint8)

    image = hu(10, 14, 20)
    expected_model = replace(model, architecture=replace(model.architecture, features=(4, 6, 8)))
    expected = predict(Logits(), expected_model, image, step=0.8)
    runtime = OpenVinoRuntime(model, weights, "f32", 2)
    found = predict(runtime, model, image, step=0.8)
    assert len(np.unique(expected)) >= 3
    assert (found == expected).mean() > 0.999


def test_what_lies_round_a_small_image_is_0_after_normalisation(model):
    runtime = Seen()
    predict(runtime, model, hu(3, 5, 9), step=0.8)
    (patch,) = runtime.patches
    assert patch.shape == (1, 8, 12, 16)
    outside = patch[0].copy()
    outside[2:5, 3:8, 3:12] = 0
    assert np.count_nonzero(patch) == 3 * 5 * 9
    assert not outside.any()


def test_borders_of_0_are_left_out_and_become_background(model):
    image = np.zeros((1, 12, 20, 30), np.float32)
    image[:, 4:10, 6:17, 2:29] = hu(6, 11, 27) + 5000
    found = predict(Seen(), model, image, step=0.8)
    assert np.array_equal(
        found[4:10, 6:17, 2:29],
        predict(Seen(), model, image[:, 4:10, 6:17, 2:29].copy(), step=0.8),
    )
    found[4:10, 6:17, 2:29] = 0
    assert not found.any()


def test_an_image_of_nothing_but_0_is_labelled_as_any_other(model):
    found = predict(Seen(), model, np.zeros((1, 9, 9, 9), np.float32), step=0.8)
    assert found.shape == (9, 9, 9)


def test_a_network_that_takes_its_axes_in_another_order_gets_them_so(model):
    turned = replace(model, transpose=(2, 0, 1))
    image = hu(9, 10, 17)
    straight = predict(Seen(), model, image.transpose(0, 3, 1, 2), step=0.8)
    found = predict(Seen(), turned, image, step=0.8)
    assert found.shape == (9, 10, 17)
    assert np.array_equal(found, straight.transpose(1, 2, 0))


def test_a_masked_normalisation_leaves_the_outside_0(model):
    masked = replace(
        model, normalisations=(Normalisation(scheme="ZScoreNormalization", masked=True),)
    )
    image = np.abs(hu(8, 12, 16)) + 1
    image[0, :, :3, :4] = 0
    runtime = Seen()
    predict(runtime, masked, image, step=0.8)
    (patch,) = runtime.patches
    assert not patch[0, :, :3, :4].any()
    inside = patch[0][image[0] != 0]
    assert inside.mean(dtype=float) == pytest.approx(0, abs=1e-5)


def test_a_channel_without_a_mask_is_normalised_everywhere(model):
    masked = Normalisation(scheme="ZScoreNormalization", masked=True)
    both = replace(
        model, channels=("T1", "T2"), normalisations=(masked, replace(masked, masked=False))
    )
    image = np.abs(hu(8, 12, 16)) + 1
    image[0, :, :3, :4] = 0
    runtime = Seen()
    predict(runtime, both, np.concatenate([image, image]), step=0.8)
    (patch,) = runtime.patches
    assert not patch[0, :, :3, :4].any()
    assert (patch[1, :, :3, :4] < 0).all()
    assert patch[1].mean(dtype=float) == pytest.approx(0, abs=1e-5)


def test_channels_are_normalised_each_by_itself(model):
    two = replace(
        model,
        channels=("T1", "T2"),
        normalisations=(CT, Normalisation(scheme="RescaleTo01Normalization")),
    )
    runtime = Seen()
    image = np.concatenate([hu(8, 12, 16), hu(8, 12, 16, seed=1)])
    predict(runtime, two, image, step=0.8)
    (patch,) = runtime.patches
    np.testing.assert_allclose(patch[0], (image[0].clip(-900, 800) - 20) / 150, rtol=1e-5)
    assert (patch[1].min(), patch[1].max()) == (0, 1)


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (2, 4, 4, 4), (4, 4, 4)])
def test_an_image_that_the_model_cannot_take_is_a_bug(model, shape):
    with pytest.raises(ValueError, match="for the channels"):
        predict(Seen(), model, np.zeros(shape, np.float32), step=0.8)


def test_an_image_that_is_too_wide_is_refused_before_anything_is_allocated(model):
    # Nothing but one voxel of it takes memory.
    image = np.broadcast_to(np.ones(1, np.float32), (1, 8, 3000, 3000))
    runtime = Seen()
    with pytest.raises(Unsuitable) as refused:
        predict(runtime, model, image, step=0.8, max_bytes=10**9)
    assert refused.value.reason == "too_large"
    assert "8 x 3000 x 3000 voxels would take 1152000000 bytes" in str(refused.value)
    assert not runtime.patches


def test_the_budget_does_not_ask_how_long_an_image_is(model):
    image = hu(200, 8, 8)
    found = predict(Seen(), model, image, step=0.8, max_bytes=4 * 4 * 8 * 8 * 8)
    assert found.shape == (200, 8, 8)


def test_progress_is_told_after_every_tile(model):
    told: list[tuple[int, int]] = []
    predict(
        Seen(),
        model,
        hu(20, 12, 17),
        step=0.8,
        progress=lambda done, tiles: told.append((done, tiles)),
    )
    assert told == [(k, 6) for k in range(1, 7)]
