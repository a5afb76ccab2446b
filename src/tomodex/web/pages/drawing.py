"""The shapes of the picture of the body, seen from the front: the patient's left is on our right.

`shapes.csv` has them, hindmost first, as paths of SVG. One unit is some 2.9 mm of an adult. The
middle of the body is x = 120, the top of the head y = 9; what is `mirrored` is drawn on our right.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "shapes.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A piece of a structure."""

    view: str  #: layer: "organs", "bones", "vessels", "muscles"; "skin": half of the outline
    name: str  #: of the structure
    kind: str  #: of tissue, which says its colour
    width: float  #: of its line; 0: it is an area
    mirrored: bool
    path: str


def read_shapes() -> tuple[Shape, ...]:
    """Every shape of the table."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        return tuple(
            Shape(
                view=row["view"],
                name=row["name"],
                kind=row["kind"],
                width=float(row["width"] or 0),
                mirrored=row["mirrored"] == "yes",
                path=row["path"],
            )
            for row in csv.DictReader(lines)
        )


_ALL = read_shapes()

#: Half of the outline of the body.
SKIN = next(shape.path for shape in _ALL if shape.view == "skin")

SHAPES = tuple(shape for shape in _ALL if shape.view != "skin")

#: Bones that show the place of what lies around them.
BEHIND = tuple(
    shape
    for shape in SHAPES
    if shape.name.startswith(("vertebrae", "sacrum", "hip", "femur", "clavicula", "rib"))
)
