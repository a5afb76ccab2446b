"""Which series show a structure above, below or between others: all of them at once, in numpy.

The engine would join the annotations of subject and landmarks. As the numbers of series are dense,
putting the ends of a structure into an array with a place for each series is many times faster,
and any number of landmarks takes the memory of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.sql import NEVER, Condition, all_of, within
from tomodex.search import TOLERANCE_MM, Above, Below, Between, Shows

_ROOM = np.float32(TOLERANCE_MM)
_NOWHERE = np.float32(np.inf)

Place = Above | Below | Between
Lengths = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Rows:
    """Annotations of some structures, each in one series; arrays of one length."""

    structure: npt.NDArray[np.uint16]
    series: Numbers
    bottom_mm: Lengths
    top_mm: Lengths

    def where(self, mask: npt.NDArray[np.bool_]) -> Rows:
        return Rows(
            self.structure[mask], self.series[mask], self.bottom_mm[mask], self.top_mm[mask]
        )


@dataclass(frozen=True, slots=True)
class Stretches:
    """For each subject, the ends of a landmark that could make a stretch it is in, or fills.

    Of several landmarks only these matter: the ends that make the stretch longest, and those that
    make it longest without reaching beyond the subject.
    """

    longest_from: Lengths
    longest_to: Lengths
    filled_from: Lengths
    filled_to: Lengths

    def where(self, mask: npt.NDArray[np.bool_]) -> Stretches:
        return Stretches(
            self.longest_from[mask],
            self.longest_to[mask],
            self.filled_from[mask],
            self.filled_to[mask],
        )


class Places:
    """Finds the series of terms about places, and keeps them as tables for one search."""

    def __init__(self, db: duckdb.DuckDBPyConnection, labels: Mapping[str, int]) -> None:
        self._db = db
        self._labels = labels
        self._tables: list[str] = []
        ((last,),) = db.execute("select coalesce(max(number), 0) from series").fetchall()
        self._size = int(last) + 1

    def table(self, term: Place) -> str:
        """The name of a table with the numbers, `series`, of those that the term finds."""
        found = self._find(term)
        # Every structure is in a series once.
        counts = np.bincount(found.series, minlength=1)
        least = len(set(term.subject.structures)) if term.subject.match == "all" else 1
        name = f"placed_{len(self._tables)}"
        self._db.register(name, {"series": np.flatnonzero(counts >= least).astype(np.uint32)})
        self._tables.append(name)
        return name

    def close(self) -> None:
        for name in self._tables:
            self._db.unregister(name)

    def _find(self, term: Place) -> Rows:
        match term:
            case Between():
                return self._between(term)
            case Above(subject=subject, landmark=landmark):
                rows, tops = self._rows(subject), self._lowest_tops(landmark)
                return rows.where(rows.bottom_mm >= tops[rows.series] - _ROOM)
            case Below(subject=subject, landmark=landmark):
                rows, bottoms = self._rows(subject), self._highest_bottoms(landmark)
                return rows.where(rows.top_mm <= bottoms[rows.series] + _ROOM)

    def _between(self, term: Between) -> Rows:
        # The landmark of fewer structures first: it leaves fewer subjects for the other.
        first, second = sorted((term.one, term.other), key=lambda shows: len(shows.structures))
        rows = self._rows(term.subject)
        ends = self._stretches(rows, first)
        there = np.isfinite(ends.longest_from)
        rows, ends = rows.where(there), ends.where(there)
        others = self._stretches(rows, second)
        return rows.where(_reaches(ends, others, rows) | _reaches(others, ends, rows))

    def _stretches(self, subjects: Rows, landmark: Shows) -> Stretches:
        count = len(subjects.series)
        ends = Stretches(*(np.full(count, end) for end in (_NOWHERE, -_NOWHERE) * 2))
        lowest, highest = subjects.bottom_mm - _ROOM, subjects.top_mm + _ROOM
        for rows in self._each(landmark):
            top = self._spread(rows.series, rows.top_mm, _NOWHERE)[subjects.series]
            bottom = self._spread(rows.series, rows.bottom_mm, -_NOWHERE)[subjects.series]
            np.minimum(ends.longest_from, top, out=ends.longest_from)
            np.maximum(ends.longest_to, bottom, out=ends.longest_to)
            np.minimum(ends.filled_from, top, out=ends.filled_from, where=top >= lowest)
            np.maximum(ends.filled_to, bottom, out=ends.filled_to, where=bottom <= highest)
        return ends

    def _lowest_tops(self, landmark: Shows) -> Lengths:
        """For each series, the lowest upper end of any landmark."""
        lowest = np.full(self._size, _NOWHERE)
        for rows in self._each(landmark):
            lowest[rows.series] = np.minimum(lowest[rows.series], rows.top_mm)
        return lowest

    def _highest_bottoms(self, landmark: Shows) -> Lengths:
        """For each series, the highest lower end of any landmark."""
        highest = np.full(self._size, -_NOWHERE)
        for rows in self._each(landmark):
            highest[rows.series] = np.maximum(highest[rows.series], rows.bottom_mm)
        return highest

    def _spread(self, series: Numbers, ends: Lengths, nowhere: np.float32) -> Lengths:
        """An end for each series of the index."""
        spread = np.full(self._size, nowhere)
        spread[series] = ends
        return spread

    def _each(self, shows: Shows) -> Iterator[Rows]:
        """The rows of each of the structures by itself, so that a series is among them once."""
        for name in sorted(set(shows.structures)):
            yield self._rows(replace(shows, structures=(name,)))

    def _rows(self, shows: Shows) -> Rows:
        rows = rows_of(shows, self._labels)
        select = f"select structure, series, bottom_mm, top_mm from annotation where {rows.sql}"
        columns = self._db.execute(select, list(rows.values)).fetchnumpy()
        return Rows(*(columns[name] for name in ("structure", "series", "bottom_mm", "top_mm")))


@contextmanager
def places_in(db: duckdb.DuckDBPyConnection, labels: Mapping[str, int]) -> Iterator[Places]:
    """What finds places for one search."""
    places = Places(db, labels)
    try:
        yield places
    finally:
        places.close()


def rows_of(shows: Shows, labels: Mapping[str, int]) -> Condition:
    """The rows of `annotation` that are as `shows` says, of any one of its structures."""
    numbers = [labels[name] for name in shows.structures if name in labels]
    if not numbers:
        return NEVER
    places = ", ".join("?" for _ in numbers)
    conditions = [Condition(f"structure in ({places})", tuple(numbers))]
    if shows.completeness != "any":
        conditions.append(
            Condition("complete" if shows.completeness == "complete" else "not complete")
        )
    if shows.volume_ml:
        conditions.append(within("volume_ml", shows.volume_ml, "?::float"))
    if shows.mean_hu:
        conditions.append(within("mean_hu", shows.mean_hu, "?::float"))
    return all_of(conditions)


def _reaches(lower: Stretches, upper: Stretches, subjects: Rows) -> npt.NDArray[np.bool_]:
    """Whether the subject is in the stretch from one landmark up to the other, or fills it."""
    inside = (
        (lower.longest_from <= upper.longest_to + _ROOM)
        & (lower.longest_from <= subjects.bottom_mm + _ROOM)
        & (upper.longest_to >= subjects.top_mm - _ROOM)
    )
    return inside | (lower.filled_from <= upper.filled_to + _ROOM)
