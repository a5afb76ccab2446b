"""`discover`, `backfill` and what `status` says of them, as a person uses them."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.archives import ADAPTER, asked, hold
from tests.contracts.queue import annotated
from tomodex import sources
from tomodex.cli import main
from tomodex.errors import Unavailable
from tomodex.indexing import Delivery, Watch
from tomodex.locks import locked
from tomodex.running import LOCK
from tomodex.settings import Settings
from tomodex.sources.gate import Gate, GateOptions
from tomodex.wiring import queue_of

YESTERDAY = (datetime.now().astimezone().date() - timedelta(days=1)).isoformat()


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(sources.ADAPTERS, "test", ADAPTER)
    monkeypatch.chdir(tmp_path)
    hold(
        tmp_path / "pacs.json",
        {f"1.{n}": f"2019-01-0{n}" for n in range(1, 8)} | {"2.1": YESTERDAY},
    )
    (tmp_path / "tomodex.toml").write_text(f'[sources]\npacs = "test://{tmp_path}/pacs.json"\n')
    return tmp_path / "pacs.json"


@pytest.fixture
def tomodex(file, monkeypatch, capsys):
    """Run a command; give exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tomodex", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def settings(file) -> Settings:
    return Settings(data=file.parent / "tomodex-data")


def test_what_came_yesterday_is_listed_into_the_daily_lane(tomodex, file):
    code, out, err = tomodex("discover", "--daily")
    assert (code, err) == (0, "")
    assert f"{YESTERDAY} to {YESTERDAY}" in out
    _, out, _ = tomodex("status", "--json")
    assert json.loads(out)["lanes"] == {"daily": {"ready": 1}}


def test_an_archive_that_does_not_answer_ends_with_3_and_says_so(tomodex, file):
    hold(file, {}, down="no answer within 30 s", on=YESTERDAY)
    code, out, err = tomodex("discover", "--daily", "--json")
    assert (code, json.loads(out)[0]["error"]) == (3, "no answer within 30 s")
    assert err == "tomodex: no answer within 30 s\n"


def test_what_vanished_is_withdrawn_once_it_is_confirmed(tomodex, file):
    assert tomodex("discover", "pacs", "--since", "2019-01-01")[0] == 0
    hold(file, {})
    code, _, err = tomodex("discover", "pacs")
    assert (code, "8 of 8 series" in err, "--may-vanish 100" in err) == (2, True, True)
    code, out, _ = tomodex("discover", "pacs", "--may-vanish", "100", "--json")
    assert (code, json.loads(out)[0]["withdrawn"]) == (0, 8)
    assert json.loads(tomodex("status", "--json")[1])["lanes"] == {}
    code, out, _ = tomodex("show", "1.1")
    assert (code, "withdrawn" in out, "no longer in the archive" in out) == (0, True, True)
    (entry,) = json.loads(tomodex("show", "1.1", "--json")[1])["audit"]
    assert (entry["event"], entry["source"]) == ("withdrawn", f"test://{file}")


def test_a_back_fill_is_planned_run_paused_and_resumed(tomodex, file, settings):
    plan = ("backfill", "plan", "pacs", "--from", "2019-01-01", "--to", "2019-01-07")
    code, out, _ = tomodex(*plan)
    assert (code, out[:29]) == (0, f"7 windows of test://{file}"[:29])
    code, _, _ = tomodex("backfill", "start", "--here")
    assert (code, len(asked(file))) == (0, 7)
    queue = queue_of(settings)
    task = queue.lease("w", timedelta(hours=1))
    assert task.series.series_uid == "1.1"
    queue.settle(task, annotated(task.series))
    code, out, _ = tomodex("backfill", "status", "--json")
    (status,) = json.loads(out)
    assert (status["state"], status["days"]["listed"], status["days_left"]) == ("running", 7, 0)
    assert (status["indexed"], status["waiting"]) == (1, 6)
    assert "at the present rate of" in status["pixels_forecast"]
    assert "all 7 windows are listed" in tomodex("backfill", "status", "pacs")[1]
    assert tomodex("backfill", "pause")[0] == 0
    assert queue.lease("w", timedelta(hours=1)) is None
    _, out, _ = tomodex("status", "--json")
    assert json.loads(out)["held"] == [{"lane": "backfill", "source": f"test://{file}"}]
    assert "paused lane" in tomodex("status")[1]
    assert tomodex("backfill", "resume", "pacs")[0] == 0
    assert queue.lease("w", timedelta(hours=1)) is not None


def test_who_starts_a_back_fill_is_told_if_nobody_works_on_it(tomodex, settings):
    tomodex("backfill", "plan", "pacs", "--from", "2019-01-01", "--to", "2019-01-02")
    assert "none runs on this data" in tomodex("backfill", "start")[2]
    with locked(settings.data, LOCK, "taken"):
        assert tomodex("backfill", "resume")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["backfill", "start"], "no back-fill is planned"),
        (
            ["backfill", "plan", "x", "--from", "2019-01-01", "--to", "2019-01-02"],
            "x is not a folder",
        ),
        (["backfill", "plan", "pacs", "--from", "1.1.2019", "--to", "2019-01-02"], "1.1.2019"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(tomodex, arguments, says):
    code, _, err = tomodex(*arguments)
    assert (code, says in err) == (2, True)


def test_an_archive_that_is_left_alone_is_shown_and_not_waited_for(tomodex, settings):
    """`index` ends when nothing else is left to do, and `status` says until when and why."""
    tomodex("discover", "pacs")
    queue = queue_of(settings)
    watch = Watch(settings, queue, Delivery(queue, {}), lambda done, total: None)
    assert not watch.nothing_to_do()
    (url,) = {state.source for state in queue.find_states("ready")}
    gate = Gate(url, settings.data, GateOptions())
    for _ in range(3):
        with suppress(Unavailable), gate.passing():
            raise Unavailable("association refused")
    assert watch.nothing_to_do()
    (one,) = json.loads(tomodex("status", "--json")[1])["suspended"]
    assert (one["source"], one["sentence"]) == (url, "association refused")
    assert "association refused" in tomodex("status")[1]
