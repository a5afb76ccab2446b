"""Models in the files of nnU-Net, made here: small networks with random weights, no torch."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tomodex.nnunet.architecture import Architecture
from tomodex.nnunet.model import read_model

STORAGES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<f8": "DoubleStorage"}
TRAINER = "nnUNetTrainer"
FOLDER = f"{TRAINER}__nnUNetPlans__3d_fullres"


# --- a pickle as torch writes it --------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A function that a pickle names, called with what follows."""

    module: str
    name: str
    args: tuple = ()


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; by default all of `numbers`, in C order."""

    numbers: np.ndarray
    kind: str = ""
    size: tuple | None = None
    stride: tuple | None = None
    offset: int = 0
    record: str = ""  #: several tensors may share one


@dataclass(frozen=True)
class StateDict:
    """An OrderedDict that has an attribute, as torch's state dicts have."""

    weights: dict


@dataclass
class Pickled:
    """The bytes of a pickle, and the storages that lie beside it."""

    data: bytes = b"\x80\x02"
    storages: dict[str, bytes] = field(default_factory=dict)


def pickled(content: object) -> Pickled:
    """Protocol 2, written opcode by opcode: what it names need not be installed."""
    written = Pickled()
    written.data += _opcodes(content, written.storages) + b"."
    return written


def _opcodes(value: object, storages: dict[str, bytes]) -> bytes:
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"\x8a\x08" + struct.pack("<q", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes():
            return value  # opcodes that are put together by hand
        case tuple():
            return b"(" + b"".join(_opcodes(v, storages) for v in value) + b"t"
        case list():
            return b"](" + b"".join(_opcodes(v, storages) for v in value) + b"e"
        case StateDict(weights):
            made = _opcodes(Call("collections", "OrderedDict"), storages)
            about = _opcodes({"_metadata": Call("collections", "OrderedDict")}, storages)
            return made + _opcodes(weights, storages)[1:] + about + b"b"
        case dict():
            pairs = (_opcodes(k, storages) + _opcodes(v, storages) for k, v in value.items())
            return b"}(" + b"".join(pairs) + b"u"
        case Call(module, name, args):
            return f"c{module}\n{name}\n".encode() + _opcodes(args, storages) + b"R"
        case Tensor():
            return _tensor(value, storages)
    raise TypeError(type(value))


def _tensor(tensor: Tensor, storages: dict[str, bytes]) -> bytes:
    numbers = tensor.numbers
    record = tensor.record or str(len(storages))
    storages[record] = numbers.tobytes()
    kind = tensor.kind or STORAGES[numbers.dtype.str]
    size = numbers.shape if tensor.size is None else tensor.size
    stride = tensor.stride
    if stride is None:
        stride = tuple(step // numbers.itemsize for step in numbers.strides)
    storage = b"(" + _opcodes("storage", {}) + f"ctorch\n{kind}\n".encode() + _opcodes(record, {})
    storage += _opcodes("cpu", {}) + _opcodes(numbers.size, {}) + b"tQ"
    args = (
        storage,
        tensor.offset,
        tuple(size),
        tuple(stride),
        False,
        Call("collections", "OrderedDict"),
    )
    return _opcodes(Call("torch._utils", "_rebuild_tensor_v2", args), storages)


def write_torch(
    path: Path,
    content: object,
    *,
    byteorder: str = "little",
    compression: int = zipfile.ZIP_STORED,
    folder: str = "checkpoint_final",
) -> Path:
    """A zip with the pickle of `content` and its storages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = pickled(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", written.data)
        archive.writestr(f"{folder}/byteorder", byteorder)
        for record, numbers in written.storages.items():
            archive.writestr(f"{folder}/data/{record}", numbers)
    return path


# --- models -----------------------------------------------------------------------------------

NORM = {"mean": 20.0, "std": 150.0, "percentile_00_5": -900.0, "percentile_99_5": 800.0}


def old_plans(
    features: tuple[int, ...] = (3, 6, 8),
    patch: tuple[int, int, int] = (8, 12, 16),
    kind: str = "PlainConvUNet",
    **changes: object,
) -> dict:
    """`plans.json` as nnU-Net wrote it until 2.2."""
    stages = len(features)
    configuration = {
        "patch_size": list(patch),
        "spacing": [3.0, 2.0, 1.5],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "UNet_class_name": kind,
        "UNet_base_num_features": features[0],
        "unet_max_num_features": max(features),
        "n_conv_per_stage_encoder": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "pool_op_kernel_sizes": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "conv_kernel_sizes": [[3, 3, 3]] * stages,
    } | changes
    return {
        "dataset_name": "Dataset999_Test",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": {}, "3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {"0": NORM},
    }


def new_plans(kind: str = "PlainConvUNet", **options: object) -> dict:
    """The same network as `old_plans()`, as nnU-Net writes it since 2.3."""
    plans = old_plans(kind=kind)
    old = plans["configurations"]["3d_fullres"]
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    arch = {
        "n_stages": 3,
        "features_per_stage": [3, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": old["conv_kernel_sizes"],
        "strides": old["pool_op_kernel_sizes"],
        blocks: old["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": old["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    } | options
    name = f"dynamic_network_architectures.architectures.unet.{kind}"
    kept = {k: old[k] for k in old if not k.startswith(("UNet", "unet", "n_", "pool", "conv"))}
    plans["configurations"]["3d_fullres"] = kept | {
        "architecture": {
            "network_class_name": name,
            "arch_kwargs": arch,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }
    return plans


DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney_left": 3},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def write_model(
    root: Path,
    plans: dict | None = None,
    dataset: dict | None = None,
    *,
    weights: dict[str, np.ndarray] | None = None,
    folder: str = FOLDER,
) -> Path:
    """A trained model's folder; its weights are random unless given."""
    path = root / "Dataset999_Test" / folder
    path.mkdir(parents=True)
    (path / "plans.json").write_text(json.dumps(old_plans() if plans is None else plans))
    (path / "dataset.json").write_text(json.dumps(DATASET if dataset is None else dataset))
    checkpoint = path / "fold_0" / "checkpoint_final.pth"
    write_torch(checkpoint, {})
    if weights is None:
        weights = random_weights(read_model(path).architecture)
    write_torch(checkpoint, training_state({k: Tensor(w) for k, w in weights.items()}))
    return path


def training_state(tensors: dict[str, Tensor]) -> dict:
    """All that nnU-Net keeps in a checkpoint, in short."""
    shared = next(iter(tensors.values()))
    scalar = Call("numpy._core.multiarray", "scalar", (_dtype("f8"), _bytes(b"12345678")))
    listed = tensors | {f"decoder.{name}": t for name, t in tensors.items() if "encoder" in name}
    return {
        "network_weights": StateDict(listed),
        "optimizer_state": {"state": {0: {"momentum_buffer": shared}}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"dice_per_class_or_region": [[scalar, scalar]], "lrs": [0.01]},
        "_best_ema": scalar,
        "current_epoch": 1000,
        "init_args": {
            "configuration": "3d_fullres",
            "fold": 0,
            "device": Call("torch", "device", ("cuda", 0)),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def _dtype(name: str) -> Call:
    return Call("numpy", "dtype", (name, False, True))


def _bytes(value: bytes) -> Call:
    return Call("_codecs", "encode", (value.decode("latin1"), "latin1"))


def random_weights(network: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """By torch's names, spread so that values neither vanish nor grow from layer to layer."""
    weights = {}
    random = np.random.default_rng(seed)
    for name, shape in weight_shapes(network).items():
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
        middle = 1.0 if name.endswith("norm.weight") else 0.0
        weights[name] = (middle + scale * random.standard_normal(shape)).astype(np.float32)
    return weights


def weight_shapes(network: Architecture) -> dict[str, tuple[int, ...]]:
    """What `dynamic_network_architectures` 0.4.4 calls its weights, read there."""
    plain = network.kind == "PlainConvUNet"
    return (_plain_shapes if plain else _residual_shapes)(network) | _decoder_shapes(network)


def _conv_shapes(name: str, before: int, after: int, kernel: tuple, bias: bool = True) -> dict:
    shapes = {f"{name}.conv.weight": (after, before, *kernel)}
    shapes |= {f"{name}.conv.bias": (after,)} if bias else {}
    return shapes | {f"{name}.norm.weight": (after,), f"{name}.norm.bias": (after,)}


def _plain_shapes(network: Architecture) -> dict:
    shapes, before = {}, network.channels
    for s, after in enumerate(network.features):
        for k in range(network.encoder_blocks[s]):
            name = f"encoder.stages.{s}.0.convs.{k}"
            shapes |= _conv_shapes(name, before, after, network.kernels[s], network.conv_bias)
            before = after
    return shapes


def _residual_shapes(network: Architecture) -> dict:
    before, bias = network.features[0], network.conv_bias
    shapes = _conv_shapes(
        "encoder.stem.convs.0", network.channels, before, network.kernels[0], bias
    )
    for s, after in enumerate(network.features):
        for k in range(network.encoder_blocks[s]):
            name, kernel = f"encoder.stages.{s}.blocks.{k}", network.kernels[s]
            shapes |= _conv_shapes(f"{name}.conv1", before, after, kernel, bias)
            shapes |= _conv_shapes(f"{name}.conv2", after, after, kernel, bias)
            pooled = k == 0 and network.strides[s] != (1, 1, 1)
            if before != after:
                shapes |= _conv_shapes(
                    f"{name}.skip.{int(pooled)}", before, after, (1, 1, 1), False
                )
            before = after
    return shapes


def _decoder_shapes(network: Architecture) -> dict:
    shapes, features = {}, network.features
    for i, convs in enumerate(network.decoder_convs):
        s = len(features) - 2 - i
        name = f"decoder.transpconvs.{i}"
        shapes[f"{name}.weight"] = (features[s + 1], features[s], *network.strides[s + 1])
        shapes |= {f"{name}.bias": (features[s],)} if network.conv_bias else {}
        for k in range(convs):
            before = features[s] * (2 if k == 0 else 1)
            name = f"decoder.stages.{i}.convs.{k}"
            shapes |= _conv_shapes(name, before, features[s], network.kernels[s], network.conv_bias)
        shapes[f"decoder.seg_layers.{i}.weight"] = (network.heads, features[s], 1, 1, 1)
        shapes[f"decoder.seg_layers.{i}.bias"] = (network.heads,)
    return shapes


# --- the same network in numpy ----------------------------------------------------------------


def logits(network: Architecture, weights: dict[str, np.ndarray], patch: np.ndarray) -> np.ndarray:
    """(heads, *patch) of (channels, *patch), in double precision and written for reading."""
    node, seen = patch.astype(np.float64), []
    stage = _plain_stage if network.kind == "PlainConvUNet" else _residual_stage
    if network.kind == "ResidualEncoderUNet":
        node = _conv(node, "encoder.stem.convs.0", network, weights)
    for s in range(len(network.features)):
        node = stage(node, s, network, weights)
        seen.append(node)
    for i, convs in enumerate(network.decoder_convs):
        s = len(seen) - 2 - i
        node = np.concatenate([_enlarged(node, f"decoder.transpconvs.{i}", weights), seen[s]])
        for k in range(convs):
            node = _conv(node, f"decoder.stages.{i}.convs.{k}", network, weights)
    head = f"decoder.seg_layers.{len(network.decoder_convs) - 1}"
    return _convolved(node, weights[f"{head}.weight"], (1, 1, 1), weights[f"{head}.bias"])


def _plain_stage(node: np.ndarray, s: int, network: Architecture, weights: dict) -> np.ndarray:
    for k in range(network.encoder_blocks[s]):
        stride = network.strides[s] if k == 0 else (1, 1, 1)
        node = _conv(node, f"encoder.stages.{s}.0.convs.{k}", network, weights, stride)
    return node


def _residual_stage(node: np.ndarray, s: int, network: Architecture, weights: dict) -> np.ndarray:
    for k in range(network.encoder_blocks[s]):
        stride = network.strides[s] if k == 0 else (1, 1, 1)
        name = f"encoder.stages.{s}.blocks.{k}"
        way = _conv(node, f"{name}.conv1", network, weights, stride)
        way = _normed(_conv_only(way, f"{name}.conv2", weights), f"{name}.conv2", network, weights)
        around, place = node, 0
        if stride != (1, 1, 1):
            around, place = _pooled(around, stride), 1
        if len(around) != len(way):
            skip = f"{name}.skip.{place}"
            around = _normed(_conv_only(around, skip, weights), skip, network, weights)
        node = _relu(way + around, network)
    return node


def _conv(
    node: np.ndarray, name: str, network: Architecture, weights: dict, stride: tuple = (1, 1, 1)
) -> np.ndarray:
    convolved = _conv_only(node, name, weights, stride)
    return _relu(_normed(convolved, name, network, weights), network)


def _conv_only(node: np.ndarray, name: str, weights: dict, stride: tuple = (1, 1, 1)) -> np.ndarray:
    return _convolved(
        node, weights[f"{name}.conv.weight"], stride, weights.get(f"{name}.conv.bias")
    )


def _convolved(
    node: np.ndarray, kernel: np.ndarray, stride: tuple, bias: np.ndarray | None
) -> np.ndarray:
    size = kernel.shape[2:]
    padded = np.pad(node, [(0, 0), *((k // 2, k // 2) for k in size)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2, 3))
    windows = windows[:, :: stride[0], :: stride[1], :: stride[2]]
    found = np.einsum("cxyzijk,ocijk->oxyz", windows, kernel, optimize=True)
    return found if bias is None else found + bias[:, None, None, None]


def _enlarged(node: np.ndarray, name: str, weights: dict) -> np.ndarray:
    """Every voxel becomes a block: kernel and stride are the same, so that no two overlap."""
    blocks = np.einsum("cxyz,coijk->oxiyjzk", node, weights[f"{name}.weight"], optimize=True)
    o, x, i, y, j, z, k = blocks.shape
    bias = weights.get(f"{name}.bias", np.zeros(o))
    return blocks.reshape(o, x * i, y * j, z * k) + bias[:, None, None, None]


def _pooled(node: np.ndarray, stride: tuple) -> np.ndarray:
    c, x, y, z = node.shape
    i, j, k = stride
    return node.reshape(c, x // i, i, y // j, j, z // k, k).mean(axis=(2, 4, 6))


def _normed(node: np.ndarray, name: str, network: Architecture, weights: dict) -> np.ndarray:
    mean = node.mean(axis=(1, 2, 3), keepdims=True)
    spread = np.sqrt(node.var(axis=(1, 2, 3), keepdims=True) + network.norm_eps)
    scale, shift = (weights[f"{name}.norm.{w}"][:, None, None, None] for w in ("weight", "bias"))
    return (node - mean) / spread * scale + shift


def _relu(node: np.ndarray, network: Architecture) -> np.ndarray:
    return np.where(node < 0, node * network.leak, node)
