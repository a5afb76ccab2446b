"""Where annotated series can be found again. An index is a sink that answers queries.

    duckdb:               one file                               duckdb/
    elasticsearch+https:  an Elasticsearch or OpenSearch server  elasticsearch/

The scheme of a URL picks one of these; see `registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from tomodex.registry import open_adapter
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
from tomodex.sinks import Sink

_ELASTICSEARCH = "tomodex.indexes.elasticsearch:ElasticsearchIndex"

ADAPTERS = {
    "duckdb": "tomodex.indexes.duckdb:DuckDBIndex",
    **{
        f"{engine}+{scheme}": _ELASTICSEARCH
        for engine in ("elasticsearch", "opensearch")
        for scheme in ("https", "http")
    },
}


#: Schemes of indexes that somebody who searches waits for while they are written.
EMBEDDED = frozenset({"duckdb"})


class Index(Sink, Protocol):
    """A sink that can be searched."""

    def search(self, query: Query, limit: int = 50, offset: int = 0, order: Order = NEWEST) -> Page:
        """Exact counts of what matches, and some of it in this order."""

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """For each of these of `search.FIELDS`, how many matching series have each value."""

    def cells(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, CellCount]]:
        """The same with their patients, to be counted where single series are nobody's business."""

    def crowd(self, query: Query) -> Crowd:
        """The patients of everything that matches, for those who may learn of no single one."""

    def crowds(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
        """The patients who have each value of these fields; of studies and sizes nothing."""

    def seen(self, series_uids: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """Every structure of these series, from head to foot; a series not in it is left out."""

    def rows(
        self,
        query: Query,
        keywords: Sequence[str] = tuple(SEARCHABLE),
        sample: Sample | None = None,
        order: Order = NEWEST,
    ) -> Iterator[Sequence[Hit]]:
        """Everything that matches, or a sample of it, in this order, some at a time.

        Hits have these of the attributes. Nothing is held up while somebody reads on: a series
        that is erased meanwhile is left out, one that is written again comes as it is then.
        """

    def totals(self) -> Totals:
        """What is in it."""

    def clear(self) -> None:
        """Forget everything, to be filled from the results feed again."""


@runtime_checkable
class Resident(Protocol):
    """An index that answers faster from memory, if it is to answer for long."""

    def keep_resident(self) -> None:
        """Fill the memory in the background; until it is full, answers come as before."""


@runtime_checkable
class Staged(Protocol):
    """An index that is searched as it was while it is made anew."""

    def renew(self) -> None:
        """Take the feed from its beginning, into another index; what was begun so is dropped."""

    def complete(self) -> None:
        """Have all of the feed: if it was made anew, that is searched now, and the old one gone."""


def open_index(url: str) -> Index:
    """Open the index that `url` names."""
    return cast(Index, open_adapter("index", url, ADAPTERS))
