"""Where annotated series can be found again. An index is a sink that answers queries.

    duckdb:  one file   duckdb.py

The scheme of a URL picks one of these; see `registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from tomodex.registry import open_adapter
from tomodex.search import Page, Query
from tomodex.sinks import Sink

ADAPTERS = {"duckdb": "tomodex.indexes.duckdb:DuckDBIndex"}


class Index(Sink, Protocol):
    """A sink that can be searched."""

    def search(self, query: Query, limit: int = 50, offset: int = 0) -> Page:
        """Exact counts of what matches, and some of it, newest study first."""

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """For each field, how many matching series have each value.

        A field is a DICOM keyword of kind text, "structure", "complete" (structures that are
        whole), "StudyYear" or "AgeDecade".
        """

    def clear(self) -> None:
        """Forget everything, to be filled from the results feed again."""


def open_index(url: str) -> Index:
    """Open the index that `url` names."""
    return cast(Index, open_adapter("index", url, ADAPTERS))
