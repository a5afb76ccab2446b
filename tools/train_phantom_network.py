"""Train the network that finds the phantom's structures; writes a model folder as nnU-Net does.

    python tools/phantom_scans.py SCANS --count 400
    python tools/train_phantom_network.py SCANS MODEL --minutes 60

Needs torch and dynamic-network-architectures, which the official nnunetv2 package brings; the
product needs neither. On two cores an hour is enough. The loop is much shorter than nnU-Net's: one
patch a step, and the loss looks at some of the patch's voxels, as 118 logits for each of them would
take longer than the rest of the network.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

PATCH = (64, 64, 80)
SPACING_MM = (5.0, 5.0, 5.0)
FEATURES = (32, 48, 64, 128, 128)
#: Flat where most voxels are: a third of the work, and a scan's own voxels are flat too.
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
ENCODER_CONVS, DECODER_CONVS = (1, 2, 2, 2, 2), (1, 1, 1, 1)
CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
NAME = "Dataset117_TomodexPhantom"

#: HU as CTNormalization takes them. nnU-Net would measure percentiles; bone and lung would then
#: take all of the range, and what lies between 20 and 60 HU would look the same for too long.
WINDOW = {"mean": 30.0, "std": 120.0, "percentile_00_5": -350.0, "percentile_99_5": 450.0}

#: Voxels of a patch that the loss looks at: half of them drawn from all, half by structure.
SAMPLE = 40_000
#: Share of the loss of each stage, finest first.
STAGE_WEIGHTS = (1.0, 0.4, 0.2)
#: So much of the training goes without the finest stage, which takes half of the time: what lies
#: where is learned twice as fast without it.
COARSE = 0.4
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 1e-4, 100
#: Weights are averaged over about this many steps.
AVERAGED = 200
#: Labels of voxels that lie outside of the image.
_NOWHERE = 255


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What the network sees of a scan at a time."""

    image: Image  #: PATCH, normalised; 0 where there is no image
    labels: Labels  #: PATCH, _NOWHERE where there is no image


# --- the files of a model -------------------------------------------------------------------------


def plans() -> dict[str, Any]:
    """What becomes `plans.json`."""
    stages = len(FEATURES)
    options = {
        "n_stages": stages,
        "features_per_stage": FEATURES,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "n_conv_per_stage": ENCODER_CONVS,
        "n_conv_per_stage_decoder": DECODER_CONVS,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": PATCH,
        "spacing": SPACING_MM,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": CLASS,
            "arch_kwargs": options,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "NibabelIOWithReorient",
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {"0": WINDOW},
    }


def dataset(structures: Sequence[str], scans: int) -> dict[str, Any]:
    """What becomes `dataset.json`."""
    return {
        "name": NAME,
        "channel_names": {"0": "CT"},
        "labels": {name: n for n, name in enumerate(("background", *structures))},
        "numTraining": scans,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }


def write_model(
    folder: Path, network: nn.Module, structures: Sequence[str], history: Mapping[str, Any]
) -> None:
    """Plans, data set, checkpoint in half precision, and how it was trained."""
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans(), indent=1))
    (folder / "dataset.json").write_text(
        json.dumps(dataset(structures, history["scans"]), indent=1)
    )
    (folder / "training.json").write_text(json.dumps(history, indent=1))
    halves: dict[int, Tensor] = {}
    # nnU-Net's networks list most tensors under several names; each is stored once.
    weights = {
        name: halves.setdefault(tensor.data_ptr(), tensor.half())
        for name, tensor in network.state_dict().items()
    }
    content = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        # Flipped, left would be taken for right.
        "inference_allowed_mirroring_axes": None,
    }
    part = folder / "fold_0" / "checkpoint.part"
    torch.save(content, part)
    part.replace(folder / "fold_0" / "checkpoint_final.pth")


def make_network(labels: int) -> PlainConvUNet:
    """The network of `plans`, not trained."""
    stages = len(FEATURES)
    return PlainConvUNet(
        1,
        stages,
        FEATURES,
        nn.Conv3d,
        KERNELS,
        STRIDES,
        ENCODER_CONVS,
        labels + 1,
        DECODER_CONVS,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


# --- patches --------------------------------------------------------------------------------------


def draw_patches(folder: Path, dice: np.random.Generator) -> Iterator[Patch]:
    """Patches of the scans in `folder` without end; scans that are added meanwhile are seen too."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_draw_patch, folder, dice)
        while True:
            patch = coming.result()
            coming = ahead.submit(_draw_patch, folder, dice)
            yield patch


def _draw_patch(folder: Path, dice: np.random.Generator) -> Patch:
    scans = sorted(folder.glob("*.npz"))
    with np.load(scans[dice.integers(len(scans))]) as scan:
        hu, labels = scan["hu"], scan["labels"]
    seen = _throw_view(hu.shape, dice)
    return _cut(_vary(hu[seen].astype(np.float32), dice), labels[seen], dice)


def _throw_view(shape: tuple[int, ...], dice: np.random.Generator) -> tuple[slice, ...]:
    """A field of view: about one in three narrow, about half of them short."""
    long = dice.random() < 0.5
    narrow = dice.random() < 0.3
    z = dice.integers(55, 150) if long else dice.integers(10, 70)
    y, x = (dice.integers(26, 62), dice.integers(28, 84)) if narrow else (
        dice.integers(52, 67), dice.integers(68, 93))  # fmt: skip
    sizes = [min(n, int(wanted)) for n, wanted in zip(shape, (z, y, x), strict=True)]
    room = [n - size for n, size in zip(shape, sizes, strict=True)]
    # What lies in the middle is seen more often than the borders, but they are seen.
    firsts = [
        int(dice.integers(0, room[0] + 1)),
        *(round(dice.beta(2, 2) * left) for left in room[1:]),
    ]
    return tuple(slice(first, first + size) for first, size in zip(firsts, sizes, strict=True))


def _vary(hu: Image, dice: np.random.Generator) -> Image:
    """Other noise, another calibration; normalised as the product does it."""
    if dice.random() < 0.5:
        noise = dice.standard_normal(hu.shape, np.float32)
        hu = hu + noise * np.float32(dice.uniform(2, 15))
    hu = hu * np.float32(dice.uniform(0.97, 1.03)) + np.float32(dice.uniform(-10, 10))
    hu = np.clip(hu, WINDOW["percentile_00_5"], WINDOW["percentile_99_5"])
    normal: Image = (hu - np.float32(WINDOW["mean"])) / np.float32(WINDOW["std"])
    return normal


def _cut(image: Image, labels: Labels, dice: np.random.Generator) -> Patch:
    """A patch somewhere on the image; a smaller image lies in its middle, as in the product."""
    starts = [
        int(dice.integers(0, n - tile + 1)) if n > tile else -((tile - n) // 2)
        for n, tile in zip(image.shape, PATCH, strict=True)
    ]
    there = tuple(
        slice(max(s, 0), min(s + tile, n))
        for s, tile, n in zip(starts, PATCH, image.shape, strict=True)
    )
    inner = tuple(slice(t.start - s, t.stop - s) for t, s in zip(there, starts, strict=True))
    patch = Patch(np.zeros(PATCH, np.float32), np.full(PATCH, _NOWHERE, np.uint8))
    patch.image[inner], patch.labels[inner] = image[there], labels[there]
    return patch


# --- the loss -------------------------------------------------------------------------------------


def stage_loss(
    features: Tensor, head: nn.Conv3d, labels: Labels, sample: int, fair: float, dice: Any
) -> Tensor:
    """Cross entropy and soft Dice of `sample` voxels of one stage.

    `fair` says how entropy counts voxels: 1 as often as there are such, 0 small structures more.
    """
    flat = labels.ravel()
    places, weights = _sample(flat, sample, dice)
    truth = torch.from_numpy(flat[places].astype(np.int64))
    weight = torch.from_numpy(weights)
    seen = features[0].flatten(1)[:, torch.from_numpy(places)].float().t()
    logits = nn.functional.linear(seen, head.weight.flatten(1), head.bias)
    entropy = nn.functional.cross_entropy(logits, truth, reduction="none")
    counted = weight**fair * _boost(truth)
    return (entropy * counted).sum() / counted.sum() + _dice_loss(logits.softmax(1), truth, weight)


def _boost(truth: Tensor) -> Tensor:
    """More for the voxels of what has too few for an equal share, up to ten times as much."""
    counts = torch.bincount(truth)
    equal = len(truth) / 2 / (counts > 0).sum()
    return (equal / counts[truth]).clamp(1, 10)


def _sample(flat: Labels, sample: int, dice: Any) -> tuple[Any, Any]:
    """Places of voxels, and how many of its kind each stands for."""
    inside = np.flatnonzero(flat != _NOWHERE)
    sample = min(sample, len(inside))
    known = flat[inside]
    counts = np.bincount(known, minlength=256)
    present = int((counts > 0).sum())
    share = 0.5 / len(inside) + 0.5 / (present * np.maximum(counts, 1))
    # At most so often that each voxel is looked at once on average.
    chance = np.minimum(share * sample, 1.0)
    taken = dice.random(len(inside), np.float32) < chance[known]
    places = inside[taken]
    return places, (1 / chance[flat[places]]).astype(np.float32)


def _dice_loss(shares: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """1 - mean soft Dice of what is there, estimated from weighted voxels."""
    right = shares.gather(1, truth[:, None])[:, 0] * weight
    size = torch.zeros(shares.shape[1])
    overlap = size.index_add(0, truth, right)
    true = size.index_add(0, truth, weight)
    found = (shares * weight[:, None]).sum(0)
    present = (true > 0) & (torch.arange(len(true)) > 0)
    if not present.any():
        return shares.sum() * 0
    ratio = (2 * overlap[present] + 1) / (true[present] + found[present] + 1)
    return 1 - ratio.mean()


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long to learn and how fast: until the minutes are over or so many steps are done."""

    minutes: float
    steps: int
    rate: float  #: of learning, at its highest
    seed: int
    begin: float  #: how much counts as over at the beginning, for going on with a trained model


class Learner:
    """A network, its average over the last steps, and what it learns with."""

    def __init__(self, network: PlainConvUNet, course: Course) -> None:
        self.network = network
        self.average = deepcopy(network).eval()
        self.steps = 0
        self._rate = course.rate
        self._dice = np.random.default_rng([course.seed, 2])
        self._heads = list(network.decoder.seg_layers)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), course.rate, weight_decay=WEIGHT_DECAY
        )

    def step(self, patch: Patch, done: float) -> float:
        """Learn from one patch; `done` is how much of the training is over, 0 to 1."""
        self._optimizer.param_groups[0]["lr"] = (
            self._rate * min(1.0, (self.steps + 1) / WARM_UP) * (0.5 + 0.5 * cos(pi * done))
        )
        loss = self._loss(patch, done)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self._optimizer.step()
        self.steps += 1
        self._follow()
        return float(loss.detach())

    def _loss(self, patch: Patch, done: float) -> Tensor:
        finest = 1 if done < COARSE else 0
        with torch.autocast("cpu", torch.bfloat16):
            stages = decode(self.network, torch.from_numpy(patch.image)[None, None], finest)
        total = torch.zeros(())
        for depth, share in list(enumerate(STAGE_WEIGHTS))[finest:]:
            labels = patch.labels[:: 2**depth, :: 2**depth, :: 2**depth]
            sample = SAMPLE // 2**depth
            head = self._heads[-1 - depth]
            total = total + share * stage_loss(
                stages[depth - finest],
                head,
                np.ascontiguousarray(labels),
                sample,
                # Small structures must be learned first; how large each is, comes after.
                max(0.0, 2 * done - 1),
                self._dice,
            )
        return total / sum(STAGE_WEIGHTS[finest:])

    @torch.no_grad()
    def _follow(self) -> None:
        pace = 1 / min(AVERAGED, self.steps)
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for mean, now in pairs:
            mean.lerp_(now, pace)


def decode(network: PlainConvUNet, image: Tensor, finest: int) -> list[Tensor]:
    """What each stage of the decoder down to the `finest` sees, finest first, before the heads."""
    seen = network.encoder(image)
    node, stages = seen[-1], []
    decoder = network.decoder
    parts = list(zip(decoder.transpconvs, decoder.stages, strict=True))
    for k, (enlarge, convs) in enumerate(parts[: len(parts) - finest]):
        node = convs(torch.cat((enlarge(node), seen[-2 - k]), 1))
        stages.append(node)
    return stages[::-1]


class Log:
    """How a model came to be."""

    def __init__(self, course: Course, earlier: Sequence[Mapping[str, Any]]) -> None:
        self._course, self._earlier = course, earlier
        self._begin = time.monotonic()
        self._losses: list[float] = []
        self._curve: list[tuple[int, float]] = []

    @property
    def done(self) -> float:
        """How much of the training is over, from 0 to 1."""
        course = self._course
        done = max(self._minutes / course.minutes, len(self._losses) / course.steps)
        return course.begin + (1 - course.begin) * done

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self._begin) / 60

    def add(self, loss: float) -> None:
        """Of one step; every hundred are told."""
        self._losses.append(loss)
        if len(self._losses) % 100 == 0:
            self._curve.append((len(self._losses), round(float(np.mean(self._losses[-100:])), 4)))
            step, mean = self._curve[-1]
            print(f"{self._minutes:.1f} min, step {step}: {mean}", flush=True)

    def told(self, scans: Path) -> dict[str, Any]:
        """What becomes `training.json`."""
        seeds = sorted(int(path.stem) for path in scans.glob("*.npz"))
        return {
            "scans": len(seeds),
            "body_seeds": [seeds[0], seeds[-1]],
            "steps": len(self._losses) + sum(run["steps"] for run in self._earlier),
            "runs": [
                *self._earlier,
                {
                    "steps": len(self._losses),
                    "minutes": round(self._minutes, 1),
                    "learning_rate": self._course.rate,
                    "seed": self._course.seed,
                    "begin": self._course.begin,
                    "loss": self._curve,
                },
            ],
            "torch": torch.__version__,
        }


def train(scans: Path, folder: Path, course: Course, start: Path | None) -> None:
    """Until the course is over; the model is written every five minutes."""
    torch.manual_seed(course.seed)
    structures = json.loads((scans / "structures.json").read_text())
    network = make_network(len(structures))
    log = Log(course, _take_over(network, start) if start else ())
    learner = Learner(network, course)
    written = time.monotonic()
    for patch in draw_patches(scans, np.random.default_rng([course.seed, 1])):
        if log.done >= 1:
            break
        log.add(learner.step(patch, log.done))
        if time.monotonic() - written > 300:
            written = time.monotonic()
            write_model(folder, learner.average, structures, log.told(scans))
    write_model(folder, learner.average, structures, log.told(scans))


def _take_over(network: nn.Module, start: Path) -> Sequence[Mapping[str, Any]]:
    """Begin with the weights of another model; return how that was trained."""
    content = torch.load(start / "fold_0" / "checkpoint_final.pth", weights_only=True)
    weights = {name: tensor.float() for name, tensor in content["network_weights"].items()}
    network.load_state_dict(weights)
    runs: Sequence[Mapping[str, Any]] = json.loads((start / "training.json").read_text())["runs"]
    return runs


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--begin", type=float, default=0.0, help="share that counts as over")
    parser.add_argument("--start", type=Path, help="a model to go on from")
    given = parser.parse_args()
    course = Course(minutes=given.minutes, steps=given.steps, rate=given.rate, seed=given.seed,
                    begin=given.begin)  # fmt: skip
    train(given.scans, given.model, course, given.start)


if __name__ == "__main__":
    main()
