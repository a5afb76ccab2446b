"""Finds anatomy with the official TotalSegmentator package: what ours is compared with.

process.py   the official package at work in a process of its own
official.py  the program of that process
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tomodex.errors import Misconfigured
from tomodex.nnunet.checkpoint import read_checkpoint
from tomodex.options import Options, read_options
from tomodex.resampling import carry_labels, is_upright, resample, straighten
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.segmenters.reference.process import Job, Labels, Official
from tomodex.segmenters.totalsegmentator.models import Task, find_model, find_results, find_task
from tomodex.segmenters.totalsegmentator.networks import Networks, read_networks
from tomodex.segmenters.totalsegmentator.options import TaskOptions
from tomodex.terminology import Terminology, load_terminology
from tomodex.volume import Volume

#: Seconds for any image, and for a million voxels of the grid and each model: on two cores that
#: do something else too, 7 and 10 were measured.
BASE_S = 10.0
S_PER_MILLION = 15.0

#: A series may take this many times what its size lets expect, and so many seconds besides.
DEADLINE_FACTOR = 10.0
DEADLINE_S = 300.0


class ReferenceOptions(Options):
    """`reference:?task=total&resolution=3&python=/path/to/venv/bin/python`"""

    task: str = "total"
    resolution: str = "3"
    weights: Path | None = None  #: None: where the environment says
    python: Path | None = None  #: None: the one that runs this
    device: Literal["cpu", "gpu"] = "cpu"
    deadline_s: float | None = Field(None, gt=0)  #: for any series; None: by its size


class Reference:
    """`reference:`, the official package, which stays loaded in a process of its own.

    It sees what our own engine would see: a tilted or oblique volume is shown to it upright.

    Raises:
        Misconfigured: the URL has another option, the weights are not there or are no plain
            weights, or the package is not installed.
    """

    reads_stored = False

    def __init__(self, url: str, terminology: Terminology | None = None) -> None:
        self._options = read_options(url, ReferenceOptions)
        self._task = find_task(self._options.task, self._options.resolution)
        results = find_results(self._options.weights)
        folders = tuple(find_model(number, results) for number in self._task.models)
        networks = read_networks(folders, TaskOptions.model_validate({}), "RAS")
        _require_plain_weights(networks)
        self._job = Job(
            python=self._options.python or Path(sys.executable),
            task=self._task.name,
            resolution=self._task.resolution,
            device=self._options.device,
            folders=folders,
        )
        self._official = Official(self._job)
        self._algorithm = _describe(self._task, networks, self._job, self._official)
        known = (terminology or load_terminology()).structures
        names = self._official.names
        self._names = {n: name for n, name in names.items() if name in known}
        self._foreign = {n: name for n, name in names.items() if name not in known}

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """All that the package finds; None where the volume is of another modality."""
        if volume.modality != self._task.modality:
            return None
        grid, labels = self._label(volume)
        counts = np.bincount(labels.ravel(), minlength=256)
        return Segmentation(
            volume=grid,
            layers=(labels,),
            names=(self._names,),
            algorithm=self._algorithm,
            unmapped=tuple(sorted(name for n, name in self._foreign.items() if counts[n])),
        )

    def seconds(self, volume: Volume) -> float:
        """About how long that takes on two cores."""
        steps = np.linalg.norm(volume.affine[:3, :3], axis=0) / self._task.spacing_mm
        millions = float(np.prod(np.maximum(1.0, volume.shape * steps))) / 1e6
        return BASE_S + S_PER_MILLION * millions * len(self._task.models)

    def _label(self, volume: Volume) -> tuple[Volume, Labels]:
        """The volume on the model's grid, and a label for each of its voxels."""
        spacing_mm = (self._task.spacing_mm,) * 3
        # Decoded once; both the grid and the package need it.
        whole = Volume(volume.voxels, volume.affine, volume.modality)
        # First, as it refuses what is too large.
        grid = resample(whole, spacing_mm)
        if is_upright(whole):
            return grid, self._on(grid, self._ask(whole))
        upright = straighten(whole, spacing_mm)
        return grid, carry_labels(self._on(upright, self._ask(upright)), upright, grid)

    def _ask(self, volume: Volume) -> Labels:
        if not self._official.is_alive:
            self._official = Official(self._job)
        deadline_s = DEADLINE_S + DEADLINE_FACTOR * self.seconds(volume)
        return self._official.label(volume, self._options.deadline_s or deadline_s)

    def _on(self, grid: Volume, labels: Labels) -> Labels:
        """The labels, if they lie on this grid.

        Raises:
            Misconfigured: they do not.
        """
        if labels.shape != grid.shape:
            ours, theirs = (" x ".join(map(str, shape)) for shape in (grid.shape, labels.shape))
            raise Misconfigured(
                f"the official TotalSegmentator {self._algorithm.version} labels a grid of "
                f"{theirs} voxels, where {ours} are expected: another version is needed"
            )
        return labels


def _require_plain_weights(networks: Networks) -> None:
    """Raises Misconfigured unless the checkpoints hold weights and nothing that could be run.

    The official package opens them as pickles, which may run any program.
    """
    for model in networks.models:
        read_checkpoint(model.checkpoint, model.weights_sha256)


def _describe(task: Task, networks: Networks, job: Job, official: Official) -> Algorithm:
    models = networks.models
    return Algorithm(
        name="TotalSegmentator",
        version=official.versions["TotalSegmentator"],
        model=task.title,
        weights_sha256=networks.weights_sha256,
        options={
            "runtime": "official package",
            "nnunetv2": official.versions["nnunetv2"],
            "torch": official.versions["torch"],
            "device": job.device,
            "resampling": "linear",
            "spacing_mm": " x ".join([f"{task.spacing_mm:g}"] * 3),
            **({m.name: m.weights_sha256 for m in models} if len(models) > 1 else {}),
        },
    )
