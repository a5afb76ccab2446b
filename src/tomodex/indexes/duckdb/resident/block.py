"""Series in the order of pages, with everything that is asked of them; it never changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.resident.bits import Bits, Rows, packed, rows_in, unpacked
from tomodex.indexes.duckdb.resident.column import Column, Named, joined, joined_names
from tomodex.indexes.duckdb.resident.texts import Texts, chosen

#: The structures that a series shows, a bit each, as the file has them: arrays of the first 64
#: structures, of the next, and so on, with a place for each series.
Words = Sequence[npt.NDArray[np.uint64]]

Number = TypeVar("Number", bound=np.generic)

#: What is measured of a structure in a series, in the order of `Measures`.
VOLUME_ML, MEAN_HU, BOTTOM_MM, TOP_MM = range(4)

#: For each structure, what is measured of it in the series that show it: (4, those), in order.
Measures = tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Series, newest study first and then by UID; arrays have a place for each."""

    number: npt.NDArray[np.uint32]  #: by which the file knows it
    generation: npt.NDArray[np.uint32]  #: of the index, that wrote it
    series_key: npt.NDArray[np.uint64]
    study: npt.NDArray[np.uint32]  #: 0: none
    patient: npt.NDArray[np.uint32]  #: 0: nobody knows whose it is
    structure_count: npt.NDArray[np.uint16]
    by_number: npt.NDArray[np.uint32]  #: places in the order of numbers
    by_key: npt.NDArray[np.uint32]  #: places in the order of keys
    by_patient: npt.NDArray[np.uint32]  #: places in the order of patients
    series_uids: Texts
    study_uids: Named
    pseudonyms: Named
    columns: Mapping[str, Column]  #: by keyword
    shown_words: Words
    complete_words: Words
    shown: Sequence[Bits]  #: by the number of the structure, the same as in the words
    complete: Sequence[Bits]
    measures: Measures | None  #: None: they are in the file alone

    def __len__(self) -> int:
        return len(self.number)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, measures included."""
        numbers = (self.number, self.generation, self.series_key, self.study, self.patient)
        places = (self.structure_count, self.by_number, self.by_key, self.by_patient)
        texts: list[Texts | Named | Column] = [self.series_uids, self.study_uids, self.pseudonyms]
        arrays: list[npt.NDArray[Any]] = [*numbers, *places, *self.shown, *self.complete]
        arrays += [*self.shown_words, *self.complete_words]
        arrays += self.measures or ()
        texts += self.columns.values()
        return sum(a.nbytes for a in arrays) + sum(t.nbytes for t in texts)

    def showing(self, structure: int) -> Bits:
        """The series that show a structure."""
        return self._known(self.shown, structure)

    def completing(self, structure: int) -> Bits:
        """The series that show it whole."""
        return self._known(self.complete, structure)

    def days(self) -> npt.NDArray[np.float64]:
        """The day of each study, long before all of them for one without a date."""
        column = self.columns["StudyDate"]
        days: npt.NDArray[np.float64] = np.nan_to_num(column.values.astype(np.float64), nan=-1.0)
        return days[column.codes]

    def numbered(self, numbers: npt.NDArray[np.integer]) -> Rows:
        """The places of the series with these numbers, as far as they are in it."""
        return _places(self.number, self.by_number, numbers)

    def keyed(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """The places of the series with these keys, as far as they are in it."""
        return _places(self.series_key, self.by_key, keys)

    def _known(self, sets: Sequence[Bits], structure: int) -> Bits:
        # A structure that was never seen before has a number that older blocks do not know.
        if structure < len(sets):
            return sets[structure]
        return np.zeros(-(-len(self) // 64), np.uint64)


def _places(
    values: npt.NDArray[np.unsignedinteger],
    order: npt.NDArray[np.uint32],
    wanted: npt.NDArray[np.integer],
) -> Rows:
    first, last = (
        np.searchsorted(values, wanted, side, sorter=order) for side in ("left", "right")
    )
    many = last - first
    # Two series may share a key.
    places = np.repeat(first - np.concatenate([[0], np.cumsum(many)[:-1]]), many)
    return order[places + np.arange(many.sum())].astype(np.intp) if len(wanted) else _NONE


_NONE = np.zeros(0, np.intp)


def order_by(values: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint32]:
    """Places in the order of these values."""
    return np.argsort(values, kind="stable").astype(np.uint32)


def places_among(one: Block, other: Block) -> Rows:
    """(other,) before which series of the one each of the other stands in the order of pages."""
    days, others = -one.days(), -other.days()
    low = np.searchsorted(days, others, "left").tolist()
    high = np.searchsorted(days, others, "right").tolist()
    places = [
        _bisect(one.series_uids, other.series_uids.octets_at(place), *ends)
        for place, ends in enumerate(zip(low, high, strict=True))
    ]
    return np.array(places, np.intp)


def _bisect(texts: Texts, wanted: bytes, low: int, high: int) -> int:
    while low < high:
        middle = (low + high) // 2
        if texts.octets_at(middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def merged(one: Block, kept: Bits, other: Block, also_kept: Bits) -> Block:
    """What is kept of both, in one."""
    order = _order(one, kept, other, also_kept)
    take = partial(_taken, order)
    number, key = take(one.number, other.number), take(one.series_key, other.series_key)
    patient = take(one.patient, other.patient)
    known = max(len(one.shown), len(other.shown))
    shown = _merged_words(one, one.shown_words, other, other.shown_words, order)
    whole = _merged_words(one, one.complete_words, other, other.complete_words, order)
    return Block(
        number=number,
        generation=take(one.generation, other.generation),
        series_key=key,
        study=take(one.study, other.study),
        patient=patient,
        structure_count=take(one.structure_count, other.structure_count),
        by_number=order_by(number),
        by_key=order_by(key),
        by_patient=order_by(patient),
        series_uids=chosen(one.series_uids, other.series_uids, order),
        study_uids=joined_names(one.study_uids, other.study_uids, order),
        pseudonyms=joined_names(one.pseudonyms, other.pseudonyms, order),
        columns={
            keyword: joined(column, other.columns[keyword], order)
            for keyword, column in one.columns.items()
        },
        shown_words=shown,
        complete_words=whole,
        shown=sets_of(shown, known),
        complete=sets_of(whole, known),
        measures=_merged_measures(one, other, order),
    )


def _order(one: Block, kept: Bits, other: Block, also_kept: Bits) -> Rows:
    """Places of what is kept, in the order of pages; the other's count on from the one's."""
    rows, others = rows_in(kept, len(one)), rows_in(also_kept, len(other))
    before = np.searchsorted(rows, places_among(one, other)[others])
    return np.insert(rows, before, others + len(one))


def _taken(
    order: Rows, one: npt.NDArray[Number], other: npt.NDArray[Number]
) -> npt.NDArray[Number]:
    return np.concatenate([one, other])[order]


def _merged_words(
    one: Block, words: Words, other: Block, others: Words, order: Rows
) -> list[npt.NDArray[np.uint64]]:
    both = zip_longest(words, others)
    return [
        _taken(
            order,
            np.zeros(len(one), np.uint64) if word is None else word,
            np.zeros(len(other), np.uint64) if another is None else another,
        )
        for word, another in both
    ]


def sets_of(words: Words, known: int) -> list[Bits]:
    """For each of so many structures the series that have its bit."""
    return [bits for word in words for bits in _sets_of(word)][:known]


def _sets_of(word: npt.NDArray[np.uint64]) -> Iterator[Bits]:
    octets = np.ascontiguousarray(word, "<u8").view(np.uint8).reshape(len(word), 8)
    for octet in range(8):
        column = np.ascontiguousarray(octets[:, octet])
        for bit in range(8):
            yield packed(column & np.uint8(1 << bit) != 0)


def _merged_measures(one: Block, other: Block, order: Rows) -> Measures | None:
    if one.measures is None or other.measures is None:
        return None
    return tuple(_each_merged(one, other, order))


def _each_merged(one: Block, other: Block, order: Rows) -> Iterator[npt.NDArray[np.float32]]:
    for structure in range(max(len(one.shown), len(other.shown))):
        shown = np.concatenate(
            [
                unpacked(one.showing(structure), len(one)),
                unpacked(other.showing(structure), len(other)),
            ]
        )
        ranks = np.cumsum(shown, dtype=np.int32) - 1
        both = [
            block.measures[structure]
            for block in (one, other)
            if block.measures is not None and structure < len(block.measures)
        ]
        yield np.concatenate(both, axis=1)[:, ranks[order[shown[order]]]]
