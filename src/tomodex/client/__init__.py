"""Ask an index from Python: on this machine, or over HTTP, with the same answers.

    from tomodex.client import Index

    index = Index("tomodex-data")
    index.search("liver complete", columns=["StudyDate"]).to_pandas()

result.py   what comes back: counts, and rows that become data frames
local.py    a data folder of this machine
remote.py   `tomodex serve`
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tomodex.client.local import Local
from tomodex.client.remote import Remote
from tomodex.client.result import Result, Rows
from tomodex.cohorts import Anatomy, Counts, OneSeries
from tomodex.manifests import USUAL, Format, format_of
from tomodex.saved import Difference, SavedCohort
from tomodex.search import Sample

__all__ = ["Cohorts", "Index", "Result"]

#: Columns of a search beside the UIDs, unless others are asked for.
COLUMNS = (
    "StudyDate",
    "Modality",
    "PatientAge",
    "PatientSex",
    "SliceThickness",
    "slice_count",
)

#: Where the token is, if nobody says it.
TOKEN = "TOMODEX_TOKEN"


class Answers(Protocol):
    """Whoever answers: the core on this machine, or a server."""

    def count(self, query: str) -> Counts: ...
    def rows(self, query: str, columns: Sequence[str], limit: int | None, sort: str) -> Rows: ...
    def facets(
        self, query: str, fields: Sequence[str]
    ) -> Mapping[str, Mapping[str, int | None]]: ...
    def structures(self, text: str) -> Sequence[Anatomy]: ...
    def series(self, uid: str) -> OneSeries: ...
    def manifest(
        self,
        kind: Format,
        query: str,
        columns: Sequence[str],
        sample: Sample | None,
        sort: str,
        file: Path,
    ) -> None: ...
    def save(self, name: str, query: str) -> SavedCohort: ...
    def cohorts(self) -> Sequence[SavedCohort]: ...
    def cohort(self, cohort_id: str) -> SavedCohort: ...
    def diff(self, cohort_id: str, limit: int) -> Difference: ...
    def delete(self, cohort_id: str) -> None: ...
    def export(self, kind: Format, cohort_id: str, file: Path) -> None: ...
    def sql(self, statement: str) -> Result: ...
    def close(self) -> None: ...


class Index:
    """An index to ask.

    Every method raises BadQuery (what to change), Forbidden (who may), NotThere, Unavailable (the
    same call may work later) or Misconfigured (place or token are wrong).

    Args:
        place: a data folder, or the `http(s)://` address of `tomodex serve`.
        token: for a server; else the environment variable `TOMODEX_TOKEN` has it.
    """

    def __init__(self, place: str | Path, token: str = "") -> None:
        self._answers: Answers = _open(place, token)
        self.cohorts = Cohorts(self._answers)  #: those that were saved

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what it holds open."""
        self._answers.close()

    def count(self, query: str) -> Counts:
        """How many patients, studies and series fit."""
        return self._answers.count(query)

    def search(
        self,
        query: str,
        columns: Sequence[str] = COLUMNS,
        limit: int | None = None,
        sort: str = "newest",
    ) -> Result:
        """Counts of all that fits, and rows of all or of the first, in an order."""
        found = self._answers.rows(query, columns, limit, sort)
        return Result(columns=found.columns, rows=tuple(found.rows), counts=found.counts)

    def facets(self, query: str, fields: Sequence[str]) -> Mapping[str, Mapping[str, int | None]]:
        """For each field, its values and how many series have them; None: withheld."""
        return self._answers.facets(query, fields)

    def structures(self, text: str = "") -> Sequence[Anatomy]:
        """The structures and groups that a text means, or all, and how many series show them."""
        return self._answers.structures(text)

    def series(self, uid: str) -> OneSeries:
        """All that is known of one series."""
        return self._answers.series(uid)

    def manifest(
        self,
        query: str,
        file: str | Path,
        columns: Sequence[str] = USUAL,
        sample: int | None = None,
        seed: int = 0,
        sort: str = "newest",
    ) -> None:
        """Write the list of all series that fit, or of some drawn by lot; the ending says how."""
        drawn = Sample(size=sample, seed=seed) if sample else None
        self._answers.manifest(format_of(Path(file)), query, columns, drawn, sort, Path(file))

    def sql(self, statement: str) -> Result:
        """What one SELECT finds, where the server allows it."""
        return self._answers.sql(statement)


class Cohorts:
    """Saved cohorts: frozen lists of series."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def save(self, name: str, query: str) -> SavedCohort:
        """Freeze what a search finds now."""
        return self._answers.save(name, query)

    def list(self) -> Sequence[SavedCohort]:
        """All of the site, newest first."""
        return self._answers.cohorts()

    def get(self, cohort_id: str) -> SavedCohort:
        """One of them."""
        return self._answers.cohort(cohort_id)

    def diff(self, cohort_id: str, limit: int = 1000) -> Difference:
        """What its question finds today; of each kind so many UIDs."""
        return self._answers.diff(cohort_id, limit)

    def export(self, cohort_id: str, file: str | Path) -> None:
        """Write the frozen list; the ending says in which format."""
        self._answers.export(format_of(Path(file)), cohort_id, Path(file))

    def delete(self, cohort_id: str) -> None:
        """Forget one."""
        self._answers.delete(cohort_id)


def _open(place: str | Path, token: str) -> Answers:
    if isinstance(place, str) and place.startswith(("http://", "https://")):
        return Remote(place, token or os.environ.get(TOKEN, ""))
    return Local(Path(place))
