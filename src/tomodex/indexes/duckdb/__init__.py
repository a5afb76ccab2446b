"""The index in one DuckDB file, for up to some millions of series on one machine.

schema.py       its tables, and rows for them
store.py        the file, and how processes take turns with it
conditions.py   a term of a query -> a condition in SQL
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.indexes.duckdb.conditions import condition_of
from tomodex.indexes.duckdb.facets import columns_of, count
from tomodex.indexes.duckdb.schema import delete, insert, labels
from tomodex.indexes.duckdb.store import FileStore, MemoryStore, Store
from tomodex.probe import Probe, probe_room
from tomodex.registry import path_of
from tomodex.search import SEARCHABLE, Hit, Page, Query

log = logging.getLogger(__name__)

#: Options of the URL, and what they are if it does not say.
OPTIONS = {"memory": "1GB", "threads": "2", "wait": "10"}

#: Annotations that may lie out of order: so many, or this part of all if that is more. Then
#: everything is put in order, which took 24 s for 66 million annotations of 1.7 million series.
UNSORTED = 2_000_000
UNSORTED_PART = 0.25

_KEYWORDS = ", ".join(f'"{keyword}"' for keyword in SEARCHABLE)

#: Days since 1970, and long before all of them for a series without a date, which comes last.
_NO_DAY = -1_000_000
_FOUND = f"""
select number, study, patient, coalesce("StudyDate" - date '1970-01-01', {_NO_DAY}) as day
from series where """

_HITS = f"""
select series_uid, study_uid, structure_count, {_KEYWORDS} from series
where number in (select number from newest)
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
        self._folder = path.absolute().parent if path != Path() else None
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
            untidy = _count_unsorted(db, insert(db, batch))
        if untidy:
            self._tidy()

    def erase(self, series_uids: Sequence[str]) -> None:
        with self._store.writing() as db:
            delete(db, series_uids)

    def search(self, query: Query, limit: int = 50, offset: int = 0) -> Page:
        with self._store.reading() as db:
            condition = condition_of(query.term, labels(db))
            found = db.execute(_FOUND + condition.sql, list(condition.values)).fetchnumpy()
            db.register("newest", {"number": _newest(found, limit + offset)})
            hits = db.execute(_HITS, [limit, offset]).fetchall()
            db.unregister("newest")
        return Page(
            series=len(found["number"]),
            studies=_count_distinct(found["study"]),
            patients=_count_distinct(found["patient"]),
            hits=tuple(_hit(row) for row in hits),
            offset=offset,
        )

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        columns = ", ".join(["number", *columns_of(fields)])
        with self._store.reading() as db:
            condition = condition_of(query.term, labels(db))
            select = f"select {columns} from series where {condition.sql}"
            db.execute(f"create or replace temp table found as {select}", list(condition.values))
            try:
                return {field: count(db, field) for field in fields}
            finally:
                db.execute("drop table temp.found")

    def clear(self) -> None:
        self._store.clear()

    def probe(self) -> Iterator[Probe]:
        """Whether the file can be read, how much is in it, and whether it has room to grow."""
        yield Probe(subject="DuckDB", verdict="ok", sentence=f"version {duckdb.__version__}")
        try:
            with self._store.reading() as db:
                ((series,),) = db.execute("select count(*) from series").fetchall()
        except TomodexError as error:
            advice = "if it does not pass, make the index anew: tomodex rebuild"
            yield Probe(subject="index file", verdict="wrong", sentence=str(error), advice=advice)
        else:
            yield Probe(subject="index file", verdict="ok", sentence=f"{series:,} series are in it")
        if self._folder is not None:
            yield probe_room(self._folder)

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


def _newest(found: Mapping[str, npt.NDArray[np.int64]], many: int) -> npt.NDArray[np.int64]:
    """Numbers of so many of the newest series, and of those that are as old as the last of them.

    UIDs, which decide between these, are long: they are read only of what this leaves.
    """
    days, numbers = found["day"], found["number"]
    if len(days) <= many or not many:
        return numbers[: len(days) if many else 0]
    last_day = np.partition(days, -many)[-many]
    return np.extract(days >= last_day, numbers)


def _count_distinct(numbers: npt.NDArray[np.uint32]) -> int:
    """How many different numbers, but 0; as they are dense, marking beats sorting them."""
    seen = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
    seen[numbers] = True
    return int(np.count_nonzero(seen[1:]))


def _count_unsorted(db: duckdb.DuckDBPyConnection, rows: int) -> bool:
    """Remember that so many annotations were added; whether it is time to put all in order."""
    ((before,),) = db.execute("select value from meta where key = 'unsorted'").fetchall()
    ((total,),) = db.execute("select count(*) from annotation").fetchall()
    unsorted = int(before) + rows
    db.execute("update meta set value = ? where key = 'unsorted'", [str(unsorted)])
    return unsorted > max(UNSORTED, UNSORTED_PART * int(total))


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
