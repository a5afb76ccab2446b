"""What a decision changes: it is tried out on the view, and the difference is what the log is told.

So put, withdraw and all the others are the statements of the SQLite queue, with the same answers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apsw

from tomodex.queues.kafka.records import (
    Audit,
    Barred,
    Begun,
    Copying,
    Elsewhere,
    Held,
    NewestFirst,
    Nothing,
    Record,
    SetAside,
    Wanted,
)
from tomodex.queues.kafka.topics import LANES

#: Whether a change of a task makes the work on it void: not if it only is known better.
BUMP = """
(old.status, old.lane, old.fingerprint, old.attempt, old.reason, old.updated_ms)
    is not (new.status, new.lane, new.fingerprint, new.attempt, new.reason, new.updated_ms)
and not (old.status = 'completed' and new.status = 'completed')
"""

WATCH = f"""
create temp table moved (
    series_uid, configuration, bump, was, version, void,
    primary key (series_uid, configuration));
create temp table shared (series_uid primary key);
create temp table unsaid (series_uid, configuration, primary key (series_uid, configuration));
create temp table said (sequence integer primary key);
create temp table noted (sequence integer primary key);
create temp table switched (kind, lane, source_id, primary key (kind, lane, source_id));
create temp table put_by (series_uid, consumer, primary key (series_uid, consumer));
create temp table marked (mark primary key);
create temp table begun (id primary key);
create temp table copying (one primary key);
create temp trigger task_in after insert on main.task begin
    insert into moved values (new.series_uid, new.configuration, 1, '', 0, 0)
        on conflict do update set bump = 1;
end;
create temp trigger task_on after update on main.task begin
    insert into moved values (new.series_uid, new.configuration, {BUMP}, old.status,
            old.version, old.void)
        on conflict do update set bump = max(bump, excluded.bump);
end;
create temp trigger task_out after delete on main.task begin
    insert into moved values (old.series_uid, old.configuration, 1, old.status,
            old.version, old.void)
        on conflict do update set bump = 1;
end;
create temp trigger elsewhere_in after insert on main.elsewhere begin
    insert or ignore into shared values (new.series_uid);
end;
create temp trigger elsewhere_out after delete on main.elsewhere begin
    insert or ignore into shared values (old.series_uid);
end;
create temp trigger result_in after insert on main.result begin
    insert into said values (new.sequence);
end;
create temp trigger result_out after delete on main.result begin
    insert or ignore into unsaid values (old.series_uid, old.configuration);
end;
create temp trigger audit_in after insert on main.audit begin
    insert into noted values (new.sequence);
end;
create temp trigger held_in after insert on main.held begin
    insert or replace into switched values ('held', new.lane, new.source_id);
end;
create temp trigger held_out after delete on main.held begin
    insert or replace into switched values ('held', old.lane, old.source_id);
end;
create temp trigger newest_in after insert on main.newest_first begin
    insert or replace into switched values ('newest', new.lane, new.source_id);
end;
create temp trigger newest_out after delete on main.newest_first begin
    insert or replace into switched values ('newest', old.lane, old.source_id);
end;
create temp trigger aside_in after insert on main.aside begin
    insert or replace into put_by values (new.series_uid, new.consumer);
end;
create temp trigger aside_out after delete on main.aside begin
    insert or replace into put_by values (old.series_uid, old.consumer);
end;
create temp trigger barred_in after insert on main.barred begin
    insert or ignore into marked values (new.mark);
end;
create temp trigger barred_on after update on main.barred begin
    insert or ignore into marked values (new.mark);
end;
create temp trigger barred_out after delete on main.barred begin
    insert or ignore into marked values (old.mark);
end;
create temp trigger copied_in after insert on main.copied begin
    insert or ignore into copying values (1);
end;
create temp trigger copied_out after delete on main.copied begin
    insert or ignore into copying values (1);
end;
create temp trigger erasure_in after insert on main.erasure begin
    insert or ignore into begun values (new.id);
end;
"""

MOVED = """
select moved.series_uid, moved.configuration, bump, was, task.id is null,
    max(moved.version, coalesce(marker.version, 0)), max(moved.void, coalesce(marker.void, 0)),
    task.id, (select url from source where source.id = task.source_id), task.fingerprint,
    task.series, task.lane, task.study_date, task.status, task.reason, task.sentence, task.attempt,
    task.updated_ms, task.share, task.at, task.patient
from moved left join task using (series_uid, configuration)
    left join marker using (series_uid, configuration)
order by task.lane, task.study_date, task.id
"""

SWITCHED = f"""
select case switched.lane {" ".join(f"when {n} then '{lane}'" for n, lane in enumerate(LANES))} end,
    url, {{table}}.lane is not null
from switched join source on source.id = switched.source_id
    left join {{table}} using (lane, source_id) where kind = '{{kind}}'
"""

#: What `MOVED` says of the task itself, in its order.
TASK = (
    "id", "source", "fingerprint", "series", "lane", "study_date", "status", "reason", "sentence",
    "attempt", "updated_ms", "share", "at", "patient",
)  # fmt: skip

UNSAID = """
select series_uid, configuration from unsaid
except select series_uid, configuration from result
"""

SAID = """
select result.series_uid, result.configuration, result.document, result.listed,
    coalesce(task.version, 0), result.settled_ms
from said join result using (sequence) left join task using (series_uid, configuration)
order by sequence
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something new in the feed."""

    series_uid: str
    configuration: str
    document: bytes | None  #: JSON, zlib-compressed, or the place of one; None: a tombstone
    listed: bool
    version: int
    settled_ms: int


class Strange(NamedTuple):
    """A message of the log that is no record."""

    at: int  #: its offset
    reason: str
    key: bytes  #: the beginning of it


@dataclass(slots=True)
class Changes:
    """What is to be told to the log."""

    wanted: list[Wanted] = field(default_factory=list)
    renewed: set[int] = field(default_factory=set)  #: those of them that are of a new version
    risen: set[int] = field(default_factory=set)  #: those of them that had failed
    said: list[Said] = field(default_factory=list)
    unsaid: list[tuple[str, str]] = field(default_factory=list)  #: series and configuration
    others: list[Record | Nothing] = field(default_factory=list)
    #: Messages that are to be forgotten, by topic, partition and key.
    forgotten: list[tuple[str, int, bytes]] = field(default_factory=list)
    #: Where the tickets of new versions are to lie; none named: anywhere.
    towards: tuple[int, ...] = ()
    strange: list[Strange] = field(default_factory=list)  #: to be laid with the dead

    def __bool__(self) -> bool:
        parts = (
            self.wanted, self.said, self.unsaid, self.others, self.forgotten, self.strange,
        )  # fmt: skip
        return any(parts)


def watch(db: apsw.Connection) -> None:
    """From here to the end of the transaction, remember what changes."""
    db.execute(WATCH)


def collect(db: apsw.Connection, changes: Changes, now_ms: int) -> None:
    """What has changed since `watch`."""
    for row in db.execute(MOVED).fetchall():
        _collect_task(changes, row, now_ms)
    versions = {(one.series_uid, one.configuration): one.version for one in changes.wanted}
    for uid, configuration, document, listed, version, at in db.execute(SAID):
        changes.said.append(
            Said(
                series_uid=uid,
                configuration=configuration,
                document=document,
                listed=bool(listed),
                version=versions.get((uid, configuration), version),
                settled_ms=at,
            )
        )
    changes.unsaid += [(str(uid), str(name)) for uid, name in db.execute(UNSAID)]
    changes.others += [*_shared(db), *_noted(db), *_switched(db), *_put_by(db)]
    changes.others += [*_marked(db), *_begun(db), *_copying(db)]


def _collect_task(changes: Changes, row: tuple[Any, ...], now_ms: int) -> None:
    uid, configuration, bump, was, gone, known, void, *rest = row
    # By the clock, so that a series which was forgotten and comes back has no old version.
    version = max(known + 1, now_ms) if bump else known
    if gone:
        if not known:
            return
        marker = Wanted(
            series_uid=uid,
            configuration=configuration,
            version=version,
            void=version - 1,
            gone=True,
        )
        changes.wanted.append(marker)
        return
    facts = dict(zip(TASK, rest, strict=True))
    if bump:
        changes.renewed.add(len(changes.wanted))
        void = version - 1 if facts["status"] == "rejected" else void
        if was == "failed":
            changes.risen.add(len(changes.wanted))
    changes.wanted.append(
        Wanted(series_uid=uid, configuration=configuration, version=version, void=void, **facts)
    )


def _shared(db: apsw.Connection) -> Iterator[Record | Nothing]:
    sql = """select shared.series_uid, json_group_array(url) filter (where url is not null)
             from shared left join elsewhere using (series_uid)
             left join source on source.id = source_id group by 1"""
    for uid, urls in db.execute(sql):
        sources = tuple(json.loads(urls))
        yield (
            Elsewhere(series_uid=uid, sources=sources) if sources else Nothing("elsewhere", (uid,))
        )


def _noted(db: apsw.Connection) -> Iterator[Audit]:
    sql = """select at_ms, event, series_uid, source, sentence
             from noted join audit using (sequence) order by sequence"""
    for at_ms, event, uid, source, sentence in db.execute(sql):
        yield Audit(number=uuid.uuid4().hex, at_ms=at_ms, event=event, series_uid=uid,
                    source=source, sentence=sentence)  # fmt: skip


def _switched(db: apsw.Connection) -> Iterator[Record | Nothing]:
    for lane, source, stands in db.execute(SWITCHED.format(kind="held", table="held")):
        yield Held(lane=lane, source=source) if stands else Nothing("held", (lane, source))
    for lane, source, stands in db.execute(SWITCHED.format(kind="newest", table="newest_first")):
        pair = (lane, source)
        yield NewestFirst(lane=lane, source=source) if stands else Nothing("newest", pair)


def _put_by(db: apsw.Connection) -> Iterator[Record | Nothing]:
    sql = """select consumer, series_uid, sequence, sentence
             from put_by left join aside using (series_uid, consumer)"""
    for consumer, uid, sequence, sentence in db.execute(sql):
        if sequence is None:
            yield Nothing("aside", (consumer, uid))
        else:
            yield SetAside(consumer=consumer, series_uid=uid, sequence=sequence, sentence=sentence)


def _marked(db: apsw.Connection) -> Iterator[Record | Nothing]:
    for mark, why in db.execute("select mark, why from marked left join barred using (mark)"):
        yield Nothing("barred", (mark,)) if why is None else Barred(mark=mark, why=why)


def _begun(db: apsw.Connection) -> Iterator[Begun]:
    sql = "select id, begun_ms, request from begun join erasure using (id)"
    for number, begun_ms, request in db.execute(sql):
        yield Begun(id=number, begun_ms=begun_ms, request=request)


def _copying(db: apsw.Connection) -> Iterator[Record | Nothing]:
    for origin, part, after in db.execute(
        "select origin, part, after from copying left join copied using (one)"
    ):
        here = Copying(origin=origin, part=part, after=after) if origin is not None else None
        yield here or Nothing("copied", ())
