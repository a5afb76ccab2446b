"""What can be asked of the index, in words that no index engine owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

#: How far two ends may miss each other, or overlap, and still touch: the rounding of a mask.
TOLERANCE_MM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Numbers or dates from `low` to `high`; None is open, and an end may be left out."""

    low: float | str | None = None
    high: float | str | None = None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shows:
    """The series shows `structures`, each by itself as whole, as large and as dense as asked."""

    structures: tuple[str, ...]  #: names of our terminology, sorted
    match: Literal["any", "all"] = "any"  #: how many of them it must show so
    completeness: Literal["any", "complete", "cut"] = "any"
    volume_ml: Interval | None = None
    mean_hu: Interval | None = None
    #: What `structures` were called, as the search language writes it: "kidney", "all rib",
    #: "T12..L5"; "" where no person did. Changes with `structures`, or is emptied.
    asked: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """`subject` lies wholly in the stretch between two others along the body, or fills it.

    The stretch runs from the upper end of the lower landmark to the lower end of the upper one.
    Landmarks that overlap by more than `TOLERANCE_MM` have no stretch between them. A landmark
    of several structures is any one of them. Lengths are z of the boxes, so the body's own axis
    for somebody who lies straight.
    """

    subject: Shows
    one: Shows
    other: Shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """The lower end of `subject` is nowhere below the upper end of `landmark`."""

    subject: Shows
    landmark: Shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """The upper end of `subject` is nowhere above the lower end of `landmark`."""

    subject: Shows
    landmark: Shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """An attribute has one of these values, or lies in this interval.

    A series without the attribute never has it, so `Not(Has(...))` finds that series.
    """

    keyword: str  #: a key of `SEARCHABLE`
    values: tuple[str, ...] = ()  #: compared without case; "*" at an end stands for anything
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class And:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Or:
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The series does not fit `term`, and that is known.

    What a series shows is known only once it is segmented, so a term about anatomy is denied of
    segmented series alone.
    """

    term: Term


Term = Shows | Between | Above | Below | Has | And | Or | Not


def is_anatomical(term: Term) -> bool:
    """Whether a term speaks of structures, and not of attributes alone."""
    match term:
        case And(terms=terms) | Or(terms=terms):
            return any(map(is_anatomical, terms))
        case Not(term=part):
            return is_anatomical(part)
    return not isinstance(term, Has)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to find; every term is about one and the same series."""

    text: str  #: as it was typed
    term: Term | None  #: None finds everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One series that matches."""

    series_uid: str
    study_uid: str
    patient: str = ""  #: pseudonym; "" where nobody knows whose series it is
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    structure_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The answer to a query: counts first, then some of the series, in the order asked for."""

    series: int
    studies: int
    patients: int
    hits: tuple[Hit, ...]
    offset: int = 0
    patients_key: int = 0  #: `keys.patients_key` of the patients that were found
    size_bytes: int = 0  #: of all pixels of the series, not compressed, as far as it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCount:
    """How much of what a query found has one value of a field."""

    series: int
    patients: int
    patients_key: int  #: `keys.patients_key` of these patients


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One structure as a series shows it."""

    structure: str
    volume_ml: float
    mean_hu: float
    bottom_mm: float  #: z in LPS of its lower end, or of what is visible of it
    top_mm: float
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """So many of the series that were found, drawn by lot; the same lot for the same seed."""

    size: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What an index holds."""

    series: int
    studies: int
    patients: int
    segmented: int  #: series whose structures are known
    waiting: int  #: series that an archive has listed and nobody has read yet
    newest: date | None  #: study date; None where no series has one
