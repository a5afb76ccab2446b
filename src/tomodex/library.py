"""What people take away from a search: saved cohorts and manifests, the same for command, web
page and client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain

from tomodex.access import Asker
from tomodex.auditlog import Audit, NoAudit
from tomodex.cohorts import Cohorts, Counts
from tomodex.errors import BadQuery, Forbidden, NotThere
from tomodex.manifests import UIDS, USUAL, Format, Manifest, write_manifest
from tomodex.pipeline import software_versions
from tomodex.saved import WATCHED, Difference, Member, SavedCohort, SavedCohorts
from tomodex.search import SEARCHABLE, Hit, Sample, format_order

NO_AUDIT = NoAudit()

#: UIDs of each kind that a comparison names.
MOST_NAMED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A file on its way: what it is of, and its bytes, some at a time."""

    manifest: Manifest
    content: Iterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """All series that fit, on their way: counts first."""

    counts: Counts
    keywords: tuple[str, ...]  #: attributes that were asked for
    rows: Iterator[Sequence[Hit]]


class Library:
    """Keeps cohorts, and writes lists of series.

    Every method raises BadQuery where a question cannot be understood, Forbidden where who asks may
    not see single series, and NotThere where no saved cohort has the ID.
    """

    def __init__(self, cohorts: Cohorts, saved: SavedCohorts, audit: Audit = NO_AUDIT) -> None:
        self._cohorts = cohorts
        self._saved = saved
        self._audit = audit

    def save(self, asker: Asker, name: str, text: str) -> SavedCohort:
        """Freeze what is found now."""
        rows = self._cohorts.rows(asker, text, WATCHED)
        cohort = self._saved.save(
            name=name, query=text, who=asker.name, versions=self._versions(), rows=rows
        )
        self._audit.write(asker, "save", text, cohort=cohort.id, series=cohort.series)
        return cohort

    def all(self, asker: Asker) -> list[SavedCohort]:
        """Every saved cohort of the site, newest first."""
        asker.require("rows")
        return self._saved.all()

    def get(self, asker: Asker, cohort_id: str) -> SavedCohort:
        """The saved cohort with this ID."""
        asker.require("rows")
        found = self._saved.find(cohort_id)
        if found is None:
            raise NotThere(f"no saved cohort has the ID {cohort_id[:64]!r}")
        return found

    def members(self, asker: Asker, cohort_id: str) -> Iterator[Sequence[Member]]:
        """Its series as they were frozen, by UID, some at a time."""
        return self._saved.members(self.get(asker, cohort_id).id)

    def diff(self, asker: Asker, cohort_id: str, limit: int = 1000) -> Difference:
        """What its question finds today, against what it found then."""
        cohort = self.get(asker, cohort_id)
        today = self._cohorts.rows(asker, cohort.query, WATCHED)
        return self._saved.diff(cohort, today, min(limit, MOST_NAMED))

    def delete(self, asker: Asker, cohort_id: str) -> None:
        """Forget a saved cohort: one's own, or any for who may identify patients."""
        cohort = self.get(asker, cohort_id)
        if cohort.who != asker.name and not asker.may("identify"):
            raise Forbidden(f"only {cohort.who}, who saved this cohort, or a steward may delete it")
        self._audit.write(asker, "delete", cohort.query, cohort=cohort.id, saved_by=cohort.who)
        self._saved.delete(cohort.id)

    def rows(
        self,
        asker: Asker,
        text: str,
        keywords: Sequence[str],
        sample: Sample | None = None,
        sort: str = "",
    ) -> Listed:
        """All series that fit, or some drawn by lot, in an order."""
        shown = _known(keywords)
        rows = _begun(self._cohorts.rows(asker, text, shown, sample, sort))
        return Listed(counts=self._cohorts.counts(asker, text), keywords=shown, rows=rows)

    def manifest(
        self,
        asker: Asker,
        kind: Format,
        text: str,
        keywords: Sequence[str] = USUAL,
        sample: Sample | None = None,
        sort: str = "",
    ) -> Taken:
        """The list of what is found now, or of some drawn by lot, in an order."""
        listed = self.rows(asker, text, keywords, sample, sort)
        counts = listed.counts
        manifest = Manifest(
            query=text,
            # Who may see rows is told every number.
            patients=counts.patients or 0,
            studies=counts.studies or 0,
            series=counts.series or 0,
            size_bytes=counts.size_bytes,
            sample=sample,
            sort=format_order(self._cohorts.order(sort)),
            made=_now(),
            versions=self._versions(),
        )
        content = write_manifest(kind, manifest, listed.rows, listed.keywords)
        return Taken(manifest=manifest, content=self._watched(asker, manifest, content))

    def manifest_of(self, asker: Asker, kind: Format, cohort_id: str) -> Taken:
        """The list of a saved cohort, as it was frozen, by UID."""
        cohort = self.get(asker, cohort_id)
        manifest = Manifest(
            query=cohort.query,
            patients=cohort.patients,
            studies=cohort.studies,
            series=cohort.series,
            made=cohort.saved,
            versions=cohort.versions,
            cohort=cohort.id,
            removed=cohort.removed,
            sort="SeriesInstanceUID",
        )
        rows = ([_hit(member) for member in batch] for batch in self._saved.members(cohort.id))
        content = write_manifest(kind, manifest, rows, ())
        # Before it is sent: what cannot be remembered is not done.
        self._audit.write(asker, "export", cohort.query, cohort=cohort.id)
        return Taken(manifest=manifest, content=self._watched(asker, manifest, content))

    def _watched(
        self, asker: Asker, manifest: Manifest, content: Iterator[bytes]
    ) -> Iterator[bytes]:
        """The same; when all of it was sent, the audit log has its size and hash."""
        digest, size = hashlib.sha256(), 0
        for piece in content:
            digest.update(piece)
            size += len(piece)
            yield piece
        facts = {"cohort": manifest.cohort or None, "bytes": size, "sha256": digest.hexdigest()}
        self._audit.write(asker, "export", manifest.query, **facts)

    def _versions(self) -> Mapping[str, str]:
        return {**software_versions(), "terminology": self._cohorts.terminology.version}


def _begun(rows: Iterator[Sequence[Hit]]) -> Iterator[Sequence[Hit]]:
    """The same, the first of them read: what is wrong shows before a file is begun."""
    return chain([next(rows, ())], rows)


def _known(keywords: Sequence[str]) -> tuple[str, ...]:
    """The attributes to show; UIDs are in every list.

    Raises:
        BadQuery: one is none.
    """
    shown = tuple(dict.fromkeys(keyword for keyword in keywords if keyword not in UIDS))
    for keyword in shown:
        if keyword not in SEARCHABLE:
            close = get_close_matches(keyword[:100], SEARCHABLE, n=3)
            raise BadQuery(f"no attribute is called {keyword[:100]!r}", suggestions=tuple(close))
    return shown


def _hit(member: Member) -> Hit:
    return Hit(series_uid=member.series_uid, study_uid=member.study_uid, patient=member.patient)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
