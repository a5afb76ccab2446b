"""Answers from a data folder of this machine, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tomodex.access import OWNER
from tomodex.client.result import Result, Rows
from tomodex.cohorts import Anatomy, Counts, OneSeries
from tomodex.manifests import UIDS, Format, keep, values_of
from tomodex.saved import Difference, SavedCohort
from tomodex.search import Sample
from tomodex.sql import ask

if TYPE_CHECKING:
    from tomodex.settings import Settings


class Local:
    """Whoever can read the data folder may ask everything."""

    def __init__(self, folder: Path) -> None:
        # What a client of a server does not need.
        from tomodex import wiring
        from tomodex.settings import load_settings

        self._settings: Settings = load_settings(data=folder)
        wiring.require_data(self._settings)
        self._cohorts = wiring.cohorts_of(self._settings)
        self._library = wiring.library_of(self._settings, self._cohorts)

    def count(self, query: str) -> Counts:
        return self._cohorts.counts(OWNER, query)

    def rows(self, query: str, columns: Sequence[str], limit: int | None, sort: str) -> Rows:
        found = self._library.rows(OWNER, query, columns, sort=sort)
        hits = islice(chain.from_iterable(found.rows), limit)
        return Rows(
            counts=found.counts,
            columns=(*UIDS, *found.keywords),
            rows=(values_of(hit, found.keywords) for hit in hits),
        )

    def facets(self, query: str, fields: Sequence[str]) -> Mapping[str, Mapping[str, int | None]]:
        cells = self._cohorts.facets(OWNER, query, fields)
        return {field: {cell.value: cell.count for cell in found} for field, found in cells.items()}

    def structures(self, text: str) -> Sequence[Anatomy]:
        return self._cohorts.anatomy(OWNER, text)

    def series(self, uid: str) -> OneSeries:
        return self._cohorts.one(OWNER, uid)

    def manifest(
        self,
        kind: Format,
        query: str,
        columns: Sequence[str],
        sample: Sample | None,
        sort: str,
        file: Path,
    ) -> None:
        keep(self._library.manifest(OWNER, kind, query, columns, sample, sort).content, file)

    def save(self, name: str, query: str) -> SavedCohort:
        return self._library.save(OWNER, name, query)

    def cohorts(self) -> Sequence[SavedCohort]:
        return self._library.all(OWNER)

    def cohort(self, cohort_id: str) -> SavedCohort:
        return self._library.get(OWNER, cohort_id)

    def diff(self, cohort_id: str, limit: int) -> Difference:
        return self._library.diff(OWNER, cohort_id, limit)

    def delete(self, cohort_id: str) -> None:
        self._library.delete(OWNER, cohort_id)

    def export(self, kind: Format, cohort_id: str, file: Path) -> None:
        keep(self._library.manifest_of(OWNER, kind, cohort_id).content, file)

    def sql(self, statement: str) -> Result:
        found = ask(self._settings.index_url, statement)
        return Result(columns=found.columns, rows=found.rows, truncated=found.truncated)

    def close(self) -> None:
        pass
