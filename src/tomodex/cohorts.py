"""What can be learned of the series that fit a query: the same for command, web page and client.

Every question goes through here, so here it is decided what who asks may learn, and here it is
written into the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomodex.access import Asker
from tomodex.indexes import Index
from tomodex.search import Hit, Query, parse
from tomodex.terminology import Terminology


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much fits a query; None where it is withheld."""

    patients: int | None
    studies: int | None
    series: int | None
    fewer_than: int = 0  #: withheld, as there are fewer patients; 0: not withheld
    rounded: bool = False  #: the numbers are near the right ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Counts first, then some of the series, newest study first."""

    counts: Counts
    hits: tuple[Hit, ...]
    offset: int
    truncated: bool  #: there are more series than these


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value of a field and how many of the series that were found have it."""

    value: str
    count: int | None  #: None: withheld


class Cohorts:
    """Answers questions about cohorts.

    Every method raises BadQuery where the question cannot be understood, and Forbidden where who
    asks may not ask it.
    """

    def __init__(self, index: Index, terminology: Terminology) -> None:
        self._index = index
        self._terminology = terminology

    def parse(self, text: str) -> Query:
        """The question, read."""
        return parse(text, self._terminology)

    def counts(self, asker: Asker, text: str) -> Counts:
        """How many patients, studies and series fit."""
        asker.require("count")
        return self._search(text, 0, 0).counts

    def series(self, asker: Asker, text: str, limit: int = 50, offset: int = 0) -> Found:
        """Counts and some of the series."""
        asker.require("rows")
        return self._search(text, limit, offset)

    def facets(
        self, asker: Asker, text: str, fields: Sequence[str]
    ) -> Mapping[str, tuple[Cell, ...]]:
        """For each field, its values and how many of the series found have them."""
        asker.require("count")
        counted = self._index.facets(self.parse(text), fields)
        return {
            field: tuple(Cell(value=value, count=count) for value, count in values.items())
            for field, values in counted.items()
        }

    def _search(self, text: str, limit: int, offset: int) -> Found:
        page = self._index.search(self.parse(text), limit, offset)
        counts = Counts(patients=page.patients, studies=page.studies, series=page.series)
        return Found(
            counts=counts,
            hits=page.hits,
            offset=offset,
            truncated=page.series > offset + len(page.hits),
        )
