"""Weights in a form that loads fast and safely, made once of a model's checkpoint."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from tomodex.errors import Misconfigured
from tomodex.nnunet.checkpoint import Checkpoint, Weights, read_checkpoint
from tomodex.nnunet.model import ModelFolder

#: Raised when the kept form changes; files of another number are not looked at.
_VERSION = 1


def load_weights(model: ModelFolder, cache: Path) -> Weights:
    """The weights of `model`, from `cache` if its checkpoint was converted before.

    A kept file that is broken is made anew.

    Raises:
        Misconfigured: the checkpoint cannot be read or is of another configuration, or nothing
            can be written to `cache`.
    """
    kept = cache / f"{model.weights_sha256}-{_VERSION}.npz"
    found = _read(kept)
    if found is None:
        found = _convert(model)
        _write(kept, found)
    return found


def _convert(model: ModelFolder) -> Weights:
    checkpoint: Checkpoint = read_checkpoint(model.checkpoint, model.weights_sha256)
    if checkpoint.configuration not in ("", model.configuration):
        raise Misconfigured(
            f"{model.checkpoint}: trained as {checkpoint.configuration}, but its folder says "
            f"{model.configuration}"
        )
    return checkpoint.weights


def _read(path: Path) -> Weights | None:
    """None where there is no such file, or it is not whole (every part has a checksum)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as parts:
            return {name: parts[name] for name in parts.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return None


def _write(path: Path, weights: Weights) -> None:
    """Whoever reads meanwhile finds the whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                np.savez(file, **weights)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as trouble:
        raise Misconfigured(f"{path.parent}: cannot be written: {trouble.strerror}") from trouble
