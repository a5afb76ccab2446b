"""Writes a query as text that is read back as the same query: for chips and saved cohorts."""

from __future__ import annotations

from collections.abc import Iterable

from tomodex.search.query import (
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
)
from tomodex.search.syntax import is_plain

#: More words than any name has.
ANY_NUMBER = 100


def format(query: Query) -> str:
    """The canonical text of a query, which `parse` reads as the same terms."""
    return _term(query.term) if query.term else ""


def written(name: str) -> str:
    """A name, in quotes where it would be read as something else."""
    return name if is_plain(name, ANY_NUMBER) else _quoted(name)


def _term(term: Term) -> str:
    match term:
        case Or(terms=terms):
            return " or ".join(_inside(part, Or) for part in terms)
        case And(terms=terms):
            return " and ".join(_inside(part, And, Or) for part in terms)
        case Not(term=part):
            return f"not {_inside(part, And, Or)}"
        case Has():
            return _has(term)
        case Shows():
            return _shows(term)
        case Between(subject=subject, one=one, other=other):
            return f"{_shows(subject)} between {_shows(one)} and {_shows(other)}"
        case Above(subject=subject, landmark=landmark):
            return f"{_shows(subject)} above {_shows(landmark)}"
        case Below(subject=subject, landmark=landmark):
            return f"{_shows(subject)} below {_shows(landmark)}"


def _inside(term: Term, *looser: type[Term]) -> str:
    return f"({_term(term)})" if isinstance(term, looser) else _term(term)


def _shows(shows: Shows) -> str:
    parts = [_named(shows)]
    if shows.completeness != "any":
        parts.append(shows.completeness)
    if shows.volume_ml:
        parts += _measure("volume", shows.volume_ml, " ml")
    if shows.mean_hu:
        parts += _measure("mean", shows.mean_hu, " HU")
    return " ".join(parts)


def _named(shows: Shows) -> str:
    if shows.asked:
        return shows.asked
    names = [written(name) for name in shows.structures]
    if len(names) == 1:
        return names[0]
    return f"{shows.match} ({', '.join(names)})"


def _measure(what: str, interval: Interval, unit: str) -> Iterable[str]:
    return (f"{what} {bounds}{unit}" for bounds in _bounds(interval))


def _has(has: Has) -> str:
    if has.interval:
        said = [f"{has.keyword} {bounds}" for bounds in _bounds(has.interval)]
        return said[0] if len(said) == 1 else f"({' and '.join(said)})"
    values = [value if is_plain(value, 1) else _quoted(value) for value in has.values]
    if len(values) == 1:
        return f"{has.keyword} = {values[0]}"
    return f"{has.keyword} in ({', '.join(values)})"


def _bounds(interval: Interval) -> list[str]:
    """One comparison, or two where a range cannot say which of its ends is left out."""
    low, high = _end(interval.low), _end(interval.high)
    if low and high and not (interval.low_open or interval.high_open):
        return [f"= {low}" if low == high else f"{low}..{high}"]
    said = []
    if low:
        said.append(f"{'>' if interval.low_open else '>='} {low}")
    if high:
        said.append(f"{'<' if interval.high_open else '<='} {high}")
    return said


def _end(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")


def _quoted(text: str) -> str:
    escaped = text.replace('"', '""')
    return f'"{escaped}"'
