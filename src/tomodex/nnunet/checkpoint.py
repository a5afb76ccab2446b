"""The weights of a trained network, taken out of a file of torch's without running what is in it.

Such a file is a zip: `data.pkl`, a pickle that names the tensors, and `data/0`, `data/1`, ... with
their bare numbers. A pickle can call any function there is. This one may only name the few
things in `_STAND_INS`, and each of them is replaced by something harmless.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured

Weights = Mapping[str, npt.NDArray[np.floating]]  #: by their torch names, float16 or float32

#: The pickle of a real model has 32 MB: nnU-Net's log of 4000 epochs x 117 Dice values.
_MAX_PICKLE_BYTES = 256 * 2**20
#: Whatever a broken or hostile pickle makes Python's reader raise.
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
#: numpy's type of each type of torch's that weights may have; bfloat16 has none.
_DTYPES: Final = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}


#: All types of torch's that are stored; those that are no weights are in the optimizer's state.
_TYPES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights, and what the trainer said of itself."""

    weights: Weights
    configuration: str  #: such as "3d_fullres"; "" if not said
    trainer: str  #: such as "nnUNetTrainer"; "" if not said
    mirroring: tuple[int, ...]  #: axes that may be mirrored; () if none


def read_checkpoint(path: Path, sha256: str) -> Checkpoint:
    """The network's weights in the torch file that has the hash `sha256`.

    It holds the weights of the file once, and allocates no size that the file merely claims.

    Raises:
        Misconfigured: it is another file, not torch's, broken, or names what it must not.
    """
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise Misconfigured(f"{path}: changed while it was read")
            return _read(file, path)
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as trouble:
        raise Misconfigured(f"{path}: not a whole torch file: {trouble}") from trouble


def _read(file: BinaryIO, path: Path) -> Checkpoint:
    with zipfile.ZipFile(file) as archive:
        records = _Records(archive, os.fstat(file.fileno()).st_size, path)
        if records.has("byteorder") and records.read("byteorder") != b"little":
            raise Misconfigured(f"{path}: written on a big-endian machine")
        content = _unpickle(records.read("data.pkl"), path)
        if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
            raise Misconfigured(f"{path}: no network_weights; nnU-Net v2 writes them")
        weights = _arrays(_needed(content["network_weights"], path), records, path)
    return Checkpoint(
        weights=weights,
        configuration=_text(content.get("init_args"), "configuration"),
        trainer=_text(content, "trainer_name"),
        mirroring=_axes(content.get("inference_allowed_mirroring_axes")),
    )


def _text(content: object, key: str) -> str:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""


def _axes(content: object) -> tuple[int, ...]:
    axes = content if isinstance(content, list | tuple) else ()
    return tuple(axis for axis in axes if isinstance(axis, int))


# --- the zip ----------------------------------------------------------------------------------


class _Records:
    """The members of a torch file, each in the folder that `data.pkl` is in."""

    def __init__(self, archive: zipfile.ZipFile, size: int, path: Path) -> None:
        self._archive, self.size, self._path = archive, size, path
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Misconfigured(f"{path}: {len(pickles)} data.pkl in it, a torch file has one")
        self._folder = pickles[0].removesuffix("data.pkl")

    def has(self, name: str) -> bool:
        return f"{self._folder}{name}" in self._archive.NameToInfo

    def read(self, name: str) -> bytes:
        """A member. torch packs none of them, so that none can be larger than the file."""
        member = self._archive.NameToInfo.get(f"{self._folder}{name}")
        if member is None:
            raise Misconfigured(f"{self._path}: no {name!r} in it")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise Misconfigured(f"{self._path}: {name!r} is packed; torch packs nothing")
        if member.header_offset + member.file_size > self.size:
            raise Misconfigured(f"{self._path}: {name!r} claims more bytes than the file has")
        if name == "data.pkl" and member.file_size > _MAX_PICKLE_BYTES:
            raise Misconfigured(f"{self._path}: a data.pkl of {member.file_size} bytes")
        return self._archive.read(member)


# --- the pickle -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StorageType:
    """torch.FloatStorage and the like."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers that tensors lie on, not read yet."""

    type: str
    record: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, all of it as the pickle says and nothing checked."""

    storage: object
    offset: object
    size: object
    stride: object


class _Inert:
    """In place of what is not needed. It keeps nothing of what it is made of."""

    __slots__ = ()

    def __init__(self, *ignored: object) -> None:
        pass


class _Dict(dict[object, object]):
    """In place of an OrderedDict, always made empty."""

    def __init__(self) -> None:
        super().__init__()


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *ignored: object
) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: object, *ignored: object) -> object:
    return tensor


#: All that a pickle may name. The lower ones are in nnU-Net's log and settings.
_STAND_INS: Final[Mapping[tuple[str, str], object]] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", f"{kind}Storage"): _StorageType(f"{kind}Storage") for kind in _TYPES},
    ("torch", "device"): _Inert,
    ("torch", "Size"): _Inert,
    ("_codecs", "encode"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("numpy", "ndarray"): _Inert,
    **{
        (f"numpy.{core}.multiarray", name): _Inert
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
}


# The reader in C would allocate 64 GiB at one opcode that puts something at place 2**32 of its
# memo; the one in Python keeps a dict. A real log of 4000 epochs takes it some seconds, once.
class _Unpickler(pickle._Unpickler):
    """Reads a pickle in which only `_STAND_INS` have names, and nothing can be changed."""

    def load_build(self) -> None:
        """Attributes are not set: they would be on a stand-in, for every pickle to come."""
        self.stack.pop()  # type: ignore[attr-defined]

    # It goes by opcode, not by method.
    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: load_build}  # type: ignore[assignment]

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("it names a function by a number")

    def find_class(self, module: str, name: str) -> object:
        found = _STAND_INS.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        return found

    def persistent_load(self, pid: object) -> object:
        match pid:
            case ("storage", _StorageType(name), str(record), str(), int(count)):
                return _Storage(name, record, count)
        raise pickle.UnpicklingError("something other than a storage is kept outside")


def _unpickle(data: bytes, path: Path) -> object:
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except _BROKEN as trouble:
        raise Misconfigured(f"{path}: its pickle is refused: {trouble}") from trouble


# --- tensors ----------------------------------------------------------------------------------


def _needed(weights: Mapping[object, object], path: Path) -> dict[str, _Tensor]:
    """Each tensor once: nnU-Net lists the encoder a second time and every block twice."""
    needed = {}
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise Misconfigured(f"{path}: network_weights hold something other than tensors")
        # Whoever trained on several GPUs has another object around the network.
        bare = name.removeprefix("module.").removeprefix("_orig_mod.")
        if not bare.startswith("decoder.encoder.") and ".all_modules." not in bare:
            needed[bare] = tensor
    return needed


def _arrays(tensors: Mapping[str, _Tensor], records: _Records, path: Path) -> Weights:
    """The numbers of all tensors, together no more than the file has."""
    storages: dict[str, bytes] = {}
    arrays: dict[str, npt.NDArray[np.floating]] = {}
    left = records.size
    for name, tensor in tensors.items():
        arrays[name] = _array(tensor, storages, records, path)
        # A bfloat16 takes four bytes as a float32.
        left -= arrays[name].size * 2
        if left < 0:
            raise Misconfigured(f"{path}: tensors of more numbers than the file has")
    return arrays


def _array(
    tensor: _Tensor, storages: dict[str, bytes], records: _Records, path: Path
) -> npt.NDArray[np.floating]:
    """The numbers of a tensor, which lie wholly in its storage and nowhere twice."""
    match tensor:
        case _Tensor(_Storage(kind, record, _), int(offset), tuple(size), tuple(stride)):
            pass
        case _:
            raise Misconfigured(f"{path}: a tensor that is put together in a way torch never does")
    if kind not in _DTYPES:
        raise Misconfigured(f"{path}: weights of type {kind}; {', '.join(_DTYPES)} can be read")
    if record not in storages:
        storages[record] = records.read(f"data/{record}")
    numbers = np.frombuffer(storages[record], _DTYPES[kind])
    _require_inside(len(numbers), offset, size, stride, path)
    steps = tuple(step * numbers.itemsize for step in stride)
    view = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)
    if kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(view)


def _require_inside(
    count: int, offset: int, size: tuple[object, ...], stride: tuple[object, ...], path: Path
) -> None:
    """Raises Misconfigured unless a view of `count` numbers lies inside of them."""
    sizes = [n for n in size if isinstance(n, int) and n > 0]
    steps = [n for n in stride if isinstance(n, int) and n >= 0]
    whole = len(sizes) == len(size) == len(stride) == len(steps) <= 8 and offset >= 0
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=False))
    # More numbers than the storage has would be some of them many times.
    if not whole or last >= count or prod(sizes) > count:
        raise Misconfigured(f"{path}: a tensor reaches out of its storage of {count} numbers")
