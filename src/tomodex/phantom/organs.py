"""The phantom's organs of neck, chest, belly and pelvis."""

from __future__ import annotations

from collections.abc import Iterator

from tomodex.instance import LPS
from tomodex.phantom.landmarks import BELLY
from tomodex.phantom.plan import Paint, Plan, mirrored
from tomodex.phantom.solids import Solid, Within, plate_axes, tube


def draw_chest_organs(plan: Plan) -> Iterator[Paint]:
    """Heart, airway, gullet and thyroid."""
    heart_axes = plate_axes((0.80, -0.50, -0.33), (0.35, 0.80, 0.48))
    yield plan.paint("heart", "heart", plan.organ((18, -26, 316), (62, 48, 49), heart_axes))
    yield plan.paint("atrial_appendage_left", "heart", plan.organ((52, -22, 344), (10, 16, 11)))
    airway = [(0, -46, 582), (0, -24, 545), (0, -18, 500), (0, -12, 478)]
    yield plan.paint("", "gas", *tube(airway, [7, 8, 7, 7]))
    yield plan.paint("", "cartilage", *_trachea(plan, 1.8))
    yield plan.paint("esophagus", "bowel", *_esophagus(plan))
    yield plan.paint("trachea", "gas", *_trachea(plan, 0.0))
    lobes = [plan.organ((s * 17, -14, 462), (8.5, 9.5, 22), shift_mm=0.8) for s in (-1, 1)]
    yield plan.paint("thyroid_gland", "thyroid", *lobes, *tube([(-15, -22, 455), (15, -22, 455)],
                                                               [4.5, 4.5]))  # fmt: skip


def _trachea(plan: Plan, wall_mm: float) -> list[Solid]:
    """Down to the carina, and the main bronchi."""
    way = [(0, -12, 478), (0, -5, 440), (0, 3, 410), (-2, 11, 387)]
    left = [(-2, 11, 387), (22, 18, 370), (40, 23, 358)]
    right = [(-2, 11, 387), (-18, 16, 373), (-36, 20, 355)]
    bronchus = 6.0 + wall_mm
    return [
        *tube(way, [8.6 + wall_mm] * 4, squash=(1.05, 0.95, 1)),
        *tube(left, [7 + wall_mm, bronchus, bronchus]),
        *tube(right, [7 + wall_mm, bronchus, bronchus]),
    ]


def _esophagus(plan: Plan) -> tuple[Solid, ...]:
    way = [
        (2, 4, 476), (2, 12, 440), (0, 24, 408), (-3, 28, 380), (-4, 33, 340), (-2, 32, 300),
        (8, 20, 268), (20, 8, 248), (34, 2, 230),
    ]  # fmt: skip
    return plan.pipe(way, [6, 6, 6.5, 6.5, 7, 7, 7.5, 7.5, 7.5], shift_mm=0.6)


def draw_belly_organs(plan: Plan) -> Iterator[Paint]:
    """From the back of the belly to its front, so that what is small is not covered."""
    yield from _liver_and_gallbladder(plan)
    spleen = plan.organ((98, 36, 205), (26, 46, 54))
    yield plan.paint("spleen", "spleen", Within(solid=spleen, other=BELLY.grown(-2)))
    yield from _kidneys(plan)
    yield from _stomach(plan)
    yield from _bowel(plan)
    yield plan.paint("pancreas", "pancreas", *_pancreas(plan))
    yield plan.paint("duodenum", "bowel", *_duodenum(plan))
    yield from _adrenals(plan)


def _liver_and_gallbladder(plan: Plan) -> Iterator[Paint]:
    right = plan.organ((-66, -4, 205), (62, 70, 76))
    left = plan.organ((14, -38, 226), (64, 38, 34))
    room = BELLY.grown(-2)
    yield plan.paint("liver", "liver", *[Within(solid=s, other=room) for s in (right, left)])
    axes = plate_axes((1, 0, 0), (0.1, -0.5, -0.85))
    bladder = plan.organ((-50, -58, 136), (13, 30, 14), axes)
    yield plan.paint("gallbladder", "water", bladder)


def _kidneys(plan: Plan) -> Iterator[Paint]:
    """The right one lower; the upper poles nearer to the spine; some with a cyst."""
    for side, z, share in (("left", 148, 0.7), ("right", 136, 0.5)):
        sign = 1.0 if side == "left" else -1.0
        axes = plate_axes((1, 0, 0), (-0.2 * sign, 0.12, 1))
        center = plan.dice.about((sign * 66, 42, z), 2.0)
        kidney = plan.organ(center, (29, 57, 27), axes, shift_mm=0.1)
        pelvis = (center[0] - sign * 20, center[1] - 4, center[2])
        yield plan.paint(f"kidney_{side}", "kidney", kidney)
        yield plan.paint("", "fat", plan.organ(pelvis, (13, 9, 17), shift_mm=0.5))
        cyst = (center[0] + sign * 14, center[1] + 12, center[2] - 28)
        radius = plan.dice.between(9, 17)
        if plan.dice.chance(share):
            yield plan.paint(f"kidney_cyst_{side}", "water", plan.organ(cyst, (radius,) * 3))


def _adrenals(plan: Plan) -> Iterator[Paint]:
    """Two thin limbs above and before each kidney."""
    for side, shift in (("left", (0, 0, 4)), ("right", (8, -2, -2))):
        apex: LPS = (44 - shift[0], 24 + shift[1], 206 + shift[2])
        limbs = [(56 - shift[0], 36 + shift[1], 190 + shift[2]), (40 - shift[0], 38, 186)]
        solids: list[Solid] = []
        for end in limbs:
            solids += tube(mirrored(side, [apex, end]), [4.2, 4.8])
        yield plan.paint(f"adrenal_gland_{side}", "gland", *solids)


def _stomach(plan: Plan) -> Iterator[Paint]:
    way = [(60, 4, 236), (68, -20, 202), (54, -44, 165), (18, -56, 144), (-16, -48, 143)]
    radii = [32.0, 31, 26, 19, 13]
    size = plan.dice.size(0.15)
    wall = [Within(solid=s, other=BELLY.grown(-1)) for s in tube(way, [r * size for r in radii])]
    yield plan.paint("stomach", "bowel", *wall)
    bubble = plan.organ((64, -12, 226), (20, 15, 20))
    yield plan.paint("stomach", "gas", bubble)


def _pancreas(plan: Plan) -> tuple[Solid, ...]:
    way = [(-30, -20, 136), (-6, -28, 148), (24, -22, 160), (52, 4, 174), (77, 20, 188)]
    return plan.pipe(way, [15, 12, 11.5, 11.5, 9], shift_mm=1.5)


def _duodenum(plan: Plan) -> tuple[Solid, ...]:
    way = [
        (-16, -48, 143), (-38, -36, 148), (-50, -18, 132), (-50, -14, 98), (-26, -31, 82),
        (12, -33, 84), (32, -34, 104),
    ]  # fmt: skip
    return plan.pipe(way, [11, 11, 11, 11.5, 11, 10.5, 10])


def _bowel(plan: Plan) -> Iterator[Paint]:
    """Coils of small bowel, and the colon as a frame round them, with stool and gas."""
    yield plan.paint("small_bowel", "bowel", *_coils(plan))
    way = [
        (-86, -20, -22), (-98, 2, 38), (-99, 12, 84), (-88, -14, 122), (-54, -66, 96),
        (0, -70, 74), (52, -68, 102), (100, -16, 168), (107, 22, 128), (105, 26, 58), (96, 4, -4),
        (62, -14, -36), (16, -8, -28), (-10, 20, -44), (0, 42, -66), (0, 40, -100), (0, 34, -138),
        (0, 32, -164),
    ]  # fmt: skip
    radii = [24, 21, 20, 19, 18, 18, 18, 18, 16, 15, 15, 15, 14, 14, 16, 19, 13, 9]
    colon = plan.pipe(way, radii, shift_mm=2.5)
    yield plan.paint("colon", "stool", *colon)
    gas = [plan.organ((x, y - 6, z), (11, 7, 9)) for x, y, z in way[4:7] + way[11:13]]
    yield plan.paint("colon", "gas", *gas)


def _coils(plan: Plan) -> tuple[Solid, ...]:
    """Rows from side to side, each lower than the last and of another depth."""
    way: list[LPS] = []
    for row in range(10):
        sign = 1.0 if row % 2 else -1.0
        z, y = 62.0 - 13.5 * row, -58.0 + 17 * (row % 3)
        reach = 68.0 - 3.0 * max(0, row - 5)
        way += [(sign * -reach, y, z + 2), (sign * -22, y - 4, z - 3), (sign * 24, y + 3, z + 3)]
        way += [(sign * reach, y, z - 2)]
    return plan.pipe(way, [11.5] * len(way), shift_mm=3.0)


def draw_pelvic_organs(plan: Plan) -> Iterator[Paint]:
    """Bladder, and what lies above or below it by sex."""
    fill = plan.dice.between(0.85, 1.15)
    bladder = plan.organ((0, -12, -84), (38 * fill, 29 * fill, 29 * fill))
    if plan.sex == "F":
        yield plan.paint("", "muscle", plan.organ((2, 2, -48), (27, 21, 19)))
    yield plan.paint("urinary_bladder", "water", bladder)
    if plan.sex == "M":
        yield plan.paint("prostate", "prostate", plan.organ((0, -6, -127), (22, 17, 16)))
