from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.archives import ADAPTER, hold
from tests.servers.ports import free_port
from tomodex import sources
from tomodex.cli import main
from tomodex.doctor import answers, examine, is_well
from tomodex.errors import Unavailable
from tomodex.locks import locked
from tomodex.probe import Probe
from tomodex.running import LOCK
from tomodex.settings import Settings
from tomodex.sinks import open_sink
from tomodex.sources.gate import Suspension
from tomodex.wiring import queue_of, source_of

FINE = Probe(subject="C-ECHO", verdict="ok", sentence="answers in 3 ms")


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setitem(sources.ADAPTERS, "test", ADAPTER)
    hold(tmp_path / "pacs.json", {})
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.dcm").touch()
    known = {"pacs": f"test://{tmp_path}/pacs.json", "disk": str(tmp_path / "disk")}
    made = Settings(
        data=tmp_path / "data", sources=known, sinks=(f"ndjson://{tmp_path}/out.ndjson",)
    )
    queue_of(made).close()
    source_of(made, "disk")
    return made


def by_part(settings, **more) -> dict[tuple[str, str], Probe]:
    return {(f.part, f.probe.subject): f.probe for f in examine(settings, **more)}


def wrong(settings) -> dict[str, Probe]:
    return {part: p for (part, _), p in by_part(settings).items() if p.verdict == "wrong"}


def test_every_part_of_a_sound_installation_is_looked_at_and_well(settings):
    findings = list(examine(settings))
    assert {finding.part for finding in findings} >= {
        "data folder",
        "rules",
        "queue",
        "index",
        "sink ndjson:",
        "segmenter dicomseg:",
        "segmenter none:",
        "source disk",
        "source pacs",
    }
    assert wrong(settings) == {}
    assert is_well(findings)


def test_destinations_are_looked_at_and_no_folder_is_made(settings, tmp_path):
    (tmp_path / "there").mkdir()
    places = {
        "there": str(tmp_path / "there"),
        "later": str(tmp_path / "later"),
        "pacs": f"dicomweb+http://127.0.0.1:{free_port()}/rs",
    }
    found = by_part(settings.model_copy(update={"destinations": places}))
    assert found["destination there", "free disk"].sentence.endswith(f"free in {tmp_path}/there")
    assert found["destination later", "folder"].verdict == "doubtful"
    assert not (tmp_path / "later").exists()
    assert found["destination pacs", "STOW-RS"].verdict == "wrong"


def test_where_nothing_was_indexed_yet_nothing_is_made(settings, tmp_path):
    fresh = settings.model_copy(update={"data": tmp_path / "fresh"})
    found = by_part(fresh)
    assert found["data folder", "folder"].sentence == f"{fresh.data} is not there yet"
    assert {"source pacs", "source disk"} <= {part for part, _ in found}
    assert "queue" not in {part for part, _ in found}
    assert not fresh.data.exists()


def test_each_fault_comes_with_what_to_do_and_hides_no_other(settings, tmp_path):
    settings.data.chmod(0o755)
    (tmp_path / "rules.toml").write_text("[rule.nonsense]\non = false\n")
    broken = settings.model_copy(
        update={
            "sources": {**settings.sources, "gone": str(tmp_path / "nowhere")},
            "segmenters": ("nnunet:/nowhere", "none:"),
            "rules": tmp_path / "rules.toml",
            "sinks": (f"ndjson://{tmp_path}/nowhere/out.ndjson",),
        }
    )
    found = wrong(broken)
    assert found.keys() == {
        "data folder",
        "rules",
        "segmenter nnunet:",
        "sink ndjson:",
        "source gone",
    }
    assert all(probe.advice for probe in found.values())
    assert "chmod 700" in found["data folder"].advice
    assert "is not a folder" in found["source gone"].sentence
    assert not is_well(list(examine(broken)))


def test_what_does_not_answer_is_left_behind_and_said():
    hangs = threading.Event()

    def look() -> Iterator[Probe]:
        yield FINE
        hangs.wait(30)

    begin = time.monotonic()
    first, last = answers(look, patience_s=0.3)
    assert time.monotonic() - begin < 10
    assert first == FINE
    assert (last.verdict, last.sentence) == ("wrong", "no answer within 0 s")
    hangs.set()


def test_a_bug_in_a_part_is_said_without_what_a_header_may_hold():
    def look() -> Iterator[Probe]:
        yield FINE
        raise ValueError("cannot read 'DOE^JANE'")

    first, last = answers(look, patience_s=30)
    assert first == FINE
    assert last.sentence.startswith("ValueError at test_doctor.py")
    assert "DOE" not in last.sentence


def test_an_archive_that_is_left_alone_is_doubtful_and_not_wrong(settings, monkeypatch):
    until = datetime.now(UTC) + timedelta(hours=1)
    one = Suspension(source="dimse://pacs:104/A", until=until, sentence="association refused")
    monkeypatch.setattr("tomodex.doctor.left_alone", lambda settings: [one])
    probe = by_part(settings)["sources", "left alone"]
    assert probe.verdict == "doubtful"
    assert "association refused" in probe.sentence


def test_a_file_that_the_service_writes_to_is_not_wrong(settings):
    with closing(open_sink(settings.sinks[0])):
        assert "sink ndjson:" not in wrong(settings)


def test_a_sink_that_the_service_may_hold_is_doubtful_and_not_wrong(settings, monkeypatch):
    def refuse(url: str) -> None:
        raise Unavailable("held by another process")

    monkeypatch.setattr("tomodex.doctor.open_sink", refuse)
    assert "sink ndjson:" in wrong(settings)
    with locked(settings.data, LOCK, "taken"):
        assert by_part(settings)["sink ndjson:", "opening"].verdict == "doubtful"


def test_a_clock_that_stands_behind_its_own_files_is_wrong(settings):
    ahead = time.time() + 3600
    os.utime(settings.data / "tomodex.db", (ahead, ahead))
    assert "ahead of it" in by_part(settings)["data folder", "clock"].sentence


def test_a_disk_without_room_is_wrong(settings, monkeypatch):
    usage = type("Usage", (), {"free": 100_000_000})
    monkeypatch.setattr("tomodex.probe.shutil.disk_usage", lambda folder: usage)
    assert {"data folder", "queue", "index", "sink ndjson:"} <= wrong(settings).keys()


@pytest.mark.parametrize(("source", "code"), [("disk", 0), ("nowhere", 1)])
def test_the_exit_code_says_whether_anything_is_wrong(
    settings, source, code, tmp_path, monkeypatch, capsys
):
    place = Path(settings.sources["disk"]).with_name(source)
    monkeypatch.setenv("TOMODEX_SOURCES", json.dumps({"disk": str(place)}))
    monkeypatch.setattr(sys, "argv", ["tomodex", "--data", str(settings.data), "doctor", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    findings = json.loads(capsys.readouterr().out)
    assert (end.value.code or 0) == code
    assert {f["verdict"] for f in findings if f["part"] == "source disk"} >= (
        {"wrong"} if code else {"ok"}
    )
