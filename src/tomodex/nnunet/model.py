"""A model as nnU-Net leaves it after training: a folder, read without running anything in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomodex.errors import Misconfigured
from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.normalisation import SCHEMES, Normalisation, Scheme
from tomodex.nnunet.plans import (
    Dataset,
    Plans,
    find_configuration,
    read_architecture,
    read_configuration,
    read_dataset,
    read_plans,
    require_whole,
)

#: Labels are kept in a byte each.
_MAX_LABELS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What a trained model wants of an image and what it finds, all from its own files.

    An image has the axes (z, y, x); the network may take them in another order.
    """

    name: str  #: nnU-Net's name of the data set, such as "Dataset297_TotalSegmentator_..."
    configuration: str  #: such as "3d_fullres"
    checkpoint: Path
    weights_sha256: str  #: of the checkpoint's file
    labels: Mapping[int, str]  #: without the background, which is 0
    channels: tuple[str, ...]  #: such as ("CT",)
    spacing_mm: tuple[float, float, float]  #: of the image's axes (z, y, x)
    transpose: Three  #: axis of the image for each axis of the network
    patch: Three  #: voxels of one run, in the network's axes
    normalisations: tuple[Normalisation, ...]  #: one for each channel
    architecture: Architecture


def read_model(folder: Path, fold: int = 0) -> ModelFolder:
    """The model in `folder`, which has plans.json, dataset.json and fold_0/checkpoint_final.pth.

    Raises:
        Misconfigured: a file is missing or malformed, or asks for what this engine cannot do;
            the message names the file.
    """
    dataset = read_dataset(folder / "dataset.json")
    path = folder / "plans.json"
    plans = read_plans(path)
    name = _configuration_name(folder, plans)
    raw = find_configuration(plans, name, path)
    wanted = read_configuration(raw, path)
    labels, heads = _labels(dataset, folder / "dataset.json")
    architecture = read_architecture(raw, len(dataset.channel_names), heads, path)
    patch = (wanted.patch_size[0], wanted.patch_size[1], wanted.patch_size[2])
    require_whole(patch, architecture.strides, path)
    transpose = _transpose(plans, path)
    z, y, x = (wanted.spacing[transpose.index(axis)] for axis in range(3))
    checkpoint = folder / f"fold_{fold}" / "checkpoint_final.pth"
    return ModelFolder(
        name=plans.dataset_name or folder.parent.name,
        configuration=name,
        checkpoint=checkpoint,
        weights_sha256=_sha256(checkpoint),
        labels=labels,
        channels=tuple(dataset.channel_names.values()),
        spacing_mm=(z, y, x),
        transpose=transpose,
        patch=patch,
        normalisations=_normalisations(
            plans, wanted.normalization_schemes, wanted.use_mask_for_norm, dataset, path
        ),
        architecture=architecture,
    )


def _configuration_name(folder: Path, plans: Plans) -> str:
    """nnU-Net names the folder trainer__plans__configuration."""
    named = folder.resolve().name.split("__")
    if len(named) == 3:
        return named[2]
    if len(plans.configurations) == 1:
        return next(iter(plans.configurations))
    raise Misconfigured(
        f"{folder}: plans.json has several configurations; name the folder as nnU-Net does, "
        "trainer__plans__configuration, such as nnUNetTrainer__nnUNetPlans__3d_fullres"
    )


def _labels(dataset: Dataset, path: Path) -> tuple[dict[int, str], int]:
    """Names of the labels without the background, and how many heads the network has."""
    regions = [name for name, label in dataset.labels.items() if isinstance(label, list)]
    if regions:
        raise Misconfigured(f"{path}: labels that are regions cannot be read: {regions[0]!r}")
    found = {
        label: name
        for name, label in dataset.labels.items()
        if isinstance(label, int) and name != "ignore"
    }
    if sorted(found) != list(range(len(found))) or len(found) < 2 or found[0] != "background":
        raise Misconfigured(f"{path}: labels are not background 0, then 1, 2, 3 and so on")
    if len(found) > _MAX_LABELS:
        raise Misconfigured(f"{path}: {len(found)} labels are more than {_MAX_LABELS}")
    return {label: found[label] for label in range(1, len(found))}, len(found)


def _transpose(plans: Plans, path: Path) -> Three:
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise Misconfigured(f"{path}: transpose_forward {plans.transpose_forward} names no axes")
    return plans.transpose_forward


def _normalisations(
    plans: Plans, schemes: list[str], masked: list[bool], dataset: Dataset, path: Path
) -> tuple[Normalisation, ...]:
    """One for each channel of the image."""
    if not len(schemes) == len(masked) == len(dataset.channel_names):
        raise Misconfigured(
            f"{path}: {len(schemes)} normalization_schemes, {len(masked)} use_mask_for_norm, "
            f"but {len(dataset.channel_names)} channel_names in dataset.json"
        )
    return tuple(
        _normalisation(plans, _scheme(schemes[channel], path), masked[channel], channel, path)
        for channel in range(len(schemes))
    )


def _scheme(name: str, path: Path) -> Scheme:
    if name not in SCHEMES:
        raise Misconfigured(f"{path}: {name} is not one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def _normalisation(
    plans: Plans, scheme: Scheme, masked: bool, channel: int, path: Path
) -> Normalisation:
    if scheme != "CTNormalization":
        return Normalisation(scheme=scheme, masked=masked and scheme == "ZScoreNormalization")
    known = (plans.foreground_intensity_properties_per_channel or {}).get(str(channel))
    if known is None:
        raise Misconfigured(f"{path}: CTNormalization without intensities of channel {channel}")
    return Normalisation(
        scheme=scheme,
        low=known.percentile_00_5,
        high=known.percentile_99_5,
        mean=known.mean,
        std=known.std,
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as trouble:
        raise Misconfigured(f"{path}: cannot be read: {trouble.strerror}") from trouble
