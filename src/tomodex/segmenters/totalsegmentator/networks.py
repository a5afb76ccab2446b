"""The models of one task at work on one volume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured
from tomodex.nnunet.engine import Engine, load_engine
from tomodex.nnunet.model import ModelFolder, read_model
from tomodex.nnunet.tiling import plan_starts
from tomodex.resampling import carry_labels, grid_shape, is_upright, resample, straighten
from tomodex.segmenters.totalsegmentator.body import Box, fill_tiles, find_body
from tomodex.segmenters.totalsegmentator.merging import merge_labels, number_labels
from tomodex.segmenters.totalsegmentator.options import Axes, Options
from tomodex.volume import Volume

Labels = npt.NDArray[np.uint8]

#: For a voxel of a tile: TotalSegmentator's 3 mm model in f32 takes two cores 2.6 us (measured),
#: and has as many layers as any.
_VOXEL_S = 2.6e-6

#: Readers of nnU-Net that turn images before a model sees them. All others take them as they are
#: stored, which in files made of axial DICOM slices is LPS.
_READERS: Mapping[str, Axes] = {"NibabelIOWithReorient": "RAS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Models that share a grid; where two label a voxel, the later one counts."""

    folders: tuple[Path, ...]
    models: tuple[ModelFolder, ...]
    axes: Axes
    options: Options
    names: Mapping[int, str]  #: of the merged labels
    tables: Sequence[Labels] = field(repr=False)  #: labels of each model -> merged labels

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the grid's axes (z, y, x)."""
        return self.models[0].spacing_mm

    @property
    def weights_sha256(self) -> str:
        """Of the checkpoint; of several, the SHA-256 of their SHA-256 in order, a line each."""
        found = [model.weights_sha256 for model in self.models]
        if len(found) == 1:
            return found[0]
        return hashlib.sha256("".join(f"{one}\n" for one in found).encode()).hexdigest()

    def label(self, volume: Volume) -> tuple[Volume, Labels]:
        """The volume on the models' grid, and a merged label for each of its voxels.

        A tilted or oblique volume is shown to the models upright, and its labels are brought back
        onto its own grid, whose faces are those of the scan: only there can be told what is cut.

        Raises:
            Unsuitable: it is too large for the models (too_large).
        """
        if is_upright(volume):
            grid = resample(volume, self.spacing_mm)
            return grid, self._label_upright(grid)
        # Needs all slices at once, which are then at hand for the grid, too.
        upright = straighten(volume, self.spacing_mm)
        grid = resample(volume, self.spacing_mm)
        return grid, carry_labels(self._label_upright(upright), upright, grid)

    def seconds(self, volume: Volume) -> float:
        """About how long `label` takes on two cores."""
        size = grid_shape(volume, self.spacing_mm)
        voxels = 0
        for model in self.models:
            along = zip((size[axis] for axis in model.transpose), model.patch, strict=True)
            tiles = prod(len(plan_starts(n, tile, self.options.step)) for n, tile in along)
            voxels += tiles * prod(model.patch)
        return voxels * _VOXEL_S

    def load(self, which: int) -> Engine:
        """One of the models, ready to be used."""
        return _load(self.folders[which], self.options)

    def _label_upright(self, grid: Volume) -> Labels:
        labels = np.zeros(grid.voxels.shape, np.uint8)
        turn = slice(None, None, -1 if self.axes == "LPS" else None)
        box = self._body(grid) if self.options.mode == "crop" else (slice(None),) * 3
        image = grid.voxels[box][:, turn, turn].astype(np.float32)[np.newaxis]
        inside = labels[box][:, turn, turn]
        for which, table in enumerate(self.tables):
            merge_labels(inside, self.load(which).segment(image), table)
        return labels

    def _body(self, grid: Volume) -> Box:
        model = self.models[0]
        tile = [model.patch[model.transpose.index(axis)] for axis in range(3)]
        body = find_body(grid.voxels, self.spacing_mm)
        return fill_tiles(body, grid.shape, tile, self.options.step)


def read_networks(folders: Sequence[Path], options: Options, axes: Axes | None) -> Networks:
    """The models in `folders`, without their weights.

    Raises:
        Misconfigured: one cannot be read, or is of another grid or modality than this engine's.
    """
    models = tuple(map(read_model, folders))
    for folder, model in zip(folders, models, strict=True):
        if len(model.channels) != 1:
            found = ", ".join(model.channels)
            raise Misconfigured(f"{folder}: images of {len(model.channels)} channels ({found})")
    if len({model.spacing_mm for model in models}) > 1:
        raise Misconfigured(f"{folders[0].parent.parent}: the models are of different spacings")
    names, tables = number_labels([model.labels for model in models])
    return Networks(
        folders=tuple(folders),
        models=models,
        axes=axes or _axes_of(folders[0]),
        options=options,
        names=names,
        tables=tables,
    )


#: Models that stay loaded, by what they were loaded with, the last one last.
_kept: dict[tuple[object, ...], Engine] = {}


def _load(folder: Path, options: Options) -> Engine:
    """The model in `folder`, kept from the last time or loaded anew.

    Where no more may be kept the newest goes: models are asked for in turn, so that the oldest is
    the one that is needed first.
    """
    device, precision = options.chosen_device, options.chosen_precision
    cache, runs = options.cache_folder, (options.threads, options.batch, options.kernels)
    key = (folder, device, precision, options.step, cache, *runs)
    if key not in _kept:
        while len(_kept) >= options.keep:
            _kept.popitem()
        _kept[key] = load_engine(
            folder,
            device=device,
            precision=precision,
            step=options.step,
            cache=cache,
            threads=options.threads,
            batch=options.batch,
            kernels=options.kernels,
        )
    return _kept[key]


def _axes_of(folder: Path) -> Axes:
    """As the reader has it that nnU-Net used in training (`read_model` has read both files)."""
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = json.loads((folder / "plans.json").read_text())
    reader = dataset.get("overwrite_image_reader_writer") or plans.get("image_reader_writer")
    return _READERS.get(str(reader), "LPS")
