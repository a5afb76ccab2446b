from __future__ import annotations

import hashlib
import json

import pytest

from tests.nnunet_models import DATASET, NORM, new_plans, old_plans, write_model
from tomodex.errors import Misconfigured
from tomodex.nnunet.model import read_model
from tomodex.nnunet.normalisation import Normalisation


def test_what_a_model_wants_and_finds_is_read_from_its_files(tmp_path):
    folder = write_model(tmp_path)
    model = read_model(folder)
    checkpoint = folder / "fold_0/checkpoint_final.pth"
    assert model.name == "Dataset999_Test"
    assert model.configuration == "3d_fullres"
    assert model.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert model.labels == {1: "liver", 2: "spleen", 3: "kidney_left"}
    assert model.channels == ("CT",)
    assert model.spacing_mm == (3.0, 2.0, 1.5)
    assert model.patch == (8, 12, 16)
    expected = Normalisation(scheme="CTNormalization", low=-900, high=800, mean=20, std=150)
    assert model.normalisations == (expected,)


def test_old_and_new_plans_say_the_same_of_a_network(tmp_path):
    old = read_model(write_model(tmp_path / "old", old_plans())).architecture
    new = read_model(write_model(tmp_path / "new", new_plans())).architecture
    assert old == new
    assert old.features == (3, 6, 8)
    assert old.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    assert (old.encoder_blocks, old.decoder_convs, old.heads) == ((2, 2, 2), (2, 2), 4)


def test_a_residual_network_counts_blocks(tmp_path):
    plans = new_plans("ResidualEncoderUNet", n_blocks_per_stage=[1, 3, 4])
    network = read_model(write_model(tmp_path, plans)).architecture
    assert (network.kind, network.encoder_blocks) == ("ResidualEncoderUNet", (1, 3, 4))


def test_a_configuration_inherits_what_it_does_not_say(tmp_path):
    plans = old_plans()
    configurations = plans["configurations"]
    configurations["middle"] = {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16]}
    configurations["large"] = {"inherits_from": "middle", "spacing": [1.0, 1.0, 1.0]}
    folder = write_model(tmp_path, plans, folder="nnUNetTrainer__nnUNetPlans__large")
    model = read_model(folder)
    assert (model.patch, model.spacing_mm) == ((16, 16, 16), (1.0, 1.0, 1.0))
    assert model.architecture.features == (3, 6, 8)


def test_the_spacing_is_given_in_the_order_of_the_images_axes(tmp_path):
    plans = old_plans() | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    model = read_model(write_model(tmp_path, plans))
    # 3.0 is of the network's first axis, which is the image's x.
    assert model.spacing_mm == (2.0, 1.5, 3.0)


def test_a_folder_of_another_name_will_do_if_there_is_one_configuration(tmp_path):
    plans = old_plans()
    del plans["configurations"]["2d"]
    assert read_model(write_model(tmp_path, plans, folder="mine")).configuration == "3d_fullres"


def test_a_folder_of_another_name_is_asked_to_be_named_if_there_are_several(tmp_path):
    folder = write_model(tmp_path)
    with pytest.raises(Misconfigured, match="name the folder as nnU-Net does"):
        read_model(folder.rename(folder.with_name("mine")))


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [
        ("ZScoreNormalization", Normalisation(scheme="ZScoreNormalization", masked=True)),
        ("NoNormalization", Normalisation(scheme="NoNormalization")),
        ("RescaleTo01Normalization", Normalisation(scheme="RescaleTo01Normalization")),
        ("RGBTo01Normalization", Normalisation(scheme="RGBTo01Normalization")),
    ],
)
def test_every_normalisation_of_nnunet_is_known(tmp_path, name, normalisation):
    plans = old_plans(normalization_schemes=[name], use_mask_for_norm=[True])
    assert read_model(write_model(tmp_path, plans)).normalisations == (normalisation,)


def test_labels_to_be_ignored_have_no_head(tmp_path):
    dataset = DATASET | {"labels": {"background": 0, "liver": 1, "ignore": 2}}
    model = read_model(write_model(tmp_path, dataset=dataset))
    assert model.labels == {1: "liver"}
    assert model.architecture.heads == 2


# --- what cannot be -----------------------------------------------------------------------------


def edited(path: str, value: object) -> dict:
    """Old plans with one thing changed; "cfg" is short for the configuration."""
    plans = old_plans()
    *way, last = path.replace("cfg", "configurations.3d_fullres").split(".")
    place = plans
    for step in way:
        place = place[step]
    place[last] = value
    return plans


NETWORK = "cfg.UNet_class_name"
BROKEN_PLANS = {
    "no configuration '3d_fullres'": edited("configurations", {"2d": {}, "3d_lowres": {}}),
    "inherits from itself": edited(
        "configurations", {"3d_fullres": {"inherits_from": "3d_fullres"}}
    ),
    "no configuration 'gone'": edited("cfg.inherits_from", "gone"),
    "is not of a 3-D model": edited("cfg.patch_size", [64, 64]),
    "patch_size.0: Input should be greater than 0": edited("cfg.patch_size", [0, 8, 8]),
    "larger than can be meant": edited("cfg.patch_size", [512, 512, 512]),
    "patch size 10 is no multiple of 4": edited("cfg.patch_size", [8, 10, 16]),
    "spacing.1: Input should be": edited("cfg.spacing", [1.0, float("inf"), 1.0]),
    "spacing.2: Input should be": edited("cfg.spacing", [1.0, 1.0, -1.0]),
    "HistogramNormalization is not one of": edited(
        "cfg.normalization_schemes", ["HistogramNormalization"]
    ),
    "2 normalization_schemes": edited("cfg.normalization_schemes", ["NoNormalization"] * 2),
    "without intensities of channel 0": edited("foreground_intensity_properties_per_channel", {}),
    "per_channel.0.std": edited(
        "foreground_intensity_properties_per_channel", {"0": NORM | {"std": "wide"}}
    ),
    "names no axes": edited("transpose_forward", [0, 0, 1]),
    "'UNetMamba' cannot be run; PlainConvUNet and ResidualEncoderUNet can": edited(
        NETWORK, "UNetMamba"
    ),
    "stages are not equally many": edited("cfg.n_conv_per_stage_encoder", [2, 2]),
    "the network's stages are not equally many": edited("cfg.n_conv_per_stage_decoder", [2, 2, 2]),
    "the first stage has stride": edited(
        "cfg.pool_op_kernel_sizes", [[2, 2, 2], [2, 2, 2], [2, 2, 2]]
    ),
    "a kernel of even size": edited("cfg.conv_kernel_sizes", [[3, 3, 3], [3, 2, 3], [3, 3, 3]]),
    "preprocessor_name": edited("cfg.preprocessor_name", "MyPreprocessor"),
    "previous_stage": edited("cfg.previous_stage", "3d_lowres"),
    "unet_max_num_features: Field required": {
        **old_plans(),
        "configurations": {
            "3d_fullres": {
                k: v
                for k, v in old_plans()["configurations"]["3d_fullres"].items()
                if k != "unet_max_num_features"
            }
        },
    },
    ".unet.NewNet' cannot be run": new_plans("NewNet"),
    "conv_op": new_plans(conv_op="torch.nn.modules.conv.Conv2d"),
    "norm_op": new_plans(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"),
    "norm_op_kwargs.affine": new_plans(norm_op_kwargs={"eps": 1e-5}),
    "nonlin": new_plans(nonlin="torch.nn.ReLU"),
    "nonlin_first": new_plans(nonlin_first=True),
}


@pytest.mark.parametrize("sentence", BROKEN_PLANS)
def test_plans_that_cannot_be_followed_are_refused_by_name(tmp_path, sentence):
    folder = write_model(tmp_path)
    (folder / "plans.json").write_text(json.dumps(BROKEN_PLANS[sentence]))
    with pytest.raises(Misconfigured) as refused:
        read_model(folder)
    assert f"{folder / 'plans.json'}: " in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (
            DATASET | {"labels": {"background": 0, "whole": [1, 2]}},
            "regions cannot be read: 'whole'",
        ),
        (DATASET | {"labels": {"background": 0, "liver": 2}}, "not background 0, then 1, 2, 3"),
        (DATASET | {"labels": {"nothing": 0, "liver": 1}}, "not background 0, then 1, 2, 3"),
        (DATASET | {"labels": {"background": 0}}, "not background 0, then 1, 2, 3"),
        (DATASET | {"labels": {"background": 0, "liver": "one"}}, "labels.liver"),
        (
            DATASET | {"labels": {"background": 0} | {f"l{k}": k for k in range(1, 257)}},
            "257 labels are more than 256",
        ),
        (DATASET | {"channel_names": {}}, "channel_names"),
        ({}, "channel_names: Field required"),
        ([], "Input should be an object"),
    ],
)
def test_a_data_set_that_cannot_be_followed_is_refused_by_name(tmp_path, dataset, sentence):
    folder = write_model(tmp_path)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(Misconfigured) as refused:
        read_model(folder)
    assert f"{folder / 'dataset.json'}: " in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    folder = write_model(tmp_path)
    (folder / name).unlink()
    with pytest.raises(Misconfigured, match=f"{name}: cannot be read: No such file"):
        read_model(folder)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000, '{"configurations": 1e999}'])
def test_plans_that_are_no_json_are_refused(tmp_path, text):
    folder = write_model(tmp_path)
    (folder / "plans.json").write_text(text)
    with pytest.raises(Misconfigured, match=r"plans\.json: "):
        read_model(folder)


def test_a_file_that_is_far_too_long_is_not_read(tmp_path):
    folder = write_model(tmp_path)
    with (folder / "plans.json").open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(Misconfigured, match="more than 16777216 bytes"):
        read_model(folder)


def test_another_fold_has_its_own_checkpoint(tmp_path):
    folder = write_model(tmp_path)
    (folder / "fold_0").rename(folder / "fold_3")
    assert read_model(folder, fold=3).checkpoint == folder / "fold_3/checkpoint_final.pth"
