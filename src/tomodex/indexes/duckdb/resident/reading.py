"""Blocks from the file: all of it, some columns at a time, or what is new since a generation.

Nobody can write the file while it is read, so a block of everything is read in many short steps.
Series have the same number all along, and those that a writer changes in between are known by
their generation: they are taken out of the block before anything is asked of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.errors import Unavailable
from tomodex.indexes.duckdb.resident.bits import unpacked
from tomodex.indexes.duckdb.resident.block import Block, Measures, order_by, sets_of
from tomodex.indexes.duckdb.resident.column import (
    Column,
    Named,
    narrow,
    numbers_column,
    texts_column,
)
from tomodex.indexes.duckdb.resident.texts import texts_of
from tomodex.indexes.duckdb.schema import COMPLETE, SEEN, SHOWN, labels
from tomodex.indexes.duckdb.store import Store
from tomodex.search import SEARCHABLE

#: Texts that are fetched at a time.
CHUNK = 50_000

#: The table's own column: a selected one of its name has NaN for null.
_IN_ORDER = 'order by series."StudyDate" desc nulls last, series_uid'
_SCALARS = "number, generation, series_key, study, patient, structure_count"

#: A column of `series` as `Column` has it: days from 0001-01-01, as far as Python knows days.
_DATE = """case when "{0}" between date '0001-01-01' and date '9999-12-31'
    then ("{0}" - date '0001-01-01')::double + 1 else 'nan'::double end"""
_EXPRESSIONS = {
    "text": 'coalesce("{0}", 0::uinteger)',
    "number": "coalesce(\"{0}\", 'nan'::double)",
    "date": _DATE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Which index this is, and how far."""

    epoch: str  #: drawn when the index was made
    generation: int  #: how often it was written since
    labels: Mapping[str, int]  #: the number of every structure


def head_of(db: duckdb.DuckDBPyConnection) -> Head:
    known = dict(db.execute("select key, value from meta").fetchall())
    return Head(epoch=known["epoch"], generation=int(known["generation"]), labels=labels(db))


def patient_keys_of(
    db: duckdb.DuckDBPyConnection, since: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Number and key of every patient of whom a series was written since a generation."""
    found: dict[str, npt.NDArray[np.generic]] = db.execute(
        """select patient, any_value(patient_key) as patient_key from series
        where generation > ? and patient != 0 group by patient""",
        [since],
    ).fetchnumpy()
    return found


def expected_bytes(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """About how much memory everything but measures takes, and how much they take.

    Measured: 1.7 million series with UIDs of 60 characters take 160 bytes each besides bits.
    """
    ((series, annotations, known),) = db.execute(
        """select (select count(*) from series), (select count(*) from annotation),
        (select count(*) from label)"""
    ).fetchall()
    return int(series) * (_SERIES_BYTES + int(known) // 4), int(annotations) * 16


#: See `expected_bytes`.
_SERIES_BYTES = 250


class Whole:
    """Reads everything that stands in the file, without measures; then these."""

    def __init__(self, store: Store, closed: threading.Event) -> None:
        self._store = store
        self._closed = closed
        self.head: Head

    def read(self) -> Block:
        """All series; those that are written meanwhile may be as they were, are, or mixed."""
        with self._reading() as db:
            self.head = head_of(db)
            found = db.execute(f"select {_SCALARS} from series {_IN_ORDER}").fetchnumpy()
            uids = texts_of(_chunks(db.execute(f"select series_uid from series {_IN_ORDER}")))
        self._rows = _places_by(found["number"])
        self._size, known = len(found["number"]), len(self.head.labels)
        shown, whole = self._words(SHOWN), self._words(COMPLETE)
        return Block(
            **found,
            by_number=order_by(found["number"]),
            by_key=order_by(found["series_key"]),
            by_patient=order_by(found["patient"]),
            series_uids=uids,
            study_uids=self._names("study", "study_uid", found["study"]),
            pseudonyms=self._names("patient", "pseudonym", found["patient"]),
            columns={keyword: self._column(keyword) for keyword in SEARCHABLE},
            shown_words=shown,
            complete_words=whole,
            shown=sets_of(shown, known),
            complete=sets_of(whole, known),
            measures=None,
        )

    @contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if self._closed.is_set():
            raise Unavailable("nobody asks any more")
        with self._store.reading() as db:
            yield db

    def measures(self, block: Block) -> Measures:
        """What is measured in the series of that block."""
        return tuple(self._measured(block, structure) for structure in range(len(block.shown)))

    def _measured(self, block: Block, structure: int) -> npt.NDArray[np.float32]:
        with self._reading() as db:
            found = db.execute(
                "select series, volume_ml, mean_hu, bottom_mm, top_mm from annotation "
                "where structure = ?",
                [structure],
            ).fetchnumpy()
        shown = unpacked(block.shown[structure], self._size)
        ranks = np.cumsum(shown, dtype=np.int32) - 1
        rows = self._places(found["series"])
        known = rows >= 0
        known[known] = shown[rows[known]]
        places = ranks[rows[known]]
        measured = np.full((4, int(np.count_nonzero(shown))), np.nan, np.float32)
        for what, name in enumerate(("volume_ml", "mean_hu", "bottom_mm", "top_mm")):
            measured[what, places] = found[name][known]
        return measured

    def _places(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """Where these series stand; -1: not at all, they are new."""
        known = numbers < len(self._rows)
        return np.where(known, self._rows[np.where(known, numbers, 0)], np.int32(-1))

    def _spread(
        self, found: Mapping[str, npt.NDArray[np.generic]], name: str, absent: float
    ) -> npt.NDArray[Any]:
        """A column that was read in any order, in ours."""
        values = np.full(self._size, absent, found[name].dtype)
        rows = self._places(found["number"])  # type: ignore[arg-type]
        values[rows[rows >= 0]] = found[name][rows >= 0]
        return values

    def _column(self, keyword: str) -> Column:
        kind = SEARCHABLE[keyword]
        expression = _EXPRESSIONS[kind].format(keyword)
        with self._reading() as db:
            select = f"select distinct {expression} as value from series order by value"
            distinct = db.execute(select).fetchnumpy()["value"]
            known = distinct[distinct > 0] if kind == "text" else distinct[~np.isnan(distinct)]
            select = f"select number, {expression} as value from series"
            # Most archives say nothing of half of the attributes.
            found = db.execute(select if len(known) else f"{select} limit 0").fetchnumpy()
            if kind == "text":
                return _worded(db, self._spread(found, "value", 0), known)
        return numbers_column(self._spread(found, "value", np.nan), known)

    def _names(self, what: str, text: str, numbers: npt.NDArray[np.uint32]) -> Named:
        select = f"select {what}, any_value({text}) from series group by {what} order by {what}"
        known: list[int] = []
        with self._reading() as db:
            texts = texts_of(_chunks(db.execute(select), known))
        # One that came meanwhile is that of a series which is taken out.
        codes = np.searchsorted(np.array(known, np.uint32), numbers)
        return Named(narrow(np.minimum(codes, max(0, len(known) - 1)), len(known)), texts)

    def _words(self, columns: Sequence[str]) -> list[npt.NDArray[np.uint64]]:
        words = []
        for column in columns[: -(-len(self.head.labels) // 64)]:
            with self._reading() as db:
                found = db.execute(f"select number, {column} as word from series").fetchnumpy()
            words.append(self._spread(found, "word", 0))
        return words


def _places_by(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """For each number the place where it stands; -1: nowhere."""
    places = np.full(int(numbers.max(initial=0)) + 1, -1, np.int32)
    places[numbers] = np.arange(len(numbers), dtype=np.int32)
    return places


def _chunks(
    found: duckdb.DuckDBPyConnection, numbers: list[int] | None = None
) -> Iterator[list[str]]:
    """The last column, some rows at a time; the first goes into `numbers`."""
    while some := found.fetchmany(CHUNK):
        if numbers is not None:
            numbers += [row[0] for row in some]
        yield [row[-1] for row in some]


def _worded(
    db: duckdb.DuckDBPyConnection,
    given: npt.NDArray[np.generic],
    words: npt.NDArray[np.uint32],
) -> Column:
    known = db.execute(
        """select value, lower(value) from word where number in (select unnest(?::uinteger[]))
        order by number""",
        [words.tolist()],
    ).fetchall()
    values, lowered = ([row[place] for row in known] for place in (0, 1))
    return texts_column(given.astype(np.uint32), words, values, lowered)


def changes(db: duckdb.DuckDBPyConnection, since: int, known: int) -> Block:
    """The series that were written since a generation, with their measures.

    `known` is the number of structures.
    """
    attributes = [f'{_EXPRESSIONS[k].format(w)} as "{w}"' for w, k in SEARCHABLE.items()]
    texts = "series_uid, study_uid, pseudonym, seen"
    select = ", ".join((_SCALARS, texts, *SHOWN, *COMPLETE, *attributes))
    found = db.execute(
        f"select {select} from series where generation > ? {_IN_ORDER}", [since]
    ).fetchnumpy()
    columns = {keyword: _changed(db, keyword, found[keyword]) for keyword in SEARCHABLE}
    scalars = {name: found[name] for name in _SCALARS.split(", ")}
    words = range(-(-known // 64))
    shown, whole = ([found[columns[word]] for word in words] for columns in (SHOWN, COMPLETE))
    return Block(
        **scalars,
        by_number=order_by(found["number"]),
        by_key=order_by(found["series_key"]),
        by_patient=order_by(found["patient"]),
        series_uids=texts_of([found["series_uid"].tolist()]),
        study_uids=_named(found["study_uid"]),
        pseudonyms=_named(found["pseudonym"]),
        columns=columns,
        shown_words=shown,
        complete_words=whole,
        shown=sets_of(shown, known),
        complete=sets_of(whole, known),
        measures=_unpacked(found["seen"].tolist(), known),
    )


def _changed(db: duckdb.DuckDBPyConnection, keyword: str, given: npt.NDArray[np.generic]) -> Column:
    if SEARCHABLE[keyword] == "text":
        words = np.unique(given.astype(np.uint32))
        return _worded(db, given, words[words > 0])
    numbers = given.astype(np.float64)
    return numbers_column(numbers, np.unique(numbers[~np.isnan(numbers)]))


def _named(texts: npt.NDArray[np.generic]) -> Named:
    distinct, codes = np.unique(texts, return_inverse=True)
    return Named(narrow(codes, len(distinct)), texts_of([distinct.tolist()]))


def _unpacked(blobs: Sequence[bytes], known: int) -> Measures:
    """What is measured of each structure, from the column `seen`."""
    rows = np.frombuffer(b"".join(blobs), SEEN)
    # Stable, so that series stay in order.
    order = np.argsort(rows["structure"], kind="stable")
    ends = np.searchsorted(rows["structure"][order], np.arange(known + 1))
    names = ("volume_ml", "mean_hu", "bottom_mm", "top_mm")
    measured = np.stack([rows[name][order] for name in names])
    return tuple(measured[:, ends[s] : ends[s + 1]].copy() for s in range(known))
