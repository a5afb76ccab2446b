"""Scans of phantom bodies on a model's grid, each with its right labels: what a network learns.

    python tools/phantom_scans.py FOLDER --first 1000000 --count 400

writes FOLDER/1000000.npz and so on, and FOLDER/structures.json, the names of the labels 1, 2, 3
and so on. A file is named after its body's seed; `TRAINING_SEEDS` says which are for training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.phantom.anatomy import draw_body
from tomodex.phantom.cases import Case, Patient
from tomodex.phantom.names import STRUCTURES
from tomodex.phantom.scan import find_grid
from tomodex.phantom.voxels import voxelize
from tomodex.resampling import is_upright, resample, straighten
from tomodex.volume import Volume

#: The network's grid, mm along (z, y, x).
SPACING_MM = (5.0, 5.0, 5.0)
#: Seeds of bodies that a network may have seen. An archive of seed s has the bodies 1000 s + 1 to
#: 1000 s + 8, so that no archive of a seed below 1000 holds one of them.
TRAINING_SEEDS = range(1_000_000, 2_000_000)
#: HU of what `straighten` finds outside of a scan, where no label can be right.
_OUTSIDE_HU = -1024

#: What is scanned at a time where not the whole body is, from landmark to landmark.
_PARTS = (
    ("vertex", "C2"), ("vertex", "T3"), ("C2", "T4"), ("lung_apex", "L1"), ("liver_dome", "L5"),
    ("T10", "perineum"), ("T11", "sacrum_tip"), ("L4", "mid_thigh"), ("C7", "sacrum_tip"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Example:
    """A scan on the model's grid, its axes as `tomodex.resampling` makes them."""

    hu: npt.NDArray[np.int16]  #: (z, y, x)
    labels: npt.NDArray[np.uint8]  #: (z, y, x), numbers of `names.LABELS`


def draw_example(seed: int) -> Example:
    """A body and a scanner thrown with the same dice; most see the whole body upright."""
    dice = np.random.default_rng([seed, 5])
    case = _throw_case(dice)
    body = draw_body(
        sex=case.patient.sex,
        seed=seed,
        arms=case.arms,
        position=case.position,
        enhancement_hu=case.enhancement_hu,
    )
    affine, shape = find_grid(case, body)
    volume = Volume(voxelize(body, affine, shape, case.noise_hu)[1], affine)
    grid = (resample if is_upright(volume) else straighten)(volume, SPACING_MM)
    labels, _ = voxelize(body, grid.affine, _shape(grid), 0.0)
    if not is_upright(volume):
        labels[grid.voxels == _OUTSIDE_HU] = 0
    return Example(hu=grid.voxels, labels=labels)


def _shape(grid: Volume) -> tuple[int, int, int]:
    slices, rows, columns = grid.voxels.shape
    return slices, rows, columns


def _throw_case(dice: np.random.Generator) -> Case:
    """How the body is scanned. Fields of view are made smaller in training, not here."""
    leaning = dice.random() < 0.12
    coronal = not leaning and dice.random() < 0.08
    whole = not leaning and dice.random() < 0.9
    reach = ("vertex", "mid_thigh") if whole else _PARTS[dice.integers(len(_PARTS))]
    contrast = dice.random() < 0.55
    slice_mm, row_mm, column_mm = dice.uniform(1.4, 5), dice.uniform(1.7, 3), dice.uniform(1.5, 3)
    return Case(
        name="training", study="training", study_date="20200101", series_number=1,
        description="", thickness_mm=slice_mm,
        patient=Patient(
            id="TRAINING", name="TRAINING", sex="F" if dice.random() < 0.5 else "M",
            birth_date="19700101", seed=0,
        ),
        reach=reach,
        beyond_mm=(float(dice.uniform(-10, 20)), float(dice.uniform(-10, 20))),
        field_mm=(float(dice.uniform(400, 460)), float(dice.uniform(290, 330))),
        center_mm=(float(dice.uniform(-8, 8)), float(dice.uniform(-8, 8))),
        spacing_mm=(slice_mm, row_mm, column_mm),
        plane="coronal" if coronal else "axial",
        tilt_deg=float(dice.uniform(-20, 20)) if leaning else 0.0,
        turn_deg=float(dice.uniform(-8, 8)) if dice.random() < 0.25 else 0.0,
        position="prone" if dice.random() < 0.15 else "supine",
        arms="down" if dice.random() < 0.35 else "up",
        enhancement_hu=int(dice.uniform(40, 280)) if contrast else 0,
        noise_hu=float(dice.uniform(5, 36)),
    )  # fmt: skip


def write_examples(folder: Path, seeds: Sequence[int], processes: int) -> None:
    """Write an example of each seed; those that are there already are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "structures.json").write_text(json.dumps(STRUCTURES))
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").exists()]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(partial(_write_example, folder), missing))


def _write_example(folder: Path, seed: int) -> None:
    example = draw_example(seed)
    part = folder / f"{seed}.part"
    with part.open("wb") as file:
        np.savez(file, hu=example.hu, labels=example.labels)
    part.rename(folder / f"{seed}.npz")


def main() -> None:
    """Write as many examples as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=TRAINING_SEEDS.start)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    write_examples(given.folder, range(given.first, given.first + given.count), given.processes)


if __name__ == "__main__":
    main()
