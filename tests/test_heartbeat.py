from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tomodex import heartbeat
from tomodex.cli import app
from tomodex.heartbeat import FOLDER, beat, beating, signs_of, working

PROGRAM = (sys.executable, "-c", "from tomodex.cli import main; main()")


def age(data: Path, process: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(data / FOLDER / process, (then, then))


def test_a_process_is_starting_until_it_says_that_it_works(tmp_path):
    with beating(tmp_path, "run"):
        assert [(sign.process, sign.state) for sign in signs_of(tmp_path)] == [("run", "starting")]
        working()
        assert [sign.state for sign in signs_of(tmp_path)] == ["working"]


def test_what_has_ended_as_it_was_told_to_is_not_missed(tmp_path):
    with beating(tmp_path, "run"):
        pass
    assert signs_of(tmp_path) == []


def test_a_main_loop_that_does_not_go_round_is_not_well(tmp_path):
    with beating(tmp_path, "run"):
        age(tmp_path, "run", 700)
        assert [sign.is_well() for sign in signs_of(tmp_path)] == [False]
        beat()
        assert [sign.is_well() for sign in signs_of(tmp_path)] == [True]


def test_a_sign_is_given_every_few_seconds_and_not_more_often(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    with beating(tmp_path, "run"):
        beat()
        age(tmp_path, "run", 100)
        clock[0] += heartbeat.BEAT_S - 0.1
        beat()
        assert signs_of(tmp_path)[0].age_s > 99
        clock[0] += 0.2
        beat()
        assert signs_of(tmp_path)[0].age_s < 10


def test_where_nobody_watches_a_beat_does_nothing(tmp_path):
    beat()
    working()
    assert signs_of(tmp_path) == []


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path, caplog):
    (tmp_path / FOLDER).write_bytes(b"")
    with beating(tmp_path, "run"):
        working()
        beat()
    assert "no heartbeat" in caplog.messages


def test_only_the_owner_may_read_a_sign(tmp_path):
    with beating(tmp_path, "run"):
        assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
        assert (tmp_path / FOLDER / "run").stat().st_mode & 0o777 == 0o600


# --- the command --------------------------------------------------------------------------------


def asked(data: Path, *options: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["--data", str(data), "health", *options])
    return answer.exit_code, answer.output


def test_nothing_runs_where_nothing_was_begun(tmp_path):
    code, said = asked(tmp_path)
    assert (code, said) == (1, f"nothing runs on {tmp_path}\n")


def test_one_of_several_that_is_stuck_makes_the_exit_code_1(tmp_path):
    with beating(tmp_path, "serve"):
        pass
    (tmp_path / FOLDER / "run").write_bytes(b"")
    (tmp_path / FOLDER / "serve").write_bytes(b"")
    assert asked(tmp_path)[0] == 0
    age(tmp_path, "run", 700)
    assert asked(tmp_path)[0] == 1
    assert asked(tmp_path, "serve")[0] == 0
    assert asked(tmp_path, "run", "--within", "900")[0] == 0


def test_what_does_not_run_is_named(tmp_path):
    with beating(tmp_path, "run"):
        assert asked(tmp_path, "run", "deliver") == (
            1,
            "run is starting; its last sign is 0 s old\ndeliver does not run\n",
        )


def test_one_that_is_starting_is_alive_and_not_ready(tmp_path):
    with beating(tmp_path, "run"):
        assert asked(tmp_path)[0] == 0
        assert asked(tmp_path, "--ready")[0] == 1
        working()
        assert asked(tmp_path, "--ready")[0] == 0


def test_the_same_for_a_program(tmp_path):
    with beating(tmp_path, "run"):
        (sign,) = json.loads(asked(tmp_path, "--json")[1])["signs"]
    assert sign.pop("age_s") < 60
    assert sign == {"process": "run", "state": "starting", "well": True}


# --- the processes themselves -------------------------------------------------------------------


def wait_for(data: Path, process: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while [s.state for s in signs_of(data, {process})] != ["working"]:
        assert time.monotonic() < end, "gave no sign"
        assert server.poll() is None, "ended"
        time.sleep(0.05)


@pytest.mark.parametrize("process", ["run", "serve", "receive"])
def test_a_process_gives_signs_until_it_is_told_to_end(tmp_path, process):
    door = {"serve": ("--port", "0"), "receive": ("--port", "0")}.get(process, ())
    command = [*PROGRAM, "--data", str(tmp_path / "data"), process]
    with subprocess.Popen([*command, *door], stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(tmp_path / "data", process, server)
            age(tmp_path / "data", process, 700)
            end = time.monotonic() + 30
            while not signs_of(tmp_path / "data")[0].is_well():
                assert time.monotonic() < end, "its main loop gives no sign"
                time.sleep(0.1)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    assert signs_of(tmp_path / "data") == []
