"""Delivery in processes of its own, as a site starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.contracts.queue import annotated, new
from tomodex import indexing, running
from tomodex.cli import main
from tomodex.delivering import deliver_once, named_consumers
from tomodex.errors import BadQuery, Misconfigured, Unavailable
from tomodex.queues import Queue
from tomodex.settings import Settings
from tomodex.sinks import open_sink
from tomodex.wiring import queue_of

#: Nobody listens there.
SILENT = "opensearch+http://127.0.0.1:9/tomodex?replicas=1"


@pytest.fixture
def settings(tmp_path) -> Settings:
    """An index that does not answer, and a sink that does."""
    return Settings(
        data=tmp_path / "data", index=SILENT, sinks=(f"ndjson://{tmp_path}/out.ndjson",)
    )


@pytest.fixture
def queue(settings) -> Iterator[Queue]:
    with closing(queue_of(settings)) as queue:
        yield queue


def settle(queue: Queue, *uids: str) -> None:
    queue.put([new(uid) for uid in uids])
    for _ in uids:
        task = queue.lease("w", timedelta(hours=1))
        queue.settle(task, annotated(task.series))


def lines(settings: Settings) -> list[str]:
    file = settings.data.parent / "out.ndjson"
    read = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["series"]["series_uid"] for line in read]


# All of it at once


def test_one_that_does_not_answer_holds_up_no_other(settings, queue):
    settle(queue, "1", "2")
    with pytest.raises(Unavailable, match="opensearch"):
        deliver_once(settings, named_consumers(settings, []))
    assert lines(settings) == ["1", "2"]
    assert queue.cursor(SILENT) == 0


def test_only_those_that_are_named_are_delivered_to(settings, queue, tmp_path):
    settle(queue, "1", "2")
    shown = f"ndjson://{tmp_path}/out.ndjson"
    assert deliver_once(settings, named_consumers(settings, [shown])) == {shown: 2}
    assert queue.cursor(SILENT) == 0


def test_a_person_may_leave_out_the_options_and_say_index(settings):
    bare = SILENT.partition("?")[0]
    for said in ("index", bare, SILENT):
        assert named_consumers(settings, [said, "index"]) == (SILENT,)
    assert named_consumers(settings, []) == (SILENT, *settings.sinks)
    with pytest.raises(BadQuery, match="is not one of what results are delivered to: opensearch"):
        named_consumers(settings, [f"{bare}s?token=file:/secret"])
    twice = settings.model_copy(update={"sinks": (f"{bare}?replicas=2",)})
    with pytest.raises(BadQuery, match="is more than one of"):
        named_consumers(twice, [bare])


# Left to other processes


def test_run_and_index_may_leave_delivery_to_others(settings, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(running, "run_workers", lambda *_, beside, **__: started.append(beside))
    running.run(settings)
    running.run(settings.model_copy(update={"delivery": "apart"}))
    assert len(started[0]) == len(started[1]) + 2
    apart = settings.model_copy(update={"delivery": "apart", "sinks": ("magic:",)})
    (tmp_path / "empty").mkdir()
    summary = indexing.index_source(apart, str(tmp_path / "empty"), "daily", lambda _: print)
    assert summary.delivered == 0


def test_a_sink_that_cannot_be_used_ends_a_run_before_it_begins(settings):
    with pytest.raises(Misconfigured, match="no sink for 'magic:'"):
        running.run(settings.model_copy(update={"sinks": ("magic:",)}))


# Commands


@pytest.fixture
def tomodex(settings, monkeypatch, capsys):
    """Run a command on these settings; give exit code and stdout."""
    monkeypatch.setenv("TOMODEX_INDEX", settings.index)
    monkeypatch.setenv("TOMODEX_SINKS", json.dumps(settings.sinks))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tomodex", "--data", str(settings.data), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().out

    return run


def test_lag_says_what_each_lacks_and_could_not_take(settings, queue, tomodex, tmp_path):
    settle(queue, "1", "2")
    ndjson = settings.sinks[0]
    deliver_once(settings, [ndjson])
    queue.set_aside(ndjson, queue.results(0, 1)[0], "too long")
    code, out = tomodex("lag", "--json")
    said = {one["consumer"]: one for one in json.loads(out)}
    assert code == 0
    assert said["opensearch+http://127.0.0.1:9/tomodex"]["behind"] == 2
    assert said["opensearch+http://127.0.0.1:9/tomodex"]["since"] == "2026-10-01T10:00:09+00:00"
    assert said[ndjson]["behind"] == 0
    assert [aside["sentence"] for aside in said[ndjson]["asides"]] == ["too long"]
    _, out = tomodex("lag")
    assert "nothing" in out
    assert "too long" in out


def test_a_sink_is_brought_everything_again_by_one_command(settings, queue, tomodex):
    settle(queue, "1", "2")
    ndjson = settings.sinks[0]
    assert tomodex("deliver", "--once", ndjson) == (0, f"2 results delivered to {ndjson}\n")
    assert tomodex("redeliver", ndjson) == (0, "up to 2 results will be delivered again\n")
    tomodex("deliver", "--once", ndjson)
    assert lines(settings) == ["1", "2", "1", "2"]


def test_what_was_set_aside_is_brought_again_by_command(settings, queue, tomodex):
    settle(queue, "1", "2")
    ndjson = settings.sinks[0]
    deliver_once(settings, [ndjson])
    queue.set_aside(ndjson, queue.results(0, 1)[0], "too long")
    assert tomodex("redeliver", ndjson, "--set-aside") == (
        0,
        "1 results that were set aside are taken now\n",
    )
    assert lines(settings) == ["1", "2", "1"]
    assert queue.asides(ndjson) == []


def test_what_is_not_configured_is_a_mistake_of_the_command(settings, queue, tomodex):
    assert tomodex("deliver", "kafka://nowhere/topic")[0] == 2


# Processes


@pytest.fixture
def service(settings, tmp_path, log):
    """Start `tomodex deliver`, as systemd does."""
    program = tmp_path / "service.py"
    start = 'from tomodex.cli import main\nif __name__ == "__main__":\n    main()\n'
    program.write_text(start)
    environment = os.environ | {
        "TOMODEX_INDEX": settings.index,
        "TOMODEX_SINKS": json.dumps(settings.sinks),
        "TOMODEX_LOG_LEVEL": "info",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(program), "--data", str(settings.data), "deliver"]
    started = []

    def begin() -> subprocess.Popen[bytes]:
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                command, env=environment, stderr=stderr, start_new_session=True
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


def wait_until(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Processes that deliver: those of this one that Python's `spawn` has started."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [int(pid) for pid in spawned]


def test_delivery_goes_on_whatever_is_killed_and_ends_when_it_is_told_to(
    settings, queue, service, log
):
    settle(queue, "1", "2")
    first = service()
    wait_until(lambda: {"1", "2"} <= set(lines(settings)))
    os.killpg(first.pid, signal.SIGKILL)
    settle(queue, "3")
    second = service()
    wait_until(lambda: "3" in lines(settings))
    for pid in children(second):
        os.kill(pid, signal.SIGKILL)
    settle(queue, "4")
    wait_until(lambda: "4" in lines(settings))
    wait_until(lambda: "not delivered" in log.read_text())
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 143
    said = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
    assert {"delivering", "delivered", "worker died"} <= {one["event"] for one in said}
    (silent, *_) = [one for one in said if one["event"] == "not delivered"]
    assert silent["consumer"] == "opensearch+http://127.0.0.1:9/tomodex"
    # What it wrote to is free again.
    open_sink(settings.sinks[0]).close()
