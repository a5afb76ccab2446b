"""The order of pages, in SQL, and which of many rows come first in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomodex.search import SEARCHABLE, Measured, Order

_NEWEST_FIRST = '"StudyDate" desc nulls last, series_uid'

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """An order of the rows of `series`."""

    sources: str  #: what is read: `series`, and what is measured where that is sorted by
    key: str  #: an expression, null where a series has none
    greatest_first: bool

    @property
    def clause(self) -> str:
        """What stands at the end of a statement."""
        direction = "desc" if self.greatest_first else "asc"
        return f"order by {self.key} {direction} nulls last, {_NEWEST_FIRST}"

    @property
    def number(self) -> str:
        """An expression that is less for what comes sooner; NaN for what comes last."""
        days = self.key == '"StudyDate"'
        value = f"{self.key} - date '1970-01-01'" if days else self.key
        sign = "-" if self.greatest_first else ""
        return f"coalesce({sign}({value})::double, 'nan'::double)"


def sorting_of(order: Order, labels: Mapping[str, int]) -> Sorting:
    """An order in SQL, where `labels` has the number of each structure."""
    match order.by:
        case Measured(structure=structure, what=what):
            # Every structure is in a series once.
            sources = (
                f"series left join (select series as shown_by, {what} as measure from annotation "
                f"where structure = {labels.get(structure, -1):d}) on shown_by = number"
            )
            key = "measure"
        case str(keyword):
            sources, key = "series", f'"{_known(keyword)}"'
    return Sorting(sources=sources, key=key, greatest_first=order.greatest_first)


def _known(keyword: str) -> str:
    # It is written into a statement.
    assert SEARCHABLE.get(keyword, "text") != "text", keyword
    return keyword


def least(keys: npt.NDArray[np.float64], many: int) -> tuple[Places, Places]:
    """Where the `many` least are, in two parts; NaN is more than any number.

    All of the first are among them, and so many of the second as are missing: these are alike.
    """
    if many <= 0 or not len(keys):
        return _NONE, _NONE
    last = np.partition(keys, min(many, len(keys)) - 1)[min(many, len(keys)) - 1]
    if np.isnan(last):
        absent = np.isnan(keys)
        return np.flatnonzero(~absent), np.flatnonzero(absent)
    return np.flatnonzero(keys < last), np.flatnonzero(keys == last)


_NONE = np.zeros(0, np.intp)


def in_turn(found: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> Places:
    """Places of what was found with these keys, in the order of the keys."""
    sorter = np.argsort(keys)
    turns = sorter[np.searchsorted(keys, found, sorter=sorter)]
    return np.argsort(turns, kind="stable")
