from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from pickle import PicklingError
from types import SimpleNamespace

import pytest

from tests.contracts.queue import HOUR, annotated, ct, feed, new, status_of
from tomodex import worker
from tomodex.bounds import TOO_MUCH
from tomodex.errors import BadQuery, Elsewhere, Misconfigured, Suspended, Unavailable, Unsuitable
from tomodex.queues import Failed, Rejected, Retry
from tomodex.queues.sqlite import SqliteQueue
from tomodex.worker import nothing_left, run_workers, work, work_once


@pytest.fixture
def queue() -> SqliteQueue:
    return SqliteQueue("sqlite:?retry_s=0&attempts=3")


def well(task):
    return annotated(task.series)


def failing(error):
    def annotate(task):
        raise error

    return annotate


def once(queue, annotate):
    return work_once(queue, annotate, "w", HOUR)


# What comes of a task


def test_an_empty_queue_gives_nothing_to_do(queue):
    assert once(queue, well) is None


def test_a_result_is_stored_and_its_task_completed(queue):
    queue.put([new("1.2")])
    assert once(queue, well) == annotated(ct("1.2"))
    assert status_of(queue, "1.2") == "completed"
    assert feed(queue) == [("1.2", 1500.0)]


def test_an_unsuitable_series_is_rejected_with_its_reason(queue):
    queue.put([new("1.2")])
    error = Unsuitable("missing_slice", "gaps are not even: [2.5 5.0] mm")
    expected = Rejected(reason="missing_slice", sentence="gaps are not even: [2.5 5.0] mm")
    assert once(queue, failing(error)) == expected
    assert queue.reasons() == {("rejected", "missing_slice"): 1}


def test_unavailable_is_tried_again_but_not_for_ever(queue):
    queue.put([new("1.2")])
    annotate = failing(Unavailable("the PACS closed the association"))
    for status in ("ready", "ready", "failed"):
        assert once(queue, annotate) == Retry(sentence="the PACS closed the association")
        assert status_of(queue, "1.2") == status
    assert once(queue, annotate) is None


@pytest.mark.parametrize("bug", [KeyError("liver"), MemoryError(), SystemExit(1), RecursionError()])
def test_a_bug_fails_the_task_and_not_the_worker(queue, bug):
    queue.put([new("1.2"), new("1.3")])
    once(queue, failing(bug))
    assert once(queue, well)
    assert queue.reasons() == {("failed", type(bug).__name__): 1}


def test_a_failed_task_says_where_and_not_what_the_header_held(queue, caplog):
    queue.put([new("1.2")])
    outcome = once(queue, failing(ValueError("could not read 'DOE^JANE' as a date")))
    assert isinstance(outcome, Failed)
    assert outcome.sentence.startswith("ValueError at test_worker.py:")
    assert "annotate < worker.py:" in outcome.sentence
    assert "DOE" not in outcome.sentence + caplog.text


def test_our_own_errors_are_quoted(queue):
    queue.put([new("1.2")])
    outcome = once(queue, failing(BadQuery("no such group")))
    assert outcome.sentence.startswith("BadQuery: no such group at test_worker.py:")


def test_a_wrong_setting_stops_the_worker_and_costs_no_task(queue):
    """Or it would fail everything that waits, one after another."""
    queue.put([new("1.2")])
    with pytest.raises(Misconfigured, match="needs httpx"):
        once(queue, failing(Misconfigured("dicomweb: needs httpx")))
    assert status_of(queue, "1.2") == "ready"
    assert queue.lease("another", HOUR).attempt == 1


def test_a_result_that_cannot_be_stored_fails_its_task(queue):
    queue.put([new("1.2")])
    outcome = once(queue, lambda task: annotated(task.series, liver_ml=float("nan")))
    assert (outcome.reason, status_of(queue, "1.2")) == ("ValueError", "failed")


def suspended(seconds: float = 3600.0):
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return Suspended("left alone until 06:00", source="folder:///archive", until=until)


def test_the_task_of_an_archive_that_is_left_alone_is_given_back_untried(queue, caplog):
    queue.put([new("1.2")])
    for _ in range(9):  # more than there are attempts
        with pytest.raises(Suspended), caplog.at_level(logging.INFO, "tomodex"):
            once(queue, failing(suspended()))
    assert queue.lease("v", HOUR).attempt == 1
    assert caplog.records[0].sentence == "left alone until 06:00"


def test_while_one_archive_is_left_alone_work_goes_on_with_the_others(queue, monkeypatch):
    """It is not asked again before its time, and nobody rests while there is other work."""
    monkeypatch.setattr(worker, "SHORTEST_REST_S", 0.3)
    queue.put([new(str(n), "daily") for n in range(3)])
    queue.put([replace(new(f"other.{n}", "backfill"), source="test://b") for n in range(3)])
    asked, rests = [], []
    monkeypatch.setattr(worker, "rest", lambda s, stop: (rests.append(s), time.sleep(0.05)))

    def annotate(task):
        asked.append(task.series.series_uid)
        if task.source == "test://b" or ("other.2" in asked and len(rests) > 2):
            return well(task)
        raise suspended(seconds=0.1)

    work(queue, annotate, worker="w", stop=lambda: nothing_left(queue))
    assert asked[:4] == ["0", "other.0", "other.1", "other.2"]
    assert asked[-3:] == ["0", "1", "2"]
    assert set(rests) == {worker.IDLE_S}
    assert queue.count() == {("daily", "completed"): 3, ("backfill", "completed"): 3}


class SharedQueue(SqliteQueue):
    """One that gives each worker its part."""

    def __init__(self) -> None:
        super().__init__("sqlite:")
        self.left = []

    def leave(self, sources):
        self.left += sources


def test_a_queue_that_gives_each_its_part_is_told_what_this_worker_cannot_read():
    queue = SharedQueue()
    queue.put([new("1.2"), replace(new("1.3"), source="test://b")])
    until = datetime.now(UTC) + HOUR
    elsewhere = Elsewhere("never listed here", source="folder:///archive", until=until)

    def annotate(task):
        if task.source == "test://b":
            return well(task)
        raise elsewhere

    def stop():
        return status_of(queue, "1.3") == "completed"

    work(queue, annotate, worker="w", stop=stop, avoiding=["s3://bucket"])
    assert queue.left == ["s3://bucket", "folder:///archive"]
    assert status_of(queue, "1.2") == "ready"


def test_what_is_left_alone_for_a_while_is_not_left_to_others():
    queue = SharedQueue()
    queue.put([new("1.2")])
    asked = []

    def annotate(task):
        asked.append(task)
        raise suspended()

    work(queue, annotate, worker="w", stop=lambda: bool(asked))
    assert queue.left == []


@pytest.mark.parametrize(
    ("error", "event", "level", "fact"),
    [
        (None, "completed", logging.INFO, ("structures", 1)),
        (Unsuitable("4d", "4 phases"), "rejected", logging.INFO, ("reason", "4d")),
        (Unavailable("no answer"), "ready", logging.WARNING, ("sentence", "no answer")),
        (KeyError("x"), "failed", logging.ERROR, ("reason", "KeyError")),
    ],
)
def test_one_line_is_logged_for_each_task(queue, caplog, error, event, level, fact):
    queue.put([new("1.2", "daily")])
    with caplog.at_level(logging.INFO, "tomodex"):
        once(queue, failing(error) if error else well)
    (line,) = caplog.records
    assert (line.getMessage(), line.levelno) == (event, level)
    assert (line.series_uid, line.lane, line.attempt, line.worker) == ("1.2", "daily", 1, "w")
    assert getattr(line, fact[0]) == fact[1]
    assert line.seconds >= 0


# Holding it


def test_a_long_series_is_held_for_as_long_as_it_takes(queue):
    queue.put([new("1.2")])

    def annotate(task):
        time.sleep(0.5)
        assert queue.lease("other", HOUR) is None
        return well(task)

    assert work_once(queue, annotate, "w", timedelta(seconds=0.15))
    assert status_of(queue, "1.2") == "completed"


def test_nothing_beats_after_the_task_is_settled(queue):
    queue.put([new("1.2")])
    before = threading.active_count()  # other tests of this process may have a server's thread
    once(queue, well)
    assert threading.active_count() == before


def test_a_result_that_comes_too_late_is_not_stored(queue, caplog):
    queue.put([new("1.2")])

    def annotate(task):
        queue.put([new("1.2", fingerprint="b")])
        return well(task)

    once(queue, annotate)
    assert feed(queue) == []
    assert status_of(queue, "1.2") == "ready"
    assert caplog.messages == ["lost"]


def test_a_queue_that_does_not_answer_once_does_not_lose_the_task(queue, monkeypatch):
    queue.put([new("1.2")])
    extend, calls = queue.extend, []

    def now_and_then(task, lease):
        calls.append(task.id)
        if len(calls) == 1:
            raise Unavailable("the disk is full")
        return extend(task, lease)

    monkeypatch.setattr(queue, "extend", now_and_then)

    def annotate(task):
        time.sleep(0.4)
        return well(task)

    assert work_once(queue, annotate, "w", timedelta(seconds=0.24))
    assert len(calls) > 1
    assert status_of(queue, "1.2") == "completed"


# Ending


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), worker.Leave(143)])
def test_a_worker_that_is_asked_to_end_gives_its_task_back_at_once(queue, ending):
    queue.put([new("1.2")])
    for _ in range(4):  # more than there are attempts
        with pytest.raises(type(ending)):
            once(queue, failing(ending))
    task = queue.lease("v", HOUR)
    assert task.attempt == 1


def test_work_goes_on_until_it_is_told_to_stop(queue):
    queue.put([new(str(n)) for n in range(5)])
    work(queue, well, worker="w", stop=lambda: nothing_left(queue))
    assert queue.count() == {("on-demand", "completed"): 5}


def test_series_of_a_source_that_is_avoided_are_left_to_others(queue):
    disk, pacs = new("1.2"), replace(new("1.3"), source="dimse://pacs")
    queue.put([disk, pacs])
    rounds = iter([False] * 4 + [True])
    work(queue, well, worker="w", stop=lambda: next(rounds), idle_s=0, avoiding={disk.source})
    assert status_of(queue, "1.2") == "ready"
    assert status_of(queue, "1.3") == "completed"


def test_something_is_left_while_a_task_waits_or_is_held(queue):
    assert nothing_left(queue)
    queue.put([new("1.2"), new("1.3", reason="4d")])
    assert not nothing_left(queue)
    task = queue.lease("w", HOUR)
    assert not nothing_left(queue)
    queue.settle(task, well(task))
    assert nothing_left(queue)


def test_an_outage_makes_the_pauses_grow(queue, monkeypatch):
    pauses = []
    monkeypatch.setattr(worker, "rest", lambda seconds, stop: pauses.append(seconds))
    queue.put([new(str(n)) for n in range(9)])
    answers = iter([*[failing(Unavailable("no answer"))] * 8, well, failing(Unavailable("no"))])
    stop = iter([False] * 10 + [True])
    work(queue, lambda t: next(answers)(t), worker="w", stop=lambda: next(stop))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1]


def test_a_queue_that_does_not_answer_is_asked_again(queue, monkeypatch):
    queue.put([new("1.2")])
    lease, asked = queue.lease, []

    def first_not(name, length, avoiding):
        asked.append(name)
        if len(asked) == 1:
            raise Unavailable("another process holds the queue")
        return lease(name, length)

    monkeypatch.setattr(queue, "lease", first_not)
    monkeypatch.setattr(worker, "rest", lambda seconds, stop: None)
    work(queue, well, worker="w", stop=lambda: nothing_left(queue))
    assert status_of(queue, "1.2") == "completed"


# Processes


def index_all(url: str, name: str, stop) -> None:
    """A worker process; what a series does to it is in its UID."""
    with closing(SqliteQueue(url)) as queue:
        work(queue, dangerous, worker=name, stop=stop, idle_s=0.05)


def dangerous(task):
    if task.series.series_uid.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.series.series_uid.startswith("leaves"):
        Path(task.source.removeprefix("folder://"), "told").write_text(tempfile.mkdtemp())
        os.kill(os.getpid(), signal.SIGKILL)
    if task.series.series_uid.startswith("slow"):
        time.sleep(60)
    if task.series.series_uid.startswith("takes 2 s"):
        time.sleep(2)
    return annotated(task.series)


def says_its_niceness(file: Path, name: str, stop) -> None:
    beside = threading.Thread(target=lambda: file.write_text(str(os.nice(0))))
    beside.start()
    beside.join()


def is_set_wrong(worker, stop):
    raise Misconfigured("weights are missing")


def never_starts(name: str, stop) -> None:
    sys.exit(3)


def test_workers_outlive_a_series_that_kills_them(tmp_path):
    url = f"sqlite://{tmp_path}/tomodex.db?attempts=2"
    queue = SqliteQueue(url)
    queue.put([new("kills", date="2001-01-01"), *[new(str(n)) for n in range(20)]])
    seen = []
    run_workers(
        2,
        partial(index_all, url),
        bury=queue.bury,
        finished=lambda: nothing_left(queue),
        progress=lambda: seen.append(queue.count()),
    )
    assert queue.count() == {("on-demand", "completed"): 20, ("on-demand", "failed"): 1}
    assert queue.reasons() == {("failed", "worker_lost"): 1}
    assert seen[-1] == queue.count()


def test_workers_leave_the_processor_to_what_cannot_wait(tmp_path):
    run_workers(
        1,
        partial(says_its_niceness, tmp_path / "niceness"),
        bury=lambda name: 0,
        finished=lambda: False,
        progress=lambda: None,
    )
    assert int((tmp_path / "niceness").read_text()) == min(os.nice(0) + worker.NICENESS, 19)


def test_images_that_a_dead_worker_had_retrieved_are_removed(tmp_path):
    url = f"sqlite://{tmp_path}/tomodex.db?attempts=1"
    queue = SqliteQueue(url)
    queue.put([replace(new("leaves"), source=f"folder://{tmp_path}")])
    run_workers(
        1,
        partial(index_all, url),
        bury=queue.bury,
        finished=lambda: nothing_left(queue),
        progress=lambda: None,
    )
    left = Path((tmp_path / "told").read_text())
    assert status_of(queue, "leaves") == "failed"
    assert not left.exists()
    assert not left.parent.exists()


def test_workers_that_were_ended_for_taking_too_much_did_not_start_in_vain():
    place = worker._Place(never_starts)
    for _ in range(worker.FALSE_STARTS + 2):
        place.process = SimpleNamespace(exitcode=TOO_MUCH)
        worker._mourn(place, lambda name: 0)
    assert place.false_starts == 0


def test_an_error_at_the_start_of_a_worker_is_told_as_it_is():
    with pytest.raises((AttributeError, PicklingError), match="pickle"):
        run_workers(
            1,
            lambda name, stop: None,
            bury=lambda name: 0,
            finished=lambda: False,
            progress=lambda: None,
        )


def test_workers_that_cannot_start_are_not_started_for_ever(monkeypatch):
    monkeypatch.setattr(worker, "FALSE_STARTS", 1)
    with pytest.raises(Misconfigured, match="exit code 3"):
        run_workers(
            1, never_starts, bury=lambda name: 0, finished=lambda: False, progress=lambda: None
        )


def test_what_the_dead_held_is_given_back_at_once(queue):
    """After kill -9 of everything, nobody waits for the leases; the living keep theirs."""
    host = socket.gethostname()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f"{host}-pid{gone.pid}-0.0", f"{host}-pid{os.getpid()}-0.0", "other-pid1-0.0", "w"]
    queue.put([new(str(n)) for n in range(len(names))])
    for name in names:
        queue.lease(name, HOUR)
    assert worker.bury_the_dead(queue) == 1
    assert queue.lease("next", HOUR).attempt == 2
    assert sorted(queue.holders()) == sorted([*names[1:], "next"])


def test_a_worker_that_has_worked_for_long_did_not_start_falsely(monkeypatch):
    """Or a few deaths in a year would end everything."""
    deaths = []
    monkeypatch.setattr(worker, "FALSE_STARTS", 1)
    monkeypatch.setattr(worker, "WELL_STARTED_S", -1.0)
    run_workers(
        1,
        never_starts,
        bury=lambda name: deaths.append(name) or 0,
        finished=lambda: len(deaths) > 3,
        progress=lambda: None,
    )
    assert len(deaths) > 3


def test_what_dies_beside_the_workers_again_and_again_does_not_end_them():
    """Such as the delivery to one sink; it is started again, later each time."""
    place, pauses = worker._Place(never_starts, is_beside=True), []
    for _ in range(9):
        place.process = SimpleNamespace(exitcode=-9)
        place.started = time.monotonic()
        worker._mourn(place, lambda name: 0)
        pauses.append(round(place.not_before - place.started))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_workers_with_wrong_settings_are_not_started_again():
    with pytest.raises(Misconfigured, match="cannot work with these settings"):
        run_workers(
            1, is_set_wrong, bury=lambda name: 0, finished=lambda: False, progress=lambda: None
        )


def test_workers_give_back_what_they_hold_when_all_is_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "FINISH_S", 0.0)
    url = f"sqlite://{tmp_path}/tomodex.db"
    queue = SqliteQueue(url)
    queue.put([new("slow")])
    seen = []  # asked every 0.2 s: from the second time on it is surely in the worker's hands
    run_workers(
        1,
        partial(index_all, url),
        bury=queue.bury,
        finished=lambda: seen.count(True) > 2,
        progress=lambda: seen.append(("on-demand", "in-progress") in queue.count()),
    )
    (state,) = queue.states("slow")
    assert (state.status, state.attempt) == ("ready", 0)


@pytest.mark.parametrize(("finish_s", "status"), [(30.0, "completed"), (0.0, "ready")])
def test_workers_that_are_told_to_end_may_finish_for_as_long_as_is_set(tmp_path, finish_s, status):
    url = f"sqlite://{tmp_path}/tomodex.db"
    queue = SqliteQueue(url)
    queue.put([new("takes 2 s")])

    def told_to_end() -> None:
        if ("on-demand", "in-progress") in queue.count():
            raise worker.Leave(143)

    with pytest.raises(worker.Leave):
        run_workers(
            1,
            partial(index_all, url),
            bury=queue.bury,
            finished=lambda: False,
            progress=told_to_end,
            finish_s=finish_s,
        )
    assert status_of(queue, "takes 2 s") == status


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_when_the_one_that_started_them_is_killed(tmp_path):
    url = f"sqlite://{tmp_path}/tomodex.db"
    program = f"""
import sys
from functools import partial
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.test_worker import index_all
from tomodex.worker import run_workers
if __name__ == "__main__":
    run_workers(1, partial(index_all, {url!r}), bury=lambda name: 0,
                finished=lambda: False, progress=lambda: None)
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    queue = SqliteQueue(url)
    queue.put([new("1.2")])
    parent = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, str(script)])
    wait_until(lambda: status_of(queue, "1.2") == "completed")
    (child,) = children_of(parent)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: has_ended(child))


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() == b""  # nobody has waited for it yet
    except FileNotFoundError:
        return True


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    commands = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in listed}
    return [c for c, command in commands.items() if b"resource_tracker" not in command]


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
