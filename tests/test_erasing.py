"""Patients who are erased or opt out are gone from everything, and do not come back."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from tests.contracts.queue import annotated, ct, new
from tests.phantoms import write_ball_series
from tomodex import erasing, wiring
from tomodex.access import OWNER, Asker
from tomodex.cli import app
from tomodex.delivery import deliver
from tomodex.discovery import discover
from tomodex.errors import Forbidden, Unavailable
from tomodex.exclusions import FORMER_SCHEMA, refusal_of
from tomodex.private_file import open_private
from tomodex.pseudonym import load_key, pseudonymizer
from tomodex.queues import Erasure, Queue
from tomodex.queues.sqlite import SqliteQueue
from tomodex.search import Hit, Query
from tomodex.selection import load_rules
from tomodex.settings import Settings, load_settings
from tomodex.sinks.ndjson import NdjsonSink
from tomodex.sources.catalogue import series_in
from tomodex.sources.spool_folder import Spool

EVERYTHING = Query(text="", term=None)
JANE, JOHN = "a" * 32, "b" * 32
JANES, JOHNS = ("1.2.1", "1.2.2"), ("1.2.3",)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        data=tmp_path / "data",
        sinks=(f"ndjson://{tmp_path}/out.ndjson",),
        access={"identities": True},
    )


@pytest.fixture
def queue(settings: Settings) -> Queue:
    """Jane with two series, and John with one, indexed and everywhere."""
    queue = wiring.queue_of(settings)
    queue.put([of(JANE, uid) for uid in JANES] + [of(JOHN, uid) for uid in JOHNS])
    work(queue)
    deliver_all(settings, queue)
    identities = wiring.identities_of(settings)
    assert identities
    identities.remember(JANE, "4711^^^HOSPITAL")
    identities.remember(JOHN, "4712")
    save(settings, {**dict.fromkeys(JANES, JANE), **dict.fromkeys(JOHNS, JOHN)})
    return queue


def save(settings: Settings, patients: Mapping[str, str]) -> None:
    """Save a cohort of these series, by whose they are."""
    hits = [Hit(series_uid=uid, study_uid="1", patient=whose) for uid, whose in patients.items()]
    wiring.saved_of(settings).save(name="all", query="", who="ada", versions={}, rows=[hits])


def of(patient: str, uid: str) -> Any:
    return replace(new(uid), series=replace(ct(uid), patient=patient))


def work(queue: Queue) -> list[str]:
    worked = []
    while task := queue.lease("w", timedelta(hours=1)):
        queue.settle(task, annotated(task.series))
        worked.append(task.series.series_uid)
    return worked


def deliver_all(settings: Settings, queue: Queue) -> None:
    for name, sink in wiring.consumers_of(settings).items():
        deliver(queue, name, sink)
        sink.close()


def indexed(settings: Settings) -> set[str]:
    index = wiring.index_of(settings)
    found = {hit.series_uid for hit in index.search(EVERYTHING).hits}
    index.close()
    return found


def erase_jane(settings: Settings) -> erasing.Taken:
    return erasing.erase(settings, OWNER, pseudonyms=[JANE], reason="she asked for it")


# --- erasure ------------------------------------------------------------------------------------


def test_a_patient_who_is_erased_is_gone_from_everything(settings, queue, tmp_path):
    assert indexed(settings) == {*JANES, *JOHNS}
    spool = Spool(settings.data / "spool")
    for uid in (JANES[0], JOHNS[0]):
        _, arrived = spool.arrive()
        spool.keep(arrived, uid, f"{uid}.1")
    operations = wiring.operations_of(settings)
    operations.put("segment", orjson.dumps({"series": JANES[0]}).decode(), "ada")
    kept = operations.put("segment", orjson.dumps({"series": JOHNS[0]}).decode(), "ada")

    assert erase_jane(settings) == erasing.Taken(patients=1, series=2)

    assert indexed(settings) == set(JOHNS)
    assert [queue.result(uid) for uid in JANES] == [None, None]
    assert [queue.states(uid) for uid in JANES] == [[], []]
    assert queue.result(JOHNS[0]).annotated
    lines = [orjson.loads(line) for line in (tmp_path / "out.ndjson").read_bytes().splitlines()]
    assert {one["series_uid"] for one in lines if one.get("erased")} == set(JANES)
    assert [folder.series_uid for folder in spool.folders()] == [JOHNS[0]]
    assert [one.id for one in operations.newest()] == [kept.id]
    (saved,) = wiring.saved_of(settings).all()
    assert saved.removed == 2
    members = [m.series_uid for some in wiring.saved_of(settings).members(saved.id) for m in some]
    assert members == list(JOHNS)
    identities = wiring.identities_of(settings)
    assert list(identities.find([JANE, JOHN])) == [JOHN]
    (entry,) = wiring.audit_of(settings).entries()
    assert (entry.act, entry.text) == ("erase", "she asked for it")
    assert entry.facts == {"patients": 1, "series": 2}


def test_what_remains_of_an_erased_patient_names_nobody(settings, queue):
    asked = orjson.dumps({"series": JANES[0]}).decode()
    wiring.operations_of(settings).put("segment", asked, "ada")
    erase_jane(settings)
    kept = ("tomodex.db-wal", "audit.jsonl", "saved.db", "identities.db", "answered.db")
    for name in (*kept, "operations.db"):
        file = settings.data / name
        octets = file.read_bytes() if file.exists() else b""
        assert [s for s in (JANE, "4711", *JANES) if s.encode() in octets] == [], name


def test_whoever_was_erased_does_not_come_back(settings, queue):
    erase_jane(settings)
    # By a listing, by its UID alone, and by a worker who held it.
    assert queue.put([of(JANE, "1.2.9"), of(JOHN, "1.2.8")]) == 1
    queue.put([of("", JANES[0]), of("", "1.2.7")])
    while task := queue.lease("w", timedelta(hours=1)):
        whose = JOHN if task.series.series_uid == "1.2.8" else JANE
        queue.settle(task, annotated(replace(task.series, patient=whose)))
    deliver_all(settings, queue)
    assert indexed(settings) == {*JOHNS, "1.2.8"}
    assert [queue.states(uid) for uid in (JANES[0], "1.2.7")] == [[], []]
    assert refusal_of(queue, replace(ct("1.2.6"), patient=JANE)) == "erased"


def test_a_single_series_is_erased_and_its_patient_stays(settings, queue):
    erasing.erase(settings, OWNER, series_uids=[JANES[0]], reason="burned in name")
    assert indexed(settings) == {JANES[1], *JOHNS}
    assert queue.put([of(JANE, JANES[0])]) == 0
    assert queue.put([of(JANE, "1.2.9")]) == 1


def test_a_patient_of_a_folder_is_erased_from_its_catalogue(tmp_path):
    settings = load_settings(data=tmp_path / "data")
    archive = tmp_path / "archive"
    archive.mkdir()
    uid = write_ball_series(archive)
    found = discover(
        wiring.source_of(settings, str(archive)), load_rules(None), wiring.queue_of(settings)
    )
    assert found.found == 1
    (state,) = wiring.queue_of(settings).states(uid)
    wiring.queue_of(settings).forget([uid])
    taken = erasing.erase(settings, OWNER, pseudonyms=[state.series.patient], reason="asked for")
    assert taken.series == 1
    assert list(wiring.source_of(settings, str(archive)).find()) == []
    (catalogue,) = settings.data.glob("folder-*.db")
    assert series_in(catalogue, state.series.patient) == []


def test_a_worker_who_holds_a_series_of_somebody_erased_settles_nothing(settings, queue):
    queue.put([of(JANE, "1.2.9")])
    held = queue.lease("w", timedelta(hours=1))
    erase_jane(settings)
    assert not queue.settle(held, annotated(held.series))
    assert queue.result("1.2.9") is None


def test_an_erasure_that_was_stopped_is_gone_on_with(settings, queue, monkeypatch, tmp_path):
    def away(self: NdjsonSink, series_uids: object) -> None:
        raise Unavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(NdjsonSink, "erase", away)
        with pytest.raises(Unavailable, match=r"everything but ndjson:.*--resume"):
            erase_jane(settings)
    # All else is done, and it stays known what is not.
    assert indexed(settings) == set(JOHNS)
    assert list(wiring.audit_of(settings).entries()) == []
    assert erasing.resume(settings) == erasing.Taken(patients=1, series=2)
    assert b"erased" in (tmp_path / "out.ndjson").read_bytes()
    assert [entry.act for entry in wiring.audit_of(settings).entries()] == ["erase"]
    assert erasing.resume(settings) == erasing.NOTHING


def test_an_erasure_is_gone_on_with_after_a_crash(settings, queue, monkeypatch):
    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tomodex.erasing._tell_consumers", crash)
        with pytest.raises(KeyboardInterrupt):
            erase_jane(settings)
    assert indexed(settings) == {*JANES, *JOHNS}
    erasing.resume(settings)
    assert indexed(settings) == set(JOHNS)


@pytest.mark.parametrize(("why", "left"), [("erased", []), ("opted_out", ["rejected"])])
def test_who_is_excluded_while_a_result_of_theirs_is_written_is_taken_out_again(
    settings, queue, monkeypatch, why, left
):
    """As on another machine: the series was ordered by its UIDs, and nobody knew whose it is."""
    queue.put([of("", "1.2.9")])
    task = queue.lease("w", timedelta(hours=1))
    settle = SqliteQueue.settle

    def settle_meanwhile(self: SqliteQueue, *outcome: Any) -> bool:
        other = wiring.queue_of(settings)
        wiring.exclusions_of(settings, other).exclude_patients([JANE], why)
        return settle(self, *outcome)

    monkeypatch.setattr(SqliteQueue, "settle", settle_meanwhile)
    queue.settle(task, annotated(replace(task.series, patient=JANE)))
    result = queue.result("1.2.9")
    assert result is None or result.annotated is None
    assert [state.status for state in queue.states("1.2.9")] == left


def test_who_is_excluded_while_theirs_are_put_is_taken_out_again(settings, queue, monkeypatch):
    put = SqliteQueue.put

    def put_meanwhile(self: SqliteQueue, tasks: Any) -> int:
        other = wiring.queue_of(settings)
        wiring.exclusions_of(settings, other).exclude_patients([JANE], "erased")
        wiring.exclusions_of(settings, other).exclude_patients([JOHN], "opted_out")
        return put(self, tasks)

    monkeypatch.setattr(SqliteQueue, "put", put_meanwhile)
    queue.put([of(JANE, "1.2.8"), of(JOHN, "1.2.9")])
    assert queue.states("1.2.8") == []
    assert queue.states("1.2.9")[0].reason == "opted_out"
    assert queue.lease("w", timedelta(hours=1)) is None


def test_what_a_data_folder_kept_in_a_file_of_its_own_is_taken_over_once(settings, queue):
    key = hmac.digest(load_key(settings.key_file), b"exclusions", "sha256")
    mark = {whose: hmac.digest(key, f"patient\0{whose}".encode(), "sha256").hex()
            for whose in (JANE, JOHN)}  # fmt: skip
    request = {"asker": "ada", "roles": ["steward"], "reason": "asked", "pseudonyms": [JANE],
               "series": list(JANES)}  # fmt: skip
    file = settings.data / "exclusions.db"
    with closing(open_private(file, FORMER_SCHEMA)) as db:
        rows = [(mark[JANE], "erased"), (mark[JOHN], "opted_out")]
        db.executemany("insert into exclusion values (?, ?)", rows)
        sql = "insert into erasure (request) values (?)"
        db.execute(sql, (orjson.dumps(request).decode(),))

    taken = wiring.queue_of(settings)

    assert not file.exists()
    exclusions = wiring.exclusions_of(settings, taken)
    assert [exclusions.excludes(whose) for whose in (JANE, JOHN)] == ["erased", "opted_out"]
    assert erasing.resume(settings) == erasing.Taken(patients=1, series=2)
    assert indexed(settings) == set(JOHNS)
    assert exclusions.excludes("c" * 32) is None


def test_what_cannot_be_taken_over_now_is_taken_over_later(settings, queue, monkeypatch):
    file = settings.data / "exclusions.db"
    with closing(open_private(file, FORMER_SCHEMA)) as db:
        db.execute("insert into exclusion values ('ab', 'erased')")

    def away(self: SqliteQueue, marks: object) -> int:
        raise Unavailable("no room")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteQueue, "bar", away)
        with pytest.raises(Unavailable):
            wiring.queue_of(settings)
    assert dict(wiring.queue_of(settings).barred()) == {"ab": "erased"}
    assert not file.exists()


def test_what_was_begun_elsewhere_is_erased_beside_other_work(settings, queue, monkeypatch):
    request = {"asker": "ada", "roles": ["steward"], "reason": "asked", "pseudonyms": [JANE],
               "series": [JANES[0]]}  # fmt: skip
    queue.begin_erasure(Erasure(id="a", request=orjson.dumps(request).decode()))
    monkeypatch.setattr(erasing, "LOOK_S", 0.01)
    end = time.monotonic() + 20
    with erasing.erasing_beside(settings):
        while queue.erasures() and time.monotonic() < end:
            time.sleep(0.02)
    # Also what only the queue here knew of her.
    assert indexed(settings) == set(JOHNS)
    assert [entry.who for entry in wiring.audit_of(settings).entries()] == ["ada"]


# --- opting out ---------------------------------------------------------------------------------


def test_who_opts_out_is_in_no_count_at_once_and_is_not_indexed_again(settings, queue):
    taken = erasing.opt_out(settings, OWNER, [JANE], "consent withdrawn")
    assert taken == erasing.Taken(patients=1, series=2)
    assert indexed(settings) == set(JOHNS)
    assert queue.put([of(JANE, "1.2.9")]) == 1
    assert (queue.states("1.2.9")[0].status, queue.states("1.2.9")[0].reason) == (
        "rejected",
        "opted_out",
    )
    queue.retry("rejected", "opted_out")
    assert {state for _, state in queue.count()} == {"ready", "completed"}
    # Rejected again before anything is read.
    assert queue.lease("w", timedelta(hours=1)) is None
    assert {queue.states(uid)[0].reason for uid in (*JANES, "1.2.9")} == {"opted_out"}
    deliver_all(settings, queue)
    assert indexed(settings) == set(JOHNS)
    assert erasing.opt_out(settings, OWNER, [JANE], "again").patients == 0


def test_who_opts_in_again_is_indexed_again(settings, queue):
    erasing.opt_out(settings, OWNER, [JANE], "consent withdrawn")
    assert erasing.opt_in(settings, OWNER, [JANE], "consent given again") == 1
    assert sorted(work(queue)) == sorted(JANES)
    deliver_all(settings, queue)
    assert indexed(settings) == {*JANES, *JOHNS}
    assert [e.act for e in wiring.audit_of(settings).entries()] == ["opt-out", "opt-in"]


def test_opting_in_does_not_bring_back_who_was_erased(settings, queue):
    erasing.opt_out(settings, OWNER, [JANE], "consent withdrawn")
    erase_jane(settings)
    assert erasing.opt_in(settings, OWNER, [JANE], "consent given again") == 0
    assert queue.put([of(JANE, JANES[0])]) == 0


@pytest.mark.parametrize("role", ["viewer", "researcher", "operator", "service"])
def test_only_a_steward_takes_patients_out(settings, role):
    asker = Asker(name="x", roles=frozenset({role}))
    for act in (erasing.opt_out, erasing.opt_in):
        with pytest.raises(Forbidden):
            act(settings, asker, [JANE], "because")
    with pytest.raises(Forbidden):
        erasing.erase(settings, asker, pseudonyms=[JANE], reason="because")


# --- commands -----------------------------------------------------------------------------------


def run(*arguments: str, input: str = "") -> Any:
    return CliRunner().invoke(app, arguments, input=input)


def test_a_patient_is_erased_by_their_id(settings, queue, monkeypatch):
    jane = pseudonymizer(load_key(settings.key_file))("4711^^^HOSPITAL")
    queue.put([of(jane, "1.2.9")])
    work(queue)
    deliver_all(settings, queue)
    monkeypatch.setenv("TOMODEX_SINKS", "[]")
    data = ("--data", str(settings.data))
    asked = run(*data, "erase", "4711^^^HOSPITAL", "--reason", "she asked", input="n\n")
    assert asked.exit_code == 1
    assert "1.2.9" in indexed(settings)
    done = run(*data, "erase", "4711^^^HOSPITAL", "--reason", "she asked", "--yes")
    assert done.stdout == "erased 1 patients, 1 series\n"
    assert "1.2.9" not in indexed(settings)
    assert run(*data, "erase", "--reason", "x").exit_code == 2
    assert run(*data, "erase", "4711", "--yes").exit_code == 2
    assert run(*data, "erase", "--resume").stdout == "erased 0 patients, 0 series\n"
    mistyped = run(*data, "erase", "47 11", "--yes", "--reason", "asked")
    assert "look at the spelling" in mistyped.stderr
    assert "spelling" not in done.stderr


def test_a_list_of_those_who_opted_out_is_taken_from_a_file(settings, queue, tmp_path):
    data, file = ("--data", str(settings.data)), tmp_path / "out.txt"
    file.write_text(f"{JANE}\n\n")
    added = run(*data, "optout", "add", str(file), "--reason", "consent withdrawn")
    assert added.stdout == "1 patients opted out; 2 series were taken out\n"
    assert indexed(settings) == set(JOHNS)
    assert run(*data, "optout", "list").stdout == "1 opted out\n"
    file.write_text(f"{JANE}\n{JOHN}\n")
    listed = run(*data, "optout", "list", str(file))
    assert listed.stdout == f"{JANE} opted_out\n{JOHN} indexed\n"
    back = run(*data, "optout", "remove", str(file), "--reason", "given again")
    assert back.stdout == "1 patients are indexed again\n"
    asked = run(*data, "optout", "add", "-", "--patient-ids", "--reason", "x", input="4711\n")
    assert asked.exception is None, asked.exception
    assert asked.stdout == "1 patients opted out; 0 series were taken out\n"


def test_the_audit_log_is_shown_and_verified(settings, queue):
    data = ("--data", str(settings.data))
    erase_jane(settings)
    head = run(*data, "audit", "head").stdout.strip()
    assert run(*data, "audit", "verify", "--head", head).exit_code == 0
    shown = orjson.loads(run(*data, "audit", "show", "--json", "--act", "erase").stdout)
    assert [(one["who"], one["act"], one["text"]) for one in shown] == [
        ("owner", "erase", "she asked for it")
    ]
    assert "she asked for it" in run(*data, "audit", "show").stdout
    uid = "1.2.840.113619.2.1.3"
    wiring.audit_of(settings).write(OWNER, "query", f"SeriesInstanceUID = {uid}")
    about = orjson.loads(run(*data, "audit", "show", "--json", "--series", uid).stdout)
    assert [one["act"] for one in about] == ["query"]
    assert uid not in str(about)
    assert run(*data, "audit", "verify", "--head", "f" * 64).exit_code == 1
    file = settings.data / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b"owner", b"ghost"))
    broken = run(*data, "audit", "verify")
    assert (broken.exit_code, "entry 1 was changed" in broken.stdout) == (1, True)


def test_what_these_files_hold_is_for_their_owner_alone(settings, queue):
    erase_jane(settings)
    files = [file for file in settings.data.glob("*.*") if file.suffix in (".db", ".jsonl")]
    assert len(files) >= 5
    assert [f.name for f in files if f.stat().st_mode & 0o077] == []
