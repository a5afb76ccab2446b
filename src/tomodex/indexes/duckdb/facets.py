"""How much of what was found has each value of a field, in series and in patients."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, labels
from tomodex.search import FIELDS, THICKNESSES, CellCount
from tomodex.search.keys import MODULUS

_CLASSES = " ".join(
    f"when \"SliceThickness\" <= '{end}'::double then {place}"
    for place, end in enumerate(THICKNESSES)
)

#: Fields that are no column, as SQL that makes a number, and what that number is called.
DERIVED: Mapping[str, tuple[str, Callable[[int], str]]] = {
    "StudyYear": ('year("StudyDate")', str),
    "AgeDecade": ('floor("PatientAge" / 10)::int', lambda tens: f"{tens * 10}-{tens * 10 + 9}"),
    "SliceThicknessClass": (f"case {_CLASSES} end", lambda place: [*THICKNESSES.values()][place]),
}
_CUT = tuple(f"{shown} & ~{whole}" for shown, whole in zip(SHOWN, COMPLETE, strict=True))
MASKS = {"structure": SHOWN, "complete": COMPLETE, "cut": _CUT}

#: Keys of patients are added up in parts that a float adds exactly.
_PART_BITS = 22
_PARTS = range(0, 64, _PART_BITS)


def columns_of(fields: Sequence[str]) -> list[str]:
    """What `found` must have of `series`, as SQL, to count the values of these fields.

    Raises:
        BadQuery: there is no such field, or it is a number.
    """
    return list(dict.fromkeys(column for field in fields for column in _columns(field)))


def count(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, int]:
    """How many rows of `found` have each value of a field, most frequent first."""
    return _count_bits(db, field) if field in MASKS else _count_values(db, field)


def count_cells(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, CellCount]:
    """The same with their patients."""
    return _bit_cells(db, field) if field in MASKS else _value_cells(db, field)


def _columns(field: str) -> Sequence[str]:
    if field in MASKS:
        words = zip(MASKS[field], _mask_names(field), strict=True)
        return [f"{word} as {name}" for word, name in words]
    if field in DERIVED:
        return [f'{DERIVED[field][0]} as "{field}"']
    if field in FIELDS:
        return [f'"{field}"']
    close = tuple(difflib.get_close_matches(field, FIELDS, n=3))
    raise BadQuery(f"no field {field!r} to count; known: {', '.join(FIELDS)}", suggestions=close)


def _mask_names(field: str) -> list[str]:
    return [f"{field}_{word}" for word in range(len(MASKS[field]))]


def names_of(db: duckdb.DuckDBPyConnection, field: str) -> Callable[[int], str]:
    """What the numbers are called that `found` has for a field."""
    if field in DERIVED:
        return DERIVED[field][1]
    words = db.execute("select number, value from word where keyword = ?", [field])
    return dict(words.fetchall()).__getitem__


def _count_values(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, int]:
    rows = db.execute(
        f"""select "{field}", count(*) from found where "{field}" is not null group by all"""
    ).fetchall()
    name = names_of(db, field)
    counts = {name(value): count for value, count in rows}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _value_cells(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, CellCount]:
    rows = db.execute(
        f"""select value, sum(series)::bigint, count(*) filter (patient != 0),
            coalesce(sum(patient_key) filter (patient != 0), 0)
        from (select "{field}" as value, patient, any_value(patient_key) as patient_key,
            count(*) as series from found where "{field}" is not null group by value, patient)
        group by value"""
    ).fetchall()
    name = names_of(db, field)
    cells = {
        name(value): CellCount(series=series, patients=patients, patients_key=int(key) % MODULUS)
        for value, series, patients, key in rows
    }
    return dict(sorted(cells.items(), key=lambda item: (-item[1].series, item[0])))


def _count_bits(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, int]:
    known = labels(db)
    words = _mask_names(field)[: -(-len(known) // 64)]
    if not words:
        return {}
    masks = db.execute(f"select {', '.join(words)} from found").fetchnumpy()
    bits = sum_bits([masks[word] for word in words])
    counts = {name: int(bits[number]) for name, number in known.items() if bits[number]}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _bit_cells(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, CellCount]:
    series, known = _count_bits(db, field), labels(db)
    words = _mask_names(field)[: -(-len(known) // 64)]
    if not series:
        return {}
    masks = db.execute(
        f"""select any_value(patient_key) as key, {", ".join(f"bit_or({w}) as {w}" for w in words)}
        from found where patient != 0 group by patient"""
    ).fetchnumpy()
    columns = [masks[word] for word in words]
    patients, keys = sum_bits(columns), sum_keys(columns, masks["key"])
    return {
        name: CellCount(
            series=many,
            patients=int(patients[known[name]]),
            patients_key=keys[known[name]],
        )
        for name, many in series.items()
    }


def sum_bits(
    words: Sequence[npt.NDArray[np.uint64]], weights: npt.NDArray[np.uint64] | None = None
) -> npt.NDArray[np.int64]:
    """(64 for each word,) how many rows have each bit, or the sum of their weights.

    A histogram of the bytes has all there is to know. Weights have so few bits that a float adds
    them exactly.
    """
    return np.concatenate([_sum_word(word, weights) for word in words])


def _sum_word(
    word: npt.NDArray[np.uint64], weights: npt.NDArray[np.uint64] | None
) -> npt.NDArray[np.int64]:
    octets = np.ascontiguousarray(word, "<u8").view(np.uint8).reshape(-1, 8)
    sums = [np.bincount(octets[:, i], weights, minlength=256) for i in range(8)]
    set_bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ravel(np.stack(sums).astype(np.int64) @ set_bits.astype(np.int64))


def sum_keys(
    words: Sequence[npt.NDArray[np.uint64]], keys: npt.NDArray[np.uint64]
) -> Sequence[int]:
    """(64 for each word,) the sum of the keys of the rows that have each bit."""
    mask = np.uint64((1 << _PART_BITS) - 1)
    parts = [sum_bits(words, keys >> np.uint64(shift) & mask) for shift in _PARTS]
    return [
        sum(int(part) << shift for part, shift in zip(bit, _PARTS, strict=True)) % MODULUS
        for bit in zip(*parts, strict=True)
    ]
