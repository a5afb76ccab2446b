"""What the view says to its SQLite file: its tables beyond those of the SQLite queue."""

from __future__ import annotations

from tomodex.queues import sqlite_statements as say

#: Beyond the tables of the SQLite queue.
MORE = """
alter table task add column version integer not null default 0;
alter table task add column void integer not null default 0;   -- results up to it do not stand
alter table task add column share integer not null default -1; -- topic and partition of its ticket
alter table task add column at integer not null default -1;    -- offset of its ticket
alter table task add column taken integer not null default 0;  -- token of the last lease
alter table result add column version integer not null default 0;
alter table task add column patient text not null default '';  -- where only a result said it
create index task_patient on task (patient) where patient <> '';
create index task_share on task (share, at) where status in ('ready', 'in-progress');
-- Of series that were withdrawn: a late result of them does not stand.
create table marker (
    series_uid    text    not null,
    configuration text    not null,
    version       integer not null,
    void          integer not null,
    primary key (series_uid, configuration)
) strict, without rowid;
-- Records about a version that is not there yet: compaction took the older ones before them.
create table early (
    key           blob primary key,
    value         blob not null,
    kind          text not null,
    series_uid    text not null,
    configuration text not null
) strict;
create index early_series on early (series_uid);
-- Erasures that this data folder is done with; others may not be.
create table done_here (id text primary key) strict, without rowid;
-- Documents that do not stand, and that no tombstone comes after in the topic of results.
create table stray (
    series_uid    text    not null,
    configuration text    not null,
    sequence      integer not null,
    primary key (series_uid, configuration)
) strict, without rowid;
-- Messages of the log that are no records, until they were laid with the dead.
create table strange (at integer primary key, reason text not null, key blob not null) strict;
create table ticket (share integer primary key, next integer not null) strict;
-- Up to where the log was read, and what this view is called.
create table place (next integer not null, name text not null) strict;
insert into place values (0, lower(hex(randomblob(8))));
"""

#: Which of the tasks a worker may have.
ONLY = "and share & 65535 in (select partition from temp.mine)"
NEXT = say.heads(ONLY)

#: A task whose worker lost it, or is late; `:held` is JSON of the ids that we hold ourselves.
LEFT = f"""
select id from task indexed by task_due
where status = 'in-progress' and due_ms > 0 {ONLY}
    and (due_ms <= :now or id not in (select value from json_each(:held)))
    and (select url from source where id = source_id)
        not in (select value from json_each(:avoiding))
    and not exists (select 1 from held
                    where held.lane = task.lane and held.source_id = task.source_id)
order by (select key from json_each(:turns) where value = lane), study_date, id limit 1
"""

#: What waits of a source in a lane, and what its worker is late with, in some partitions.
_THERE = """
    and source_id = (select id from source where url = :source)
    and share & 65535 in (select value from json_each(:partitions))
"""
STUCK = f"""
select id from task indexed by task_waiting
where status = 'ready' and due_ms = 0 and lane = :lane {_THERE}
order by study_date, id limit :limit
"""
LATE = f"""
select id from task indexed by task_due
where status = 'in-progress' and due_ms > 0 and due_ms <= :now {_THERE} limit :limit
"""

#: How long it has waited stays as it was, but for what makes it another version.
PASS_ON = """
update task set due_ms = 0, token = 0, worker = '', updated_ms = updated_ms + 1,
    status = iif(status = 'ready' or attempt < :attempts, 'ready', 'failed'),
    reason = iif(status = 'ready' or attempt < :attempts, reason, 'worker_lost'),
    sentence = iif(status = 'ready' or attempt < :attempts, sentence,
        attempt || ' workers did not come back from it')
where id in (select value from json_each(:ids)) and status in ('ready', 'in-progress')
"""

ROW = """
select id, series_uid, configuration, series,
    (select url from source where source.id = source_id) as source, fingerprint,
    lane, status, attempt, token, taken, version, share, at
from task
"""

#: Of a new version all counts; of the same one only what says where and what the series is.
NEW_VERSION = """
insert into task (id, series_uid, configuration, source_id, fingerprint, series, lane, study_date,
    status, reason, sentence, attempt, updated_ms, version, void, share, at, patient)
values (iif(exists (select 1 from task where id = :id
                    and (series_uid, configuration) <> (:series_uid, :configuration)), null, :id),
    :series_uid, :configuration, :source_id, :fingerprint, :series, :lane, :study_date, :status,
    :reason, :sentence, :attempt, :updated_ms, :version, :void, :share, :at, :patient)
on conflict (series_uid, configuration) do update set
    source_id = excluded.source_id, fingerprint = excluded.fingerprint, series = excluded.series,
    lane = excluded.lane, study_date = excluded.study_date, status = excluded.status,
    reason = excluded.reason, sentence = excluded.sentence, attempt = excluded.attempt,
    updated_ms = excluded.updated_ms, version = excluded.version, void = excluded.void,
    share = excluded.share, at = excluded.at, patient = excluded.patient, due_ms = 0,
    token = 0, worker = '', taken = 0
"""
SAME_VERSION = """
update task set source_id = :source_id, fingerprint = :fingerprint, series = :series,
    study_date = :study_date, void = :void, patient = iif(:patient = '', patient, :patient)
where series_uid = :series_uid and configuration = :configuration
"""
WORK = """
update task set status = :status, due_ms = :due_ms, attempt = :attempt,
    token = iif(:status = 'in-progress', :token, 0), taken = :token, worker = :worker,
    reason = :reason, sentence = :sentence, updated_ms = :updated_ms, share = :share, at = :at,
    patient = iif(:patient = '', patient, :patient),
    series = iif(:instances is null, series, json_set(series, '$.instance_count', :instances))
where series_uid = :series_uid and configuration = :configuration
"""
ASTRAY = """
insert into stray values (?, ?, ?)
on conflict do update set sequence = max(sequence, excluded.sequence)
"""

#: Of series that nobody knows, at the end of the log: they were forgotten before it was said.
_TOO_LATE = """
from early where not exists (select 1 from task where task.series_uid = early.series_uid)
    and not exists (select 1 from marker where marker.series_uid = early.series_uid)
"""
TOO_LATE = f"select kind, series_uid, configuration {_TOO_LATE} limit :most"
IS_ASTRAY = f"""
select exists (select 1 from stray) or exists (select 1 from strange)
    or exists (select 1 {_TOO_LATE})
"""

NOT_DONE_HERE = """
select id, request from erasure where id not in (select id from done_here) order by begun_ms, id
"""
REACHED = """
insert into ticket values (:share, :at + 1)
on conflict do update set next = max(next, excluded.next)
"""
RESULT = """
insert into result (sequence, series_uid, configuration, document, settled_ms, listed, version)
values (:sequence, :series_uid, :configuration, :document, :settled_ms, :listed, :version)
"""

#: Stands where the document would; its sequence says where that is.
PLACE = b"@%d"
