"""How many of the series that were found have each value of a field."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import duckdb
import numpy as np

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, labels
from tomodex.search import SEARCHABLE

Facet = Callable[[duckdb.DuckDBPyConnection], Mapping[str, int]]

_DECADE = """(floor("PatientAge" / 10) * 10)::int"""

#: Fields that are no column, as SQL.
DERIVED = {
    "StudyYear": """strftime("StudyDate", '%Y')""",
    "AgeDecade": f"printf('%d-%d', {_DECADE}, {_DECADE} + 9)",
}
MASKS = {"structure": SHOWN, "complete": COMPLETE}


def facet_of(field: str) -> Facet:
    """What counts the values of a field in the table `found`, most frequent first.

    Raises:
        BadQuery: there is no such field, or it is a number.
    """
    if field in MASKS:
        return partial(_count_bits, MASKS[field])
    if field in DERIVED:
        return partial(_count_values, DERIVED[field])
    if SEARCHABLE.get(field) == "text":
        return partial(_count_values, f'"{field}"')
    known = [*MASKS, *DERIVED, *(k for k, kind in SEARCHABLE.items() if kind == "text")]
    close = tuple(difflib.get_close_matches(field, known, n=3))
    raise BadQuery(f"no field {field!r} to count; known: {', '.join(known)}", suggestions=close)


def _count_values(value: str, db: duckdb.DuckDBPyConnection) -> Mapping[str, int]:
    rows = db.execute(
        f"""select {value} as value, count(*) from series
        where number in (select number from found) and value is not null
        group by value order by count(*) desc, value"""
    )
    return {str(value): count for value, count in rows.fetchall()}


def _count_bits(columns: Sequence[str], db: duckdb.DuckDBPyConnection) -> Mapping[str, int]:
    """Count each bit of the masks: a histogram of their bytes has all there is to know."""
    known = labels(db)
    used = columns[: -(-len(known) // 64)]
    if not used:
        return {}
    masks = db.execute(
        f"select {', '.join(used)} from series where number in (select number from found)"
    ).fetchnumpy()
    bits = np.concatenate([_bit_counts(masks[column]) for column in used])
    counts = {name: int(bits[number]) for name, number in known.items() if bits[number]}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _bit_counts(
    words: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(64,) how many of the words have each bit, the lowest first."""
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(-1, 8)
    histograms = np.stack([np.bincount(octets[:, i], minlength=256) for i in range(8)])
    set_bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return (histograms @ set_bits.astype(np.int64)).ravel()
