"""The phantom's muscles that have a name: along the spine, to the thighs, and of the buttocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tomodex.instance import LPS
from tomodex.phantom.bones import wing_axes
from tomodex.phantom.landmarks import SPINE
from tomodex.phantom.plan import Paint, Plan, mirrored
from tomodex.phantom.solids import Ellipsoid, Solid, tube

SIDES = ("left", "right")


def draw_muscles(plan: Plan) -> Iterator[Paint]:
    """Painted before the bones, which lie in them."""
    for side in SIDES:
        yield from _buttock(plan, side)
        yield from _iliopsoas(plan, side)
        yield plan.paint(f"autochthon_{side}", "muscle", *_autochthon(plan, side))


def _autochthon(plan: Plan, side: str) -> tuple[Solid, ...]:
    """From the axis down to the sacrum, thickest beside the lumbar spine."""
    line: list[LPS] = [(22, 102, -62), (28, 92, -25)]
    radii = [7.0, 14.0]
    for name, level in SPINE.items():
        if name == "C1":
            continue
        z = level.center[2]
        thick = float(np.interp(z, [20, 90, 160, 300, 440, 560], [20, 21, 19, 14, 11, 8]))
        apart = float(np.interp(z, [20, 160, 300, 440, 560], [34, 34, 30, 24, 18]))
        line.append((apart, level.canal[1] + 8 + thick, z))
        radii.append(thick * plan.dice.size(0.04))
    return tube(mirrored(side, line), radii, squash=(1.25, 1, 1))


def _iliopsoas(plan: Plan, side: str) -> Iterator[Paint]:
    """Psoas from T12 down over the pelvis to the thigh, iliacus inside the iliac wing."""
    line = [
        (26, 30, 178), (33, 27, 125), (41, 24, 90), (50, 20, 54), (58, 10, 10), (70, -14, -45),
        (84, -34, -88), (100, -14, -122), (108, 12, -142),
    ]  # fmt: skip
    radii = [6, 15, 19, 21, 21, 20, 16, 12, 9]
    psoas = plan.pipe(mirrored(side, line), radii)
    iliacus = _beside_wing(side, -15, (50, 44, 9))
    yield plan.paint(f"iliopsoas_{side}", "muscle", iliacus, *psoas)


def _buttock(plan: Plan, side: str) -> Iterator[Paint]:
    """Gluteus maximus behind, medius outside the iliac wing, minimus between it and the wing."""
    sign = 1.0 if side == "left" else -1.0
    axes = ((sign * 0.94, -0.34, 0.0), (sign * 0.34, 0.94, 0.0), (0.0, 0.0, 1.0))
    maximus = plan.organ((sign * 84, 70, -88), (62, 25, 66), axes, shift_mm=1.0)
    yield plan.paint(f"gluteus_maximus_{side}", "muscle", maximus)
    yield plan.paint(f"gluteus_medius_{side}", "muscle", _beside_wing(side, 19, (58, 60, 17)))
    yield plan.paint(f"gluteus_minimus_{side}", "muscle", _beside_wing(side, 11, (42, 42, 8), -22))


def _beside_wing(side: str, out_mm: float, radii: LPS, up_mm: float = 0.0) -> Ellipsoid:
    """A plate of muscle outside (or, negative, inside) the iliac wing."""
    axes = np.asarray(wing_axes(side))
    through = axes[2] if side == "left" else -axes[2]
    through = through if through[0] * (1 if side == "left" else -1) > 0 else -through
    middle = np.asarray(mirrored(side, [(88, 22, -6)])[0])
    x, y, z = middle + out_mm * through + up_mm * axes[1]
    return Ellipsoid(center=(float(x), float(y), float(z)), radii=radii, axes=wing_axes(side))
