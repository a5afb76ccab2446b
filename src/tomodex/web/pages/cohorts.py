"""Pages of saved cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tomodex.access import Asker
from tomodex.library import Library
from tomodex.saved import Difference, SavedCohort

#: UIDs of each kind that the page names.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortsPage:
    """All saved cohorts."""

    cohorts: Sequence[SavedCohort]


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortPage:
    """One saved cohort."""

    cohort: SavedCohort
    difference: Difference | None  #: from today; None: it was not asked for
    may_delete: bool


def cohorts_page(library: Library, asker: Asker) -> CohortsPage:
    """The page of all of them, newest first."""
    return CohortsPage(cohorts=library.all(asker))


def cohort_page(library: Library, asker: Asker, cohort_id: str) -> CohortPage:
    """The page of one of them, as it was saved."""
    cohort = library.get(asker, cohort_id)
    may_delete = cohort.who == asker.name or asker.may("identify")
    return CohortPage(cohort=cohort, difference=None, may_delete=may_delete)


def compared_page(library: Library, asker: Asker, cohort_id: str) -> CohortPage:
    """The same, compared with what its question finds today."""
    page = cohort_page(library, asker, cohort_id)
    difference = library.diff(asker, cohort_id, MOST_NAMED)
    return CohortPage(cohort=page.cohort, difference=difference, may_delete=page.may_delete)
