"""What can be learned of the series that fit a query: the same for command, web page and client.

Every question goes through here, so here it is decided what who asks may learn, and here it is
written into the audit log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from time import perf_counter

from tomodex.access import Asker
from tomodex.anatomy import Named, found_by
from tomodex.annotation import AnnotatedSeries
from tomodex.chips import Chip, chips_of
from tomodex.completion import Completion, complete
from tomodex.errors import BadQuery, NotThere
from tomodex.indexes import Index
from tomodex.instance import Kind
from tomodex.queues import Audited, Queue, TaskState
from tomodex.search import SEARCHABLE, Hit, Query, parse
from tomodex.terminology import Terminology

#: Most series that one page may have.
MOST_ROWS = 10_000

#: Most fields whose values are counted at once.
MOST_FIELDS = 20

#: Most values of an attribute that are listed.
MOST_VALUES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much fits a query; None where it is withheld."""

    patients: int | None
    studies: int | None
    series: int | None
    size_bytes: int | None = None  #: of their images, uncompressed; None: not known either
    fewer_than: int = 0  #: withheld, as there are fewer patients; 0: not withheld
    rounded: bool = False  #: the numbers are near the right ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Counts first, then some of the series, newest study first."""

    counts: Counts
    among: int  #: series in the index
    milliseconds: float  #: how long it took to find them
    hits: tuple[Hit, ...]
    offset: int
    truncated: bool  #: there are more series than these


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of a field and how many of the series that were found have it."""

    value: str
    count: int | None  #: None: withheld


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A structure or a group of them, and how many series show it."""

    named: Named
    series: int | None  #: that show it, whole or cut; None: withheld, or a group
    complete: int | None  #: that show it whole; None: withheld, or a group


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something besides anatomy that a series can be asked for."""

    keyword: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSeries:
    """All that is known of one series."""

    series_uid: str
    annotated: AnnotatedSeries | None  #: None: no result stands of it
    tasks: tuple[TaskState, ...]  #: what became of it, for each configuration
    audit: tuple[Audited, ...]  #: what was done to it, newest first


class Cohorts:
    """Answers questions about cohorts.

    Every method raises BadQuery where the question cannot be understood, and Forbidden where who
    asks may not ask it.
    """

    def __init__(self, index: Index, terminology: Terminology, queue: Queue) -> None:
        self._index = index
        self._terminology = terminology
        self._queue = queue

    @property
    def terminology(self) -> Terminology:
        """The words that questions are asked in."""
        return self._terminology

    def parse(self, text: str) -> Query:
        """The question, read."""
        return parse(text, self._terminology)

    def chips(self, text: str) -> tuple[Chip, ...]:
        """The question as the parts that it demands together."""
        return chips_of(self.parse(text), self._terminology)

    def counts(self, asker: Asker, text: str) -> Counts:
        """How many patients, studies and series fit."""
        asker.require("count")
        return self._search(text, 0, 0).counts

    def series(self, asker: Asker, text: str, limit: int = 50, offset: int = 0) -> Found:
        """Counts and some of the series."""
        asker.require("rows")
        return self._search(text, min(limit, MOST_ROWS), offset)

    def rows(self, asker: Asker, text: str, batch: int = 5000) -> Iterator[Sequence[Hit]]:
        """All series that fit, newest study first, so many at a time."""
        asker.require("rows")
        return self._rows(self.parse(text), batch)

    def facets(
        self, asker: Asker, text: str, fields: Sequence[str]
    ) -> Mapping[str, tuple[Cell, ...]]:
        """For each field, its values and how many of the series found have them."""
        asker.require("count")
        if len(fields) > MOST_FIELDS:
            raise BadQuery(f"at most {MOST_FIELDS} fields are counted at once, not {len(fields)}")
        counted = self._index.facets(self.parse(text), tuple(dict.fromkeys(fields)))
        return {
            field: tuple(Cell(value=value, count=count) for value, count in values.items())
            for field, values in counted.items()
        }

    def anatomy(self, asker: Asker, text: str = "") -> tuple[Anatomy, ...]:
        """The structures and groups that a text means, or all, and how many series show each."""
        asker.require("count")
        found = found_by(text, self._terminology)
        if not found:
            raise BadQuery(
                f"{text[:100]!r} is not a structure or group",
                suggestions=tuple(self._terminology.suggest(text)),
            )
        facets = self.facets(asker, "", ("structure", "complete"))
        shown, whole = (_counts(facets[field]) for field in ("structure", "complete"))
        return tuple(_anatomy(named, shown, whole) for named in found)

    def attributes(self, asker: Asker) -> tuple[Attribute, ...]:
        """What can be asked of a series besides anatomy."""
        asker.require("count")
        return tuple(Attribute(keyword=k, kind=kind) for k, kind in SEARCHABLE.items())

    def values(
        self, asker: Asker, keyword: str, prefix: str = "", limit: int = 100
    ) -> tuple[Cell, ...]:
        """The values of an attribute that begin so, most frequent first."""
        if SEARCHABLE.get(keyword) != "text":
            raise _no_values(keyword)
        start = prefix.casefold()
        cells = self.facets(asker, "", (keyword,))[keyword]
        found = (cell for cell in cells if cell.value.casefold().startswith(start))
        return tuple(found)[: min(limit, MOST_VALUES)]

    def completions(
        self, asker: Asker, text: str, cursor: int, limit: int = 10
    ) -> tuple[Completion, ...]:
        """What may come at the cursor, likeliest first."""
        asker.require("count")
        values = partial(self._values_of, asker)
        return complete(text, cursor, self._terminology, values, limit)

    def one(self, asker: Asker, series_uid: str) -> OneSeries:
        """All that is known of one series.

        Raises:
            NotThere: nothing is.
        """
        asker.require("rows")
        result, tasks = self._queue.result(series_uid), self._queue.states(series_uid)
        audit = self._queue.audit(series_uid)
        if not (result or tasks or audit):
            raise NotThere(f"no series {series_uid[:64]} is known")
        return OneSeries(
            series_uid=series_uid,
            annotated=result.annotated if result else None,
            tasks=tuple(tasks),
            audit=tuple(audit),
        )

    def _values_of(
        self, asker: Asker, keyword: str, prefix: str
    ) -> Iterable[tuple[str, int | None]]:
        return ((cell.value, cell.count) for cell in self.values(asker, keyword, prefix))

    def _search(self, text: str, limit: int, offset: int) -> Found:
        begin = perf_counter()
        page = self._index.search(self.parse(text), limit, offset)
        return Found(
            counts=Counts(patients=page.patients, studies=page.studies, series=page.series),
            among=self._among(),
            milliseconds=round((perf_counter() - begin) * 1000, 1),
            hits=page.hits,
            offset=offset,
            truncated=page.series > offset + len(page.hits),
        )

    def _among(self) -> int:
        return self._index.search(Query(text="", term=None), 0, 0).series

    def _rows(self, query: Query, batch: int) -> Iterator[Sequence[Hit]]:
        offset = 0
        while hits := self._index.search(query, batch, offset).hits:
            yield hits
            offset += len(hits)


def _counts(cells: Iterable[Cell]) -> Mapping[str, int | None]:
    return {cell.value: cell.count for cell in cells}


def _anatomy(
    named: Named, shown: Mapping[str, int | None], whole: Mapping[str, int | None]
) -> Anatomy:
    if named.kind != "structure":
        return Anatomy(named=named, series=None, complete=None)
    return Anatomy(named=named, series=shown.get(named.name, 0), complete=whole.get(named.name, 0))


def _no_values(keyword: str) -> BadQuery:
    kind = SEARCHABLE.get(keyword)
    if kind:
        return BadQuery(f"{keyword} is a {kind}, which is compared and not listed")
    close = get_close_matches(keyword, SEARCHABLE, n=3)
    return BadQuery(f"no attribute is called {keyword[:100]!r}", suggestions=tuple(close))
