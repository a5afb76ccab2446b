"""Numbers and dates of a search, as intervals: "<= 1.5 mm", "40..60", "2019-05..2020"."""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from tomodex.search.complaint import Complaint
from tomodex.search.query import Interval

End = TypeVar("End", float, str)

#: How a person writes a comparison, and how we do.
SIGNS: Mapping[str, str] = {"==": "=", "≤": "<=", "≥": ">=", "≠": "!="}

VOLUME_UNITS: Mapping[str, float] = {
    "ml": 1.0,
    "cm3": 1.0,
    "cm³": 1.0,
    "cm^3": 1.0,
    "ccm": 1.0,
    "cc": 1.0,
    "l": 1000.0,
}
HU_UNITS: Mapping[str, float] = {"hu": 1.0, "he": 1.0}

_LENGTH = {"mm": 1.0, "cm": 10.0}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9}
_ANGLE = {"deg": 1.0, "degrees": 1.0, "°": 1.0}
_YEARS = {"years": 1.0, "year": 1.0, "y": 1.0, "months": 1 / 12, "month": 1 / 12, "m": 1 / 12}

#: Units that an attribute may be given in, and what one is in the unit that it is kept in.
UNITS: Mapping[str, Mapping[str, float]] = {
    "PatientAge": _YEARS,
    "SliceThickness": _LENGTH,
    "SpacingBetweenSlices": _LENGTH,
    "ReconstructionDiameter": _LENGTH,
    "KVP": {"kv": 1.0, "kvp": 1.0},
    "XRayTubeCurrent": {"ma": 1.0},
    "CTDIvol": {"mgy": 1.0},
    "GantryDetectorTilt": _ANGLE,
    "slice_spacing_mm": _LENGTH,
    "scan_length_mm": _LENGTH,
    "scan_bottom_mm": _LENGTH,
    "scan_top_mm": _LENGTH,
    "size_bytes": _BYTES,
    "tilt_deg": _ANGLE,
}

_NUMBER = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*(.*)", re.DOTALL)
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2}))?|([0-9]{2})([0-9]{2}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Words that belong together, and where they stand in the text."""

    words: tuple[str, ...]  #: without quotes
    start: int
    end: int

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A comparison as it was typed: "<= low", "= low..high", or "low..high" without a sign."""

    sign: str  #: "=", "!=", "<", "<=", ">", ">="; "=" where there was none
    low: Phrase
    high: Phrase | None

    @property
    def start(self) -> int:
        return self.low.start

    @property
    def end(self) -> int:
        return (self.high or self.low).end


def number_interval(what: str, bounds: Bounds, units: Mapping[str, float]) -> Interval:
    """The interval that `bounds` means for the number `what`, in the unit it is kept in."""
    low, unit = _number(what, bounds.low, units)
    if bounds.high is None:
        return _compared(bounds.sign, low * (unit or 1.0), low * (unit or 1.0))
    high, high_unit = _number(what, bounds.high, units)
    # "1..2 l" is in litres at both ends.
    factor = high_unit or unit or 1.0
    return _range(bounds, bounds.high.text, low * (unit or factor), high * factor)


def date_interval(what: str, bounds: Bounds) -> Interval:
    """The interval of days that `bounds` means; a year or month stands for all of its days."""
    first, last = _days(what, bounds.low)
    if bounds.high is None:
        return _compared(bounds.sign, first, last)
    return _range(bounds, bounds.high.text, first, _days(what, bounds.high)[1])


def is_number(text: str) -> bool:
    """Whether `text` is a number, with or without a unit."""
    match = _NUMBER.fullmatch(text)
    return match is not None and not any(char.isdigit() for char in match[2])


def _compared(sign: str, first: End, last: End) -> Interval:
    """`first` and `last` are the ends of what is compared with, such as the days of a year."""
    match sign:
        case "<":
            return Interval(high=first, high_open=True)
        case "<=":
            return Interval(high=last)
        case ">":
            return Interval(low=last, low_open=True)
        case ">=":
            return Interval(low=first)
    return Interval(low=first, high=last)


def _range(bounds: Bounds, high_text: str, low: End, high: End) -> Interval:
    if bounds.sign not in ("=", "!="):
        raise Complaint(f"'{bounds.sign}' takes one value, not two", bounds.start, bounds.end)
    if low > high:
        turned = f"{high_text}..{bounds.low.text}"
        raise Complaint("the range runs backwards", bounds.start, bounds.end, (turned,))
    return Interval(low=low, high=high)


def _number(what: str, phrase: Phrase, units: Mapping[str, float]) -> tuple[float, float | None]:
    """The number, and what its unit is worth; None where it has none."""
    match = _NUMBER.fullmatch(phrase.text)
    if match is None or not math.isfinite(float(match[1])):
        raise Complaint(f"{what} is a number", phrase.start, phrase.end)
    number, unit = float(match[1]), match[2].casefold()
    if unit and unit not in units:
        known = f"in {' or '.join(units)}" if units else "a number without a unit"
        raise Complaint(f"{what} is {known}", phrase.start, phrase.end)
    return number, units[unit] if unit else None


def _days(what: str, phrase: Phrase) -> tuple[str, str]:
    """The first and the last day that a date means, as YYYY-MM-DD."""
    match = _DATE.fullmatch(phrase.text)
    if match is None:
        raise Complaint(
            f"{what} is a date: 2021, 2021-05, 2021-05-31 or 20210531", phrase.start, phrase.end
        )
    year, month, day = int(match[1]), match[2] or match[4], match[3] or match[5]
    try:
        first = date(year, int(month or 1), int(day or 1))
    except ValueError as wrong:
        raise Complaint(f"no such day: {wrong}", phrase.start, phrase.end) from wrong
    if day:
        return first.isoformat(), first.isoformat()
    last_month = int(month or 12)
    last_day = calendar.monthrange(year, last_month)[1]
    return first.isoformat(), date(year, last_month, last_day).isoformat()
