"""How many of the series that were found have each value of a field."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, labels
from tomodex.search import SEARCHABLE

#: Fields that are no column, as SQL that makes a number, and what that number is called.
DERIVED: Mapping[str, tuple[str, Callable[[int], str]]] = {
    "StudyYear": ('year("StudyDate")', str),
    "AgeDecade": ('floor("PatientAge" / 10)::int', lambda tens: f"{tens * 10}-{tens * 10 + 9}"),
}
MASKS = {"structure": SHOWN, "complete": COMPLETE}
TEXTS = tuple(keyword for keyword, kind in SEARCHABLE.items() if kind == "text")


def columns_of(fields: Sequence[str]) -> list[str]:
    """What `found` must have of `series`, as SQL, to count the values of these fields.

    Raises:
        BadQuery: there is no such field, or it is a number.
    """
    return list(dict.fromkeys(column for field in fields for column in _columns(field)))


def count(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, int]:
    """How many rows of `found` have each value of a field, most frequent first."""
    return _count_bits(db, MASKS[field]) if field in MASKS else _count_values(db, field)


def _columns(field: str) -> Sequence[str]:
    if field in MASKS:
        return MASKS[field]
    if field in DERIVED:
        return [f'{DERIVED[field][0]} as "{field}"']
    if field in TEXTS:
        return [f'"{field}"']
    known = [*MASKS, *DERIVED, *TEXTS]
    close = tuple(difflib.get_close_matches(field, known, n=3))
    raise BadQuery(f"no field {field!r} to count; known: {', '.join(known)}", suggestions=close)


def _count_values(db: duckdb.DuckDBPyConnection, field: str) -> Mapping[str, int]:
    rows = db.execute(
        f"""select "{field}", count(*) from found where "{field}" is not null
        group by "{field}" order by count(*) desc, "{field}" """
    )
    name = DERIVED[field][1] if field in DERIVED else str
    return {name(value): count for value, count in rows.fetchall()}


def _count_bits(db: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> Mapping[str, int]:
    """Count each bit of the masks: a histogram of their bytes has all there is to know."""
    known = labels(db)
    used = columns[: -(-len(known) // 64)]
    if not used:
        return {}
    masks = db.execute(f"select {', '.join(used)} from found").fetchnumpy()
    bits = np.concatenate([_bit_counts(masks[column]) for column in used])
    counts = {name: int(bits[number]) for name, number in known.items() if bits[number]}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _bit_counts(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(64,) how many of the words have each bit, the lowest first."""
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(-1, 8)
    histograms = np.stack([np.bincount(octets[:, i], minlength=256) for i in range(8)])
    set_bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ravel(histograms @ set_bits.astype(np.int64))
