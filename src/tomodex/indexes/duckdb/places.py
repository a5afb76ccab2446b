"""Which series show a structure above, below or between others: all of them at once, in numpy.

The engine would join the annotations of subject and landmarks. As series have dense numbers, an
array with a place for each series that comes into question is many times faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.shown import in_bits, rows_of
from tomodex.indexes.duckdb.sql import all_of
from tomodex.search import TOLERANCE_MM, Above, Below, Between, Shows

_ROOM = np.float32(TOLERANCE_MM)
_NOWHERE = np.float32(np.inf)

Place = Above | Below | Between
Lengths = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Ends:
    """Where one structure begins and ends in each series of some; arrays of one length."""

    series: Numbers  #: places among the candidates, each at most once
    bottom_mm: Lengths
    top_mm: Lengths

    def where(self, mask: npt.NDArray[np.bool_]) -> Ends:
        kept = np.flatnonzero(mask)
        return Ends(self.series[kept], self.bottom_mm[kept], self.top_mm[kept])


class Source(Protocol):
    """Knows where structures begin and end in some series, which it has places for."""

    def candidates(self, wanted: Sequence[Shows]) -> npt.NDArray[Any]:
        """Places of the series that show all of these, whatever it is of the sizes."""

    def ends(self, shows: Shows, name: str, candidates: npt.NDArray[Any]) -> Ends | None:
        """The ends of one of the structures where it is as it should be; None: it is unknown."""


def placed(term: Place, source: Source) -> npt.NDArray[Any]:
    """Those of the candidates in which the subject lies as the term says."""
    candidates = source.candidates(_mentioned(term))
    counts = np.zeros(len(candidates), np.uint16)
    for subject in _found(term, source, candidates):
        counts[subject] += np.uint16(1)
    least = len(set(term.subject.structures)) if term.subject.match == "all" else 1
    return candidates[counts >= least]


def _found(term: Place, source: Source, candidates: npt.NDArray[Any]) -> Iterator[Numbers]:
    """For each structure of the subject, the places of the series where it lies so."""
    landmarks = [list(_ends(source, shows, candidates)) for shows in _mentioned(term)[1:]]
    stretches = [Stretches(ends, len(candidates)) for ends in landmarks]
    for subject in _ends(source, term.subject, candidates):
        match term:
            case Between():
                yield subject.where(_lies_between(subject, *stretches)).series
            case Above():
                yield subject.where(stretches[0].lies_above(subject)).series
            case Below():
                yield subject.where(stretches[0].lies_below(subject)).series


def _ends(source: Source, shows: Shows, candidates: npt.NDArray[Any]) -> Iterator[Ends]:
    """The ends of each structure in the candidates."""
    for name in sorted(set(shows.structures)):
        ends = source.ends(shows, name, candidates)
        if ends is not None:
            yield ends


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
        name = f"placed_{len(self._tables)}"
        self._db.register(name, {"series": placed(term, self)})
        self._tables.append(name)
        return name

    def close(self) -> None:
        for name in self._tables:
            self._db.unregister(name)

    def candidates(self, wanted: Sequence[Shows]) -> npt.NDArray[np.uint32]:
        """Numbers of the series that show all of these anywhere."""
        shown = all_of([in_bits(shows, self._labels) for shows in wanted])
        select = f"select number from series where {shown.sql}"
        return self._db.execute(select, list(shown.values)).fetchnumpy()["number"]

    def ends(self, shows: Shows, name: str, candidates: npt.NDArray[np.uint32]) -> Ends:
        places = np.full(self._size, -1, np.int32)
        places[candidates] = np.arange(len(candidates), dtype=np.int32)
        rows = rows_of(replace(shows, structures=(name,)), self._labels)
        columns = self._db.execute(
            f"select series, bottom_mm, top_mm from annotation where {rows.sql}",
            list(rows.values),
        ).fetchnumpy()
        series = places[columns["series"]]
        ends = Ends(series, columns["bottom_mm"], columns["top_mm"])
        return ends.where(series >= 0)


class Stretches:
    """The ends of a landmark, of which a stretch can be made with those of another.

    A landmark of several structures is any one of them. For a subject only these of its ends
    matter: those that make the stretch longest, and those that make it longest without reaching
    beyond the subject.
    """

    def __init__(self, ends: Sequence[Ends], candidates: int) -> None:
        self._ends = ends
        self.lowest_top = np.full(candidates, _NOWHERE)  #: for each candidate
        self.highest_bottom = np.full(candidates, -_NOWHERE)
        for one in ends:
            _lower(self.lowest_top, one.series, one.top_mm)
            _raise(self.highest_bottom, one.series, one.bottom_mm)

    def lies_above(self, subject: Ends) -> npt.NDArray[np.bool_]:
        return subject.bottom_mm >= self.lowest_top[subject.series] - _ROOM

    def lies_below(self, subject: Ends) -> npt.NDArray[np.bool_]:
        return subject.top_mm <= self.highest_bottom[subject.series] + _ROOM

    def within(self, subject: Ends) -> tuple[Lengths, Lengths]:
        """The lowest top and the highest bottom that the subject covers, for each of its rows."""
        candidates = len(self.lowest_top)
        bottom, top = np.full(candidates, _NOWHERE), np.full(candidates, -_NOWHERE)
        bottom[subject.series] = subject.bottom_mm - _ROOM
        top[subject.series] = subject.top_mm + _ROOM
        lowest, highest = np.full(candidates, _NOWHERE), np.full(candidates, -_NOWHERE)
        for one in self._ends:
            above = one.top_mm >= bottom[one.series]
            _lower(lowest, one.series[above], one.top_mm[above])
            below = one.bottom_mm <= top[one.series]
            _raise(highest, one.series[below], one.bottom_mm[below])
        return lowest[subject.series], highest[subject.series]


@contextmanager
def places_in(db: duckdb.DuckDBPyConnection, labels: Mapping[str, int]) -> Iterator[Places]:
    """What finds places for one search."""
    places = Places(db, labels)
    try:
        yield places
    finally:
        places.close()


def _mentioned(term: Place) -> tuple[Shows, ...]:
    """The subject, then the landmarks."""
    if isinstance(term, Between):
        return term.subject, term.one, term.other
    return term.subject, term.landmark


def _lies_between(subject: Ends, one: Stretches, other: Stretches) -> npt.NDArray[np.bool_]:
    one_within, other_within = one.within(subject), other.within(subject)
    return (
        _lies_inside(subject, one, other)
        | _lies_inside(subject, other, one)
        | (one_within[0] <= other_within[1] + _ROOM)
        | (other_within[0] <= one_within[1] + _ROOM)
    )


def _lies_inside(subject: Ends, lower: Stretches, upper: Stretches) -> npt.NDArray[np.bool_]:
    """Whether the subject lies in the longest stretch from one landmark up to another."""
    start = lower.lowest_top[subject.series]
    end = upper.highest_bottom[subject.series]
    inside: npt.NDArray[np.bool_] = (
        (start <= end + _ROOM)
        & (subject.bottom_mm >= start - _ROOM)
        & (subject.top_mm <= end + _ROOM)
    )
    return inside


def _lower(lengths: Lengths, places: Numbers, by: Lengths) -> None:
    lengths[places] = np.minimum(lengths[places], by)


def _raise(lengths: Lengths, places: Numbers, by: Lengths) -> None:
    lengths[places] = np.maximum(lengths[places], by)
