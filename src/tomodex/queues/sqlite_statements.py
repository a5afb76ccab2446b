"""What the queue says to its SQLite file; the tables are in `sqlite_file.py`."""

from __future__ import annotations

PUT = """
insert into task (series_uid, configuration, source_id, fingerprint, series, lane, study_date,
                  status, reason, sentence, updated_ms)
values (:series_uid, :configuration, :source_id, :fingerprint, :series, :lane, :study_date,
        :status, :reason, :sentence, :now)
on conflict (series_uid, configuration) do update set
    source_id = excluded.source_id, fingerprint = excluded.fingerprint, series = excluded.series,
    lane = excluded.lane, study_date = excluded.study_date, status = excluded.status,
    reason = excluded.reason, sentence = excluded.sentence, updated_ms = excluded.updated_ms,
    due_ms = 0, attempt = 0, token = 0, worker = ''
where ((excluded.fingerprint <> '' and excluded.fingerprint <> fingerprint)
    or (status = 'rejected' and attempt = 0 and reason <> excluded.reason))
   -- What was indexed stays, if another archive has no more of the series than the first.
   and not (status = 'completed' and excluded.source_id <> source_id
    and coalesce(excluded.series ->> '$.instance_count', 0)
        <= coalesce(series ->> '$.instance_count', 0))
"""

#: A series that was ordered by its UIDs alone, and indexed, is told apart by what its archive lists
#: from then on; unless the archive has another number of instances by now.
ADOPT = """
update task set fingerprint = :fingerprint, series = :series, study_date = :study_date
where series_uid = :series_uid and configuration = :configuration and source_id = :source_id
    and fingerprint = '' and :fingerprint <> '' and status = 'completed' and :status = 'ready'
    and series ->> '$.instance_count' = :series ->> '$.instance_count'
"""

MOVE_UP = """
update task set lane = :lane
where series_uid = :series_uid and configuration = :configuration
  and status = 'ready' and :status = 'ready'
  and (select key from json_each(:turns) where value = lane)
    > (select key from json_each(:turns) where value = :lane)
"""

# Which index to use is said in each statement: the planner, which knows nothing of how many tasks
# are in which status, would sort all that wait.

HOLDERS = """
select distinct worker from task indexed by task_due where status = 'in-progress' and due_ms > 0
"""

#: What a lease would find now, first lane and source by source; `:avoiding` is JSON of URLs.
_ALLOWED = """
tally.status = 'ready' and tally.tasks > 0
    and not exists (select 1 from held
                    where held.lane = tally.lane and held.source_id = tally.source_id)
    and (select url from source where id = tally.source_id)
        not in (select value from json_each(:avoiding))
"""

WAITING = f"""
select exists (select 1 from tally where {_ALLOWED} and exists (
                   select 1 from task indexed by task_waiting where status = 'ready' and due_ms = 0
                   and lane = tally.lane and source_id = tally.source_id)),
       exists (select 1 from task indexed by task_due
               where status in ('ready', 'in-progress') and due_ms > 0 and due_ms <= :now)
"""

WAKE = """
update task set due_ms = 0 where id in (
    select id from task indexed by task_due
    where status = 'ready' and due_ms > 0 and due_ms <= :now
    order by due_ms limit :sweep)
"""

# The token stays: a worker that is late, but that nobody has replaced, may still settle.
TAKE_BACK = """
update task set due_ms = 0, updated_ms = :now,
    status = case when attempt < :attempts then 'ready' else 'failed' end,
    reason = case when attempt < :attempts then '' else 'worker_lost' end,
    sentence = case when attempt < :attempts then ''
        else attempt || ' workers did not come back from it' end
where id in (
    select id from task indexed by task_due
    where status = 'in-progress' and due_ms > 0 and due_ms <= :now
    order by due_ms limit :sweep)
returning series_uid, configuration, status, attempt, reason
"""

_OF_PAIR = """
select id from task indexed by task_waiting where status = 'ready' and due_ms = 0
    and lane = tally.lane and source_id = tally.source_id {only}
"""

#: The next task of each lane and source that may be taken, of so many pairs at most: a bucket whose
#: objects were each put as a source of their own has millions.
PAIRS = 500
_HEADS = f"""
select head.id from (
    select turn.key as place, iif(
        exists (select 1 from newest_first
                where newest_first.lane = tally.lane and newest_first.source_id = tally.source_id),
        ({_OF_PAIR} order by study_date desc, id desc limit 1),
        ({_OF_PAIR} order by study_date, id limit 1)) as next
    from json_each(:turns) as turn cross join tally on tally.lane = turn.value
    where {_ALLOWED} and next is not null limit {PAIRS})
cross join task as head on head.id = next
order by place, head.study_date, head.id limit 1
"""


def heads(only: str = "") -> str:
    """The task that is next, of those that `only` says; `:turns` is JSON of the lanes' order."""
    return _HEADS.format(only=only)


NEXT = heads()

#: How many leases there were so far; also the newest token.
COUNT_LEASE = "update counter set value = value + 1 where name = 'lease' returning value"

TAKE = """
update task set status = 'in-progress', attempt = attempt + 1, token = :token, worker = :worker,
    due_ms = :until, reason = '', sentence = '', updated_ms = :now
where id = :id
returning id, series, (select url from source where source.id = source_id), configuration, lane,
    attempt, token
"""

EXTEND = """
update task set status = 'in-progress', due_ms = :until, reason = '', sentence = ''
where id = :id and token = :token
"""

SETTLE = """
update task set status = :status, due_ms = :due_ms, reason = :reason, sentence = :sentence,
    token = 0, updated_ms = :settled_ms
where id = :id and token = :token
"""

COUNTED = """
update task set series = json_set(series, '$.instance_count', :instances)
where id = :id and fingerprint = ''
"""

GIVE_BACK = """
update task set status = 'ready', due_ms = 0, attempt = attempt - 1, token = 0, worker = '',
    reason = '', sentence = '', updated_ms = :now
where id = :id and token = :token
"""

BURY = """
update task indexed by task_due set due_ms = :now
where status = 'in-progress' and due_ms > 0 and due_ms > :now and worker = :worker
"""

RETRY = """
update task set status = 'ready', due_ms = 0, attempt = 0, token = 0, reason = '', sentence = '',
    updated_ms = :now
where status = :status and status in ('rejected', 'failed') and (:reason = '' or reason = :reason)
"""

RENEW = """
update task set status = 'ready', lane = :lane, due_ms = 0, attempt = 0, token = 0, worker = '',
    reason = '', sentence = '', updated_ms = :now
where status = 'completed' and series_uid in (select value from json_each(:uids))
"""

#: A result that stands, and after it those of the same series that were settled later.
FROM_ON = """
select sequence, configuration, document, listed from result
where document is not null and sequence >= :sequence
    and series_uid = (select series_uid from result where sequence = :sequence)
order by sequence
"""

STATE = """
select id, series, (select url from source where source.id = source_id), configuration, lane,
    status, attempt, reason, sentence, updated_ms
from task
"""

REASONS = """
select status, reason, count(*) from task where status in ('rejected', 'failed')
group by status, reason
"""

SOURCE_OF = """
select source_id from task where series_uid = :series_uid and configuration = :configuration
"""

#: Both sources of a series that a second one lists.
ELSEWHERE = """
insert or ignore into elsewhere (series_uid, source_id)
select series_uid, iif(column1, source_id, :source_id) from task cross join (values (0), (1))
where series_uid = :series_uid and configuration = :configuration and source_id <> :source_id
"""

#: What was only ordered, by its UIDs, is not missed until it was seen.
KNOWN = """
select study_date, id, series_uid from task indexed by task_date
where source_id = :source_id and study_date <= :last and (study_date, id) > (:date, :id)
    and (status in ('completed', 'rejected') or series ->> '$.modality' <> '')
    and not exists (select 1 from task as other where other.series_uid = task.series_uid
                    and other.configuration < task.configuration)
order by study_date, id limit :page
"""

KNOWN_ELSEWHERE = """
select distinct series_uid from elsewhere join task using (series_uid)
where elsewhere.source_id = :source_id and task.source_id <> :source_id
    and study_date between :date and :last
"""

#: A result that was made, and not only listed; or a listing of another configuration.
STANDS = """
select exists (select 1 from result where series_uid = :series_uid and document is not null
               and not (listed and configuration = :configuration))
"""

PACE = """
select lane, count(*) from task indexed by task_updated
where status in ('completed', 'rejected', 'failed') and updated_ms > :since and attempt > 0
group by lane
"""

WAITING_SINCE = """
select min(updated_ms) from task indexed by task_waiting
where lane = ? and status = 'ready' and due_ms = 0
"""

AUDITED = """
select sequence, at_ms, event, series_uid, source, sentence from audit
where :series_uid = '' or series_uid = :series_uid
order by sequence desc limit :limit
"""

NOT_THERE = "delete from elsewhere where series_uid = :series_uid and source_id = :source_id"

#: Another source that has the series, or has it already taken over. A spool is none: it holds what
#: others push for some hours.
OTHER_SOURCE = """
select source_id from (
    select source_id from elsewhere where series_uid = :series_uid
    union all
    select source_id from task where series_uid = :series_uid and source_id <> :source_id
) join source on source.id = source_id
where source.url not like 'spool:%'
limit 1
"""

LEAVE_TO = """
update task set source_id = :other where series_uid = :series_uid and source_id = :source_id
"""

OF_PATIENT = "select distinct series_uid from task where series ->> '$.patient' = ?"

#: Results of series of which their tasks do not say whose they are.
OF_NOBODY = """
select sequence, series_uid, document from result
where sequence > :after and document is not null and not exists (
    select 1 from task where task.series_uid = result.series_uid
    and coalesce(task.series ->> '$.patient', '') <> '')
order by sequence limit :page
"""

EXCLUDE = """
update task set status = 'rejected', reason = :reason, sentence = :sentence, due_ms = 0,
    token = 0, worker = '', attempt = max(attempt, 1), updated_ms = :now
where series_uid = :uid
"""
