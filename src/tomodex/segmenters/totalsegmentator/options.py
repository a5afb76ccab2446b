"""What the URL of a segmenter asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from tomodex import options
from tomodex.nnunet.devices import Device, Kernels, Precision, Wish, find_device

#: exact: the labels of the official package. fast: in half precision, which a few in a thousand
#: voxels notice. crop: so and around the body only, which about one in a hundred voxels notices.
Mode = Literal["exact", "fast", "crop"]

#: The axes that a model knows images by, from their first voxel on: to the right, to the front
#: and upwards as in NIfTI, or to the left, to the back and upwards as in DICOM.
Axes = Literal["RAS", "LPS"]


class Options(options.Options):
    """What every model can be asked for."""

    mode: Mode = "exact"
    precision: Precision | None = None  #: None: as the mode has it
    step: float = Field(0.8, gt=0, le=1)  #: from tile to tile, as a share of the tile
    threads: int | None = Field(None, ge=1, le=1024)  #: None: all cores
    cache: Path | None = None  #: for weights that were converted; None: the user's cache folder
    keep: int = Field(1, ge=1, le=16)  #: models that stay loaded, where a task needs several
    device: Wish = "cpu"
    batch: int | None = Field(None, ge=1, le=64)  #: tiles at once on a GPU; None: as memory has it
    kernels: Kernels = "eager"  #: how a GPU runs layers

    @property
    def chosen_device(self) -> Device:
        """Raises Misconfigured where a GPU is asked for that is not there."""
        return find_device(self.device)

    @property
    def chosen_precision(self) -> Precision:
        if self.precision or self.mode == "exact":
            return self.precision or "f32"
        return "bf16" if self.chosen_device == "cpu" else "f16"

    @property
    def cache_folder(self) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return (self.cache or Path(home) / "tomodex" / "models").expanduser()


class TaskOptions(Options):
    """`totalsegmentator:?task=total&resolution=3&weights=/path`"""

    task: str = "total"
    resolution: str = "3"
    weights: Path | None = None  #: None: where the environment says


class FolderOptions(Options):
    """`nnunet:/path/to/model`; nnU-Net's own step is 0.5."""

    step: float = Field(0.5, gt=0, le=1)
    axes: Axes | None = None  #: None: as the model's own reader of images has it
