"""What an image answers of many series: facets, their patients, and crowds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.crowds import bits_by_place
from tomodex.indexes.duckdb.facets import DERIVED, MASKS, columns_of
from tomodex.indexes.duckdb.resident.answering import Found, find, marked, size_of
from tomodex.indexes.duckdb.resident.bits import Bits, bits_at, count, unpacked
from tomodex.indexes.duckdb.resident.image import Image
from tomodex.search import THICKNESSES, CellCount, Query
from tomodex.search.crowd import Crowd, bits_of

#: Places in a table of values by patients; more are sorted.
TABLE = 50_000_000


@dataclass(frozen=True, slots=True)
class Group:
    """The series and the patients who have one value of a field."""

    value: str
    series: int
    keys: npt.NDArray[np.uint64]  #: of the patients, each once


def facets(image: Image, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    """How many series have each value of these fields, most frequent first."""
    columns_of(fields)
    found = find(image, query)
    return {field: _frequent(_counts(image, found, field)) for field in fields}


def cells(
    image: Image, query: Query, fields: Sequence[str]
) -> Mapping[str, Mapping[str, CellCount]]:
    """The same with their patients."""
    return {
        field: {
            group.value: CellCount(
                series=group.series,
                patients=len(group.keys),
                patients_key=int(np.add.reduce(group.keys, dtype=np.uint64)),
            )
            for group in groups
        }
        for field, groups in _grouped(image, query, fields)
    }


def crowd(image: Image, query: Query) -> Crowd:
    """The patients of everything that a query finds."""
    found = find(image, query)
    patients = marked(found, "patient")
    keys = image.patient_keys[: len(patients)][patients]
    return Crowd(
        patients=len(keys),
        bits=bits_of(keys),
        series=sum(len(some.rows) for some in found),
        studies=int(np.count_nonzero(marked(found, "study"))),
        size_bytes=size_of(found),
    )


def crowds(image: Image, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
    """The patients who have each value of these fields, the value of most series first."""
    return {field: _crowds(groups) for field, groups in _grouped(image, query, fields)}


def _crowds(groups: Sequence[Group]) -> Mapping[str, Crowd]:
    keys = [group.keys for group in groups]
    places = np.repeat(np.arange(len(groups)), [len(some) for some in keys])
    bits = bits_by_place(places, np.concatenate([*keys, np.zeros(0, np.uint64)]), len(groups))
    return {
        group.value: Crowd(
            patients=len(group.keys), bits=tuple(map(int, counted)), series=group.series
        )
        for group, counted in zip(groups, bits, strict=True)
    }


def _grouped(
    image: Image, query: Query, fields: Sequence[str]
) -> Iterator[tuple[str, list[Group]]]:
    """The groups of each field, the one of most series first."""
    columns_of(fields)
    found = find(image, query)
    for field in fields:
        groups = (
            _of_sets(image, found, field) if field in MASKS else _of_values(image, found, field)
        )
        yield field, sorted(groups, key=lambda group: (-group.series, group.value))


def _counts(image: Image, found: Sequence[Found], field: str) -> Mapping[str, int]:
    if field in MASKS:
        sets = [bits_at(some.rows, len(some.block)) for some in found]
        return {
            name: sum(
                count(_of_field(some, field, structure) & bits)
                for some, bits in zip(found, sets, strict=True)
            )
            for name, structure in image.labels.items()
        }
    counts: dict[str, int] = {}
    for some in found:
        column = some.block.columns[_column(field)]
        coded = np.bincount(column.codes[some.rows], minlength=len(column.values))
        for name, codes in _named(some, field).items():
            counts[name] = counts.get(name, 0) + int(coded[codes].sum())
    return counts


def _of_field(some: Found, field: str, structure: int) -> Bits:
    match field:
        case "structure":
            return some.block.showing(structure)
        case "complete":
            return some.block.completing(structure)
    return some.block.showing(structure) & ~some.block.completing(structure)


def _of_sets(image: Image, found: Sequence[Found], field: str) -> Iterator[Group]:
    """The groups of those who show each structure."""
    patients = [some.block.patient[some.rows] for some in found]
    for name, structure in image.labels.items():
        series, seen = 0, np.zeros(len(image.patient_keys), np.bool_)
        for some, numbers in zip(found, patients, strict=True):
            shown = unpacked(_of_field(some, field, structure), len(some.block))[some.rows]
            series += int(np.count_nonzero(shown))
            seen[numbers[shown]] = True
        seen[0] = False
        if series:
            yield Group(name, series, image.patient_keys[seen])


def _of_values(image: Image, found: Sequence[Found], field: str) -> Iterator[Group]:
    """The groups of those who have each value."""
    places: dict[str, int] = {}
    valued = [_placed(some, field, places) for some in found]
    all_valued = np.concatenate(valued)
    counts = np.bincount(all_valued[all_valued >= 0], minlength=len(places))
    many = len(image.patient_keys)
    pairs = np.concatenate(
        [
            some[some >= 0] * many + one.block.patient[one.rows[some >= 0]]
            for one, some in zip(found, valued, strict=True)
        ]
    )
    distinct = _distinct(pairs, len(places) * many)
    groups, patients = np.divmod(distinct, max(1, many))
    known = patients > 0
    ends = np.searchsorted(groups[known], np.arange(len(places) + 1))
    keys = image.patient_keys[patients[known]]
    for name, place in places.items():
        if counts[place]:
            yield Group(name, int(counts[place]), keys[ends[place] : ends[place + 1]])


def _placed(some: Found, field: str, places: dict[str, int]) -> npt.NDArray[np.int64]:
    """For each series that was found the place of its value among `places`; -1: it has none."""
    column = some.block.columns[_column(field)]
    by_code = np.full(len(column.values), -1, np.int64)
    for name, codes in _named(some, field).items():
        by_code[codes] = places.setdefault(name, len(places))
    return by_code[column.codes[some.rows]]


def _distinct(numbers: npt.NDArray[np.int64], end: int) -> npt.NDArray[np.int64]:
    """Each of the numbers, which are below the end, once and in order."""
    if end > TABLE:
        return np.unique(numbers)
    seen = np.zeros(end, np.bool_)
    seen[numbers] = True
    return np.flatnonzero(seen)


def _named(some: Found, field: str) -> Mapping[str, list[int]]:
    """The codes of each value of a field, by what it is called."""
    named: dict[str, list[int]] = {}
    name = _NAMES.get(field, str)
    for code, value in enumerate(some.block.columns[_column(field)].values.tolist()[1:], 1):
        named.setdefault(name(value), []).append(code)
    return named


def _column(field: str) -> str:
    return _COLUMNS.get(field, field)


def _year(day: float) -> str:
    return str(date.fromordinal(int(day)).year)


def _decade(age: float) -> str:
    return DERIVED["AgeDecade"][1](math.floor(age / 10))


def _thickness(mm: float) -> str:
    return next(name for end, name in THICKNESSES.items() if mm <= end)


#: Fields that are no column: the column that they are made of, and how.
_COLUMNS = {
    "StudyYear": "StudyDate",
    "AgeDecade": "PatientAge",
    "SliceThicknessClass": "SliceThickness",
}
_NAMES: Mapping[str, Callable[[float], str]] = {
    "StudyYear": _year,
    "AgeDecade": _decade,
    "SliceThicknessClass": _thickness,
}


def _frequent(counts: Mapping[str, int]) -> Mapping[str, int]:
    found = [(value, many) for value, many in counts.items() if many]
    return dict(sorted(found, key=lambda one: (-one[1], one[0])))
