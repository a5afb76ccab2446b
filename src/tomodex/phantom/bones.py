"""The phantom's bones: spine, ribs, sternum, skull, shoulders, pelvis and thighs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tomodex.instance import LPS
from tomodex.phantom.landmarks import SPINE, Level, at_cage
from tomodex.phantom.plan import Paint, Plan, mirrored
from tomodex.phantom.solids import Ellipsoid, Solid, plate_axes, tube

SIDES = ("left", "right")

#: Of ribs 1 to 12: angle of the front end round the chest (0 back, 180 front), and how much lower
#: than the joint it lies, mm.
_RIBS = (
    (150, 32), (150, 45), (147, 62), (145, 74), (142, 82), (138, 88), (134, 92), (124, 86),
    (116, 78), (106, 68), (78, 48), (54, 34),
)  # fmt: skip

#: Where the cartilages of ribs 1 to 10 end, on the patient's left.
_CARTILAGE_ENDS: tuple[LPS, ...] = (
    (20, -50, 396), (18, -64, 379), (17, -78, 354), (16, -86, 334), (16, -92, 314),
    (15, -96, 296), (14, -99, 280), (36, -97, 264), (56, -91, 250), (76, -83, 236),
)  # fmt: skip


def draw_bones(plan: Plan) -> Iterator[Paint]:
    """All bones, in the order they cover each other."""
    yield from _spine(plan)
    yield from _ribs(plan)
    yield from _sternum(plan)
    yield from _skull(plan)
    for side in SIDES:
        yield from _shoulder(plan, side)
        yield from _pelvis(plan, side)
        yield from _thigh(plan, side)


def _spine(plan: Plan) -> Iterator[Paint]:
    """Discs, sacrum, vertebrae from below to above, and the canal with the cord through them."""
    column = [(0.0, 44.0, -10.0), *(level.center for level in SPINE.values())]
    yield plan.paint("", "disc", *tube(column, [19, *_disc_radii()], squash=(1.25, 1, 1)))
    yield from _sacrum(plan)
    for name, level in SPINE.items():
        if name in ("C1", "C2"):
            continue
        yield plan.paint(f"vertebrae_{name}", "cortex", *_vertebra(level))
        yield plan.paint(f"vertebrae_{name}", "spongiosa", _body(level, 1.6))
    yield from _upper_neck(plan)
    canal = [(0, 68, -70), (0, 66, -25), *(level.canal for level in SPINE.values())]
    yield plan.paint("", "water", *tube([*canal, (0, 27, 585)], [4, 7, *[8.5] * 24, 12]))
    cord = [level.canal for name, level in SPINE.items() if name[0] != "L" or name == "L1"]
    yield plan.paint("spinal_cord", "cord", *plan.pipe([*cord, (0, 26, 571)], [3.5, *[5.5] * 20]))


def _disc_radii() -> list[float]:
    return [level.half[1] * 0.95 for level in SPINE.values()]


def _body(level: Level, thinner_mm: float = 0.0) -> Ellipsoid:
    wide, deep, high = (half - thinner_mm for half in level.half)
    return Ellipsoid(center=level.center, radii=(wide, deep, high), power=4)


def _vertebra(level: Level) -> list[Solid]:
    """Body, arch, spinous and transverse processes."""
    _, y, z = level.center
    wide, deep, high = level.half
    back = y + deep
    process_mm, drop_mm, side_mm = _processes(level.name)
    arch = [(-0.7 * wide, y + 0.6 * deep), (-12, back + 9), (0, back + 21)]
    arch += [(-x, v) for x, v in arch[1::-1]]
    ring = tube([(x, v, z + 0.2 * high) for x, v in arch], [3.4] * 5, squash=(1, 1, 1.7))
    spinous = tube(
        [(0, back + 21, z), (0, back + 21 + process_mm, z - drop_mm)], [3.6, 3], squash=(1, 1, 1.7)
    )
    transverse = [
        tube([(s * 12, back + 9, z), (s * side_mm, back + 13, z + 2)], [3.6, 2.8]) for s in (-1, 1)
    ]
    return [_body(level), *ring, *spinous, *transverse[0], *transverse[1]]


def _processes(name: str) -> tuple[float, float, float]:
    """Length and fall of the spinous process, reach of the transverse ones; mm."""
    return {"C": (14.0, 6.0, 24.0), "T": (22.0, 16.0, 33.0), "L": (22.0, 5.0, 42.0)}[name[0]]


def _upper_neck(plan: Plan) -> Iterator[Paint]:
    """The axis with its dens, and the atlas as a ring round it."""
    axis, atlas = SPINE["C2"], SPINE["C1"]
    x, y, z = atlas.center
    dens = Ellipsoid(center=(x, y - 3, z - 2), radii=(5.2, 5.2, 14))
    ring = [(-20, y, z), (-10, y - 12, z), (10, y - 12, z), (20, y, z), (19, y + 24, z)]
    ring += [(0, y + 32, z), (-19, y + 24, z), (-20, y, z)]
    masses = [Ellipsoid(center=(s * 20, y, z), radii=(9, 9, 8)) for s in (-1, 1)]
    yield plan.paint("vertebrae_C2", "cortex", *_vertebra(axis))
    yield plan.paint("vertebrae_C2", "spongiosa", _body(axis, 1.6))
    yield plan.paint("vertebrae_C1", "cortex", *tube(ring, [3.6] * 8), *masses)
    yield plan.paint("vertebrae_C2", "cortex", dens)


def _sacrum(plan: Plan) -> Iterator[Paint]:
    """Five fused vertebrae that bend back and forth again, and the coccyx; S1 has its own label."""
    line = [(0, 46, -15), (0, 60, -38), (0, 70, -60), (0, 73, -80), (0, 69, -98), (0, 58, -114)]
    outer = tube(line, [19, 17, 14, 11, 8.5, 5], squash=(2.6, 1, 1))
    inner = tube(line[:5], [16.5, 14.5, 11.5, 8.5, 6], squash=(2.7, 1, 1))
    axes = plate_axes((1, 0, 0), (0, -0.5, 0.87))
    first = [
        Ellipsoid(center=(0, 41, -13), radii=_larger((25, 13, 16), more), axes=axes, power=4)
        for more in (0, -2)
    ]
    yield plan.paint("sacrum", "cortex", *outer)
    yield plan.paint("sacrum", "spongiosa", *inner)
    yield plan.paint("vertebrae_S1", "cortex", first[0])
    yield plan.paint("vertebrae_S1", "spongiosa", first[1])


def _ribs(plan: Plan) -> Iterator[Paint]:
    cartilages: list[Solid] = []
    for side in SIDES:
        for number in range(1, 13):
            line = _rib_line(number, side)
            name = f"rib_{side}_{number}"
            size = plan.dice.size()
            yield plan.paint(name, "cortex", *_rib(line, 4.3 * size))
            yield plan.paint(name, "spongiosa", *_rib(line, 2.4 * size))
            if number <= len(_CARTILAGE_ENDS):
                cartilages += _cartilage(line[-1], number, side)
    yield plan.paint("costal_cartilages", "cartilage", *cartilages)


def _rib(line: list[LPS], radius: float) -> tuple[Solid, ...]:
    return tube(line, [radius] * len(line), squash=(1, 1, 1.35))


def _rib_line(number: int, side: str) -> list[LPS]:
    """From the joint at the spine round the chest, ever lower."""
    level = SPINE[f"T{number}"]
    front_deg, fall_mm = _RIBS[number - 1]
    wide, deep, _ = level.half
    joint = (wide + 4, level.center[1] + 0.8 * deep, level.center[2] + 0.6 * level.half[2])
    line = [joint]
    for angle in np.linspace(24, front_deg, max(4, front_deg // 11)):
        z = joint[2] - fall_mm * float(angle) / front_deg
        half_wide, half_deep, middle = at_cage(z)
        turn = np.deg2rad(angle)
        line.append((half_wide * float(np.sin(turn)), middle + half_deep * float(np.cos(turn)), z))
    return mirrored(side, line)


def _cartilage(front: LPS, number: int, side: str) -> tuple[Solid, ...]:
    """From the front end of a rib up to the sternum, or to the cartilage above."""
    end = mirrored(side, [_CARTILAGE_ENDS[number - 1]])[0]
    z = min(front[2], end[2]) - (4 if number > 4 else 0)
    half_wide, half_deep, middle = at_cage(z)
    x = 0.5 * (front[0] + end[0])
    y = middle - half_deep * float(np.sqrt(max(0.0, 1 - (x / half_wide) ** 2)))
    return tube([front, (x, y, z), end], [5.0, 5.0, 4.5])


def _sternum(plan: Plan) -> Iterator[Paint]:
    handle = [(0, -47, 404), (0, -66, 378)]
    blade = [(0, -66, 378), (0, -82, 345), (0, -94, 310), (0, -101, 264)]
    for tissue, thinner in (("cortex", 0.0), ("spongiosa", 1.3)):
        yield plan.paint(
            "sternum",
            tissue,
            *tube(handle, [7.0 - thinner, 6.5 - thinner], squash=(3.6, 1, 1)),
            *tube(blade, [6.5 - thinner, 6.5 - thinner, 6.5 - thinner, 4 - thinner / 2],
                  squash=(2.6, 1, 1)),
        )  # fmt: skip


def _skull(plan: Plan) -> Iterator[Paint]:
    """Vault, face with its air, jaws with teeth, and the brain within."""
    yield plan.paint("skull", "skull", *_vault(9), *_face(), *_jaw())
    yield plan.paint("skull", "tooth", *tube(_arch(-62, -93, 549), [4.5] * 5, squash=(1, 1, 2)))
    yield plan.paint("", "water", *_vault(2), *tube([(0, 26, 560), (0, 24, 590)], [12, 12]))
    yield plan.paint("", "fat", *[_ball((s * 32, -84, 616), 17) for s in (-1, 1)])
    yield plan.paint("", "water", *[_ball((s * 32, -90, 616), 12) for s in (-1, 1)])
    yield plan.paint("", "gas", *_sinuses())
    yield plan.paint("brain", "brain", *_vault(0), *tube([(0, 26, 572), (0, 20, 600)], [7, 13]))
    yield plan.paint("", "water", *[_ball((s * 9, -5, 655), 9) for s in (-1, 1)])


def _ball(center: LPS, radius: float) -> Ellipsoid:
    return Ellipsoid(center=center, radii=(radius, radius, radius))


def _vault(thicker_mm: float) -> list[Solid]:
    """The brain's cavity, with so much bone round it; the lower one holds the cerebellum."""
    upper, lower = (67.0, 84.0, 64.0), (47.0, 36.0, 24.0)
    return [
        Ellipsoid(center=(0, -8, 646), radii=_larger(upper, thicker_mm)),
        Ellipsoid(center=(0, 38, 601), radii=_larger(lower, thicker_mm * 0.8)),
    ]


def _larger(radii: LPS, mm: float) -> LPS:
    return radii[0] + mm, radii[1] + mm, radii[2] + mm


def _face() -> list[Solid]:
    cheeks = [Ellipsoid(center=(s * 34, -78, 593), radii=(28, 24, 34)) for s in (-1, 1)]
    palate = tube(_arch(-66, -92, 562), [5] * 5)
    base = Ellipsoid(center=(0, -20, 588), radii=(52, 46, 9))
    return [*cheeks, *palate, base]


def _arch(back_y: float, front_y: float, z: float) -> list[LPS]:
    """Round the front of the mouth."""
    return [
        (-26.0, back_y, z), (-20.0, front_y + 9, z), (0.0, front_y, z), (20.0, front_y + 9, z),
        (26.0, back_y, z),
    ]  # fmt: skip


def _jaw() -> list[Solid]:
    line = [(50, -32, 575), (47, -40, 538), (30, -80, 527), (0, -98, 525)]
    line += [(-x, y, z) for x, y, z in line[2::-1]]
    return list(tube(line, [5, 6, 6.5, 7, 6.5, 6, 5], squash=(1, 1, 1.4)))


def _sinuses() -> list[Solid]:
    cheeks = [Ellipsoid(center=(s * 27, -80, 588), radii=(13, 16, 17)) for s in (-1, 1)]
    nose = Ellipsoid(center=(0, -80, 586), radii=(9, 26, 20))
    brow = Ellipsoid(center=(0, -90, 626), radii=(18, 6, 9))
    cells = [Ellipsoid(center=(s * 62, 14, 590), radii=(5, 9, 9)) for s in (-1, 1)]
    return [*cheeks, nose, brow, *cells]


def _shoulder(plan: Plan, side: str) -> Iterator[Paint]:
    collar = mirrored(side, [(20, -47, 411), (60, -44, 427), (105, -10, 441), (150, 20, 446)])
    yield plan.paint(f"clavicula_{side}", "cortex", *tube(collar, [7, 5.5, 5, 6]))
    yield plan.paint(f"scapula_{side}", "cortex", *_scapula(side))
    head, shaft = _arm(plan, side)
    yield plan.paint(f"humerus_{side}", "compact", *tube(shaft, [16, 11.5, 11]))
    yield plan.paint(f"humerus_{side}", "cortex", _ball(head, 24))
    yield plan.paint(f"humerus_{side}", "spongiosa", _ball(head, 21))
    yield plan.paint(f"humerus_{side}", "marrow", *tube(shaft[1:], [6, 5.5]))


def _scapula(side: str) -> list[Solid]:
    """Blade, spine with acromion, neck and socket."""
    sign = 1.0 if side == "left" else -1.0
    axes = plate_axes((sign * 0.8, -0.6, 0), (sign * 0.15, 0, 1))
    blade = Ellipsoid(center=(sign * 97, 78, 372), radii=(40, 56, 4.5), axes=axes)
    spine = mirrored(side, [(66, 97, 398), (110, 90, 415), (158, 34, 449)])
    neck = mirrored(side, [(112, 62, 402), (134, 30, 417)])
    socket = mirrored(side, [(137, 26, 417)])[0]
    return [
        blade,
        *tube(spine, [4.5, 5.5, 7]),
        *tube(neck, [6, 9]),
        Ellipsoid(center=socket, radii=(7, 14, 19)),
    ]


def _arm(plan: Plan, side: str) -> tuple[LPS, list[LPS]]:
    """Head of the humerus, and its shaft down to the elbow."""
    ways = {
        "down": [(171, 18, 412), (192, 22, 360), (218, 24, 118)],
        "up": [(167, 12, 424), (184, 8, 480), (196, -8, 716)],
    }
    line = mirrored(side, [(164, 18, 420), *ways[plan.arms]])
    return line[0], line[1:]


def wing_axes(side: str) -> tuple[LPS, LPS, LPS]:
    """Of the iliac wing: forward and out along the crest, up, and through it."""
    sign = 1.0 if side == "left" else -1.0
    return plate_axes((sign * 0.56, -0.83, 0), (sign * 0.36, 0.1, 0.93))


def _pelvis(plan: Plan, side: str) -> Iterator[Paint]:
    """Wing, socket, pubis and sitting bone."""
    center = mirrored(side, [(88, 22, -6)])[0]
    socket = mirrored(side, [(90, 2, -88)])[0]
    spread = 1.05 if plan.sex == "F" else 1.0
    wing = Ellipsoid(center=center, radii=(66 * spread, 60, 7), axes=wing_axes(side))
    inner = Ellipsoid(center=center, radii=(62 * spread, 56, 4.5), axes=wing_axes(side))
    pillar = tube(mirrored(side, [(60, 58, -35), (76, 26, -62), (88, 6, -82)]), [13, 16, 20])
    rami = [
        *tube(mirrored(side, [(76, -16, -92), (42, -40, -98), (12, -50, -108)]), [12, 8, 9]),
        *tube(mirrored(side, [(12, -49, -110), (18, -40, -128), (50, 6, -152)]), [9, 7, 8]),
        *tube(mirrored(side, [(84, 22, -105), (66, 34, -132), (52, 26, -152)]), [17, 15, 13]),
    ]
    yield plan.paint(f"hip_{side}", "cortex", wing, *pillar, *rami, _ball(socket, 36))
    marrow = tube(mirrored(side, [(60, 58, -35), (76, 26, -62), (88, 6, -82)]), [10, 13, 17])
    yield plan.paint(f"hip_{side}", "spongiosa", inner, *marrow, _ball(socket, 33))
    yield plan.paint(f"hip_{side}", "cortex", _ball(socket, 30))
    yield plan.paint("", "cartilage", _ball(socket, 27))
    # The socket is open to the side, where the neck of the femur leaves it.
    mouth = mirrored(side, [(104, 7, -95), (128, 16, -102)])
    yield plan.paint("", "muscle", *tube(mouth, [27, 24]))


def _thigh(plan: Plan, side: str) -> Iterator[Paint]:
    head = mirrored(side, [(90, 2, -88)])[0]
    neck = mirrored(side, [(90, 2, -88), (126, 14, -106), (136, 18, -112)])
    shaft = mirrored(side, [(130, 14, -112), (124, 10, -180), (110, 2, -320), (100, 0, -430)])
    inner: list[Solid] = [_ball(head, 22), *tube(neck, [9, 13, 14]), *tube(shaft[:2], [15, 8])]
    yield plan.paint(f"femur_{side}", "compact", *tube(shaft, [18, 14, 13.5, 14]))
    yield plan.paint(f"femur_{side}", "cortex", _ball(head, 24.5), *tube(neck, [13, 16, 17]))
    yield plan.paint(f"femur_{side}", "spongiosa", *inner)
    yield plan.paint(f"femur_{side}", "marrow", *tube(shaft[1:], [7, 7, 7]))
