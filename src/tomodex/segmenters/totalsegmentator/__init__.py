"""Finds anatomy with TotalSegmentator's published models, or any other model of nnU-Net.

options.py   what the URL asks for        models.py   which models a task needs, where they lie
networks.py  the models at work           merging.py  several models' labels in one label map
body.py      where the body is
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tomodex.errors import Misconfigured
from tomodex.options import read_options
from tomodex.registry import path_of
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.segmenters.totalsegmentator.models import (
    MODELS,
    Task,
    find_model,
    find_results,
    find_task,
)
from tomodex.segmenters.totalsegmentator.networks import Networks, read_networks
from tomodex.segmenters.totalsegmentator.options import FolderOptions, TaskOptions
from tomodex.terminology import Terminology, load_terminology
from tomodex.volume import Volume


class TotalSegmentator:
    """`totalsegmentator:` or `totalsegmentator:?task=total&resolution=3&mode=fast`.

    Its labels are those of TotalSegmentator 2.18 on the models' grid, before that brings them back
    to full resolution.

    Raises:
        Misconfigured: the URL has another option, or the weights are not there.
    """

    reads_stored = False

    def __init__(self, url: str, terminology: Terminology | None = None) -> None:
        options = read_options(url, TaskOptions)
        task = find_task(options.task, options.resolution)
        results = find_results(options.weights)
        folders = [find_model(number, results) for number in task.models]
        networks = read_networks(folders, options, "RAS")
        _require_grid(networks, task)
        algorithm = _describe(networks, "TotalSegmentator", task.title, _release(networks, task))
        self._modality = task.modality
        self._finder = _Finder(networks, algorithm, terminology or load_terminology())

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """All that the task's models find; None where the volume is of another modality."""
        return self._finder.find(volume) if volume.modality == self._modality else None

    def seconds(self, volume: Volume) -> float:
        """About how long that takes on two cores."""
        return self._finder.seconds(volume)


class NnUNet:
    """`nnunet:/path/to/trainer__plans__configuration`, a folder that nnU-Net left after training.

    Raises:
        Misconfigured: the URL has another option, or the model cannot be used.
    """

    reads_stored = False

    def __init__(self, url: str, terminology: Terminology | None = None) -> None:
        options = read_options(url, FolderOptions)
        networks = read_networks([path_of(url)], options, options.axes)
        (model,) = networks.models
        algorithm = _describe(networks, "nnU-Net", f"{model.name} {model.configuration}", "")
        self._is_for_ct = model.channels[0].upper() == "CT"
        self._finder = _Finder(networks, algorithm, terminology or load_terminology())

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """All that the model finds; None where it is for CT and the volume is none."""
        suits = not self._is_for_ct or volume.modality == "CT"
        return self._finder.find(volume) if suits else None

    def seconds(self, volume: Volume) -> float:
        """About how long that takes on two cores."""
        return self._finder.seconds(volume)


class _Finder:
    """Networks, with what our terminology calls their labels."""

    def __init__(self, networks: Networks, algorithm: Algorithm, terminology: Terminology) -> None:
        known = terminology.structures
        self._networks = networks
        self._algorithm = algorithm
        self._names = {n: name for n, name in networks.names.items() if name in known}
        self._foreign = {n: name for n, name in networks.names.items() if name not in known}

    def seconds(self, volume: Volume) -> float:
        return self._networks.seconds(volume)

    def find(self, volume: Volume) -> Segmentation:
        grid, labels = self._networks.label(volume)
        counts = np.bincount(labels.ravel(), minlength=256)
        return Segmentation(
            volume=grid,
            layers=(labels,),
            names=(self._names,),
            algorithm=self._algorithm,
            unmapped=tuple(sorted(name for n, name in self._foreign.items() if counts[n])),
        )


def _require_grid(networks: Networks, task: Task) -> None:
    """Raises Misconfigured unless the models want the grid that the task is named after."""
    if any(abs(mm - task.spacing_mm) > 1e-3 for mm in networks.spacing_mm):
        found = " x ".join(f"{mm:g}" for mm in networks.spacing_mm)
        raise Misconfigured(f"{networks.folders[0]}: made for {found} mm, not {task.resolution}")


def _release(networks: Networks, task: Task) -> str:
    """The release that the weights are of, "" where their checksums do not tell."""
    known = [MODELS[number] for number in task.models]
    same = all(
        model.checkpoint_sha256 == found.weights_sha256
        for model, found in zip(known, networks.models, strict=True)
    )
    return known[0].release if same else ""


def _describe(networks: Networks, name: str, model: str, version: str) -> Algorithm:
    options = networks.options
    several = len(networks.models) > 1
    return Algorithm(
        name=name,
        version=version,
        model=model,
        weights_sha256=networks.weights_sha256,
        options={
            "mode": options.mode,
            "step": f"{options.step:g}",
            "resampling": "linear",
            "spacing_mm": " x ".join(f"{mm:g}" for mm in networks.spacing_mm),
            **networks.load(0).runtime.description,
            **({m.name: m.weights_sha256 for m in networks.models} if several else {}),
        },
    )
