"""A question as the parts that a person may take away again, each in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tomodex.search import (
    Above,
    And,
    Below,
    Between,
    Has,
    Interval,
    Not,
    Or,
    Query,
    Shows,
    Term,
    format,
    is_anatomical,
)
from tomodex.terminology import Terminology

#: Names of attributes for people; others go by their DICOM keyword.
NAMES: Mapping[str, str] = {
    "PatientAge": "Age",
    "PatientSex": "Sex",
    "SliceThickness": "Slice thickness",
    "StudyDate": "Study date",
    "SeriesDate": "Series date",
    "Manufacturer": "Manufacturer",
    "ManufacturerModelName": "Scanner",
    "ConvolutionKernel": "Kernel",
    "ContrastBolusAgent": "Contrast agent",
    "BodyPartExamined": "Body part examined",
    "slice_count": "Slices",
    "slice_spacing_mm": "Distance of slices",
    "scan_length_mm": "Scan length",
    "tilt_deg": "Gantry tilt",
}

#: Units of attributes, as they stand after a number.
UNITS: Mapping[str, str] = {
    "PatientAge": " years",
    "SliceThickness": " mm",
    "SpacingBetweenSlices": " mm",
    "ReconstructionDiameter": " mm",
    "KVP": " kV",
    "XRayTubeCurrent": " mA",
    "CTDIvol": " mGy",
    "GantryDetectorTilt": "°",
    "slice_spacing_mm": " mm",
    "scan_length_mm": " mm",
    "tilt_deg": "°",
}

#: Codes that stand for something a person would say.
VALUES: Mapping[str, Mapping[str, str]] = {
    "PatientSex": {"F": "female", "M": "male", "O": "other"},
}

#: Structures that a label names; of more it says how many.
MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One of the parts that a question demands together."""

    text: str  #: this part alone, as the search language writes it
    label: str  #: the same for a person
    about: Literal["anatomy", "attribute"]
    without: str  #: the question when this part is taken away; "": it asks for everything then


def chips_of(query: Query, terminology: Terminology) -> tuple[Chip, ...]:
    """The parts of a question, in its order; () where it asks for everything."""
    parts = tuple(_parts(query.term)) if query.term else ()
    return tuple(
        Chip(
            text=_written(part),
            label=_begun(label_of(part, terminology)),
            about="anatomy" if is_anatomical(part) else "attribute",
            without=_written(*parts[:place], *parts[place + 1 :]),
        )
        for place, part in enumerate(parts)
    )


def _parts(term: Term) -> Iterator[Term]:
    if not isinstance(term, And):
        yield term
        return
    for part in term.terms:
        yield from _parts(part)


def _written(*parts: Term) -> str:
    if not parts:
        return ""
    return format(Query(text="", term=And(terms=parts) if len(parts) > 1 else parts[0]))


def _begun(words: str) -> str:
    """The same as the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def label_of(term: Term, terminology: Terminology) -> str:
    """What a term asks for, for a person, as it stands inside a sentence."""
    match term:
        case And(terms=terms):
            return " and ".join(_grouped(part, terminology) for part in terms)
        case Or(terms=terms):
            return " or ".join(_grouped(part, terminology) for part in terms)
        case Not(term=Has() as has):
            return f"{_has(has)[0]}: not {_has(has)[1]}"
        case Not(term=part):
            return f"not {_grouped(part, terminology)}"
        case Has():
            return ": ".join(_has(term))
        case Shows():
            return _shows(term, terminology)
    subject = _shows(term.subject, terminology)
    match term:
        case Between():
            one, other = _shows(term.one, terminology), _shows(term.other, terminology)
            return f"{subject} between {one} and {other}"
        case Above():
            return f"{subject} above {_shows(term.landmark, terminology)}"
        case Below():
            return f"{subject} below {_shows(term.landmark, terminology)}"


def _grouped(term: Term, terminology: Terminology) -> str:
    label = label_of(term, terminology)
    return f"({label})" if isinstance(term, And | Or) else label


def _shows(shows: Shows, terminology: Terminology) -> str:
    said = [_named(shows, terminology)]
    if shows.completeness != "any":
        said.append({"complete": "whole", "cut": "cut"}[shows.completeness])
    if shows.volume_ml:
        said.append(_range(shows.volume_ml, " ml"))
    if shows.mean_hu:
        said.append(f"mean {_range(shows.mean_hu, ' HU')}")
    return ", ".join(said)


def _named(shows: Shows, terminology: Terminology) -> str:
    names = [_inside(terminology.structures[name].display) for name in shows.structures]
    if len(names) == 1:
        return names[0]
    if shows.asked:
        return shows.asked
    rest = len(names) - MOST_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f"{shows.match} of {', '.join(names[:MOST_NAMED])}{more}"


def _inside(name: str) -> str:
    """A name as it stands inside a sentence; one that begins with letters for words stays."""
    return name[:1].lower() + name[1:] if name[1:2].islower() else name


def _has(has: Has) -> tuple[str, str]:
    """(what it is called, what it has to be)."""
    name, known = NAMES.get(has.keyword, has.keyword), VALUES.get(has.keyword, {})
    if has.interval:
        return name, _range(has.interval, UNITS.get(has.keyword, ""))
    values = ["any" if value == "*" else known.get(value.upper(), value) for value in has.values]
    return name, " or ".join(values)


def _range(interval: Interval, unit: str) -> str:
    low, high = _end(interval.low), _end(interval.high)
    if low and high:
        return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
    if low:
        return f"{'over' if interval.low_open else 'at least'} {low}{unit}"
    return f"{'under' if interval.high_open else 'at most'} {high}{unit}"


def _end(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:g}"
