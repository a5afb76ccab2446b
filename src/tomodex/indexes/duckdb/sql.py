"""Pieces of SQL that a question is put together from.

Only names of our own columns are written into them; every value is a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tomodex.search import Interval

#: Ends of an interval by whether they are left out.
_LOW = {False: ">=", True: ">"}
_HIGH = {False: "<=", True: "<"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of SQL that is true or false of a row, and never null."""

    sql: str
    values: tuple[object, ...] = ()  #: in the order of its question marks


NEVER = Condition("false")
ALWAYS = Condition("true")


def all_of(conditions: Sequence[Condition]) -> Condition:
    return _joined("and", conditions) or ALWAYS


def any_of(conditions: Sequence[Condition]) -> Condition:
    return _joined("or", conditions) or NEVER


def within(column: str, interval: Interval, parameter: str) -> Condition:
    """The column lies in the interval; null where it is null."""
    conditions = []
    if interval.low is not None:
        sign = _LOW[interval.low_open]
        conditions.append(Condition(f"{column} {sign} {parameter}", (interval.low,)))
    if interval.high is not None:
        sign = _HIGH[interval.high_open]
        conditions.append(Condition(f"{column} {sign} {parameter}", (interval.high,)))
    return all_of(conditions)


def _joined(word: str, conditions: Sequence[Condition]) -> Condition | None:
    if not conditions:
        return None
    return Condition(
        "(" + f" {word} ".join(f"({condition.sql})" for condition in conditions) + ")",
        tuple(value for condition in conditions for value in condition.values),
    )
