"""The patients of what was found, as crowds: of all of it, and of each value of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.facets import MASKS, count_cells, names_of
from tomodex.indexes.duckdb.schema import labels
from tomodex.search import CellCount
from tomodex.search.crowd import BITS, OCTETS, Crowd, bits_of

#: Columns of `found` that crowds need.
COLUMNS = ("study", "patient", "patient_key", 'coalesce("size_bytes", 0) as size')

#: Patients whose bits are multiplied at a time: 128 structures of them take 16 MB.
BLOCK = 32_768


def crowd(db: duckdb.DuckDBPyConnection) -> Crowd:
    """Everybody whose series are in `found`."""
    ((series, studies, size),) = db.execute(
        "select count(*), count(distinct study), coalesce(sum(size), 0) from found"
    ).fetchall()
    keys = db.execute(
        "select distinct patient_key as key from found where patient != 0"
    ).fetchnumpy()["key"]
    return Crowd(
        patients=len(keys),
        bits=bits_of(keys),
        series=int(series),
        studies=int(studies),
        size_bytes=int(size),
    )


def crowds(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, Crowd]:
    """Those who have each value of a field, the value of most series first."""
    cells = count_cells(db, field)
    bits = _of_masks(db, field) if field in MASKS else _of_values(db, field)
    return {value: _crowd(cell, bits.get(value)) for value, cell in cells.items()}


def _crowd(cell: CellCount, bits: npt.NDArray[np.int64] | None) -> Crowd:
    counted = (0,) * BITS if bits is None else tuple(map(int, bits))
    return Crowd(patients=cell.patients, bits=counted, series=cell.series)


def _of_values(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, npt.NDArray[np.int64]]:
    rows = db.execute(
        f"""select dense_rank() over (order by "{field}") - 1 as place, patient_key as key
        from (select distinct "{field}", patient_key from found
              where "{field}" is not null and patient != 0)"""
    ).fetchnumpy()
    values = db.execute(
        f"""select distinct "{field}" from found where "{field}" is not null and patient != 0
        order by "{field}" """
    ).fetchall()
    bits = bits_by_place(rows["place"].astype(np.int64), rows["key"], len(values))
    name = names_of(db, field)
    return {name(value): counted for (value,), counted in zip(values, bits, strict=True)}


def bits_by_place(
    places: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], many: int
) -> npt.NDArray[np.int64]:
    """(many, 64) how many keys at each place have each bit."""
    octets = np.ascontiguousarray(keys, "<u8").view(np.uint8).reshape(-1, 8)
    counts = [
        np.bincount(places * 256 + octets[:, i], minlength=many * 256).reshape(many, 256)
        for i in range(8)
    ]
    return np.concatenate([count @ OCTETS.astype(np.int64) for count in counts], axis=1)


def _of_masks(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, npt.NDArray[np.int64]]:
    known = labels(db)
    words = [f"{field}_{word}" for word in range(-(-len(known) // 64))]
    if not words:
        return {}
    found = db.execute(
        f"""select any_value(patient_key) as key, {", ".join(f"bit_or({w}) as {w}" for w in words)}
        from found where patient != 0 group by patient"""
    ).fetchnumpy()
    counted = bits_by_structure([found[word] for word in words], found["key"])
    return {name: counted[number] for name, number in known.items()}


def bits_by_structure(
    words: Sequence[npt.NDArray[np.uint64]], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """(64 for each word, 64) for those who have a bit of the words, how many keys have each bit."""
    counted = np.zeros((64 * len(words), BITS), np.int64)
    for first in range(0, len(keys), BLOCK):
        shown = _bits(np.stack([word[first : first + BLOCK] for word in words], axis=1))
        # A float adds up to 2**24 of them exactly.
        counted += (shown.T @ _bits(keys[first : first + BLOCK, None])).astype(np.int64)
    return counted


def _bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """(rows, 64 for each word) the bits of some words, lowest first."""
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(len(words), -1)
    return np.unpackbits(octets, axis=1, bitorder="little").astype(np.float32)
