"""Which series of a block a term of a query finds, without the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache, reduce

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.conditions import UIDS, require_sense
from tomodex.indexes.duckdb.places import Ends, Place, placed
from tomodex.indexes.duckdb.resident.bits import (
    Bits,
    Mask,
    Rows,
    bits_at,
    everything,
    nothing,
    packed,
    rows_in,
    unpacked,
)
from tomodex.indexes.duckdb.resident.block import BOTTOM_MM, MEAN_HU, TOP_MM, VOLUME_ML, Block
from tomodex.indexes.duckdb.resident.column import Column
from tomodex.indexes.duckdb.resident.texts import Texts
from tomodex.search import And, Has, Interval, Not, Or, Shows, Term, is_anatomical, key_of

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FLOAT_MAX = float(np.finfo(np.float32).max)


class AskTheFile(Exception):
    """The image does not know this, or there is none; the file does."""


class Matcher:
    """Finds series of one block, where `labels` has the number of each structure."""

    def __init__(self, block: Block, labels: Mapping[str, int]) -> None:
        self._block = block
        self._labels = labels

    def find(self, term: Term | None) -> Bits:
        """The series that a term finds, and some bits beyond the size of the block.

        Raises:
            BadQuery: an attribute is unknown, or compared with what it cannot be.
            AskTheFile: the term is none for an image.
        """
        match term:
            case None:
                return everything(len(self._block))
            case And(terms=terms):
                return self._joined(np.bitwise_and, terms, everything(len(self._block)))
            case Or(terms=terms):
                return self._joined(np.bitwise_or, terms, nothing(len(self._block)))
            case Not(term=part):
                others = ~self.find(part)
                return others & self._segmented() if is_anatomical(part) else others
            case Has():
                return self._has(term)
            case Shows():
                return self.shows(term)
        return self._placed(term)

    def shows(self, shows: Shows) -> Bits:
        """The series that show it, as whole, large and dense as asked."""
        bits = self.in_bits(shows)
        if not (shows.volume_ml or shows.mean_hu) or not bits.any():
            return bits
        counts = np.zeros(len(self._block), np.uint16)
        names = set(shows.structures) & set(self._labels)
        for name in names:
            counts[self.measured(shows, self._labels[name])[0]] += np.uint16(1)
        least = len(set(shows.structures)) if shows.match == "all" else 1
        return packed(counts >= least)

    def in_bits(self, shows: Shows) -> Bits:
        """The same as far as bits tell: not how large and dense."""
        known = [self._labels[name] for name in shows.structures if name in self._labels]
        if shows.match == "all" and len(known) < len(shows.structures):
            return nothing(len(self._block))
        sets = [self._as_whole(shows, structure) for structure in known]
        if not sets:
            return nothing(len(self._block))
        return reduce(np.bitwise_and if shows.match == "all" else np.bitwise_or, sets)

    def measured(self, shows: Shows, structure: int) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The series that show one of the structures so, and what is measured of it there."""
        measures = self._block.measures
        if measures is None:
            raise AskTheFile
        size = len(self._block)
        shown = unpacked(self._block.showing(structure), size)
        rows = np.flatnonzero(shown)
        if structure >= len(measures):
            return rows, np.zeros((4, 0), np.float32)
        values = measures[structure]
        fits = np.ones(len(rows), np.bool_)
        if shows.completeness != "any":
            fits &= unpacked(self._as_whole(shows, structure), size)[rows]
        for what, interval in ((VOLUME_ML, shows.volume_ml), (MEAN_HU, shows.mean_hu)):
            if interval:
                fits &= _within(values[what], interval, _single)
        return (rows, values) if fits.all() else (rows[fits], values[:, fits])

    def _joined(
        self, join: Callable[[Bits, Bits], Bits], terms: Sequence[Term], start: Bits
    ) -> Bits:
        return reduce(join, map(self.find, terms), start)

    def _as_whole(self, shows: Shows, structure: int) -> Bits:
        match shows.completeness:
            case "any":
                return self._block.showing(structure)
            case "complete":
                return self._block.completing(structure)
        return self._block.showing(structure) & ~self._block.completing(structure)

    def _segmented(self) -> Bits:
        column = self._block.columns["segmented"]
        return packed((column.values == "yes")[column.codes])

    def _has(self, has: Has) -> Bits:
        kind = require_sense(has)
        if has.keyword in UIDS:
            return self._identified(has)
        column = self._block.columns[has.keyword]
        fits = np.ones(len(column.values), np.bool_)
        if "*" in has.values:
            pass
        elif has.interval:
            fits = _within(column.values.astype(np.float64), has.interval, _PARAMETERS[kind])
        elif has.values:
            fits = np.isin(np.arange(len(fits)), _worded(column, has.values))
        fits[0] = False
        return packed(np.take(fits, column.codes))

    def _identified(self, has: Has) -> Bits:
        if not has.values or "*" in has.values:
            return everything(len(self._block))
        if has.keyword == "SeriesInstanceUID":
            rows = [self._series(value) for value in has.values]
            return bits_at(np.concatenate(rows), len(self._block))
        codes = [_alike(self._block.study_uids.texts, value) for value in has.values]
        return packed(np.isin(self._block.study_uids.codes, np.concatenate(codes)))

    def _series(self, uid: str) -> Rows:
        if uid.strip("*") != uid:
            return _alike(self._block.series_uids, uid)
        rows = self._block.keyed(np.array([key_of(uid)], np.uint64))
        return rows[[self._block.series_uids.at(row) == uid for row in rows.tolist()]]

    def _placed(self, term: Place) -> Bits:
        if self._block.measures is None:
            raise AskTheFile
        return bits_at(placed(term, _Ends(self, len(self._block), self._labels)), len(self._block))


class _Ends:
    """Where structures begin and end in the series of a block."""

    def __init__(self, matcher: Matcher, size: int, labels: Mapping[str, int]) -> None:
        self._matcher = matcher
        self._size = size
        self._labels = labels

    def candidates(self, wanted: Sequence[Shows]) -> Rows:
        return rows_in(reduce(np.bitwise_and, map(self._matcher.in_bits, wanted)), self._size)

    def ends(self, shows: Shows, name: str, candidates: Rows) -> Ends | None:
        if name not in self._labels:
            return None
        places = np.full(self._size, -1, np.int32)
        places[candidates] = np.arange(len(candidates), dtype=np.int32)
        rows, values = self._matcher.measured(shows, self._labels[name])
        series = places[rows]
        return Ends(series, values[BOTTOM_MM], values[TOP_MM]).where(series >= 0)


def _alike(texts: Texts, pattern: str) -> Rows:
    match pattern.startswith("*"), pattern.endswith("*"):
        case True, True:
            raise AskTheFile
        case True, False:
            return texts.ending(pattern[1:])
        case False, True:
            return texts.beginning(pattern[:-1])
    return texts.equal(pattern)


def _single(end: float | str) -> float:
    """An end as the engine compares it with numbers of 32 bits."""
    number = _double(end)
    if abs(number) > _FLOAT_MAX:
        raise AskTheFile
    return float(np.float32(number))


def _double(end: float | str) -> float:
    try:
        number = float(end)
    except ValueError:
        raise AskTheFile from None
    if not np.isfinite(number):
        raise AskTheFile
    return number


def _ordinal(end: float | str) -> float:
    if not _DAY.fullmatch(str(end)):
        raise AskTheFile
    try:
        return date.fromisoformat(str(end)).toordinal()
    except ValueError:
        raise AskTheFile from None


_PARAMETERS = {"number": _double, "date": _ordinal}


def _within(
    values: npt.NDArray[np.floating], interval: Interval, parameter: Callable[[float | str], float]
) -> Mask:
    """Which values lie in the interval; NaN does not."""
    fits = np.ones(len(values), np.bool_)
    if interval.low is not None:
        low = values.dtype.type(parameter(interval.low))
        fits &= values > low if interval.low_open else values >= low
    if interval.high is not None:
        high = values.dtype.type(parameter(interval.high))
        fits &= values < high if interval.high_open else values <= high
    return fits


def _worded(column: Column, patterns: Sequence[str]) -> list[int]:
    """Codes of the texts that are like one of the patterns."""
    if column.lowered is None:
        return []
    tests = [_like(lowered(pattern)) for pattern in patterns]
    texts = column.lowered.tolist()
    return [code for code, text in enumerate(texts) if any(test(text) for test in tests)]


def _like(pattern: str) -> Callable[[str], bool]:
    match pattern.startswith("*"), pattern.endswith("*"):
        case True, True:
            return lambda text: pattern[1:-1] in text
        case True, False:
            return lambda text: text.endswith(pattern[1:])
        case False, True:
            return lambda text: text.startswith(pattern[:-1])
    return pattern.__eq__


@lru_cache(maxsize=1000)
def lowered(text: str) -> str:
    """As the engine lowers it: one character for one, where Python knows exceptions."""
    if text.isascii():
        return text.lower()
    with duckdb.connect() as db:
        ((lower,),) = db.execute("select lower(?)", [text]).fetchall()
    return str(lower)
