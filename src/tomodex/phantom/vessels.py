"""The phantom's large arteries and veins, of chest, neck and belly."""

from __future__ import annotations

from collections.abc import Iterator

from tomodex.phantom.landmarks import SPINE
from tomodex.phantom.plan import Paint, Plan
from tomodex.phantom.solids import Solid, tube


def draw_chest_vessels(plan: Plan) -> Iterator[Paint]:
    """Painted after the heart, which they leave."""
    yield plan.paint("", "vein", *_pulmonary_artery())
    yield plan.paint("pulmonary_vein", "artery", *_pulmonary_veins(plan))
    yield plan.paint("superior_vena_cava", "vein", *plan.pipe(
        [(-26, -15, 402), (-27, -13, 375), (-26, -14, 345)], [9, 9.5, 10]))  # fmt: skip
    yield from _neck_veins(plan)
    yield from _neck_arteries(plan)
    yield plan.paint("aorta", "artery", *_aorta(plan))


def _pulmonary_artery() -> list[Solid]:
    trunk = [(14, -36, 352), (14, -22, 372)]
    right = [(14, -18, 372), (-14, -2, 366), (-44, 8, 360)]
    left = [(14, -18, 372), (34, 4, 374), (46, 16, 366)]
    return [*tube(trunk, [13, 12]), *tube(right, [11, 9, 7]), *tube(left, [11, 9, 7])]


def _pulmonary_veins(plan: Plan) -> list[Solid]:
    """Two from each lung to the back of the heart."""
    solids: list[Solid] = []
    for sign in (-1.0, 1.0):
        for z, out in ((342.0, 346.0), (322.0, 312.0)):
            way = [(sign * 16 + 4, 14, z), (sign * 34, 18, z), (sign * 58, 24, out)]
            solids += plan.pipe(way, [8, 7, 5])
    return solids


def _neck_veins(plan: Plan) -> Iterator[Paint]:
    left = [(40, -30, 432), (20, -38, 425), (-4, -34, 415), (-25, -17, 402)]
    right = [(-34, -22, 434), (-31, -19, 418), (-27, -16, 403)]
    yield plan.paint("brachiocephalic_vein_left", "vein", *plan.pipe(left, [6.5, 6.5, 6.5, 7]))
    yield plan.paint("brachiocephalic_vein_right", "vein", *plan.pipe(right, [7, 7, 7.5]))


def _neck_arteries(plan: Plan) -> Iterator[Paint]:
    trunk = [(-3, -24, 404), (-12, -17, 418), (-22, -9, 432)]
    carotids = {
        "right": [(-22, -9, 432), (-26, -6, 455), (-30, -2, 478), (-30, -6, 522)],
        "left": [(9, -20, 408), (17, -6, 435), (29, -1, 470), (30, -6, 522)],
    }
    subclavian = {
        "right": [(-24, -8, 433), (-42, 0, 450), (-64, -5, 442), (-108, -8, 424)],
        "left": [(21, -4, 408), (24, 7, 434), (43, 2, 452), (65, -5, 443), (108, -8, 424)],
    }
    yield plan.paint("brachiocephalic_trunk", "artery", *plan.pipe(trunk, [6.5, 6.5, 6.5]))
    for side in ("right", "left"):
        way = subclavian[side]
        radii = [5.0] * (len(way) - 1) + [4.0]
        yield plan.paint(f"subclavian_artery_{side}", "artery", *plan.pipe(way, radii))
        way = carotids[side]
        yield plan.paint(f"common_carotid_artery_{side}", "artery", *plan.pipe(way, [4.2] * 4))


def _aorta(plan: Plan) -> tuple[Solid, ...]:
    """From the heart over the arch, then down before the spine to the fork at L4."""
    arch = [(2, -20, 342), (-13, -26, 362), (-13, -27, 384), (-2, -26, 398), (14, -16, 405)]
    down = [(24, 2, 403), (26, 24, 392), (25, 38, 372)]
    chest = [(22, 38, 340), (20, 36, 300), (18, 30, 265), (15, 22, 235)]
    belly = []
    for name in ("T12", "L1", "L2", "L3"):
        x, y, z = SPINE[name].center
        belly.append((x + 8, y - SPINE[name].half[1] - 11, z))
    radii = [16, 16, 15.5, 14, 13, 13, 13, 13, 12.5, 12, 12, 11.5, 11, 10.5, 10, 9.5, 9]
    return plan.pipe([*arch, *down, *chest, *belly, (3, -5, 45)], radii, shift_mm=0.7)


def draw_belly_vessels(plan: Plan) -> Iterator[Paint]:
    """Painted after the organs, in which they end."""
    cava = [
        (-12, 2, 28), (-18, -8, 90), (-20, -4, 125), (-21, 0, 159), (-24, 6, 217), (-22, 0, 262),
        (-18, -6, 276),
    ]  # fmt: skip
    yield plan.paint("inferior_vena_cava", "vein", *plan.pipe(cava, [9.5, 10.5, 10.5, 10.5, 11,
                                                                     11.5, 12]))  # fmt: skip
    portal = [
        (76, 24, 192), (46, 2, 176), (16, -16, 163), (-10, -22, 156), (-24, -18, 178),
        (-42, -14, 204),
    ]  # fmt: skip
    yield plan.paint("portal_vein_and_splenic_vein", "vein", *plan.pipe(portal, [4.5, 5, 5.5, 7, 7,
                                                                                 6.5]))  # fmt: skip
    for side, sign in (("left", 1.0), ("right", -1.0)):
        start = (-8, 8, 26) if side == "left" else (-15, 6, 28)
        vein = [start, (sign * 26, 20, -2), (sign * 46, 30, -36), (sign * 50, 32, -52)]
        artery = [(3, -5, 45), (sign * 22, 6, 16), (sign * 40, 12, -10), (sign * 54, 20, -46)]
        yield plan.paint(f"iliac_vena_{side}", "vein", *plan.pipe(vein, [7, 7, 7, 6.5]))
        yield plan.paint(f"iliac_artery_{side}", "artery", *plan.pipe(artery, [6, 5.5, 5.5, 5]))
