"""The audit log: what is written stays, and whatever is changed is noticed."""

from __future__ import annotations

import multiprocessing
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from tomodex.access import Asker
from tomodex.auditlog import BEGIN, AuditLog
from tomodex.errors import Unavailable

ALICE = Asker(name="alice", roles=frozenset({"researcher"}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(file: Path) -> AuditLog:
    """With five entries."""
    audit = AuditLog(file)
    for number in range(5):
        audit.write(ALICE, "query", f"liver volume > {number}", patients=number, series=2)
    return audit


def test_an_entry_says_who_did_what_and_how_much_it_was(log, file):
    first = next(log.entries())
    assert (first.number, first.who, first.roles, first.act) == (
        1,
        "alice",
        ("researcher",),
        "query",
    )
    assert first.text == "liver volume > 0"
    assert first.facts == {"patients": 0, "series": 2}
    assert file.stat().st_mode & 0o777 == 0o600
    verdict = log.verify()
    assert (verdict.entries, verdict.broken, verdict.head_found) == (5, "", True)


UIDS = ("1.2.840.113619.2.1.3", "2.25.38851754669814747458526520292514488774", "1.3.12.2.1107.5")


@pytest.mark.parametrize("uid", UIDS)
def test_no_line_names_a_series_and_who_asks_for_one_finds_its_lines(file, uid):
    """No line can be changed, so an erasure would not reach it."""
    log = AuditLog(file, lambda uid: sha256(uid.encode()).hexdigest()[:32])
    text = f"SeriesInstanceUID in ({uid}, '{uid}') and tomodex 0.1.0 at 127.0.0.1:8042"
    log.write(ALICE, "segment", text, series_uid=uid, rows=2)
    assert uid.encode() not in file.read_bytes()
    (entry,) = log.entries()
    mark = log.marked(uid)
    assert entry.text == text.replace(uid, mark)
    assert entry.facts == {"series_uid": mark, "rows": 2}
    assert log.verify().broken == ""


def test_a_log_that_nobody_wrote_is_sound(file):
    assert AuditLog(file).verify().head == BEGIN


def _changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"alice", b"carol"), *lines[3:]]


def _changed_with_its_hash(lines: list[bytes]) -> list[bytes]:
    content = orjson.loads(lines[2]) | {"who": "carol"}
    del content["hash"]
    content["hash"] = sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return [*lines[:2], orjson.dumps(content, option=orjson.OPT_SORT_KEYS) + b"\n", *lines[3:]]


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (_changed, "entry 3 was changed"),
        (_changed_with_its_hash, "entry 4 does not follow"),
        (lambda lines: [*lines[:2], *lines[3:]], "entry 3 does not follow"),
        (lambda lines: lines[1:], "entry 1 does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "entry 1 does not follow"),
        (lambda lines: [*lines[:3], *lines[2:]], "entry 4 does not follow"),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], "entry 3 is no entry"),
        (lambda lines: [*lines[:2], b"[]\n", *lines[2:]], "entry 3 is no entry"),
        (lambda lines: [*lines[:2], b" " + lines[2], *lines[3:]], "entry 3 was changed"),
    ],
    ids=[
        "changed",
        "rehashed",
        "removed",
        "first",
        "swapped",
        "doubled",
        "blank",
        "list",
        "spaced",
    ],
)
def test_the_first_entry_that_was_tampered_with_is_named(log, file, forge, says):
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(forge(lines)))
    assert says in log.verify().broken


def test_an_end_that_was_cut_off_is_noticed_by_the_head_that_was_kept(log, file):
    head = log.verify().head
    assert log.verify(head).head_found
    log.write(ALICE, "export")
    assert log.verify(head).head_found
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))
    verdict = log.verify(head)
    assert (verdict.broken, verdict.head_found) == ("", False)


def test_an_entry_that_was_not_written_whole_is_taken_off_and_that_is_said(log, file):
    file.write_bytes(file.read_bytes()[:-10])
    log.write(ALICE, "query", "spleen")
    assert [entry.act for entry in log.entries()][-2:] == ["repaired", "query"]
    assert log.verify().entries == 6


def test_an_entry_may_be_longer_than_what_is_read_at_a_time(log):
    log.write(ALICE, "query", "x" * 99_000)
    log.write(ALICE, "query", "é" * 99_000 + "\ud800")
    assert log.verify().entries == 7
    log.write(ALICE, "query", "y" * 10**6)
    assert len(list(log.entries())[-1].text) == 100_000


def _write_many(file: Path) -> None:
    for _ in range(50):
        AuditLog(file).write(ALICE, "query")


def test_processes_write_at_once_and_the_chain_holds(file):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(file,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [entry.number for entry in AuditLog(file).entries()] == list(range(1, 151))
    assert AuditLog(file).verify().broken == ""


def test_what_cannot_be_logged_is_not_done(tmp_path):
    with pytest.raises(Unavailable, match="nothing is answered"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl").write(ALICE, "query")
