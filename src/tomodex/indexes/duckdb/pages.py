"""What a page shows of series: counts of all that were found, and rows of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.ordering import Places, Sorting, in_turn, least
from tomodex.indexes.duckdb.schema import SEEN, TEXTS, labels
from tomodex.indexes.duckdb.sql import Condition
from tomodex.search import SEARCHABLE, Hit, Page, Sample, Seen, Totals
from tomodex.search.keys import key_of
from tomodex.search.lots import lots

#: Days since 1970, and long before all of them for a series without a date, which comes last.
_NO_DAY = -1_000_000
_FOUND = f"""
select series.rowid as place, study, patient, patient_key, coalesce("size_bytes", 0) as size,
    coalesce("StudyDate" - date '1970-01-01', {_NO_DAY}) as day"""

#: Reads these rows of a table and no other, where a join would read all: 3 ms against 1,400 for
#: what 50 of 1.7 million series show.
_AT_PLACES = "series.rowid in (select place from places)"

_TOTALS = """
select study, patient, word.value = 'yes' as segmented, word.value = 'waiting' as waiting
from series left join word on word.number = "segmented"
"""


#: A row of `series` as `_select` reads it; attributes begin at the place `_FIRST`.
Row = tuple[str | float | date | None, ...]
_FIRST = 4


def page_of(
    db: duckdb.DuckDBPyConnection, condition: Condition, sorting: Sorting, limit: int, offset: int
) -> Page:
    """Exact counts of the rows of `series` that fit a condition, and some of them in an order."""
    select = f"{_FOUND}, {sorting.number} as key from {sorting.sources} where {condition.sql}"
    found = db.execute(select, list(condition.values)).fetchnumpy()
    patients = _patients(found)
    return Page(
        series=len(found["place"]),
        studies=_count_distinct(found["study"]),
        patients=int(np.count_nonzero(patients)),
        hits=_first_hits(db, found, sorting, limit, offset),
        offset=offset,
        patients_key=int(np.add.reduce(patients, dtype=np.uint64)),
        size_bytes=int(found["size"].sum()),
    )


def keys_of(
    db: duckdb.DuckDBPyConnection, condition: Condition, sorting: Sorting
) -> npt.NDArray[np.uint64]:
    """Keys of the series that fit, in an order: they stay when a row is written again."""
    select = f"select series_key from {sorting.sources} where {condition.sql} {sorting.clause}"
    return db.execute(select, list(condition.values)).fetchnumpy()["series_key"]


def hits_of(
    db: duckdb.DuckDBPyConnection, keys: npt.NDArray[np.uint64], keywords: Sequence[str]
) -> tuple[Hit, ...]:
    """The series that have these keys, in the order of the keys."""
    select = f"{_select(keywords)} from series where {_AT_PLACES}"
    rows = _read(db, select, _places(db, keys))
    found = np.array([key_of(uid) for uid, *_ in rows], np.uint64)
    return _hits(db, [rows[place] for place in in_turn(found, keys)], keywords)


def seen_in(
    db: duckdb.DuckDBPyConnection, series_uids: Sequence[str]
) -> Mapping[str, Sequence[Seen]]:
    """The structures of these series, from head to foot."""
    names = {number: name for name, number in labels(db).items()}
    keys = np.array([key_of(uid) for uid in series_uids], np.uint64)
    select = f"select series_uid, seen from series where {_AT_PLACES}"
    # Two series could share a key, so the UID decides.
    wanted = set(series_uids)
    rows = _read(db, select, _places(db, keys))
    return {uid: _unpacked(blob, names) for uid, blob in rows if uid in wanted}


def _read(
    db: duckdb.DuckDBPyConnection, select: str, places: npt.NDArray[np.int64]
) -> list[tuple[Any, ...]]:
    """The rows at these places of the table."""
    db.register("places", {"place": places})
    rows = db.execute(select).fetchall()
    db.unregister("places")
    return rows


def _places(db: duckdb.DuckDBPyConnection, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Where in the table the series with these keys stand."""
    db.register("wanted", {"series_key": keys})
    places = db.execute(
        "select rowid as place from series where series_key in (select series_key from wanted)"
    ).fetchnumpy()["place"]
    db.unregister("wanted")
    return places


def totals_of(db: duckdb.DuckDBPyConnection) -> Totals:
    """What is in the index."""
    found = db.execute(_TOTALS).fetchnumpy()
    ((newest,),) = db.execute('select max("StudyDate") from series').fetchall()
    return Totals(
        series=len(found["study"]),
        studies=_count_distinct(found["study"]),
        patients=_count_distinct(found["patient"]),
        segmented=int(np.count_nonzero(found["segmented"])),
        waiting=int(np.count_nonzero(found["waiting"])),
        newest=newest,
    )


def require_attributes(keywords: Sequence[str]) -> None:
    """Refuse to read what is no attribute of a series.

    Raises:
        BadQuery: one is none.
    """
    unknown = sorted(set(keywords) - set(SEARCHABLE))
    if unknown:
        raise BadQuery(f"{unknown[0]} is no attribute; known: {', '.join(SEARCHABLE)}")


def _select(keywords: Sequence[str]) -> str:
    require_attributes(keywords)
    columns = [f'"{keyword}"' for keyword in keywords]
    return f"select {', '.join(['series_uid, study_uid, pseudonym, structure_count', *columns])}"


def _first_hits(
    db: duckdb.DuckDBPyConnection,
    found: Mapping[str, npt.NDArray[Any]],
    sorting: Sorting,
    limit: int,
    offset: int,
) -> tuple[Hit, ...]:
    select = f"{_select(tuple(SEARCHABLE))} from {sorting.sources} where {_AT_PLACES}"
    page = f"{sorting.clause} limit {limit:d} offset {offset:d}"
    rows = _read(db, f"{select} {page}", found["place"][_first(found, limit + offset)])
    return _hits(db, rows, tuple(SEARCHABLE))


def _first(found: Mapping[str, npt.NDArray[Any]], many: int) -> Places:
    """Which come first, so many, and those that are like the last of them and as old.

    UIDs, which decide between these, are long: they are read only of what this leaves.
    """
    sure, alike = least(found["key"], many)
    newer, as_old = least(-found["day"][alike].astype(np.float64), many - len(sure))
    return np.concatenate([sure, alike[newer], alike[as_old]])


def _count_distinct(numbers: npt.NDArray[np.uint32]) -> int:
    """How many different numbers, but 0; as they are dense, marking beats sorting them."""
    seen = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
    seen[numbers] = True
    return int(np.count_nonzero(seen[1:]))


def _patients(found: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.uint64]:
    """The key of every patient that was found, by number; 0 where one was not, and for nobody."""
    numbers = found["patient"]
    keys = np.zeros(int(numbers.max(initial=0)) + 1, np.uint64)
    keys[numbers] = found["patient_key"]
    keys[0] = 0
    return keys


def drawn(keys: npt.NDArray[np.uint64], sample: Sample) -> npt.NDArray[np.uint64]:
    """Those with the lowest lots."""
    if len(keys) <= sample.size:
        return keys
    drawn = np.argpartition(lots(keys, sample.seed), sample.size)[: sample.size]
    return keys[np.sort(drawn)]


def _unpacked(blob: bytes, names: Mapping[int, str]) -> tuple[Seen, ...]:
    seen = [
        Seen(
            structure=names[structure],
            volume_ml=volume_ml,
            mean_hu=mean_hu,
            bottom_mm=bottom_mm,
            top_mm=top_mm,
            complete=complete,
        )
        for structure, complete, volume_ml, mean_hu, bottom_mm, top_mm in np.frombuffer(
            blob, SEEN
        ).tolist()
    ]
    return tuple(sorted(seen, key=lambda s: (-s.top_mm, s.structure)))


def _hits(
    db: duckdb.DuckDBPyConnection, rows: Sequence[Row], keywords: Sequence[str]
) -> tuple[Hit, ...]:
    texts = [place for place, keyword in enumerate(keywords, _FIRST) if keyword in TEXTS]
    words = {row[place] for row in rows for place in texts}
    values = db.execute(
        "select number, value from word where number in (select unnest($words::uinteger[]))",
        {"words": [word for word in words if word is not None]},
    )
    known = dict(values.fetchall())
    return tuple(_hit(row, keywords, known) for row in rows)


def _hit(row: Row, keywords: Sequence[str], words: Mapping[int, str]) -> Hit:
    series_uid, study_uid, patient, structure_count, *values = row
    known = zip(keywords, values, strict=True)
    return Hit(
        series_uid=str(series_uid),
        study_uid=str(study_uid),
        patient=str(patient),
        attributes={k: _plain(k, v, words) for k, v in known if v is not None},
        structure_count=int(str(structure_count)),
    )


def _plain(keyword: str, value: str | float | date, words: Mapping[int, str]) -> str | float:
    if isinstance(value, date):
        return value.isoformat()
    return words[int(value)] if keyword in TEXTS else value
