"""The picture of the body: which of its regions are asked for, and what a click on one asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tomodex.terminology import Terminology
from tomodex.web.pages.asking import Asked
from tomodex.web.pages.drawing import SHAPES, Shape
from tomodex.web.pages.edits import Question, asked_part, shows_of, with_state

#: How a region is asked for: not at all, in whatever way, whole.
State = Literal["", "asked", "whole"]

TITLES = {"organs": "Organs", "bones": "Bones", "vessels": "Vessels", "muscles": "Muscles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A structure in the picture."""

    name: str
    label: str  #: what it is, how it is asked for, what a click does
    title: str
    shapes: Sequence[Shape]
    state: State
    text: str  #: the question after a click


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One layer of the picture; one is shown at a time."""

    key: str
    title: str
    regions: Sequence[Region]
    shown: bool


def views_of(question: Question, asked: Asked, terminology: Terminology) -> tuple[View, ...]:
    """Every layer, the one shown that has what is looked for first."""
    names = frozenset(asked.structures)
    regions = {key: _regions(key, question, terminology, names) for key in TITLES}
    first = next(
        (key for name in asked.structures for key in TITLES if name in dict(_shapes_of(key))),
        "organs",
    )
    return tuple(
        View(key=key, title=title, regions=regions[key], shown=key == first)
        for key, title in TITLES.items()
    )


def _regions(
    view: str, question: Question, terminology: Terminology, asked: frozenset[str]
) -> tuple[Region, ...]:
    regions = [
        _region(name, shapes, question, terminology, asked) for name, shapes in _shapes_of(view)
    ]
    # What is asked for is seen whole, whatever lies in front of it.
    return tuple(sorted(regions, key=lambda region: bool(region.state)))


def _region(
    name: str,
    shapes: Sequence[Shape],
    question: Question,
    terminology: Terminology,
    asked: frozenset[str],
) -> Region:
    shows = shows_of(name, terminology)
    part = asked_part(question, shows)
    title = terminology.structures[name].display
    if part is None:
        state: State = "asked" if asked & set(shows.structures) else ""
        text, act = question.plus(shows).text, "ask for it"
    elif part.completeness != "complete":
        state = "asked"
        text, act = question.swapped(part, with_state(part, "complete")).text, "ask for it whole"
    else:
        state = "whole"
        text, act = question.swapped(part, None).text, "ask for it no more"
    said = {"": "", "asked": ", asked for", "whole": ", asked for whole"}[state]
    return Region(
        name=name,
        label=f"{title}{said}: {act}",
        title=title,
        shapes=shapes,
        state=state,
        text=text,
    )


@cache
def _shapes_of(view: str) -> tuple[tuple[str, tuple[Shape, ...]], ...]:
    """The structures of a layer, hindmost first, each with its shapes."""
    found: dict[str, list[Shape]] = {}
    for shape in SHAPES:
        if shape.view == view:
            found.setdefault(shape.name, []).append(shape)
    return tuple((name, tuple(shapes)) for name, shapes in found.items())
