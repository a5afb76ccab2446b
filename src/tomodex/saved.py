"""Cohorts that were saved: a frozen list of series, and the question that found them.

One SQLite file in the data folder. Unlike the index it cannot be made again: what was found on a
day is known nowhere else.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import orjson

from tomodex.errors import BadQuery
from tomodex.instance import ATTRIBUTES
from tomodex.private_file import PrivateFile
from tomodex.search import Hit

#: Series of one cohort.
MOST_SERIES = 5_000_000

#: Characters of a cohort's name.
LONGEST_NAME = 200

#: What is looked at to tell whether what is known of a series has changed. Free text and what
#: later versions add are not: a new setting or version changes no series.
WATCHED = (*ATTRIBUTES, "slice_count", "segmented")

#: Rows read from the file at a time.
BATCH = 1000

SCHEMA = """
create table if not exists cohort (
    id       text primary key,
    name     text not null,
    query    text not null,
    who      text not null,
    saved    text not null,              -- RFC 3339 with offset
    versions text not null,              -- JSON
    patients integer not null default 0, -- as it was saved
    studies  integer not null default 0,
    series   integer not null default 0,
    removed  integer not null default 0
) strict;
create table if not exists member (
    cohort      text not null references cohort on delete cascade,
    series_uid  text not null,
    study_uid   text not null,
    patient     text not null,
    fingerprint blob not null,
    primary key (cohort, series_uid)
) strict, without rowid;
"""

#: The list of today beside the frozen one, as long as both are compared.
TODAY = """
create temp table today (
    series_uid text primary key, study_uid text not null, fingerprint blob not null
) without rowid;
"""

COUNTS = """
update cohort set
    series = (select count(*) from member where cohort = id),
    studies = (select count(distinct study_uid) from member where cohort = id),
    patients = (select count(distinct patient) from member where cohort = id and patient <> '')
where id = ?
"""

_NEW = """
from temp.today as t
where not exists (select 1 from member where cohort = :id and series_uid = t.series_uid)
"""
_GONE = """
from member as t where cohort = :id
    and not exists (select 1 from temp.today where series_uid = t.series_uid)
"""
_CHANGED = """
from member as t join temp.today as n using (series_uid)
where t.cohort = :id and t.fingerprint <> n.fingerprint
"""

#: Some of the series that a search found.
Rows = Iterable[Sequence[Hit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCohort:
    """What was found when, by whom, with what; counts as they were then."""

    id: str
    name: str
    query: str  #: as it was typed
    who: str
    saved: str  #: RFC 3339 with offset
    versions: Mapping[str, str]  #: of software and terminology, by name
    patients: int
    studies: int
    series: int
    removed: int = 0  #: series taken out since: their patients were erased, or opted out


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One series of a saved cohort."""

    series_uid: str
    study_uid: str
    patient: str  #: pseudonym; "" where nobody knows whose series it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """How many series, and the first of them by UID."""

    count: int
    series_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a saved cohort's question finds today, against what it found then."""

    cohort: SavedCohort
    same: int  #: series that are in both, with nothing new known of them
    new: Some  #: fit today
    gone: Some  #: do not fit any more, or left the index
    changed: Some  #: fit still, but what is known of them is not what it was


class SavedCohorts:
    """The file of saved cohorts.

    Every method raises Unavailable where the file is busy or full, Misconfigured where it cannot be
    used.
    """

    def __init__(self, file: Path) -> None:
        self._kept = PrivateFile(file, SCHEMA, {"foreign_keys": "on"})

    def save(
        self, *, name: str, query: str, who: str, versions: Mapping[str, str], rows: Rows
    ) -> SavedCohort:
        """Freeze what was found.

        Raises:
            BadQuery: the name says nothing or too much, or too many series were found.
        """
        called = " ".join(name.split())
        if not called.isprintable() or not 0 < len(called) <= LONGEST_NAME:
            raise BadQuery(f"a cohort's name has 1 to {LONGEST_NAME} characters that can be seen")
        cohort_id, now = secrets.token_hex(6), datetime.now(UTC).isoformat(timespec="seconds")
        known = (cohort_id, called, query, who, now, orjson.dumps(dict(versions)).decode())
        insert = "insert into cohort (id, name, query, who, saved, versions)"
        with self._kept.writing() as db:
            db.execute(f"{insert} values (?, ?, ?, ?, ?, ?)", known)
            _add_members(db, cohort_id, rows)
            db.execute(COUNTS, (cohort_id,))
            return _cohorts(db, "where id = ?", (cohort_id,))[0]

    def all(self) -> list[SavedCohort]:
        """Every saved cohort, newest first."""
        with self._kept.opened() as db:
            return _cohorts(db, "order by saved desc, rowid desc", ())

    def find(self, cohort_id: str) -> SavedCohort | None:
        """The saved cohort with this ID."""
        with self._kept.opened() as db:
            return next(iter(_cohorts(db, "where id = ?", (cohort_id,))), None)

    def members(self, cohort_id: str) -> Iterator[Sequence[Member]]:
        """Its series by UID, some at a time."""
        after = ""
        while batch := self._members(cohort_id, after):
            yield batch
            after = batch[-1].series_uid

    def diff(self, cohort: SavedCohort, today: Rows, limit: int = 1000) -> Difference:
        """The frozen list against what is found today; of each kind so many UIDs."""
        with self._kept.opened() as db:
            db.execute(TODAY)
            with db:
                _add_today(db, today)
            new, gone, changed = (
                _some(db, sql, cohort.id, limit) for sql in (_NEW, _GONE, _CHANGED)
            )
            ((frozen,),) = db.execute("select count(*) from member where cohort = ?", (cohort.id,))
        same = frozen - gone.count - changed.count
        return Difference(cohort=cohort, same=same, new=new, gone=gone, changed=changed)

    def delete(self, cohort_id: str) -> bool:
        """Forget a saved cohort; False if there is none with this ID."""
        with self._kept.writing() as db:
            db.execute("delete from cohort where id = ?", (cohort_id,))
            return db.changes() > 0

    def forget_patients(self, pseudonyms: Iterable[str]) -> int:
        """Take patients out of every frozen list; how many entries that were."""
        return self._forget("patient", pseudonyms)

    def forget_series(self, series_uids: Iterable[str]) -> int:
        """Take series out of every frozen list; how many entries that were."""
        return self._forget("series_uid", series_uids)

    def _forget(self, column: str, values: Iterable[str]) -> int:
        gone = f"member.{column} in (select value from temp.gone)"
        with self._kept.writing() as db:
            db.execute("create temp table gone (value text primary key) without rowid")
            db.executemany("insert or ignore into temp.gone values (?)", ((v,) for v in values))
            db.execute(
                f"""update cohort set removed = removed
                    + (select count(*) from member where cohort = id and {gone})"""
            )
            db.execute(f"delete from member where {gone}")
            return db.changes()

    def _members(self, cohort_id: str, after: str) -> list[Member]:
        select = "select series_uid, study_uid, patient from member"
        order = f"where cohort = ? and series_uid > ? order by series_uid limit {BATCH}"
        with self._kept.opened() as db:
            return [
                Member(series_uid=series, study_uid=study, patient=patient)
                for series, study, patient in db.execute(f"{select} {order}", (cohort_id, after))
            ]


def fingerprint_of(hit: Hit) -> bytes:
    """8 bytes that change when what is known of a series does."""
    watched = {k: _plain(hit.attributes[k]) for k in WATCHED if k in hit.attributes}
    known = [hit.study_uid, hit.patient, hit.structure_count, watched]
    return hashlib.blake2b(orjson.dumps(known), digest_size=8).digest()


def _plain(value: str | float) -> str | float:
    # 512 and 512.0 are the same number of rows.
    return float(value) if isinstance(value, int) else value


def _add_members(db: apsw.Connection, cohort_id: str, rows: Rows) -> None:
    added = 0
    for batch in rows:
        added += len(batch)
        if added > MOST_SERIES:
            raise BadQuery(f"a saved cohort has at most {MOST_SERIES:,} series; ask for fewer")
        db.executemany(
            "insert or ignore into member values (?, ?, ?, ?, ?)",
            ((cohort_id, h.series_uid, h.study_uid, h.patient, fingerprint_of(h)) for h in batch),
        )


def _add_today(db: apsw.Connection, rows: Rows) -> None:
    for batch in rows:
        db.executemany(
            "insert or ignore into temp.today values (?, ?, ?)",
            ((hit.series_uid, hit.study_uid, fingerprint_of(hit)) for hit in batch),
        )


def _some(db: apsw.Connection, where: str, cohort_id: str, limit: int) -> Some:
    ((count,),) = db.execute(f"select count(*) {where}", {"id": cohort_id})
    first = f"select t.series_uid {where} order by t.series_uid limit :limit"
    uids = db.execute(first, {"id": cohort_id, "limit": limit})
    return Some(count=count, series_uids=tuple(uid for (uid,) in uids))


def _cohorts(db: apsw.Connection, rest: str, facts: tuple[str, ...]) -> list[SavedCohort]:
    select = "select id, name, query, who, saved, versions, patients, studies, series, removed"
    return [_cohort(row) for row in db.execute(f"{select} from cohort {rest}", facts)]


def _cohort(row: Sequence[Any]) -> SavedCohort:
    cohort_id, name, query, who, saved, versions, patients, studies, series, removed = row
    return SavedCohort(
        id=cohort_id,
        name=name,
        query=query,
        who=who,
        saved=saved,
        versions=orjson.loads(versions),
        patients=patients,
        studies=studies,
        series=series,
        removed=removed,
    )
