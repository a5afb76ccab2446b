"""Values that a search can be narrowed to, with how many series have them; each is a link."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tomodex.access import Asker
from tomodex.cohorts import Cell, Cohorts
from tomodex.disclosure import COUNTED
from tomodex.search import THICKNESSES, Interval, Shows
from tomodex.terminology import Terminology
from tomodex.web.pages.edits import (
    Question,
    asked_part,
    chosen_values,
    demands,
    is_about,
    shows_of,
    with_intervals,
    with_state,
    with_values,
)

#: Values of a section that stand open; the others are behind "more".
FEW = 6

#: Values of a section at most.
MOST = 40

#: Asked structures of which it is said how many are whole.
MOST_ASKED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value."""

    label: str
    count: int | None  #: series; None: withheld
    share: float  #: of the most frequent value of its section, 0 to 1
    chosen: bool
    text: str  #: the question with this value chosen, or not chosen any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The values of one field."""

    key: str  #: for `id` in a page
    title: str
    choices: tuple[Choice, ...]
    more: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A number or date that is counted in classes, and asked for in intervals."""

    field: str
    keyword: str
    number: Callable[[str], int]  #: of a class, by its name; neighbours have neighbouring numbers
    interval: Callable[[int, int], Interval]  #: from one class to another
    label: Callable[[str], str] = str


_ENDS = tuple(THICKNESSES)
_THICK_NAMES = tuple(THICKNESSES.values())


def _thickness(first: int, last: int) -> Interval:
    low = _ENDS[first - 1] if first else None
    high = _ENDS[last] if last < len(_ENDS) - 1 else None
    return Interval(low=low, high=high, low_open=low is not None)


SCALES: Mapping[str, Scale] = {
    "StudyYear": Scale(
        field="StudyYear",
        keyword="StudyDate",
        number=int,
        interval=lambda a, b: Interval(low=f"{a:04d}-01-01", high=f"{b:04d}-12-31"),
    ),
    "AgeDecade": Scale(
        field="AgeDecade",
        keyword="PatientAge",
        number=lambda name: int(name.partition("-")[0]) // 10,
        interval=lambda a, b: Interval(low=10.0 * a, high=10.0 * b + 9),
        label=lambda name: f"{name.replace('-', ' to ')} years",
    ),
    "SliceThicknessClass": Scale(
        field="SliceThicknessClass",
        keyword="SliceThickness",
        number=_THICK_NAMES.index,
        interval=_thickness,
    ),
}

#: Sections in their order, and what they are called.
TITLES: Mapping[str, str] = {
    "PatientSex": "Sex",
    "AgeDecade": "Age",
    "SliceThicknessClass": "Slice thickness",
    "StudyYear": "Year",
    "Manufacturer": "Manufacturer",
    "ManufacturerModelName": "Scanner",
    "ConvolutionKernel": "Kernel",
    "ContrastBolusAgent": "Contrast agent",
    "BodyPartExamined": "Body part, as the header says",
}
SEXES = {"F": "Female", "M": "Male", "O": "Other"}

#: Fields of structures that are whole, and of those that are cut.
WHOLENESS = ("complete", "cut")

#: Values of fields.
Counted = Mapping[str, tuple[Cell, ...]]

#: Body regions from head to foot, as the tables of structures name them.
REGIONS = ("Head", "Neck", "Thorax", "Trunk", "Abdomen", "Pelvis", "Upper limb", "Lower limb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinements:
    """All that an answer can be narrowed to."""

    wholeness: tuple[Section, ...]  #: of each structure that is asked for alone: whole, or cut
    sections: tuple[Section, ...]  #: of attributes
    regions: tuple[Section, ...]  #: of structures that the series show, by region of the body


def refinements_of(cohorts: Cohorts, asker: Asker, question: Question) -> Refinements:
    """Every section that has a value. A field that is chosen from shows what else there is."""
    fields = [field for field in TITLES if asker.may("rows") or field in COUNTED]
    free = [field for field in fields if not _parts_of(question, field)]
    # One call for all that is counted of the same series: each takes its time.
    either = WHOLENESS if any(part.completeness == "any" for part in _alone(question)) else ()
    counted = dict(cohorts.facets(asker, question.text, (*free, "structure", *either)))
    for field in fields:
        if field not in free:
            counted |= cohorts.facets(asker, _freed(question, field).text, (field,))
    sections = (_section(question, field, counted[field]) for field in fields)
    return Refinements(
        wholeness=_wholenesses(cohorts, asker, question, counted),
        sections=tuple(section for section in sections if section.choices),
        regions=_regions(question, counted["structure"], cohorts.terminology),
    )


def _regions(
    question: Question, cells: Sequence[Cell], terminology: Terminology
) -> tuple[Section, ...]:
    return tuple(
        _region(question, region, cells, terminology)
        for region in REGIONS
        if any(_region_of(cell, terminology) == region for cell in cells)
    )


def _wholenesses(
    cohorts: Cohorts, asker: Asker, question: Question, counted: Counted
) -> tuple[Section, ...]:
    sections = []
    for part in _alone(question):
        cells = counted
        if part.completeness != "any":
            either = question.swapped(part, with_state(part, "any"))
            cells = cohorts.facets(asker, either.text, WHOLENESS)
        absent = 0 if asker.may("rows") else None
        sections.append(_wholeness(question, part, cells, absent, cohorts.terminology))
    return tuple(sections)


def _alone(question: Question) -> list[Shows]:
    """Parts that ask for one structure, some of them."""
    asked = [part for part in question.parts if isinstance(part, Shows)]
    return [part for part in asked if len(part.structures) == 1][:MOST_ASKED]


def _wholeness(
    question: Question, part: Shows, cells: Counted, absent: int | None, terminology: Terminology
) -> Section:
    """`absent` is the count of a value that is not among the cells; None: it may be withheld."""
    name = part.structures[0]
    counts = {
        state: next((cell.count for cell in cells[state] if cell.value == name), absent)
        for state in WHOLENESS
    }
    labels = {"complete": "Whole in the image", "cut": "Cut by its border"}
    most = max(count or 0 for count in counts.values())
    choices = (
        Choice(
            label=labels[state],
            count=count,
            share=(count or 0) / most if most else 0.0,
            chosen=part.completeness == state,
            text=question.swapped(
                part, with_state(part, "any" if part.completeness == state else state)
            ).text,
        )
        for state, count in counts.items()
    )
    title = terminology.structures[name].display
    return Section(key=f"whole-{name}", title=title, choices=tuple(choices))


def _region(
    question: Question, region: str, cells: Iterable[Cell], terminology: Terminology
) -> Section:
    inside = [cell for cell in cells if _region_of(cell, terminology) == region]
    most = max((cell.count or 0 for cell in inside), default=0)
    choices = tuple(_structure_choice(question, cell, most, terminology) for cell in inside)
    return Section(key=region.lower().replace(" ", "-"), title=region, choices=choices)


def _structure_choice(
    question: Question, cell: Cell, most: int, terminology: Terminology
) -> Choice:
    shows = shows_of(cell.value, terminology)
    part = asked_part(question, shows)
    text = question.swapped(part, None).text if part else question.plus(shows).text
    return Choice(
        label=terminology.structures[cell.value].display,
        count=cell.count,
        share=_share(cell, most),
        chosen=part is not None,
        text=text,
    )


def _region_of(cell: Cell, terminology: Terminology) -> str:
    structure = terminology.structures.get(cell.value)
    return structure.body_region if structure else ""


def _section(question: Question, field: str, cells: Sequence[Cell]) -> Section:
    if field in SCALES:
        choices = _classes(question, SCALES[field], cells)
    else:
        choices = _values(question, field, cells)
    few = choices if field in SCALES else choices[:FEW]
    more = () if field in SCALES else choices[FEW:MOST]
    if field == "StudyYear":
        few, more = choices[:FEW], choices[FEW:MOST]
    return Section(key=field, title=TITLES[field], choices=tuple(few), more=tuple(more))


def _values(question: Question, field: str, cells: Sequence[Cell]) -> list[Choice]:
    chosen = chosen_values(question, field)
    known = {cell.value.casefold(): cell.value for cell in cells}
    most = max((cell.count or 0 for cell in cells), default=0)

    def toggled(value: str) -> str:
        wanted = chosen ^ {value.casefold()}
        return with_values(question, field, [known.get(one, one) for one in sorted(wanted)]).text

    names = SEXES if field == "PatientSex" else {}
    return [
        Choice(
            label=names.get(cell.value, cell.value),
            count=cell.count,
            share=_share(cell, most),
            chosen=cell.value.casefold() in chosen,
            text=toggled(cell.value),
        )
        for cell in cells
    ]


def _classes(question: Question, scale: Scale, cells: Sequence[Cell]) -> list[Choice]:
    numbers = {scale.number(cell.value): cell for cell in cells}
    chosen = frozenset(n for n in numbers if demands(question, scale.keyword, scale.interval(n, n)))
    most = max((cell.count or 0 for cell in cells), default=0)

    def toggled(number: int) -> str:
        runs = _runs(sorted(chosen ^ {number}))
        intervals = [scale.interval(first, last) for first, last in runs]
        return with_intervals(question, scale.keyword, intervals).text

    newest_first = scale.field == "StudyYear"
    return [
        Choice(
            label=scale.label(numbers[n].value),
            count=numbers[n].count,
            share=_share(numbers[n], most),
            chosen=n in chosen,
            text=toggled(n),
        )
        for n in sorted(numbers, reverse=newest_first)
    ]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours together: 4, 5, 7 are 4 to 5, and 7."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _parts_of(question: Question, field: str) -> bool:
    return any(is_about(part, _keyword(field)) for part in question.parts)


def _freed(question: Question, field: str) -> Question:
    return question.without(lambda part: is_about(part, _keyword(field)))


def _keyword(field: str) -> str:
    return SCALES[field].keyword if field in SCALES else field


def _share(cell: Cell, most: int) -> float:
    return (cell.count or 0) / most if most else 0.0
