"""What the phantom's structures lie in: table, skin, fat, muscle and the cavities of the trunk."""

from __future__ import annotations

from collections.abc import Iterator

from tomodex.phantom.landmarks import BELLY, CAGE, SKIN
from tomodex.phantom.plan import Paint, Plan, mirrored
from tomodex.phantom.solids import Beyond, Capsule, Ellipsoid, Solid, Stack, tube

SIDES = ("left", "right")
SKIN_MM = 2.0

#: (z, half width, half depth, centre x, centre y) of what lies between the lungs.
MEDIASTINUM = Stack(
    levels=(
        (235, 42, 92, 4, 0), (300, 40, 90, 6, 0), (350, 36, 84, 2, 2), (385, 34, 72, 0, 10),
        (410, 38, 62, 0, 18), (440, 44, 50, 0, 16), (460, 34, 40, 0, 10),
    ),
    power=2.6,
)  # fmt: skip

#: How much less than the rib cage along the ribs' middle the lungs reach, mm.
PLEURA_MM = 7.0


def draw_outline(plan: Plan) -> Iterator[Paint]:
    """The body without its organs and bones: what is painted first."""
    yield plan.paint("", "skin", *_body(plan, 0.0))
    yield plan.paint("", "fat", *_body(plan, SKIN_MM))
    yield plan.paint("", "muscle", *_body(plan, SKIN_MM + plan.fat_mm, plan.fat_mm / 2))


def draw_table(y: float) -> Paint:
    """The tabletop of the scanner, with its upper or lower side near y."""
    top = Ellipsoid(center=(0, y, 150), radii=(205, 11, 640), power=8)
    return Paint(solids=(top,), label=0, hu=-650, texture_hu=15)


def _body(plan: Plan, deeper_mm: float, limb_mm: float = 0.0) -> list[Solid]:
    """The outline so deep under the skin; limbs and head have less fat than the trunk."""
    trunk = SKIN.grown(-deeper_mm)
    thin = min(deeper_mm, SKIN_MM + limb_mm)
    parts: list[Solid] = [trunk, *_head(thin)]
    for side in SIDES:
        parts += [*_arm(plan, side, thin), *_leg(side, thin)]
    if plan.sex == "F" and deeper_mm <= SKIN_MM:
        parts += [_breast(side, deeper_mm) for side in SIDES]
    return parts


def _head(deeper_mm: float) -> list[Solid]:
    vault = Ellipsoid(center=(0, -8, 646), radii=_smaller((82, 99, 78), deeper_mm))
    face = Ellipsoid(center=(0, -55, 572), radii=_smaller((62, 55, 62), deeper_mm), power=2.5)
    back = Ellipsoid(center=(0, 38, 598), radii=_smaller((62, 52, 44), deeper_mm))
    nose = Ellipsoid(center=(0, -108, 588), radii=_smaller((11, 16, 16), deeper_mm / 2))
    return [vault, face, back, nose]


def _smaller(radii: tuple[float, float, float], mm: float) -> tuple[float, float, float]:
    return radii[0] - mm, radii[1] - mm, radii[2] - mm


def _arm(plan: Plan, side: str, deeper_mm: float) -> tuple[Solid, ...]:
    ways = {
        "down": [(160, 18, 416), (188, 22, 370), (218, 24, 110)],
        "up": [(150, 16, 416), (182, 8, 486), (196, -8, 716)],
    }
    line = mirrored(side, ways[plan.arms])
    return tube(line, [50 - deeper_mm, 46 - deeper_mm, 37 - deeper_mm])


def _leg(side: str, deeper_mm: float) -> tuple[Solid, ...]:
    line = mirrored(side, [(90, 8, -110), (93, 6, -200), (94, 4, -330), (94, 2, -430)])
    return tube(line, [r - deeper_mm for r in (80, 84, 74, 62)])


def _breast(side: str, deeper_mm: float) -> Ellipsoid:
    center = mirrored(side, [(76, -100, 322)])[0]
    return Ellipsoid(center=center, radii=_smaller((56, 48, 54), deeper_mm))


def draw_cavities(plan: Plan) -> Iterator[Paint]:
    """Lungs by lobe, then the mediastinum and the belly over them: the diaphragm is a dome."""
    chest = CAGE.grown(-PLEURA_MM)
    upper = (0.0, -0.78, 1.0)
    fissure_mm = 318 + plan.dice.between(-6, 6)
    for side, outward in (("left", 1.0), ("right", -1.0)):
        lung = Beyond(solid=chest, normal=(outward, 0, 0), offset_mm=0)
        above = Beyond(solid=lung, normal=upper, offset_mm=fissure_mm)
        yield plan.paint(f"lung_lower_lobe_{side}", "lung", lung)
        yield plan.paint(f"lung_upper_lobe_{side}", "lung", above)
        if side == "right":
            level = -328 + plan.dice.between(-5, 5)
            middle = Beyond(solid=above, normal=(0, 0, -1), offset_mm=level)
            yield plan.paint("lung_middle_lobe_right", "lung", middle)
    yield plan.paint("", "fat", MEDIASTINUM)
    yield plan.paint("", "muscle", BELLY.grown(4))
    yield plan.paint("", "muscle", Capsule(ends=((0, 30, 190), (0, 40, 262)), radii=(34, 20)))
    yield plan.paint("", "fat", BELLY)
