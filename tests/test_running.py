from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.archives import ADAPTER, asked, hold
from tests.phantoms import write_ball_series
from tomodex import running, sources
from tomodex.backfill import plan_backfill, start
from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.running import Lister, Rest
from tomodex.search import parse
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of

YESTERDAY = (datetime.now().astimezone().date() - timedelta(days=1)).isoformat()


@pytest.fixture(autouse=True)
def _test_archives(monkeypatch):
    monkeypatch.setitem(sources.ADAPTERS, "test", ADAPTER)


@pytest.fixture
def file(tmp_path) -> Path:
    hold(tmp_path / "pacs.json", {"1.1": YESTERDAY, "1.2": "2019-01-01"})
    return tmp_path / "pacs.json"


@pytest.fixture
def settings(tmp_path, file) -> Settings:
    return Settings(data=tmp_path / "data", sources={"pacs": f"test://{file}"}, daily_at="every 1h")


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def never() -> bool:
    return False


# What is listed when


def test_new_series_are_looked_for_when_it_is_time_and_not_before(settings, file):
    clock = Clock()
    lister = Lister(settings, clock)
    for _ in range(3):
        lister.look(never)
    assert asked(file) == [f"{YESTERDAY} {YESTERDAY}"]
    clock.now += timedelta(minutes=61)
    lister.look(never)
    assert len(asked(file)) == 2
    assert queue_of(settings).count() == {("daily", "ready"): 1}


def test_another_process_knows_when_the_last_look_was(settings, file):
    Lister(settings).look(never)
    Lister(settings).look(never)
    assert len(asked(file)) == 1


def test_an_archive_that_does_not_answer_is_asked_again_later_and_later(
    settings, file, monkeypatch
):
    hold(file, {}, down="no answer within 30 s", on=YESTERDAY)
    now = [time.time()]
    monkeypatch.setattr(running.time, "time", lambda: now[0])
    lister = Lister(settings)
    for wait_s in (0, 29, 2, 58, 3, 118, 4):
        now[0] += wait_s
        lister.look(never)
    assert len(asked(file)) == 4
    hold(file, {"1.1": YESTERDAY})
    now[0] += 3600
    lister.look(never)
    lister.look(never)
    assert len(asked(file)) == 5
    assert queue_of(settings).count() == {("daily", "ready"): 1}


def test_an_archive_that_is_left_alone_is_asked_when_its_time_has_come(monkeypatch):
    now = [1_790_000_000.0]
    monkeypatch.setattr(running.time, "time", lambda: now[0])
    rest = Rest()
    until = datetime.fromtimestamp(now[0], UTC) + timedelta(hours=7)
    rest.lengthen(Suspended("these are not its hours", source="test:", until=until))
    assert rest.seconds == 7 * 3600


def test_a_back_fill_goes_on_in_between(settings, file):
    plan_backfill(settings, "pacs", date(2019, 1, 1), date(2019, 1, 3))
    lister = Lister(settings)
    lister.look(never)
    assert len(asked(file)) == 1  # it was not started
    start(settings, None)
    lister.look(never)
    assert asked(file)[1:] == [f"2019-01-0{n} 2019-01-0{n}" for n in (1, 2, 3)]
    lister.look(never)
    assert len(asked(file)) == 4
    assert queue_of(settings).count() == {("daily", "ready"): 1, ("backfill", "ready"): 1}


def test_new_series_are_not_kept_waiting_by_a_long_back_fill(settings, file):
    clock = Clock()
    plan_backfill(settings, "pacs", date(2019, 1, 1), date(2019, 1, 9))
    start(settings, None)
    lister = Lister(settings, clock)
    lister.look(iter([False, False, False, True]).__next__)  # two days of it
    assert len(asked(file)) == 3
    clock.now += timedelta(hours=2)
    lister.look(never)
    (daily,) = asked(file)[3:]
    assert daily.endswith(f" {YESTERDAY}")
    clock.now -= timedelta(hours=2)
    lister.look(never)
    assert len(asked(file)) == 1 + 2 + 1 + 7


def test_one_source_with_a_wrong_setting_holds_up_no_other(settings, file, tmp_path):
    wrong = {"a": str(tmp_path / "nowhere"), **settings.sources}
    Lister(settings.model_copy(update={"sources": wrong})).look(never)
    assert queue_of(settings).count() == {("daily", "ready"): 1}


# Processes

PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tomodex.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    for k in range(2):
        (folder / str(k)).mkdir(parents=True)
        write_ball_series(folder / str(k))
    return folder


@pytest.fixture
def run(tmp_path, archive):
    """Start `tomodex run` on a folder, as systemd does."""
    script = tmp_path / "service.py"
    script.write_text(PROGRAM)
    environment = os.environ | {
        "TOMODEX_SOURCES": json.dumps({"disk": str(archive)}),
        "TOMODEX_DAILY_AT": "every 1h",
        "TOMODEX_LOG_LEVEL": "info",
    }
    command = [sys.executable, str(script), "--data", str(tmp_path / "data"), "run"]
    started = []

    def begin(**more: str) -> subprocess.Popen:
        process = subprocess.Popen(
            command, env=environment | more, stderr=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


#: Ten processes import what they need before the first series is there: 20 s of processor time,
#: and minutes of a machine that does other things. What hangs takes this long to be noticed.
HANGS_S = 600.0


def wait_until(condition, service: subprocess.Popen) -> None:
    """Wait for something that a service does, as long as it lives."""
    end = time.monotonic() + HANGS_S
    while not condition():
        assert service.poll() is None, "it ended"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def found(data: Path) -> int:
    if not (data / "index.duckdb").exists():
        return 0
    try:
        return index_of(Settings(data=data)).search(parse("", load_terminology())).series
    except (Unavailable, Misconfigured):  # just being made
        return 0


def test_what_comes_into_an_archive_is_in_the_index_without_anybody_doing_anything(
    run, archive, tmp_path
):
    """Also after everything was killed in the middle of it; and it ends when it is told to."""
    data = tmp_path / "data"
    first = run()
    wait_until((data / "tomodex.db").exists, first)
    os.killpg(first.pid, signal.SIGKILL)
    service = run()
    wait_until(lambda: found(data) == 2, service)
    twin = run()
    assert twin.wait(HANGS_S) == 3
    assert b"another `tomodex run` works on" in twin.stderr.read()
    service.send_signal(signal.SIGTERM)
    assert service.wait(HANGS_S) == 143
    lines = [json.loads(line) for line in service.stderr.read().splitlines() if line[:1] == b"{"]
    assert {"running", "discovered", "completed", "delivered"} <= {line["event"] for line in lines}
    with_worker = queue_of(Settings(data=data))
    assert with_worker.count() == {("daily", "completed"): 2}
    assert with_worker.holders() == []


def test_a_wrong_setting_ends_it_and_says_so(run):
    service = run(TOMODEX_SEGMENTERS='["magic:"]')
    assert service.wait(HANGS_S) == 2
    assert b"no segmenter for 'magic:'" in service.stderr.read()
