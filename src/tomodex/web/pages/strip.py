"""What a series shows from head to foot, on one axis that all series share.

The axis is the Body Part Regression score of `terminology/order.csv`: 0 is the lower end of the
pelvis, 100 the eyes. A series is laid on it by its vertebrae, or by whatever it shows whole;
between two of them it runs straight, beyond the last one as steeply as in most people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tomodex.search import Seen
from tomodex.terminology import Terminology
from tomodex.web.pages.asking import Asked

#: Ends of the axis: above the head, below the knees.
TOP_SCORE = 110.0
BOTTOM_SCORE = -58.0

#: mm of body for one score: T1 to L5 are 50 scores, and some 430 mm in adults.
MM_PER_SCORE = 8.5

#: Width and height of the picture, in its own units.
WIDTH = 320.0
HEIGHT = 50.0
LANE_TOP = 17.0
LANE_STEP = 6.0
LANE_HEIGHT = 3.6

#: Levels that are named above the strip, by their scores in `order.csv`.
MARKS: Mapping[str, float] = {
    "C1": 89.23,
    "T1": 75.79,
    "T12": 44.95,
    "L5": 25.53,
    "S5": 15.4,
    "Knee": -55.0,
}

#: Which structures a lane is for, by the beginning of their names.
LANES: Mapping[str, tuple[str, ...]] = {
    "air": ("lung", "trachea", "brain"),
    "blood": ("heart", "aorta", "pulmonary_v", "inferior_vena", "superior_vena", "iliac_a"),
    "belly": (
        "liver", "spleen", "stomach", "kidney_l", "kidney_r", "pancreas", "duodenum", "colon",
        "small_bowel", "urinary_bladder", "prostate", "gallbladder", "adrenal",
    ),
    "bone": ("vertebrae", "sacrum", "hip", "femur", "skull", "rib"),
}  # fmt: skip

#: Parts of the body by the scores that they lie between.
COVERAGE: Mapping[str, tuple[float, float]] = {
    "head": (107.0, 90.0),
    "neck": (88.0, 77.0),
    "chest": (74.0, 53.0),
    "abdomen": (52.0, 28.0),
    "pelvis": (27.0, 2.0),
    "thighs": (0.0, -50.0),
}

#: So much of a part has to be in the image for the series to be called after it.
MOST_OF_IT = 0.6

#: Says where a height in mm is drawn.
Place = Callable[[float], float]

#: Asked structures that are framed.
MOST_FRAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch of the picture."""

    x: float
    width: float
    y: float = 0.0
    kind: str = ""  #: lane
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A level of the spine."""

    x: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The picture of one series."""

    cover: Bar  #: where the image is
    bars: tuple[Bar, ...]
    frames: tuple[Bar, ...]  #: around what was asked for
    marks: tuple[Mark, ...]  #: () where nothing says which part of the body it is
    whole: int  #: structures
    cut: int
    words: str  #: parts of the body, "chest, abdomen"; "" where it is not known
    label: str  #: all of it for who cannot see it


class Axis:
    """Where a height in a series lies on the axis of all bodies."""

    def __init__(self, anchors: Sequence[tuple[float, float]]) -> None:
        """`anchors` are (z in mm, score), both rising; at least one."""
        self._anchors = anchors

    def score(self, z_mm: float) -> float:
        """The score of a height."""
        first, last = self._anchors[0], self._anchors[-1]
        if z_mm <= first[0]:
            return first[1] - (first[0] - z_mm) / MM_PER_SCORE
        for (low, low_score), (high, high_score) in pairwise(self._anchors):
            if z_mm <= high:
                return low_score + (z_mm - low) / (high - low) * (high_score - low_score)
        return last[1] + (z_mm - last[0]) / MM_PER_SCORE


def axis_of(seen: Iterable[Seen], terminology: Terminology) -> Axis | None:
    """The axis of a series; None where nothing whole has a usual place."""
    whole = [one for one in seen if one.complete and one.structure in terminology.order]
    spine = [
        ((one.bottom_mm + one.top_mm) / 2, terminology.order[one.structure].top_score)
        for one in whole
        if one.structure.startswith("vertebrae_")
    ]
    anchors = _rising(spine) or _rising(_ends(whole, terminology))
    return Axis(anchors) if anchors else None


def strip_of(
    seen: Sequence[Seen],
    scan_mm: tuple[float, float] | None,
    asked: Asked,
    terminology: Terminology,
) -> Strip | None:
    """The picture; None where nothing was seen. `scan_mm` is (lower, upper end) of the image."""
    if not seen:
        return None
    low, high = scan_mm or (min(s.bottom_mm for s in seen), max(s.top_mm for s in seen))
    axis = axis_of(seen, terminology)
    place = _placed(axis) if axis else _stretched(low, high)
    whole = sum(one.complete for one in seen)
    words = _words(axis, low, high) if axis else ""
    return Strip(
        cover=_bar(place, low, high),
        bars=tuple(_lanes(seen, place)),
        frames=tuple(_frames(seen, asked, place))[:MOST_FRAMED],
        marks=tuple(Mark(x=_x(score), name=name) for name, score in MARKS.items()) if axis else (),
        whole=whole,
        cut=len(seen) - whole,
        words=words,
        label=_label(words, seen, asked, terminology),
    )


def _ends(whole: Iterable[Seen], terminology: Terminology) -> list[tuple[float, float]]:
    """The middles of structures that are as long as they usually are."""
    return [
        ((one.bottom_mm + one.top_mm) / 2, (level.top_score + level.bottom_score) / 2)
        for one in whole
        if (level := terminology.order[one.structure]).top_score > level.bottom_score
    ]


def _rising(anchors: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The anchors by height, without those that turn back."""
    rising: list[tuple[float, float]] = []
    for z_mm, score in sorted(anchors):
        if not rising or (z_mm > rising[-1][0] and score > rising[-1][1]):
            rising.append((z_mm, score))
    return rising


def _placed(axis: Axis) -> Place:
    """Where a height is drawn, by the axis of all bodies."""
    return lambda z_mm: _x(axis.score(z_mm))


def _stretched(low: float, high: float) -> Place:
    """The same where nothing says which part of the body it is: the image takes all the width."""
    length = max(high - low, 1.0)
    return lambda z_mm: min(WIDTH, max(0.0, (high - z_mm) / length * WIDTH))


def _x(score: float) -> float:
    """Head on the left."""
    part = (TOP_SCORE - score) / (TOP_SCORE - BOTTOM_SCORE)
    return min(1.0, max(0.0, part)) * WIDTH


def _bar(
    place: Place, low: float, high: float, y: float = 0.0, kind: str = "", whole: bool = True
) -> Bar:
    left, right = place(high), place(low)
    return Bar(
        x=round(left, 1), width=round(max(right - left, 1.2), 1), y=y, kind=kind, whole=whole
    )


def _lanes(seen: Sequence[Seen], place: Place) -> Iterable[Bar]:
    """What is whole over what is cut, each lane as few stretches."""
    for number, (kind, beginnings) in enumerate(LANES.items()):
        inside = [one for one in seen if one.structure.startswith(beginnings)]
        y = LANE_TOP + number * LANE_STEP
        for whole in (False, True):
            ends = [(s.bottom_mm, s.top_mm) for s in inside if s.complete == whole]
            for low, high in _joined(ends):
                yield _bar(place, low, high, y, kind, whole)


def _frames(seen: Sequence[Seen], asked: Asked, place: Place) -> Iterable[Bar]:
    """Around what is looked for, and around each stretch that something must lie in."""
    for one in seen:
        if one.structure in asked.framed:
            yield _bar(place, one.bottom_mm, one.top_mm, whole=one.complete)
    for ends in asked.stretches:
        low, high = sorted(_extent(seen, names) for names in ends)
        if low and high and low[1] < high[0]:
            yield _bar(place, low[1], high[0])


def _extent(seen: Sequence[Seen], names: frozenset[str]) -> tuple[float, float] | tuple[()]:
    """(lower, upper end) of the first that is seen of some structures; () where none is."""
    found = [one for one in seen if one.structure in names]
    return (found[0].bottom_mm, found[0].top_mm) if found else ()


def _joined(stretches: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretches that overlap as one."""
    joined: list[tuple[float, float]] = []
    for low, high in sorted(stretches):
        if joined and low <= joined[-1][1] + 1.0:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined


def _words(axis: Axis, low: float, high: float) -> str:
    """The parts that are in the image, or the one that most of is."""
    bottom, top = axis.score(low), axis.score(high)
    shares = {
        name: (min(top, upper) - max(bottom, lower)) / (upper - lower)
        for name, (upper, lower) in COVERAGE.items()
    }
    parts = [name for name, share in shares.items() if share >= MOST_OF_IT]
    most = max(shares, key=lambda name: shares[name])
    if not parts and shares[most] > 0:
        return f"part of the {most}"
    return ", ".join(parts)


def _label(words: str, seen: Sequence[Seen], asked: Asked, terminology: Terminology) -> str:
    whole = sum(one.complete for one in seen)
    said = [f"Image of {words}" if words else "Image", f"{whole} structures whole"]
    if whole < len(seen):
        said.append(f"{len(seen) - whole} cut")
    for one in [one for one in seen if one.structure in asked.structures][:MOST_FRAMED]:
        name = terminology.structures[one.structure].display
        said.append(f"{name} {'whole' if one.complete else 'cut'}")
    return ", ".join(said)
