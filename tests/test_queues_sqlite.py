from __future__ import annotations

import math
import multiprocessing
import os
import random
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.queue import (
    HOUR,
    Later,
    QueueContract,
    annotated,
    ct,
    listed,
    new,
    order_of,
    settle_next,
    status_of,
)
from tomodex.annotation import to_json
from tomodex.errors import Misconfigured, Unavailable
from tomodex.queues import Failed, NewTask, Rejected, Retry, open_queue, sqlite, sqlite_file
from tomodex.queues import sqlite_statements as say
from tomodex.queues.sqlite import SqliteQueue

DAILY_FIRST = "daily,backfill,on-demand,reindex"


class Clock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def move(self, by: timedelta) -> None:
        self.now_s += by.total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tomodex.db"


@pytest.fixture
def raw(file: Path) -> apsw.Connection:
    """The file as another program sees it."""
    with closing(apsw.Connection(str(file))) as db:
        yield db


class TestSqliteQueue(QueueContract):
    @pytest.fixture
    def queue(self, file: Path, clock: Clock) -> SqliteQueue:
        with closing(SqliteQueue(f"sqlite://{file}?fair=0", now=clock)) as queue:
            yield queue

    @pytest.fixture
    def fair_queue(self, file: Path, clock: Clock) -> SqliteQueue:
        with closing(SqliteQueue(f"sqlite://{file}?fair=3", now=clock)) as queue:
            yield queue

    @pytest.fixture
    def daily_first_queue(self, file: Path, clock: Clock) -> SqliteQueue:
        url = f"sqlite://{file}?fair=3&lanes={DAILY_FIRST}"
        with closing(SqliteQueue(url, now=clock)) as queue:
            yield queue

    @pytest.fixture
    def later(self, clock: Clock) -> Later:
        return clock.move


class TestInMemory(TestSqliteQueue):
    @pytest.fixture
    def queue(self, clock: Clock) -> SqliteQueue:
        return SqliteQueue("sqlite:?fair=0", now=clock)

    @pytest.fixture
    def fair_queue(self, clock: Clock) -> SqliteQueue:
        return SqliteQueue("sqlite:?fair=3", now=clock)

    @pytest.fixture
    def daily_first_queue(self, clock: Clock) -> SqliteQueue:
        return SqliteQueue(f"sqlite:?fair=3&lanes={DAILY_FIRST}", now=clock)


def test_a_queue_is_found_again_by_its_url(file):
    with closing(open_queue(f"sqlite://{file}")) as queue:
        queue.put([new("1.2")])
    with closing(open_queue(f"sqlite://{file}")) as queue:
        assert queue.lease("w", HOUR).series == ct("1.2")


# The wait before another attempt


@pytest.mark.parametrize(("jitter", "waits_s"), [(1.0, [10, 20, 40, 80]), (0.0, [5, 10, 20, 40])])
def test_each_wait_is_twice_as_long(clock, jitter, waits_s):
    queue = SqliteQueue("sqlite:?retry_s=10", now=clock, jitter=lambda: jitter)
    queue.put([new("1.2")])
    for wait_s in waits_s:
        settle_next(queue, Retry(sentence="no answer"))
        clock.move(timedelta(seconds=wait_s - 0.01))
        assert queue.lease("w", HOUR) is None
        clock.move(timedelta(seconds=0.01))


def test_no_wait_is_longer_than_an_hour(clock):
    queue = SqliteQueue("sqlite:?attempts=2000&retry_s=30", now=clock, jitter=lambda: 1.0)
    queue.put([new("1.2")])
    for _ in range(1200):
        settle_next(queue, Retry(sentence="no answer"))
        clock.move(HOUR)
        assert queue.is_due()


def test_a_waiting_task_lets_others_pass(clock):
    queue = SqliteQueue("sqlite:", now=clock)
    queue.put([new("1.2"), new("1.3")])
    settle_next(queue, Retry(sentence="no answer"))
    assert order_of(queue) == ["1.3"]


# Fairness


def test_without_fairness_the_most_urgent_lane_always_goes_first():
    queue = SqliteQueue("sqlite:?fair=0")
    queue.put([new(f"daily.{n}", "daily") for n in range(30)])
    queue.put([new("legacy", "backfill")])
    assert order_of(queue)[-1] == "legacy"


def test_fairness_counts_the_leases_of_all_processes(file):
    workers = [SqliteQueue(f"sqlite://{file}?fair=4") for _ in range(4)]
    workers[0].put([new(f"daily.{n}", "daily") for n in range(8)])
    workers[0].put([new("legacy", "backfill")])
    taken = [queue.lease("w", HOUR).series.series_uid for queue in workers]
    assert taken.count("legacy") == 1


# One statement never reads the whole table


STATEMENTS = {
    "waiting": (say.WAITING, {"now": 1, "avoiding": "[]"}),
    "wake": (say.WAKE, {"now": 1, "sweep": 9}),
    "take back": (say.TAKE_BACK, {"now": 1, "sweep": 9, "attempts": 5}),
    "next": (say.NEXT, {"avoiding": "[]", "turns": "[0,1,2,3]"}),
    "take": (say.TAKE, {"token": 1, "worker": "w", "until": 1, "now": 1, "id": 1}),
    "extend": (say.EXTEND, {"until": 1, "id": 1, "token": 1}),
    "bury": (say.BURY, {"now": 1, "worker": "w"}),
    "move up": (
        say.MOVE_UP,
        {
            "turns": "[0,1,2,3]",
            "lane": 1,
            "series_uid": "1",
            "configuration": "x",
            "status": "ready",
        },
    ),
    "retry": (say.RETRY, {"now": 1, "status": "failed", "reason": "x"}),
    "reasons": (say.REASONS, {}),
    "source of": (say.SOURCE_OF, {"series_uid": "1", "configuration": "x"}),
    "elsewhere": (say.ELSEWHERE, {"series_uid": "1", "configuration": "x", "source_id": 1}),
    "known": (say.KNOWN, {"source_id": 1, "date": "", "id": 0, "last": "x", "page": 9}),
    "known elsewhere": (say.KNOWN_ELSEWHERE, {"source_id": 1, "date": "", "last": "x"}),
    "stands": (say.STANDS, {"series_uid": "1", "configuration": "x"}),
    "other source": (say.OTHER_SOURCE, {"series_uid": "1", "source_id": 1}),
    "pace": (say.PACE, {"since": 1}),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_or_sorts_the_whole_table(file, name):
    SqliteQueue(f"sqlite://{file}").close()
    sql, facts = STATEMENTS[name]
    with closing(apsw.Connection(str(file))) as db:
        plan = [row[3] for row in db.execute(f"explain query plan {sql}", facts)]
    allowed = (
        "SCAN CONSTANT ROW",
        "SCAN 2-ROW VALUES CLAUSE",
        "SCAN json_each VIRTUAL TABLE INDEX 1:",  # sources that are left alone
        "SCAN turn VIRTUAL TABLE INDEX 1:",  # the lanes
        "SCAN (subquery-7)",  # one task of each lane and source, 500 at most
        "SCAN task USING COVERING INDEX task_waiting",  # in its order, to the first
        "SCAN task USING COVERING INDEX task_reason",  # counting has to read what it counts
    )
    assert plan
    # Of each lane and source one task is sorted; of known series the few that two sources have.
    few = name in ("next", "known elsewhere", "pace")
    assert [
        s
        for s in plan
        if ("TEMP B-TREE" in s and not few) or (s.startswith("SCAN") and s not in allowed)
    ] == []


@pytest.mark.parametrize("call", ["states", "found", "found by reason", "results", "result"])
def test_no_question_reads_or_sorts_the_whole_table(file, call):
    queue, plans = SqliteQueue(f"sqlite://{file}"), []
    queue._db.exec_trace = lambda _, sql, facts: plans.append((sql, facts)) or True
    {
        "states": lambda: queue.states("1.2"),
        "found": lambda: queue.find_states("completed"),
        "found by reason": lambda: queue.find_states("failed", "x"),
        "results": lambda: queue.results(3, 10),
        "result": lambda: queue.result("1.2"),
    }[call]()
    queue._db.exec_trace = None
    ((sql, facts),) = plans
    steps = [row[3] for row in queue._db.execute(f"explain query plan {sql}", facts)]
    # Of one series there are a handful of results, so these may be sorted.
    unwanted = ("SCAN",) if call in ("result", "states") else ("SCAN", "TEMP B-TREE")
    assert steps
    assert [s for s in steps if any(word in s for word in unwanted)] == []


@pytest.mark.parametrize("avoiding", [(), ("folder:///archive",)])
def test_a_lease_takes_no_longer_the_more_tasks_wait(avoiding):
    """Those of a source that is left alone are not looked through one by one."""
    steps = []
    for tasks in (50, 5000):
        queue = SqliteQueue("sqlite:?fair=0")
        queue.put([new(str(n), "backfill") for n in range(tasks)])
        queue.put([replace(new(f"other.{n}", "backfill"), source="test://b") for n in range(9)])
        queue.lease("w", HOUR, avoiding)  # compiles the statements
        counted = []
        queue._db.set_progress_handler(lambda counted=counted: bool(counted.append(1)), 1)
        assert queue.lease("w", HOUR, avoiding)
        queue._db.set_progress_handler(None)
        steps.append(len(counted))
    assert steps[1] < steps[0] * 1.5


def test_a_lease_takes_no_longer_the_more_sources_wait():
    """Somebody may put every object of a bucket as a source of its own."""
    steps = []
    for count in (600, 6000):
        queue = SqliteQueue("sqlite:?fair=0")
        tasks = [replace(new(str(n), "backfill"), source=f"s3://b/{n}.tar") for n in range(count)]
        queue.put([*tasks, replace(new("urgent", "daily"), source="s3://b/z.tar")])
        counted = []
        queue._db.set_progress_handler(lambda counted=counted: bool(counted.append(1)), 1)
        assert queue.lease("w", HOUR).series.series_uid == "urgent"
        queue._db.set_progress_handler(None)
        steps.append(len(counted))
        assert len(order_of(queue)) == count if count < 1000 else queue.lease("w", HOUR)
    assert steps[1] < steps[0] * 1.5


def test_what_a_source_has_is_read_in_pages(monkeypatch):
    monkeypatch.setattr(sqlite, "PAGE", 3)
    queue = SqliteQueue("sqlite:")
    dates = ["2019-05-01", "", "2019-05-01", "2003-01-31", "2019-05-01", "2019-05-01", "2020-01-01"]
    queue.put([new(str(n), date=date) for n, date in enumerate(dates)])
    assert list(queue.known("folder:///archive")) == ["3", "0", "2", "4", "5", "6", "1"]


def test_the_audit_cannot_be_changed_or_shortened(file, raw):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new("1.2")])
        queue.withdraw("1.2", "folder:///archive", "no longer listed")
        for sql in ("delete from audit", "update audit set sentence = 'x'"):
            with pytest.raises(apsw.ConstraintError, match="only added to"):
                raw.execute(sql)
        assert len(queue.audit()) == 1


def test_an_older_file_keeps_its_tasks_results_and_counts(file, raw):
    """From a queue as version 1 wrote it."""
    raw.execute(sqlite_file.SCHEMA[0])
    raw.pragma("user_version", 1)
    raw.pragma("application_id", sqlite_file.APPLICATION_ID)
    sql = """insert into task (series_uid, configuration, source, fingerprint, series, lane,
             study_date, status, updated_ms)
             values (?, 'default', ?, 'a', ?, 3, '2021-03-04', ?, 1)"""
    series = sqlite._series_json(ct("1"))
    for uid, source, status in (("1", "a:", "ready"), ("2", "b:", "ready"), ("3", "b:", "failed")):
        raw.execute(sql, (uid, source, series, status))
    sql = "insert into result (series_uid, configuration, document, settled_ms) values (?,?,?,1)"
    raw.execute(sql, ("3", "default", sqlite.pack(to_json(annotated(ct("3"))))))
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        assert queue.count() == {("backfill", "ready"): 2, ("backfill", "failed"): 1}
        assert queue.count("b:") == {("backfill", "ready"): 1, ("backfill", "failed"): 1}
        assert list(queue.known("b:")) == ["2", "3"]
        assert queue.lease("w", HOUR, avoiding=["a:"]).source == "b:"
        assert queue.result("3").annotated == annotated(ct("3"))


@pytest.mark.parametrize(
    ("harm", "subject", "verdict"),
    [
        ("none", "queue file", "ok"),
        ("pages", "queue file", "wrong"),
        ("gone", "queue file", "wrong"),
    ],
)
def test_a_probe_says_whether_the_file_is_whole(file, harm, subject, verdict):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new(str(n)) for n in range(2000)])
        queue._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if harm == "pages":
            with file.open("r+b") as damaged:
                damaged.seek(4096 * 80)
                damaged.write(os.urandom(4096 * 40))
        elif harm == "gone":
            file.unlink()
            file.mkdir()
        probes = {probe.subject: probe for probe in queue.probe()}
    assert probes[subject].verdict == verdict
    assert bool(probes[subject].advice) == (verdict != "ok")
    assert probes.keys() >= {"SQLite", "free disk"}


# Counting


actions = st.lists(
    st.tuples(
        st.sampled_from(["put", "list", "reject", "change", "lease", "settle", "fail", "back",
                         "withdraw", "retry", "late", "bury", "move", "lose"]),
        st.integers(0, 4),
        st.sampled_from(sqlite.LANES),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(actions)
def test_counts_and_the_feed_are_right_whatever_happened(steps):
    clock, held = Clock(), []
    queue = SqliteQueue("sqlite:?attempts=3&fair=2", now=clock)
    for number, (action, which, lane) in enumerate(steps):
        act(queue, clock, held, action, str(which), lane, number)
    rows = queue._db.execute("select lane, status, count(*) from task group by lane, status")
    assert queue.count() == {(sqlite.LANES[lane], status): n for lane, status, n in rows}
    words = Counter(r.series_uid for r in queue.results(0, 100))
    assert set(words.values()) <= {1}
    completed = {s.series.series_uid for s in queue.find_states("completed")}
    assert completed <= {
        r.series_uid for r in queue.results(0, 100) if r.annotated and r.annotated.image
    }
    for source in ("folder:///archive", "test://b"):
        rows = queue._db.execute(
            """select lane, status, count(*) from task join source on source.id = source_id
               where url = ? group by lane, status""",
            (source,),
        )
        assert queue.count(source) == {(sqlite.LANES[lane], status): n for lane, status, n in rows}


def act(queue, clock, held, action, uid, lane, number):
    """Do one of the things that happen to a queue."""
    if action in ("move", "lose"):
        elsewhere = replace(new(uid, lane, fingerprint=str(number)), source="test://b")
        queue.put([elsewhere]) if action == "move" else queue.withdraw(uid, "folder:///archive")
    elif action == "list":
        queue.put([replace(new(uid, lane), listed=listed(ct(uid)))])
    elif action in ("put", "reject", "change"):
        reason = "4d" if action == "reject" else ""
        print_ = str(number) if action == "change" else "a"
        queue.put([new(uid, lane, reason=reason, fingerprint=print_)])
    elif action == "lease" and (task := queue.lease("w", HOUR)):
        held.append(task)
    elif action in ("settle", "fail", "back") and held:
        task = held.pop()
        if action == "back":
            queue.give_back(task)
        else:
            failed = Rejected(reason="4d", sentence="4 phases")
            queue.settle(task, annotated(task.series) if action == "settle" else failed)
    elif action == "withdraw":
        queue.withdraw(uid)
    elif action == "retry":
        queue.retry("rejected")
    elif action == "late":
        clock.move(HOUR)
    elif action == "bury":
        queue.bury("w")


# What a header may hold


def test_a_hostile_header_does_not_stop_the_queue():
    odd = {"KVP": math.nan, "Manufacturer": "\ud800'; drop table task --\x00", "Rows": 1e308}
    series = ct("1.2")
    queue = SqliteQueue("sqlite:")
    object.__setattr__(series, "attributes", odd)
    queue.put([NewTask(series=series, source="folder:///a")])
    found = queue.lease("w", HOUR).series.attributes
    assert math.isnan(found["KVP"])
    assert (found["Manufacturer"], found["Rows"]) == (odd["Manufacturer"], 1e308)


def test_results_take_a_fraction_of_their_json(file, raw):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new("1.2")])
        settle_next(queue, annotated(ct("1.2"), structures=30))
    stored = raw.execute("select length(document) from result").get
    assert stored < len(sqlite.to_json(annotated(ct("1.2"), structures=30))) / 2


# The file


def test_the_file_is_its_owners_alone(file):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new("1.2")])
        modes = {p.name: p.stat().st_mode & 0o777 for p in file.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "tomodex.db-wal" in modes


def test_settling_survives_kill_and_putting_survives_a_power_cut(file):
    queue = SqliteQueue(f"sqlite://{file}")
    levels = []

    def note_level(cursor, sql, facts):
        if sql.strip().startswith(("insert into task", "update task set status")):
            levels.append(synchronous())
        return True

    def synchronous() -> int:
        queue._db.exec_trace = None
        level = queue._db.pragma("synchronous")
        queue._db.exec_trace = note_level
        return level

    queue._db.exec_trace = note_level
    queue.put([new("1.2")])
    settle_next(queue)
    assert set(levels[:1]) == {2}
    assert set(levels[1:]) == {1}
    assert queue._db.pragma("journal_mode") == "wal"


def test_a_put_that_fails_leaves_the_queue_usable(file):
    queue = SqliteQueue(f"sqlite://{file}")
    queue._db.execute(
        "create temp trigger stop before insert on main.task when new.series_uid = '3'"
        " begin select raise(abort, 'no'); end"
    )
    with pytest.raises(apsw.ConstraintError):
        queue.put([new("1"), new("2"), new("3")])
    assert queue.count() == {}
    assert queue._db.pragma("synchronous") == 1
    assert queue.put([new("1")]) == 1


def test_an_sqlite_that_can_corrupt_the_file_is_refused(file, monkeypatch):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(Misconfigured, match=r"needs 3\.51\.3"):
        SqliteQueue(f"sqlite://{file}")
    assert not file.exists()


def test_a_newer_file_is_refused(file, raw):
    SqliteQueue(f"sqlite://{file}").close()
    raw.pragma("user_version", 99)
    with pytest.raises(Misconfigured, match="version 99"):
        SqliteQueue(f"sqlite://{file}")


def test_an_older_file_is_brought_up_to_date_with_what_it_holds(file, raw, monkeypatch):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new("1.2")])
    steps = (*sqlite_file.SCHEMA, "alter table task add column note text not null default 'x'")
    monkeypatch.setattr(sqlite_file, "SCHEMA", steps)
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        assert status_of(queue, "1.2") == "ready"
    assert raw.execute("select note from task").get == "x"
    assert raw.pragma("user_version") == len(steps)


def test_another_programs_file_is_left_alone(file, raw):
    raw.execute("create table mine (a)")
    with pytest.raises(Misconfigured, match="another program"):
        SqliteQueue(f"sqlite://{file}")
    assert raw.execute("select count(*) from sqlite_schema").get == 1


def test_a_file_that_is_no_database_is_named(file):
    file.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(Misconfigured, match="damaged or no SQLite file"):
        SqliteQueue(f"sqlite://{file}")


def test_a_damaged_page_is_named_and_not_waited_for(file):
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        queue.put([new(str(n)) for n in range(2000)])
    with file.open("r+b") as damaged:
        damaged.seek(4096 * 80)  # beyond the schema
        damaged.write(os.urandom(4096 * 40))
    with closing(SqliteQueue(f"sqlite://{file}")) as queue, pytest.raises(Misconfigured):
        queue.find_states("ready", limit=2000)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="cannot make"):
        SqliteQueue(f"sqlite://{tmp_path}/file/tomodex.db")


def test_a_queue_held_by_another_process_is_unavailable(file, raw):
    queue = SqliteQueue(f"sqlite://{file}?busy_s=0.1")
    raw.execute("begin immediate")
    with pytest.raises(Unavailable, match="holds the queue"):
        queue.put([new("1.2")])
    raw.execute("rollback")
    assert queue.put([new("1.2")]) == 1


def test_a_queue_held_for_a_moment_is_waited_for(file, raw):
    queue = SqliteQueue(f"sqlite://{file}")
    raw.execute("begin immediate")
    release = threading.Timer(0.3, lambda: raw.execute("rollback"))
    release.start()
    assert queue.put([new("1.2")]) == 1
    release.join()


def test_a_new_file_that_another_process_reads_is_waited_for(file, raw):
    raw.execute("create table for_size (a); drop table for_size; begin")
    raw.execute("select * from sqlite_schema").fetchall()
    release = threading.Timer(0.3, lambda: raw.execute("rollback"))
    release.start()
    with closing(SqliteQueue(f"sqlite://{file}?busy_s=10")) as queue:
        assert queue.put([new("1.2")]) == 1
    release.join()


def test_two_that_open_a_new_file_at_once_do_not_refuse_each_other(monkeypatch):
    """SQLite did so in 2 of 360 openings, whatever its timeout; here it always does at first."""
    answers = iter([apsw.BusyError("database is locked"), "wal"])

    class Racing:
        def pragma(self, name, value):
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    sqlite_file._use_wal(Racing(), "tomodex.db", busy_s=1.0)
    assert list(answers) == []


def test_a_slow_source_does_not_hold_up_the_others(file):
    queue, other = SqliteQueue(f"sqlite://{file}"), SqliteQueue(f"sqlite://{file}?busy_s=0.1")

    def slow():
        yield new("1.2")
        other.put([new("1.3")])
        yield new("1.4")

    assert queue.put(slow()) == 2


def test_a_full_disk_is_unavailable_and_stores_nothing(file):
    queue = SqliteQueue(f"sqlite://{file}")
    queue._db.pragma("max_page_count", queue._db.pragma("page_count") + 2)
    with pytest.raises(Unavailable, match="disk is full"):
        queue.put([new(str(n)) for n in range(500)])
    assert queue.count() == {}


@pytest.mark.parametrize(
    "options",
    [
        "tries=3",
        "fair=x",
        "attempts=0",
        "fair=-1",
        "retry_s=nan",
        "busy_s=1e99",
        "lanes=daily",
        "lanes=daily,daily,reindex,backfill",
        "lanes=daily,on-demand,reindex,backfill,night",
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(Misconfigured):
        SqliteQueue(f"sqlite:?{options}")


# Several at once


def test_a_consumer_has_one_deliverer_at_a_time(file):
    one, other = SqliteQueue(f"sqlite://{file}"), SqliteQueue(f"sqlite://{file}?busy_s=0.1")
    with one.claim("index"):
        with other.claim("fhir"):
            pass
        with pytest.raises(Unavailable, match="delivering to index"), other.claim("index"):
            pass
    with other.claim("index"):
        pass


def test_a_queue_may_be_used_by_several_threads(file):
    queue = SqliteQueue(f"sqlite://{file}")
    queue.put([new(str(n)) for n in range(60)])
    threads = [threading.Thread(target=work_off, args=(queue,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.count() == {("on-demand", "completed"): 60}


def work_off(queue: SqliteQueue) -> None:
    while task := queue.lease("w", HOUR):
        queue.extend(task, HOUR)
        outcome = annotated(task.series) if random.random() < 1 else Failed(sentence="no")
        queue.settle(task, outcome)


def open_and_work_off(url: str) -> None:
    with closing(SqliteQueue(url)) as queue:
        queue.put([new(str(n)) for n in range(80)])
        work_off(queue)


def test_processes_may_open_a_new_file_and_work_on_it_at_once(file):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_queues_sqlite"])
    workers = [
        context.Process(target=open_and_work_off, args=(f"sqlite://{file}",)) for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    with closing(SqliteQueue(f"sqlite://{file}")) as queue:
        assert queue.count() == {("on-demand", "completed"): 80}
        assert queue.results(0, 100)[-1].sequence == 80
