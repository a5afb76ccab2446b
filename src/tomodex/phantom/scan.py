"""A body scanned as a case asks: a grid of voxels with labels and HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomodex.phantom.anatomy import Body, draw_body
from tomodex.phantom.cases import Case
from tomodex.phantom.voxels import HU, Affine, Labels, voxelize

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scan:
    """What the scanner saw, and what it is."""

    labels: Labels  #: (slices, rows, columns), numbers of `names.LABELS`
    hu: HU  #: (slices, rows, columns), as it will be stored
    affine: Affine  #: (4, 4), (slice, row, column, 1) -> LPS mm; slices along the image's normal


def scan_body(case: Case, seed: int) -> Scan:
    """Scan the patient of a case; another seed makes another patient of the same sex."""
    body = find_body(case, seed)
    affine, shape = find_grid(case, body)
    labels, hu = voxelize(body, affine, shape, case.noise_hu)
    return Scan(labels=labels, hu=hu, affine=affine)


def find_body(case: Case, seed: int) -> Body:
    """The patient of a case, as they lie on the table."""
    return draw_body(
        sex=case.patient.sex,
        seed=1000 * seed + case.patient.seed,
        arms=case.arms,
        position=case.position,
        enhancement_hu=case.enhancement_hu,
    )


def find_grid(case: Case, body: Body) -> tuple[Affine, tuple[int, int, int]]:
    """Where the voxels of a case lie in a body: affine and shape."""
    top = body.landmarks[case.reach[0]] + case.beyond_mm[0]
    bottom = body.landmarks[case.reach[1]] - case.beyond_mm[1]
    field = np.array([*case.field_mm, top - bottom])
    axes = _axes(case)
    counts = [max(1, round(n)) for n in np.abs(_upright_axes(case)) @ field / case.spacing_mm]
    shape = (counts[0], counts[1], counts[2])
    affine = np.eye(4)
    affine[:3, :3] = (axes * np.asarray(case.spacing_mm)[:, None]).T
    middle = np.array([*case.center_mm, (top + bottom) / 2])
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine, shape


def _upright_axes(case: Case) -> Vector:
    """Unit vectors from slice to slice, from row to row, from column to column; as rows."""
    if case.plane == "coronal":
        return np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])
    sign = -1.0 if case.position == "prone" else 1.0
    return np.array([[0.0, 0, 1], [0, sign, 0], [sign, 0, 0]])


def _axes(case: Case) -> Vector:
    """The same with the gantry tilted (the table still goes straight) and the image turned."""
    step, down, right = _upright_axes(case)
    tilt, turn = np.deg2rad([case.tilt_deg, case.turn_deg])
    down = down * np.cos(tilt) + np.array([0, 0, np.sin(tilt)])
    spin = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]]
    )
    return np.stack([step, spin @ down, spin @ right])
