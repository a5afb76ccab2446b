"""What an image answers of many series: facets, their patients, and crowds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.crowds import bits_by_place, bits_by_structure
from tomodex.indexes.duckdb.facets import DERIVED, MASKS, columns_of, sum_bits, sum_keys
from tomodex.indexes.duckdb.resident.answering import Found, find, marked, size_of
from tomodex.indexes.duckdb.resident.bits import Bits, Rows, bits_at, count
from tomodex.indexes.duckdb.resident.image import Image
from tomodex.search import THICKNESSES, CellCount, Query
from tomodex.search.crowd import Crowd, bits_of

#: Places in a table of values by patients; more are sorted.
TABLE = 50_000_000


def facets(image: Image, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    """How many series have each value of these fields, most frequent first."""
    columns_of(fields)
    found = find(image, query)
    return {field: _frequent(_counts(image, found, field)) for field in fields}


def cells(
    image: Image, query: Query, fields: Sequence[str]
) -> Mapping[str, Mapping[str, CellCount]]:
    """The same with their patients."""
    columns_of(fields)
    found = find(image, query)
    return {
        field: _set_cells(image, found, field)
        if field in MASKS
        else _value_cells(image, found, field)
        for field in fields
    }


def _set_cells(image: Image, found: Sequence[Found], field: str) -> Mapping[str, CellCount]:
    series = _frequent(_counts(image, found, field))
    keys, words = _patients(image, found, field)
    if not series:
        return {}
    patients, sums = sum_bits(words), sum_keys(words, keys)
    return {
        name: CellCount(
            series=many,
            patients=int(patients[image.labels[name]]),
            patients_key=sums[image.labels[name]],
        )
        for name, many in series.items()
    }


def _value_cells(image: Image, found: Sequence[Found], field: str) -> Mapping[str, CellCount]:
    series = _frequent(_counts(image, found, field))
    keys = _keys_by_value(image, found, field)
    return {
        value: CellCount(
            series=many,
            patients=len(keys[value]),
            patients_key=int(np.add.reduce(keys[value], dtype=np.uint64)),
        )
        for value, many in series.items()
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
    columns_of(fields)
    found = find(image, query)
    return {
        field: _set_crowds(image, found, field)
        if field in MASKS
        else _value_crowds(image, found, field)
        for field in fields
    }


def _set_crowds(image: Image, found: Sequence[Found], field: str) -> Mapping[str, Crowd]:
    series = _frequent(_counts(image, found, field))
    keys, words = _patients(image, found, field)
    if not series:
        return {}
    patients, bits = sum_bits(words), bits_by_structure(words, keys)
    return {
        name: Crowd(
            patients=int(patients[image.labels[name]]),
            bits=tuple(bits[image.labels[name]].tolist()),
            series=many,
        )
        for name, many in series.items()
    }


def _value_crowds(image: Image, found: Sequence[Found], field: str) -> Mapping[str, Crowd]:
    series = _frequent(_counts(image, found, field))
    keys = _keys_by_value(image, found, field)
    places = np.repeat(np.arange(len(series)), [len(keys[value]) for value in series])
    one_by_one = [keys[value] for value in series]
    bits = bits_by_place(places, np.concatenate([*one_by_one, _NOBODY]), len(series))
    return {
        value: Crowd(patients=len(keys[value]), bits=tuple(counted.tolist()), series=many)
        for (value, many), counted in zip(series.items(), bits, strict=True)
    }


_NOBODY = np.zeros(0, np.uint64)


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


def _patients(
    image: Image, found: Sequence[Found], field: str
) -> tuple[npt.NDArray[np.uint64], list[npt.NDArray[np.uint64]]]:
    """Keys of the patients who were found, and for each the structures of any of their series."""
    known = np.flatnonzero(marked(found, "patient"))
    shown = np.zeros((-(-len(image.labels) // 64), len(image.patient_keys)), np.uint64)
    for some in found:
        rows = _by_patient(some)
        numbers = some.block.patient[rows]
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for place, word in enumerate(_words_of(some, field) if len(rows) else ()):
            shown[place, numbers[firsts]] |= np.bitwise_or.reduceat(word[rows], firsts)
    return image.patient_keys[known], [word[known] for word in shown]


def _by_patient(some: Found) -> Rows:
    """The rows that were found in the order of their patients."""
    mask = np.zeros(len(some.block), np.bool_)
    mask[some.rows] = True
    return some.block.by_patient[mask[some.block.by_patient]].astype(np.intp)


def _words_of(some: Found, field: str) -> Iterator[npt.NDArray[np.uint64]]:
    """The structures that series show, show whole, or show cut."""
    for shown, whole in zip(some.block.shown_words, some.block.complete_words, strict=True):
        match field:
            case "structure":
                yield shown
            case "complete":
                yield whole
            case _:
                yield shown & ~whole


def _keys_by_value(
    image: Image, found: Sequence[Found], field: str
) -> Mapping[str, npt.NDArray[np.uint64]]:
    """The keys of the patients who have each value."""
    places: dict[str, int] = {}
    valued = [_placed(some, field, places) for some in found]
    many = len(image.patient_keys)
    pairs = np.concatenate(
        [
            some[some >= 0] * many + one.block.patient[one.rows[some >= 0]]
            for one, some in zip(found, valued, strict=True)
        ]
    )
    groups, patients = np.divmod(_distinct(pairs, len(places) * many), many)
    known = patients > 0
    ends = np.searchsorted(groups[known], np.arange(len(places) + 1))
    keys = image.patient_keys[patients[known]]
    return {name: keys[ends[place] : ends[place + 1]] for name, place in places.items()}


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
