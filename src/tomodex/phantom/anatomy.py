"""A body: all 117 structures of TotalSegmentator's task `total`, drawn from simple solids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tomodex.instance import LPS
from tomodex.phantom.bones import draw_bones
from tomodex.phantom.landmarks import LANDMARKS
from tomodex.phantom.muscles import draw_muscles
from tomodex.phantom.organs import draw_belly_organs, draw_chest_organs, draw_pelvic_organs
from tomodex.phantom.outline import draw_cavities, draw_outline, draw_table
from tomodex.phantom.plan import Arms, Dice, Paint, Plan, Sex
from tomodex.phantom.vessels import draw_belly_vessels, draw_chest_vessels

Position = Literal["supine", "prone"]

#: A reference woman's lengths in those of the reference man.
FEMALE = (0.95, 0.95, 0.925)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Body:
    """Paint in the order it is laid on, in reference lengths, and how those become a patient's."""

    sex: Sex
    seed: int
    paints: tuple[Paint, ...]
    scale: LPS  #: patient's mm per reference mm along x, y, z
    sway_mm: tuple[float, float]  #: how far the body bends to x and to y along its length

    @property
    def landmarks(self) -> Mapping[str, float]:
        """z of the levels where a region may begin or end, mm in the patient."""
        return {name: z * self.scale[2] for name, z in LANDMARKS.items()}


def draw_body(
    *,
    sex: Sex,
    seed: int,
    arms: Arms = "up",
    position: Position = "supine",
    enhancement_hu: int = 0,
) -> Body:
    """A body of that sex; the same seed draws the same, another one differs in every structure.

    Men have a prostate; renal cysts are there in some bodies only.
    """
    dice = Dice(seed)
    stature, girth = dice.size(0.07), dice.size(0.1)
    usual = FEMALE if sex == "F" else (1.0, 1.0, 1.0)
    plan = Plan(
        sex=sex,
        arms=arms,
        enhancement_hu=enhancement_hu,
        fat_mm=dice.between(9, 17) if sex == "F" else dice.between(6, 14),
        dice=dice,
    )
    return Body(
        sex=sex,
        seed=seed,
        scale=(usual[0] * girth, usual[1] * girth * dice.size(0.04), usual[2] * stature),
        sway_mm=(dice.between(-4, 4), dice.between(-3, 3)),
        paints=(draw_table(137.0 if position == "supine" else -137.0), *_paints(plan)),
    )


def _paints(plan: Plan) -> Iterator[Paint]:
    """Outline, cavities and muscles first; what lies in them covers them."""
    yield from draw_outline(plan)
    yield from draw_cavities(plan)
    yield from draw_muscles(plan)
    yield from draw_chest_organs(plan)
    yield from draw_chest_vessels(plan)
    yield from draw_pelvic_organs(plan)
    yield from draw_belly_organs(plan)
    yield from draw_belly_vessels(plan)
    yield from draw_bones(plan)
