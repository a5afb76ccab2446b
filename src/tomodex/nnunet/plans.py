"""What nnU-Net's `plans.json` and `dataset.json` say of a model, read with suspicion."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, JsonValue, PositiveInt, ValidationError

from tomodex.errors import Misconfigured
from tomodex.nnunet.architecture import Architecture, Kind, Three

#: Larger files are not what they claim: real ones have up to 0.3 MB (the fingerprint of a data
#: set with many channels).
_MAX_FILE_BYTES = 16 * 2**20
#: Voxels of the largest patch: 256 x 256 x 256, eight times that of any published model.
_MAX_PATCH_VOXELS = 2**24

_KINDS: Mapping[str, Kind] = {
    "PlainConvUNet": "PlainConvUNet",
    "ResidualEncoderUNet": "ResidualEncoderUNet",
}

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Stages = Annotated[tuple[Triple, ...], Field(min_length=2, max_length=12)]
Counts = Annotated[tuple[Annotated[PositiveInt, Field(le=4096)], ...], Field(max_length=12)]
Parsed = TypeVar("Parsed", bound=BaseModel)


class Intensities(BaseModel):
    """HU of the foreground in the training data."""

    mean: FiniteFloat
    std: FiniteFloat
    percentile_00_5: FiniteFloat
    percentile_99_5: FiniteFloat


class Plans(BaseModel):
    """`plans.json`, its configurations not yet read."""

    dataset_name: str = ""
    transpose_forward: tuple[int, int, int] = (0, 1, 2)
    configurations: dict[str, dict[str, JsonValue]]
    foreground_intensity_properties_per_channel: dict[str, Intensities] | None = None


class Dataset(BaseModel):
    """`dataset.json`."""

    channel_names: Annotated[dict[str, str], Field(min_length=1)]
    labels: dict[str, int | list[int]]


class Configuration(BaseModel):
    """How one configuration takes its images; its network is read apart."""

    patch_size: Annotated[list[PositiveInt], Field(max_length=8)]
    spacing: Annotated[list[Positive], Field(max_length=8)]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    previous_stage: None = None  # a cascade needs labels of another model first


class _OldNetwork(BaseModel):
    """The network as plans before nnU-Net 2.3 said it; the rest is fixed."""

    UNet_class_name: str
    UNet_base_num_features: PositiveInt
    unet_max_num_features: PositiveInt
    n_conv_per_stage_encoder: Counts
    n_conv_per_stage_decoder: Counts
    pool_op_kernel_sizes: Stages
    conv_kernel_sizes: Stages


class _NormOptions(BaseModel, extra="forbid"):
    eps: Positive = 1e-5
    # torch's default is False: then there are no weights, and nnU-Net never does that.
    affine: Literal[True]


class _NonlinOptions(BaseModel, extra="forbid"):
    inplace: bool = True
    negative_slope: FiniteFloat = 0.01


class _NetworkOptions(BaseModel, extra="forbid"):
    """What an architecture is made with. An option that is not here could change the network."""

    n_stages: PositiveInt
    features_per_stage: Counts
    conv_op: Literal["torch.nn.modules.conv.Conv3d"]
    kernel_sizes: Stages
    strides: Stages
    n_conv_per_stage: Counts = ()
    n_blocks_per_stage: Counts = ()
    n_conv_per_stage_decoder: Counts
    conv_bias: bool = False
    norm_op: Literal["torch.nn.modules.instancenorm.InstanceNorm3d"]
    norm_op_kwargs: _NormOptions
    dropout_op: JsonValue = None  # does nothing when a network is used
    dropout_op_kwargs: JsonValue = None
    nonlin: Literal["torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"]
    nonlin_kwargs: _NonlinOptions = _NonlinOptions()
    deep_supervision: JsonValue = None


class _NewNetwork(BaseModel):
    network_class_name: str
    arch_kwargs: _NetworkOptions


def read_plans(path: Path) -> Plans:
    """Raises Misconfigured where the file is none."""
    return _read(path, Plans)


def read_dataset(path: Path) -> Dataset:
    """Raises Misconfigured where the file is none."""
    return _read(path, Dataset)


def find_configuration(plans: Plans, name: str, path: Path) -> dict[str, JsonValue]:
    """The configuration `name` with what it inherits, nearest first.

    Raises:
        Misconfigured: there is none, or it inherits from itself.
    """
    chain: list[dict[str, JsonValue]] = []
    wanted: JsonValue = name
    while wanted is not None:
        if not isinstance(wanted, str) or wanted not in plans.configurations:
            there = ", ".join(sorted(plans.configurations)) or "none"
            raise Misconfigured(f"{path}: no configuration {wanted!r}; there are: {there}")
        if len(chain) > len(plans.configurations):
            raise Misconfigured(f"{path}: configuration {wanted!r} inherits from itself")
        chain.append(plans.configurations[wanted])
        wanted = chain[-1].get("inherits_from")
    merged: dict[str, JsonValue] = {}
    for configuration in reversed(chain):
        merged.update(configuration)
    return merged


def read_configuration(raw: Mapping[str, JsonValue], path: Path) -> Configuration:
    """How images are taken.

    Raises:
        Misconfigured: something is missing, not 3-D, or not what this engine can do.
    """
    found = _validated(raw, Configuration, path)
    if len(found.patch_size) != 3 or len(found.spacing) != 3:
        raise Misconfigured(f"{path}: patch_size {found.patch_size} is not of a 3-D model")
    if prod(found.patch_size) > _MAX_PATCH_VOXELS:
        raise Misconfigured(f"{path}: a patch of {found.patch_size} is larger than can be meant")
    return found


def read_architecture(
    raw: Mapping[str, JsonValue], channels: int, heads: int, path: Path
) -> Architecture:
    """The network, from old plans and new ones.

    Raises:
        Misconfigured: it is not one that this engine can run, or its numbers contradict.
    """
    read = _new_network if "architecture" in raw else _old_network
    network = read(raw, channels, heads, path)
    counted = (network.features, network.kernels, network.encoder_blocks)
    stages = len(network.strides)
    if any(len(of) != stages for of in counted) or len(network.decoder_convs) != stages - 1:
        raise Misconfigured(f"{path}: the network's stages are not equally many everywhere")
    if network.strides[0] != (1, 1, 1):
        raise Misconfigured(f"{path}: the first stage has stride {network.strides[0]}, not 1")
    if any(k % 2 == 0 for kernel in network.kernels for k in kernel):
        raise Misconfigured(f"{path}: a kernel of even size, such as {network.kernels[0]}")
    return network


def require_whole(patch: Three, strides: tuple[Three, ...], path: Path) -> None:
    """Raises Misconfigured where a patch cannot be halved as often as the network does."""
    for axis, size in enumerate(patch):
        pooled = prod(stride[axis] for stride in strides)
        if size % pooled:
            raise Misconfigured(f"{path}: patch size {size} is no multiple of {pooled}")


def _old_network(
    raw: Mapping[str, JsonValue], channels: int, heads: int, path: Path
) -> Architecture:
    """What old plans left out is in nnU-Net's `plans_handler.py`."""
    old = _validated(raw, _OldNetwork, path)
    sizes = (old.UNet_base_num_features * 2**i for i in range(len(old.pool_op_kernel_sizes)))
    return Architecture(
        kind=_kind(old.UNet_class_name, path),
        channels=channels,
        features=tuple(min(size, old.unet_max_num_features) for size in sizes),
        kernels=old.conv_kernel_sizes,
        strides=old.pool_op_kernel_sizes,
        encoder_blocks=old.n_conv_per_stage_encoder,
        decoder_convs=old.n_conv_per_stage_decoder,
        heads=heads,
        conv_bias=True,
        norm_eps=1e-5,
        leak=0.01,
    )


def _new_network(
    raw: Mapping[str, JsonValue], channels: int, heads: int, path: Path
) -> Architecture:
    named = raw["architecture"]
    if isinstance(named, dict):
        _kind(named.get("network_class_name"), path)
    new = _validated(named, _NewNetwork, path)
    options = new.arch_kwargs
    return Architecture(
        kind=_kind(new.network_class_name, path),
        channels=channels,
        features=options.features_per_stage,
        kernels=options.kernel_sizes,
        strides=options.strides,
        encoder_blocks=options.n_conv_per_stage or options.n_blocks_per_stage,
        decoder_convs=options.n_conv_per_stage_decoder,
        heads=heads,
        conv_bias=options.conv_bias,
        norm_eps=options.norm_op_kwargs.eps,
        leak=options.nonlin_kwargs.negative_slope,
    )


def _kind(name: object, path: Path) -> Kind:
    """The class by its last name: nnU-Net finds it by that, too."""
    kind = _KINDS.get(str(name).rsplit(".", 1)[-1])
    if kind is None:
        known = " and ".join(_KINDS)
        raise Misconfigured(f"{path}: network {name!r} cannot be run; {known} can")
    return kind


def _read(path: Path, noun: type[Parsed]) -> Parsed:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as trouble:
        raise Misconfigured(f"{path}: cannot be read: {trouble.strerror}") from trouble
    if len(text) > _MAX_FILE_BYTES:
        raise Misconfigured(f"{path}: more than {_MAX_FILE_BYTES} bytes")
    try:
        return noun.model_validate_json(text)
    except ValidationError as trouble:
        raise Misconfigured(f"{path}: {_first(trouble)}") from trouble


def _validated(raw: object, noun: type[Parsed], path: Path) -> Parsed:
    try:
        return noun.model_validate(raw)
    except ValidationError as trouble:
        raise Misconfigured(f"{path}: {_first(trouble)}") from trouble


def _first(trouble: ValidationError) -> str:
    """Where the first mistake is, and what is wrong with it."""
    mistake = trouble.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, mistake["loc"]))
    return f"{place}: {mistake['msg']}" if place else mistake["msg"]
