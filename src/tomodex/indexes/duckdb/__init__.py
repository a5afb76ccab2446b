"""The index in one DuckDB file, for up to some millions of series on one machine.

schema.py       its tables, and rows for them
store.py        the file, and how processes take turns with it
conditions.py   a term of a query -> a condition in SQL
ordering.py     the order of pages
places.py       which series show structures above, below and between others
pages.py        counts of what was found, and rows of some of it
facets.py       counts of the values of a field
crowds.py       patients of what was found, and of the values of a field
resident/       all of that in memory, for who asks for long
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.indexes.duckdb import crowds
from tomodex.indexes.duckdb.conditions import condition_of
from tomodex.indexes.duckdb.facets import columns_of, count, count_cells
from tomodex.indexes.duckdb.ordering import sorting_of
from tomodex.indexes.duckdb.pages import drawn, hits_of, keys_of, page_of, seen_in, totals_of
from tomodex.indexes.duckdb.places import places_in
from tomodex.indexes.duckdb.resident import answering, counting
from tomodex.indexes.duckdb.resident.image import Image
from tomodex.indexes.duckdb.resident.keeper import Keeper
from tomodex.indexes.duckdb.resident.matching import AskTheFile
from tomodex.indexes.duckdb.schema import erase, insert, labels
from tomodex.indexes.duckdb.sql import Condition
from tomodex.indexes.duckdb.store import FileStore, MemoryStore, Store
from tomodex.probe import Probe, probe_room
from tomodex.registry import path_of
from tomodex.search import (
    NEWEST,
    SEARCHABLE,
    CellCount,
    Hit,
    Order,
    Page,
    Query,
    Sample,
    Seen,
    Totals,
)
from tomodex.search.crowd import Crowd

log = logging.getLogger(__name__)

#: Options of the URL, and what they are if it does not say.
OPTIONS = {"memory": "1GB", "threads": "2", "wait": "10", "resident": "4GB"}

#: Annotations that may lie out of order: so many, or this part of all if that is more. Then
#: everything is put in order, which took 24 s for 66 million annotations of 1.7 million series.
UNSORTED = 2_000_000
UNSORTED_PART = 0.25

#: Hits that are read at a time where somebody reads them all.
BATCH = 2000


class DuckDBIndex:
    """`duckdb:///var/lib/tomodex/index.duckdb`, or `duckdb:` for one that lives in memory.

    Options: `?memory=2GB` and `threads=4` at most for a search, `wait=30` seconds at most for
    another process; `resident=8GB` at most in the memory of a process that asks for long, which
    takes nothing there for `resident=no`.
    """

    def __init__(self, url: str) -> None:
        options = _options(url)
        settings = {"memory_limit": options["memory"], "threads": options["threads"]}
        self._most_bytes = _bytes(options["resident"])
        self._keeper: Keeper | None = None
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
            erase(db, series_uids)

    def search(self, query: Query, limit: int = 50, offset: int = 0, order: Order = NEWEST) -> Page:
        with suppress(AskTheFile):
            return answering.page_of(self._image(), query, limit, offset, order)
        with self._asking(query) as (db, condition):
            return page_of(db, condition, sorting_of(order, labels(db)), limit, offset)

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        with suppress(AskTheFile):
            return counting.facets(self._image(), query, fields)
        with self._found(query, columns_of(fields)) as db:
            return {field: count(db, field) for field in fields}

    def cells(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, CellCount]]:
        with suppress(AskTheFile):
            return counting.cells(self._image(), query, fields)
        with self._found(query, ["patient", "patient_key", *columns_of(fields)]) as db:
            return {field: count_cells(db, field) for field in fields}

    def crowd(self, query: Query) -> Crowd:
        with suppress(AskTheFile):
            return counting.crowd(self._image(), query)
        with self._found(query, crowds.COLUMNS) as db:
            return crowds.crowd(db)

    def crowds(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
        with suppress(AskTheFile):
            return counting.crowds(self._image(), query, fields)
        with self._found(query, ["patient", "patient_key", *columns_of(fields)]) as db:
            return {field: crowds.crowds(db, field) for field in fields}

    def seen(self, series_uids: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        with suppress(AskTheFile):
            return answering.seen_in(self._image(), series_uids)
        with self._store.reading() as db:
            return seen_in(db, series_uids)

    def rows(
        self,
        query: Query,
        keywords: Sequence[str] = tuple(SEARCHABLE),
        sample: Sample | None = None,
        order: Order = NEWEST,
    ) -> Iterator[Sequence[Hit]]:
        found = self._keys(query, order)
        keys = drawn(found, sample) if sample else found
        for first in range(0, len(keys), BATCH):
            yield self._hits(keys[first : first + BATCH], keywords)

    def totals(self) -> Totals:
        with suppress(AskTheFile):
            return answering.totals_of(self._image())
        with self._store.reading() as db:
            return totals_of(db)

    def keep_resident(self) -> None:
        """Answer from memory from now on, as far as it is there; it is filled in the background."""
        if self._most_bytes and isinstance(self._store, FileStore) and self._keeper is None:
            self._keeper = Keeper(self._store, self._most_bytes)

    def _image(self) -> Image:
        if self._keeper is None:
            raise AskTheFile
        return self._keeper.image()

    def _keys(self, query: Query, order: Order) -> npt.NDArray[np.uint64]:
        with suppress(AskTheFile):
            return answering.keys_of(self._image(), query, order)
        with self._asking(query) as (db, condition):
            return keys_of(db, condition, sorting_of(order, labels(db)))

    def _hits(self, keys: npt.NDArray[np.uint64], keywords: Sequence[str]) -> Sequence[Hit]:
        with suppress(AskTheFile):
            return answering.hits_of(self._image(), keys, keywords)
        with self._store.reading() as db:
            return hits_of(db, keys, keywords)

    @contextmanager
    def _asking(self, query: Query) -> Iterator[tuple[duckdb.DuckDBPyConnection, Condition]]:
        """The tables, and the condition on the rows of `series` that a query means there."""
        with self._store.reading() as db:
            known = labels(db)
            with places_in(db, known) as places:
                yield db, condition_of(query.term, known, places)

    @contextmanager
    def _found(self, query: Query, columns: Sequence[str]) -> Iterator[duckdb.DuckDBPyConnection]:
        """The table `found`, with these columns of the series that match."""
        select = ", ".join(["number", *columns])
        with self._asking(query) as (db, condition):
            db.execute(
                f"create or replace temp table found as select {select} from series "
                f"where {condition.sql}",
                list(condition.values),
            )
            try:
                yield db
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
        if self._keeper is not None:
            self._keeper.close()
        self._store.close()


def _options(url: str) -> Mapping[str, str]:
    given = dict(parse_qsl(urlsplit(url).query))
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise Misconfigured(f"no option {unknown[0]!r}; the index has {', '.join(OPTIONS)}")
    return {**OPTIONS, **given}


def _bytes(text: str) -> int:
    """The size that an option says; 0 for "no"."""
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])i?B", text, re.IGNORECASE)
    if text.lower() == "no":
        return 0
    if size is None:
        raise Misconfigured(f"the index's option resident is no or a size as 4GB, not {text!r}")
    return int(float(size[1]) * 1000 ** (1 + "KMGT".index(size[2].upper())))


def _count_unsorted(db: duckdb.DuckDBPyConnection, rows: int) -> bool:
    """Remember that so many annotations were added; whether it is time to put all in order."""
    ((before,),) = db.execute("select value from meta where key = 'unsorted'").fetchall()
    ((total,),) = db.execute("select count(*) from annotation").fetchall()
    unsorted = int(before) + rows
    db.execute("update meta set value = ? where key = 'unsorted'", [str(unsorted)])
    return unsorted > max(UNSORTED, UNSORTED_PART * int(total))
