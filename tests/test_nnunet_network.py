from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.nnunet_models import logits, new_plans, old_plans, random_weights, write_model
from tomodex.errors import Misconfigured
from tomodex.nnunet.model import read_model
from tomodex.nnunet.network import build_head, build_network
from tomodex.nnunet.openvino import OpenVinoRuntime

ANISOTROPIC = old_plans(
    patch=(8, 12, 16),
    pool_op_kernel_sizes=[[1, 1, 1], [1, 2, 2], [2, 3, 1]],
    conv_kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 1, 5]],
    n_conv_per_stage_encoder=[1, 3, 2],
    n_conv_per_stage_decoder=[2, 1],
)
TWO_CHANNELS = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "liver": 1},
}
NETWORKS = {
    "old plans": (old_plans(), None),
    "new plans": (new_plans(), None),
    "no bias, another slope and eps": (
        new_plans(
            conv_bias=False,
            norm_op_kwargs={"eps": 0.1, "affine": True},
            nonlin_kwargs={"negative_slope": 0.2},
        ),
        None,
    ),
    "no two axes alike": (ANISOTROPIC, None),
    "two channels": (
        old_plans(normalization_schemes=["NoNormalization"] * 2, use_mask_for_norm=[False] * 2),
        TWO_CHANNELS,
    ),
    "residual, old plans": (old_plans(kind="ResidualEncoderUNet"), None),
    "residual, new plans": (
        new_plans("ResidualEncoderUNet", n_blocks_per_stage=[1, 3, 2], conv_bias=False),
        None,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_the_network_written_in_numpy_does(tmp_path, name):
    plans, dataset = NETWORKS[name]
    model = read_model(write_model(tmp_path, plans, dataset))
    weights = random_weights(model.architecture, seed=1)
    shape = (model.architecture.channels, *model.patch)
    patch = np.random.default_rng(2).standard_normal(shape).astype(np.float32)

    runtime = OpenVinoRuntime(model, weights, "f32", 2)
    features = runtime.features(patch)
    head = f"decoder.seg_layers.{len(model.architecture.features) - 2}"
    kernel, bias = weights[f"{head}.weight"][:, :, 0, 0, 0], weights[f"{head}.bias"]
    found = np.einsum("xyzf,of->oxyz", features, kernel) + bias[:, None, None, None]

    expected = logits(model.architecture, weights, patch)
    assert expected.std() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_voxel_gets_the_label_with_the_largest_logit(tmp_path):
    model = read_model(write_model(tmp_path))
    weights = random_weights(model.architecture)
    runtime = OpenVinoRuntime(model, weights, "f32", 2)
    random = np.random.default_rng(3)
    sums = random.standard_normal((10_001, 3)).astype(np.float32)
    counts = random.uniform(0.5, 20, 10_001).astype(np.float32)
    kernel = weights["decoder.seg_layers.1.weight"][:, :, 0, 0, 0].astype(np.float64)
    expected = sums @ kernel.T + weights["decoder.seg_layers.1.bias"] * counts[:, None]
    assert len(set(expected.argmax(axis=1))) == 4
    assert np.array_equal(runtime.labels(sums, counts), expected.argmax(axis=1))


def test_of_equal_logits_the_lowest_label_is_taken(tmp_path):
    model = read_model(write_model(tmp_path))
    weights = random_weights(model.architecture)
    weights["decoder.seg_layers.1.weight"][:] = 0
    weights["decoder.seg_layers.1.bias"][:] = [0, 2, 1, 2]
    runtime = OpenVinoRuntime(model, weights, "f32", 2)
    assert set(runtime.labels(np.ones((50, 3), np.float32), np.ones(50, np.float32))) == {1}


def test_a_missing_weight_is_named(tmp_path):
    model = read_model(write_model(tmp_path))
    weights = random_weights(model.architecture)
    del weights["encoder.stages.1.0.convs.1.norm.bias"]
    with pytest.raises(Misconfigured, match=r"no encoder\.stages\.1\.0\.convs\.1\.norm\.bias"):
        build_network(model.architecture, weights, model.patch)


def test_weights_of_another_network_are_refused(tmp_path):
    model = read_model(write_model(tmp_path))
    weights = random_weights(model.architecture)
    more = replace(model.architecture, heads=5)
    with pytest.raises(Misconfigured, match=r"\(4, 3, 1, 1, 1\) in the checkpoint and \(5, 3"):
        build_head(more, weights, 8)


def test_bf16_is_refused_where_the_cpu_has_none(tmp_path, monkeypatch):
    model = read_model(write_model(tmp_path))
    monkeypatch.setattr("tomodex.nnunet.openvino.capabilities", lambda core: ["FP32", "INT8"])
    with pytest.raises(Misconfigured, match="no bf16"):
        OpenVinoRuntime(model, random_weights(model.architecture), "bf16", 1)
