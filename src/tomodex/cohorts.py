"""What can be learned of the series that fit a query: the same for command, web page and client.

Every question goes through here, so here it is decided what who asks may learn, and here it is
written into the audit log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from time import monotonic, perf_counter

from tomodex.access import Asker, Right
from tomodex.anatomy import Named, found_by
from tomodex.annotation import AnnotatedSeries
from tomodex.auditlog import Audit, NoAudit
from tomodex.chips import NAMES, UNITS, Chip, chips_of
from tomodex.completion import Completion, complete
from tomodex.disclosure import COARSE, COUNTED, Disclosure
from tomodex.errors import BadQuery, Forbidden, NotThere
from tomodex.indexes import Index
from tomodex.instance import Kind
from tomodex.queues import Audited, Queue, TaskState
from tomodex.search import (
    ASKABLE,
    FIELDS,
    NEWEST,
    SEARCHABLE,
    Hit,
    Order,
    Query,
    Sample,
    Seen,
    Totals,
    format_order,
    parse,
    parse_order,
)
from tomodex.search.language import MAX_CHARACTERS
from tomodex.telling import Teller
from tomodex.terminology import Terminology

#: Most series that one page may have.
MOST_ROWS = 10_000

#: Most series whose structures are shown at once.
MOST_STRIPS = 200

#: Attributes of a row, where nobody says which.
ROW = tuple(SEARCHABLE)

#: So old may the numbers of the whole index be.
TOTALS_S = 5.0

#: The same for the values of a field in the whole index.
VALUES_S = 30.0

#: Most fields whose values are counted at once.
MOST_FIELDS = 20

NO_AUDIT = NoAudit()

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
    """Counts first, then some of the series, in the order that was asked for."""

    counts: Counts
    among: int  #: series in the index
    milliseconds: float  #: how long it took to find them
    hits: tuple[Hit, ...]
    seen: Mapping[str, Sequence[Seen]]  #: what hits show from head to foot, by UID, where asked for
    offset: int
    truncated: bool  #: there are more series than these
    sort: str = "newest"  #: the order of the hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of a field and how many of the series that were found have it."""

    value: str
    count: int | None  #: None: withheld


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A structure or a group of them, and how many series show it."""

    named: Named
    series: int | None  #: that show it, whole or cut, or any of a group; None: not told
    complete: int | None  #: that show it whole, or any of a group whole; None: not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something besides anatomy that a series can be asked for."""

    keyword: str
    kind: Kind
    name: str  #: for people
    unit: str  #: that its numbers are in; "" for none
    counted: bool  #: its values can be listed and counted


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSeries:
    """All that is known of one series."""

    series_uid: str
    annotated: AnnotatedSeries | None  #: None: no result stands of it
    tasks: tuple[TaskState, ...]  #: what became of it, for each configuration
    audit: tuple[Audited, ...]  #: what was done to it, newest first

    @property
    def study_uid(self) -> str | None:
        """Its Study Instance UID; None where it is gone."""
        if self.annotated:
            return self.annotated.series.study_uid
        return self.tasks[0].series.study_uid if self.tasks else None


#: A series that no index holds: to look for it costs next to nothing.
NOBODY = ("0",)


class Cohorts:
    """Answers questions about cohorts.

    Every method raises BadQuery where the question cannot be understood, and Forbidden where who
    asks may not ask it.
    """

    def __init__(
        self,
        index: Index,
        terminology: Terminology,
        queue: Queue,
        disclosure: Disclosure | None = None,
        audit: Audit = NO_AUDIT,
    ) -> None:
        """`disclosure` None: whoever may learn numbers alone learns nothing."""
        self._index = index
        self._terminology = terminology
        self._queue = queue
        self._teller = Teller(index, disclosure) if disclosure else None
        self._audit = audit
        self._counted: tuple[float, Totals | None] = (0.0, None)
        self._listed: dict[str, tuple[float, tuple[Cell, ...]]] = {}

    @property
    def terminology(self) -> Terminology:
        """The words that questions are asked in."""
        return self._terminology

    def reach(self) -> None:
        """Return if the index answers, about which nothing is told."""
        self._index.seen(NOBODY)

    def parse(self, text: str) -> Query:
        """The question, read."""
        return parse(text, self._terminology)

    def order(self, sort: str) -> Order:
        """The order that `sort` means, such as "largest spleen"; "" is newest study first."""
        return parse_order(sort, self._terminology)

    def chips(self, text: str) -> tuple[Chip, ...]:
        """The question as the parts that it demands together."""
        return chips_of(self.parse(text), self._terminology)

    def counts(self, asker: Asker, text: str) -> Counts:
        """How many patients, studies and series fit."""
        self._require(asker, "count", text)
        counts = self._counts(asker, text)
        facts = {"patients": counts.patients, "series": counts.series}
        self._audit.write(asker, "count", text, **facts)
        return counts

    def series(
        self, asker: Asker, text: str, limit: int = 50, offset: int = 0, sort: str = ""
    ) -> Found:
        """Counts and some of the series, in an order."""
        self._require(asker, "rows", text)
        found = self._search(text, min(limit, MOST_ROWS), offset, self.order(sort))
        facts = {"patients": found.counts.patients, "series": found.counts.series}
        page = {"rows": len(found.hits), "offset": offset}
        self._audit.write(asker, "query", text, sort=found.sort, **page, **facts)
        return found

    def strips(
        self, asker: Asker, text: str, limit: int = 50, offset: int = 0, sort: str = ""
    ) -> Found:
        """The same, with what each of these series shows from head to foot."""
        found = self.series(asker, text, min(limit, MOST_STRIPS), offset, sort)
        return replace(found, seen=self._index.seen([hit.series_uid for hit in found.hits]))

    def rows(
        self,
        asker: Asker,
        text: str,
        keywords: Sequence[str] = ROW,
        sample: Sample | None = None,
        sort: str = "",
    ) -> Iterator[Sequence[Hit]]:
        """All series that fit, or some drawn by lot, in an order, some at a time."""
        self._require(asker, "rows", text)
        query, order = self.parse(text), self.order(sort)
        self._audit.write(asker, "export", text, sample=sample.size if sample else None)
        return self._index.rows(query, keywords, sample, order)

    def totals(self, asker: Asker) -> Totals:
        """How much is in the index."""
        asker.require("count")
        totals = self._totals()
        return totals if asker.may("rows") else self._told().totals(asker, totals)

    def facets(
        self, asker: Asker, text: str, fields: Sequence[str]
    ) -> Mapping[str, tuple[Cell, ...]]:
        """For each field, its values and how many of the series found have them."""
        self._require(asker, "count", text)
        if len(fields) > MOST_FIELDS:
            raise BadQuery(f"at most {MOST_FIELDS} fields are counted at once, not {len(fields)}")
        cells = self._cells(asker, text, tuple(dict.fromkeys(fields)))
        self._audit.write(asker, "count", text, fields=" ".join(cells))
        return cells

    def anatomy(self, asker: Asker, text: str = "") -> tuple[Anatomy, ...]:
        """The structures and groups that a text means, or all, and how many series show each."""
        asker.require("count")
        found = found_by(text, self._terminology)
        if not found:
            raise BadQuery(
                f"{text[:100]!r} is not a structure or group",
                suggestions=tuple(self._terminology.suggest(text)),
            )
        groups = (named for named in found if named.kind != "structure")
        structures = (named for named in found if named.kind == "structure")
        # Each group takes two searches, so that not all of them are counted at once.
        count_group = partial(self._count_group, asker) if text else _not_counted
        return (*map(count_group, groups), *self._count_structures(asker, structures))

    def attributes(self, asker: Asker) -> tuple[Attribute, ...]:
        """What can be asked of a series besides anatomy."""
        asker.require("count")
        askable, counted = (ASKABLE, FIELDS) if asker.may("rows") else (COARSE, COUNTED)
        return tuple(
            Attribute(
                keyword=keyword,
                kind=kind,
                name=NAMES.get(keyword, keyword),
                unit=UNITS.get(keyword, "").strip(),
                counted=keyword in counted,
            )
            for keyword, kind in ASKABLE.items()
            if keyword in askable
        )

    def values(
        self, asker: Asker, keyword: str, prefix: str = "", limit: int = 100
    ) -> tuple[Cell, ...]:
        """The values of an attribute that begin so, most frequent first."""
        asker.require("count")
        if keyword not in FIELDS:
            raise _no_values(keyword)
        start = prefix.casefold()
        cells = self._whole(asker, keyword)
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
        text = f"SeriesInstanceUID = {series_uid[:64]}"
        self._require(asker, "rows", text)
        self._audit.write(asker, "query", text)
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
        if not asker.may("rows") and keyword not in COUNTED:
            return ()
        return ((cell.value, cell.count) for cell in self.values(asker, keyword, prefix))

    def _require(self, asker: Asker, right: Right, text: str) -> None:
        try:
            asker.require(right)
        except Forbidden:
            # It was not read, so it may be of any length.
            self._audit.write(asker, "refused", text[:MAX_CHARACTERS], right=right)
            raise

    def _counts(self, asker: Asker, text: str) -> Counts:
        if asker.may("rows"):
            return self._search(text, 0, 0, NEWEST).counts
        teller = self._told()
        told = teller.tell(asker, self.parse(text))
        return Counts(
            patients=told.patients,
            studies=told.studies,
            series=told.series,
            size_bytes=told.size_bytes,
            fewer_than=teller.fewest if told.patients is None else 0,
            rounded=told.patients is not None,
        )

    def _cells(
        self, asker: Asker, text: str, fields: Sequence[str]
    ) -> Mapping[str, tuple[Cell, ...]]:
        if asker.may("rows"):
            counted = self._index.facets(self.parse(text), fields)
        else:
            counted = self._told().facets(asker, self.parse(text), fields)
        return {
            field: tuple(Cell(value=value, count=count) for value, count in values.items())
            for field, values in counted.items()
        }

    def _whole(self, asker: Asker, field: str) -> tuple[Cell, ...]:
        """The values of a field in the whole index; exact ones may be some seconds old."""
        if not asker.may("rows"):
            return self._cells(asker, "", (field,))[field]
        counted_s, cells = self._listed.get(field, (0.0, ()))
        if field not in self._listed or monotonic() - counted_s > VALUES_S:
            cells = self._cells(asker, "", (field,))[field]
            self._listed[field] = (monotonic(), cells)
        return cells

    def _count_group(self, asker: Asker, named: Named) -> Anatomy:
        shown = self._counts(asker, named.query).series
        whole = self._counts(asker, f"{named.query} complete").series
        return Anatomy(named=named, series=shown, complete=whole)

    def _count_structures(self, asker: Asker, found: Iterable[Named]) -> Iterator[Anatomy]:
        shown, whole = (_counts(self._whole(asker, field)) for field in ("structure", "complete"))
        # What is not listed for a viewer may be none, or few.
        absent = 0 if asker.may("rows") else None
        for named in found:
            yield Anatomy(
                named=named,
                series=shown.get(named.name, absent),
                complete=whole.get(named.name, absent),
            )

    def _told(self) -> Teller:
        if self._teller is None:
            raise Forbidden("numbers without series are told of by a server alone")
        return self._teller

    def _search(self, text: str, limit: int, offset: int, order: Order) -> Found:
        begin = perf_counter()
        page = self._index.search(self.parse(text), limit, offset, order)
        return Found(
            counts=Counts(
                patients=page.patients,
                studies=page.studies,
                series=page.series,
                size_bytes=page.size_bytes,
            ),
            among=self._totals().series,
            milliseconds=round((perf_counter() - begin) * 1000, 1),
            hits=page.hits,
            seen={},
            offset=offset,
            truncated=page.series > offset + len(page.hits),
            sort=format_order(order),
        )

    def _totals(self) -> Totals:
        """As of some seconds ago: to count everything takes as long as a search."""
        counted_s, totals = self._counted
        if totals is None or monotonic() - counted_s > TOTALS_S:
            totals = self._index.totals()
            self._counted = (monotonic(), totals)
        return totals


def _counts(cells: Iterable[Cell]) -> Mapping[str, int | None]:
    return {cell.value: cell.count for cell in cells}


def _not_counted(named: Named) -> Anatomy:
    return Anatomy(named=named, series=None, complete=None)


def _no_values(keyword: str) -> BadQuery:
    if keyword in ASKABLE:
        return BadQuery(
            f"{keyword} is compared, and its values are not listed", suggestions=_classes(keyword)
        )
    close = get_close_matches(keyword[:100], FIELDS, n=3)
    return BadQuery(f"no attribute is called {keyword[:100]!r}", suggestions=tuple(close))


def _classes(keyword: str) -> tuple[str, ...]:
    """Fields that count an attribute in classes."""
    classes = {
        "StudyDate": "StudyYear",
        "PatientAge": "AgeDecade",
        "SliceThickness": "SliceThicknessClass",
    }
    return (classes[keyword],) if keyword in classes else ()
