"""Where things are in the phantom's reference body: the spine, the rib cage, the belly, the skin.

Lengths in mm, in patient coordinates (LPS) of a man of about 1.78 m who lies supine: x = 0 is his
midline, y = 0 the middle between chest and back, z = 0 the disc between L5 and S1. The levels are
drawn after an atlas and the order table of TotalSegmentator's structures, not fitted to patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomodex.instance import LPS
from tomodex.phantom.solids import Stack

#: From the head down: (name, height with the disc below, disc) in mm.
_COLUMN = (
    ("C1", 14.0, 3.0), ("C2", 22.0, 4.0), ("C3", 17.0, 4.0), ("C4", 17.0, 4.0),
    ("C5", 17.0, 4.0), ("C6", 17.0, 4.5), ("C7", 18.0, 4.5), ("T1", 18.0, 3.5),
    ("T2", 19.0, 3.5), ("T3", 19.5, 3.5), ("T4", 20.5, 3.5), ("T5", 21.0, 4.0),
    ("T6", 22.0, 4.0), ("T7", 23.0, 4.5), ("T8", 24.0, 4.5), ("T9", 25.0, 5.0),
    ("T10", 26.0, 5.5), ("T11", 27.5, 6.0), ("T12", 28.5, 6.5), ("L1", 33.0, 8.0),
    ("L2", 34.5, 8.5), ("L3", 35.5, 9.0), ("L4", 36.0, 10.0), ("L5", 36.0, 10.0),
)  # fmt: skip

#: The sagittal curves: (z, y of the vertebral bodies' centres).
_CURVE = (
    (0.0, 34.0), (18.0, 29.0), (54.0, 23.0), (90.0, 20.0), (159.0, 28.0), (217.0, 42.0),
    (300.0, 56.0), (340.0, 58.0), (400.0, 46.0), (440.0, 30.0), (475.0, 16.0), (510.0, 9.0),
    (546.0, 8.0), (571.0, 8.0),
)  # fmt: skip

#: The vertebral bodies: (z, half width, half depth).
_BODIES = (
    (0.0, 25.0, 17.5), (159.0, 21.0, 16.0), (190.0, 19.5, 15.5), (322.0, 14.5, 13.0),
    (440.0, 14.0, 9.0), (458.0, 13.0, 8.5), (571.0, 11.0, 8.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One vertebra of the column."""

    name: str  #: such as "T12"
    center: LPS  #: of its body
    pitch_mm: float  #: its height with the disc below
    half: LPS  #: half width, half depth, half height of its body

    @property
    def canal(self) -> LPS:
        """The middle of the spinal canal behind it."""
        x, y, z = self.center
        return x, y + self.half[1] + 9.0, z


def _levels() -> dict[str, Level]:
    levels, bottom = {}, 0.0
    for name, pitch, disc in reversed(_COLUMN):
        z = bottom + pitch / 2
        y = float(np.interp(z, *np.transpose(_CURVE)))
        wide, deep = (float(np.interp(z, *np.transpose(_BODIES)[[0, i]])) for i in (1, 2))
        half = (wide, deep, (pitch - disc) / 2)
        levels[name] = Level(name=name, center=(0.0, y, z), pitch_mm=pitch, half=half)
        bottom += pitch
    return levels


#: From L5 up to C1.
SPINE = _levels()

#: Where a region of the body may begin or end: name -> z in mm.
LANDMARKS = {
    **{name: level.center[2] for name, level in SPINE.items()},
    "vertex": 724.0,
    "lung_apex": 452.0,
    "liver_dome": 286.0,
    "lung_base": 190.0,
    "promontory": 0.0,
    "sacrum_tip": -125.0,
    "symphysis": -115.0,
    "perineum": -170.0,
    "mid_thigh": -310.0,
}

#: (z, half width, half depth, centre x, centre y) of the trunk's and neck's skin.
SKIN = Stack(
    levels=(
        (-172, 160, 95, 0, 10), (-100, 172, 108, 0, 5), (-40, 168, 108, 0, 5),
        (0, 160, 108, 0, 5), (60, 150, 105, 0, 2), (120, 148, 104, 0, 2), (190, 155, 109, 0, 1),
        (260, 161, 117, 0, 2), (330, 166, 117, 0, 4), (390, 174, 106, 0, 11),
        (425, 172, 88, 0, 17), (448, 132, 70, 0, 22), (470, 72, 62, 0, 14), (500, 61, 60, 0, 6),
        (575, 59, 66, 0, 6),
    ),
    power=2.4,
)  # fmt: skip

#: The same of the rib cage, along the middle of the ribs.
CAGE = Stack(
    levels=(
        (110, 126, 88, 0, 0), (180, 133, 95, 0, 0), (217, 137, 99, 0, 0), (260, 139, 100, 0, 0),
        (300, 139, 97, 0, 1), (340, 132, 92, 0, 4), (380, 117, 81, 0, 12), (410, 96, 66, 0, 19),
        (440, 60, 43, 0, 20), (456, 30, 24, 0, 20),
    )
)  # fmt: skip

#: The same of the belly and pelvis inside their wall, up to the dome of the diaphragm.
BELLY = Stack(
    levels=(
        (-165, 52, 50, 0, 2), (-100, 78, 62, 0, 0), (-40, 105, 80, 0, -4), (20, 126, 86, 0, -5),
        (90, 128, 86, 0, -4), (160, 130, 90, 0, -2), (215, 131, 92, 0, -1), (240, 125, 88, -2, -2),
        (262, 106, 76, -8, -4), (278, 72, 54, -18, -6), (287, 18, 14, -30, -8),
    )
)  # fmt: skip


def at_cage(z: float) -> tuple[float, float, float]:
    """Half width, half depth and centre y of the rib cage at a height."""
    columns = np.asarray(CAGE.levels).T
    wide, deep, _, y = (float(np.interp(z, columns[0], column)) for column in columns[1:])
    return wide, deep, y
