from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tests.contracts.queue import HOUR, annotated, new
from tests.phantoms import write_ball_series
from tomodex import bounds, worker
from tomodex.bounds import TOO_MUCH, Bounds, allowed_bytes, memory_bytes
from tomodex.expectation import expect_retrieval, expect_work
from tomodex.indexing import index_source
from tomodex.queues.sqlite import SqliteQueue
from tomodex.settings import Settings
from tomodex.volume import Volume
from tomodex.wiring import annotator_of, queue_of, source_url
from tomodex.worker import work_once


@pytest.fixture
def ended(monkeypatch):
    """What the process was ended with; it goes on all the same."""
    codes = []
    monkeypatch.setattr(bounds.os, "_exit", codes.append)
    return codes


def once(queue, annotate, limits):
    return work_once(queue, annotate, "w", HOUR, limits)


def hang(limits, seconds=0.0):
    """Lets time pass until somebody has noticed."""

    def annotate(task):
        limits.expect(seconds, "a volume of 2 x 3 x 4 voxels")
        time.sleep(0.6)
        return annotated(task.series)

    return annotate


def test_a_series_that_takes_too_long_is_put_back_and_its_worker_ended(ended, caplog):
    queue = SqliteQueue("sqlite:?attempts=2&retry_s=0")
    queue.put([new("1.2")])
    limits = Bounds(0.1, 2.0, 0)
    once(queue, hang(limits), limits)
    assert ended[0] == TOO_MUCH
    (state,) = queue.states("1.2")
    said = "took longer than the 0 s that a volume of 2 x 3 x 4 voxels may take"
    assert (state.status, state.sentence) == ("ready", said)
    assert "test_bounds.py" in next(r for r in caplog.records if r.getMessage() == "ended").at


def test_the_last_attempt_that_takes_too_long_fails_with_its_numbers(ended):
    queue = SqliteQueue("sqlite:?attempts=1")
    queue.put([new("1.2")])
    limits = Bounds(0.05, 2.0, 0)
    once(queue, hang(limits, 0.1), limits)
    assert queue.reasons() == {("failed", "deadline"): 1}
    assert "2 x 3 x 4" in queue.states("1.2")[0].sentence


def test_memory_beyond_what_is_allowed_is_a_reason_of_its_own(ended):
    queue = SqliteQueue("sqlite:?attempts=1")
    queue.put([new("1.2")])
    limits = Bounds(60, 2.0, memory_bytes() + 100 * 2**20)

    def annotate(task):
        filled = np.ones(300 * 2**20, np.uint8)
        time.sleep(0.5)
        return annotated(task.series, liver_ml=float(filled[0]))

    once(queue, annotate, limits)
    assert ended[0] == TOO_MUCH
    assert queue.reasons() == {("failed", "memory"): 1}
    assert "GiB" in queue.states("1.2")[0].sentence


def test_what_stays_within_its_bounds_notices_nothing(ended):
    queue = SqliteQueue("sqlite:")
    queue.put([new("1.2"), new("1.3")])
    limits = Bounds(30, 2.0, memory_bytes() + 2**30)
    before = threading.active_count()
    for _ in range(2):
        once(queue, hang(limits), limits)
    assert (ended, queue.count()) == ([], {("on-demand", "completed"): 2})
    assert threading.active_count() == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_time_is_counted_anew_when_the_size_is_known(ended):
    queue = SqliteQueue("sqlite:")
    queue.put([new("1.2")])
    limits = Bounds(0.1, 10.0, 0)

    def annotate(task):
        limits.expect(1, "a series of 5 instances")
        return hang(limits, 1)(task)

    once(queue, annotate, limits)
    assert ended == []


def test_a_second_attempt_may_take_twice_as_long(monkeypatch):
    limits, timers = Bounds(600, 10, 0), []
    monkeypatch.setattr(bounds.signal, "setitimer", lambda which, s: timers.append(s))
    for attempt in (1, 2):
        with limits.watched(attempt, lambda reason, sentence: None):
            limits.expect(30, "a volume")
    assert timers == [930, 0, 1830, 0]


def test_a_factor_of_0_lets_a_series_take_any_time(ended):
    queue = SqliteQueue("sqlite:")
    queue.put([new("1.2")])
    limits = Bounds(0.01, 0, 0)
    once(queue, hang(limits), limits)
    assert ended == []


DEAF = """
import ctypes
from tomodex import bounds

bounds.GRACE_S = 0.1
limits = bounds.Bounds(0.2, 1, 0)
with limits.watched(1, lambda reason, sentence: None):
    limits.expect(0.1, "a volume")
    # With the interpreter's lock, so that nothing else in the process can run.
    ctypes.PyDLL(None).sleep(600)
"""


def test_what_cannot_be_told_is_ended_by_the_kernel():
    done = subprocess.run([sys.executable, "-c", DEAF], timeout=60)
    assert done.returncode == -signal.SIGALRM


# How much there is


def test_workers_share_the_memory_of_their_container(monkeypatch, tmp_path):
    monkeypatch.setattr(bounds, "_machine_bytes", lambda: 32 * 2**30)
    monkeypatch.setattr(bounds, "_container_bytes", lambda: [20 * 2**30])
    assert allowed_bytes(0, 2) == 8 * 2**30
    assert allowed_bytes(0, 100) == 4 * 2**30
    assert allowed_bytes(3.5, 2) == 3.5 * 2**30


def test_no_worker_may_take_more_than_there_is(monkeypatch):
    monkeypatch.setattr(bounds, "_machine_bytes", lambda: 4 * 2**30)
    monkeypatch.setattr(bounds, "_container_bytes", lambda: [2**63])
    assert allowed_bytes(0, 3) == int(0.8 * 4 * 2**30)


def test_without_a_container_the_machine_counts(monkeypatch):
    monkeypatch.setattr(bounds.Path, "is_file", lambda path: False)
    assert allowed_bytes(0, 1) == int(0.8 * bounds._machine_bytes())


def test_memory_is_what_this_process_holds():
    before = memory_bytes()
    held = np.ones(200 * 2**20, np.uint8)
    assert memory_bytes() - before == pytest.approx(held.nbytes, rel=0.1)


# How long it may take


@dataclass
class Slow:
    """A segmenter that says what it costs."""

    per_slice_s: float

    def seconds(self, volume):
        return self.per_slice_s * volume.shape[0]


def test_a_longer_series_may_take_longer():
    volume = Volume(np.broadcast_to(np.int16(0), (2000, 512, 512)), np.eye(4))
    seconds, what = expect_work(volume, [Slow(0.5), object(), Slow(0.1)])
    assert seconds == pytest.approx(0.3e-6 * 2000 * 512 * 512 + 1200)
    assert what == "a volume of 2000 x 512 x 512 voxels"


def test_a_series_of_more_instances_may_take_longer_to_come():
    assert expect_retrieval(new("1.2").series) == (24.0, "a series of 120 instances")


# Gently


def test_a_series_is_treated_gently_from_its_second_attempt_on(tmp_path, monkeypatch):
    (tmp_path / "archive").mkdir()
    write_ball_series(tmp_path / "archive")
    settings = Settings(data=tmp_path / "data", segmenters=("none:",))
    seen = []

    def annotate_series(series, tools, configuration):
        seen.append(tools.threads)
        return annotated(series)

    monkeypatch.setattr("tomodex.wiring.annotate_series", annotate_series)
    annotate = annotator_of(settings)
    queue = SqliteQueue("sqlite:")
    queue.put([new("1.2")])
    task = queue.lease("w", HOUR)
    url = source_url(str(tmp_path / "archive"))
    for attempt in (1, 2, 3):
        annotate(worker.Task(**{**vars_of(task), "attempt": attempt, "source": url}))
    assert seen == [None, 1, 1]


def vars_of(task):
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


# The whole product


HOSTILE = """
    import ctypes, os, time
    import numpy as np
    from tomodex.segmentation import Algorithm, Segmentation

    class Hostile:
        "Does to its process what the width of an image says."
        reads_stored = False

        def __init__(self, url):
            pass

        def segment(self, volume, stored):
            columns = volume.shape[2]
            if columns == 51:
                ctypes.CDLL(None).sleep(600)
            if columns == 52:
                os.abort()
            held = []
            while columns == 53 and len(held) < 60:
                held.append(np.ones(50 * 2**20, np.uint8))
                time.sleep(0.01)
            labels = (volume.voxels > 0).astype(np.uint8)
            return Segmentation(volume, (labels,), ({1: "liver"},), Algorithm(name="hostile"))
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch) -> str:
    """A segmenter that another package brings."""
    package = tmp_path / "package"
    about = package / "hostile-1.dist-info"
    about.mkdir(parents=True)
    (package / "hostile.py").write_text(textwrap.dedent(HOSTILE))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[tomodex.segmenter]\nhostile = hostile:Hostile\n")
    monkeypatch.syspath_prepend(str(package))
    return "hostile:"


def test_series_that_hang_crash_or_eat_memory_cost_no_other_its_place(tmp_path, hostile):
    archive = tmp_path / "archive"
    uids = {}
    for columns in (50, 51, 52, 53, 54):
        (archive / str(columns)).mkdir(parents=True)
        uids[columns] = write_ball_series(archive / str(columns), shape=(20, 40, columns))
    settings = Settings(
        data=tmp_path / "data",
        queue=f"sqlite://{tmp_path}/queue.db?attempts=1&retry_s=0",
        segmenters=(hostile,),
        workers=2,
        deadline_s=10.0,
        deadline_factor=0.1,
        memory_gib=0.3,
    )
    index_source(settings, source_url(str(archive)), "on-demand", lambda title: lambda *_: None)
    queue = queue_of(settings)
    states = {columns: queue.states(uid)[0] for columns, uid in uids.items()}
    assert {columns: (state.status, state.reason) for columns, state in states.items()} == {
        50: ("completed", ""),
        51: ("failed", "deadline"),
        52: ("failed", "worker_lost"),
        53: ("failed", "memory"),
        54: ("completed", ""),
    }
    assert "20 x 40 x 51 voxels" in states[51].sentence
    for columns in (50, 54):
        (liver,) = queue.result(uids[columns]).annotated.annotations
        assert liver.structure == "liver"


def test_a_limit_of_the_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(f"{5 * 2**30}\n")
    (tmp_path / "limit_in_bytes").write_text("max\n")
    files = (tmp_path / "memory.max", tmp_path / "limit_in_bytes")
    monkeypatch.setattr(bounds, "CONTAINER", files)
    assert allowed_bytes(0, 1) == int(bounds.SHARE * 5 * 2**30)


def test_a_hardened_container_that_does_not_say_its_limit_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "CONTAINER", (tmp_path, tmp_path / "nowhere"))
    assert allowed_bytes(0, 1) > 0
