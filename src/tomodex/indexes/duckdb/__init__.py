"""The index in one DuckDB file, for up to some millions of series on one machine.

schema.py       its tables, and rows for them
store.py        the file, and how processes take turns with it
conditions.py   a term of a query -> a condition in SQL
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import duckdb

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes.duckdb.conditions import condition_of
from tomodex.indexes.duckdb.facets import columns_of, count
from tomodex.indexes.duckdb.schema import insert, key_of, labels
from tomodex.indexes.duckdb.store import FileStore, MemoryStore, Store
from tomodex.registry import path_of
from tomodex.search import SEARCHABLE, Hit, Page, Query

log = logging.getLogger(__name__)

#: Options of the URL, and what they are if it does not say.
OPTIONS = {"memory": "1GB", "threads": "2", "wait": "10"}

#: Annotations that may lie out of order: so many, or this part of all if that is more. Then
#: everything is put in order, which takes half a second for a million.
UNSORTED = 2_000_000
UNSORTED_PART = 0.25

_KEYWORDS = ", ".join(f'"{keyword}"' for keyword in SEARCHABLE)

#: What counting and sorting need; a series without a date comes last.
_TO_COUNT = (
    "number",
    """coalesce("StudyDate", date '0001-01-01') as day""",
    "study_key",
    "patient_key",
)

_COUNTS = """
select (select count(*) from found),
    (select count(*) from (select distinct study_key from found)),
    (select count(*) from (select distinct patient_key from found where patient_key is not null))
"""

_LAST_DAY = "select day from found order by day desc limit 1 offset ?"

#: UIDs are long: they are read only of series as new as the last of the page.
_HITS = f"""
select series_uid, study_uid, structure_count, {_KEYWORDS} from series
where number in (select number from found where day >= ?)
order by "StudyDate" desc nulls last, series_uid limit ? offset ?
"""


class DuckDBIndex:
    """`duckdb:///var/lib/tomodex/index.duckdb`, or `duckdb:` for one that lives in memory.

    Options: `?memory=2GB` and `threads=4` at most for a search, `wait=30` seconds at most for
    another process.
    """

    def __init__(self, url: str) -> None:
        options = _options(url)
        settings = {"memory_limit": options["memory"], "threads": options["threads"]}
        path = path_of(url)
        self._store: Store = (
            MemoryStore(settings)
            if path == Path()
            else FileStore(path, settings, float(options["wait"]))
        )

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        batch = list({one.series.series_uid: one for one in annotated}.values())
        if not batch:
            return
        with self._store.writing() as db:
            _delete(db, [one.series.series_uid for one in batch])
            rows = insert(db, batch, _next_number(db))
            untidy = _count_unsorted(db, rows)
        if untidy:
            self._tidy()

    def erase(self, series_uids: Sequence[str]) -> None:
        with self._store.writing() as db:
            _delete(db, series_uids)

    def search(self, query: Query, limit: int = 50, offset: int = 0) -> Page:
        with self._store.reading() as db, _found(db, query, _TO_COUNT):
            series, studies, patients = _row(db.execute(_COUNTS))
            last = db.execute(_LAST_DAY, [max(0, offset + limit - 1)]).fetchone()
            day = last[0] if last else date.min
            hits = db.execute(_HITS, [day, limit, offset]).fetchall()
        return Page(
            series=series,
            studies=studies,
            patients=patients,
            hits=tuple(_hit(row) for row in hits),
            offset=offset,
        )

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        columns = columns_of(fields)
        with self._store.reading() as db, _found(db, query, ["number", *columns]):
            return {field: count(db, field) for field in fields}

    def clear(self) -> None:
        self._store.clear()

    def _tidy(self) -> None:
        try:
            self._store.tidy()
        except Unavailable:
            # The batch is safe all the same, and the next one tries again.
            log.warning("index_out_of_order", exc_info=True)

    def close(self) -> None:
        self._store.close()


def _options(url: str) -> Mapping[str, str]:
    given = dict(parse_qsl(urlsplit(url).query))
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise Misconfigured(f"no option {unknown[0]!r}; the index has {', '.join(OPTIONS)}")
    return {**OPTIONS, **given}


@contextmanager
def _found(db: duckdb.DuckDBPyConnection, query: Query, columns: Sequence[str]) -> Iterator[None]:
    """The table `found`, with these columns of each series that matches."""
    condition = condition_of(query.term, labels(db))
    select = f"select {', '.join(columns)} from series where {condition.sql}"
    db.execute(f"create or replace temp table found as {select}", list(condition.values))
    try:
        yield
    finally:
        db.execute("drop table temp.found")


def _delete(db: duckdb.DuckDBPyConnection, series_uids: Sequence[str]) -> None:
    gone = {"keys": [key_of(uid) for uid in series_uids], "uids": list(series_uids)}
    # Comparing keys is fast; two series could share one, so the UID decides.
    which = """series_key in (select unnest($keys::ubigint[]))
        and series_uid in (select unnest($uids::text[]))"""
    numbers = [
        n for (n,) in db.execute(f"select number from series where {which}", gone).fetchall()
    ]
    if numbers:
        db.execute("delete from annotation where series in (select unnest(?))", [numbers])
        db.execute("delete from series where number in (select unnest(?))", [numbers])


def _next_number(db: duckdb.DuckDBPyConnection) -> int:
    return int(_row(db.execute("select coalesce(max(number) + 1, 0) from series"))[0])


def _count_unsorted(db: duckdb.DuckDBPyConnection, rows: int) -> bool:
    """Remember that so many annotations were added; whether it is time to put all in order."""
    unsorted = rows + int(_row(db.execute("select value from meta where key = 'unsorted'"))[0])
    db.execute("update meta set value = ? where key = 'unsorted'", [str(unsorted)])
    total = int(_row(db.execute("select count(*) from annotation"))[0])
    return unsorted > max(UNSORTED, UNSORTED_PART * total)


def _row(answer: duckdb.DuckDBPyConnection) -> tuple[int, ...]:
    row = answer.fetchone()
    assert row is not None
    return row


def _hit(row: tuple[str | float | date | None, ...]) -> Hit:
    series_uid, study_uid, structure_count, *values = row
    known = zip(SEARCHABLE, values, strict=True)
    return Hit(
        series_uid=str(series_uid),
        study_uid=str(study_uid),
        attributes={k: _plain(v) for k, v in known if v is not None},
        structure_count=int(str(structure_count)),
    )


def _plain(value: str | float | date) -> str | float:
    return value.isoformat() if isinstance(value, date) else value
