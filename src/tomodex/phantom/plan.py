"""What one phantom body shall be like, and the brush that its structures are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tomodex.instance import LPS
from tomodex.phantom.names import LABELS
from tomodex.phantom.solids import UPRIGHT, Ellipsoid, Solid, tube

Sex = Literal["M", "F"]
Arms = Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    """Some solids and what they are made of; later paint covers earlier."""

    solids: tuple[Solid, ...]
    label: int  #: of `names.LABELS`; 0 where no structure of ours lies
    hu: int  #: mean
    texture_hu: int  #: standard deviation of the tissue itself, without the scanner's noise


#: Mean HU without contrast, share of the contrast that it takes up, and texture in HU.
#: Orders of magnitude from the terminology's `ranges.csv`; the rest is a radiologist's rule of
#: thumb.
_TISSUES: dict[str, tuple[int, float, int]] = {
    "artery": (45, 1.0, 4),
    "vein": (42, 0.8, 4),
    "heart": (42, 0.85, 8),
    "liver": (56, 0.4, 6),
    "spleen": (48, 0.5, 5),
    "kidney": (32, 1.0, 8),
    "pancreas": (38, 0.4, 8),
    "gland": (30, 0.4, 6),
    "thyroid": (105, 0.6, 8),
    "water": (8, 0.0, 3),
    "bowel": (28, 0.25, 14),
    "stool": (40, 0.0, 40),
    "muscle": (55, 0.1, 6),
    "brain": (35, 0.03, 5),
    "cord": (35, 0.0, 5),
    "prostate": (40, 0.2, 6),
    "lung": (-860, 0.02, 45),
    "gas": (-985, 0.0, 10),
    "cortex": (540, 0.0, 80),
    "compact": (1150, 0.0, 120),
    "spongiosa": (210, 0.05, 45),
    "skull": (900, 0.0, 140),
    "tooth": (1900, 0.0, 200),
    "marrow": (20, 0.0, 25),
    "cartilage": (95, 0.05, 15),
    "disc": (80, 0.0, 8),
    "fat": (-100, 0.0, 8),
    "skin": (15, 0.1, 10),
    "table": (-650, 0.0, 15),
}


class Dice:
    """Makes bodies differ: the same seed always throws the same."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, 117])

    def between(self, low: float, high: float) -> float:
        """Any value between two, all alike."""
        return float(self._random.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True that often."""
        return bool(self._random.uniform() < share)

    def about(self, point: LPS, mm: float) -> LPS:
        """A point nearby; most lie within `mm` along each axis, none beyond twice that."""
        x, y, z = np.clip(self._random.normal(0, mm / 2, 3), -mm * 2, mm * 2)
        return point[0] + float(x), point[1] + float(y), point[2] + float(z)

    def size(self, share: float = 0.06) -> float:
        """A factor near 1."""
        return float(np.clip(self._random.normal(1, share / 2), 1 - share, 1 + share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a body shall be like; what is not said is thrown with its dice."""

    sex: Sex
    arms: Arms
    enhancement_hu: int  #: what contrast adds to an artery; 0 is a scan without contrast
    fat_mm: float  #: thickness of the fat under the skin
    dice: Dice

    def paint(self, name: str, tissue: str, *solids: Solid) -> Paint:
        """Paint for a structure; name "" for what lies between our structures."""
        mean, uptake, texture = _TISSUES[tissue]
        varied = mean + uptake * self.enhancement_hu + self.dice.between(-0.5, 0.5) * texture
        label = LABELS[name] if name else 0
        return Paint(solids=solids, label=label, hu=round(varied), texture_hu=texture)

    def organ(
        self,
        center: LPS,
        radii: LPS,
        axes: tuple[LPS, LPS, LPS] = UPRIGHT,
        *,
        shift_mm: float = 2.5,
    ) -> Ellipsoid:
        """An ellipsoid about there and about that large."""
        size = self.dice.size()
        a, b, c = (radius * size * self.dice.size(0.04) for radius in radii)
        return Ellipsoid(center=self.dice.about(center, shift_mm), radii=(a, b, c), axes=axes)

    def pipe(
        self, points: Sequence[LPS], radii: Sequence[float], *, shift_mm: float = 1.0
    ) -> tuple[Solid, ...]:
        """A tube about along those points; its ends are where they are said to be."""
        inner = [self.dice.about(point, shift_mm) for point in points[1:-1]]
        size = self.dice.size()
        return tube([points[0], *inner, points[-1]], [radius * size for radius in radii])


def mirrored(side: str, points: Sequence[LPS]) -> list[LPS]:
    """Points of the patient's left (+x), or their mirror images on the right."""
    sign = 1.0 if side == "left" else -1.0
    return [(sign * x, y, z) for x, y, z in points]
