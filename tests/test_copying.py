"""A queue that is copied is the same afterwards, whatever stopped it in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from tests.contracts.queue import HOUR, annotated, ct, listed, new, ordered, settle_next
from tests.test_queues_sqlite import Clock
from tomodex import copying
from tomodex.cli import app
from tomodex.copying import copy_queue
from tomodex.errors import Misconfigured, Unavailable
from tomodex.locks import locked
from tomodex.queues import Cells, Copied, Erasure, Failed, Queue, Rejected, Retry
from tomodex.queues.sqlite import SqliteQueue
from tomodex.settings import load_settings
from tomodex.wiring import queue_of

S3 = "s3://other"
CONSUMERS = ("index", "fhir", "never")


def fill(queue: Queue) -> Queue:
    """Something of everything."""
    queue.put([new(f"1.{n}", "daily", date=f"2020-01-0{n}") for n in range(1, 8)])
    queue.put(
        [
            new("1.1", "daily", configuration="fine"),
            *(replace(new(uid), source=S3) for uid in ("1.2", "1.7")),
        ]
    )
    queue.put([new("2.1", reason="4d"), ordered("3.1")])
    queue.put([replace(new("4.1", "backfill"), listed=listed(ct("4.1")))])
    settle_next(queue)  # 1.2 was moved up, 3.1 is blind
    while (task := queue.lease("w", HOUR)) and task.series.series_uid != "1.1":
        queue.settle(task, annotated(replace(task.series, patient="blind")))
    outcomes = [
        None,
        Failed(reason="KeyError", sentence="at measure"),
        Rejected(reason="missing_slice", sentence="a gap of 5 mm"),
        Retry(sentence="the PACS closed the association"),
    ]
    queue.settle(task, annotated(task.series, liver_ml=7.0))
    for outcome in outcomes:
        settle_next(queue, outcome)
    queue.withdraw("1.2", "folder:///archive", "no longer listed")
    queue.withdraw("1.2", S3, "no longer listed")
    queue.hold("backfill", "folder:///archive")
    queue.order("backfill", "folder:///archive", "newest first")
    for result in queue.results(0, 2):
        queue.set_aside("index", result, "its name is too long")
    queue.confirm("index", queue.results(0, 9)[1].sequence)
    queue.confirm("fhir", queue.newest())
    queue.bar({"a": "erased", "b": "opted_out"})
    queue.begin_erasure(Erasure(id="e", request="{}"))
    return queue


def told(queue: Queue) -> dict[str, Any]:
    """All that anybody can ask, but for numbers that are the queue's own."""
    results = queue.results(0, 10_000)
    ranks = {result.sequence: n for n, result in enumerate(results, start=1)}
    uids = ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "2.1", "3.1", "4.1"]
    return {
        "count": dict(queue.count()),
        "states": [queue.states(uid) for uid in uids],
        "feed": [(result.series_uid, result.annotated) for result in results],
        "last": [(r := queue.result(uid)) and r.annotated for uid in uids],
        "asides": [(a.series_uid, a.sentence, ranks[a.sequence]) for a in queue.asides("index")],
        "audit": queue.audit(),
        "held": queue.held(),
        "known": [sorted(queue.known(url)) for url in ("folder:///archive", S3)],
        "barred": dict(queue.barred()),
        "erasures": queue.erasures(),
        "places": [ranks.get(queue.cursor(name), 0) for name in CONSUMERS],
        "patients": [sorted(queue.of_patient(whose)) for whose in ("p", "blind")],
        "reasons": dict(queue.reasons()),
    }


def copy(source: Queue, target: Queue) -> Any:
    return copy_queue(source, target, "sqlite:///old?fair=3", CONSUMERS, lambda part: ignored)


def ignored(done: int, total: int | None) -> None: ...


def sqlite(file: Path | str = "", now: Callable[[], float] = time.time) -> SqliteQueue:
    return SqliteQueue(f"sqlite://{file}?fair=0", now=now)


def test_a_copy_is_what_it_was_copied_from():
    clock = Clock()
    source, target = fill(sqlite(now=clock)), sqlite(now=clock)
    sizes = copy(source, target)
    assert told(target) == told(source)
    assert min(sizes.values()) > 0
    # And goes on from there: in the same order, with entries of the feed after the last.
    source.release("backfill", "folder:///archive")
    target.release("backfill", "folder:///archive")
    clock.move(HOUR)  # what waits for its next attempt is due in the copy at once
    newest = target.newest()
    for queue in (source, target):
        queue.retry()
    for _ in range(3):
        one, other = settle_next(source), settle_next(target)
        assert (one.series, one.attempt) == (other.series, other.attempt)
    assert [r.series_uid for r in target.results(newest, 9)]


def test_what_is_in_hand_is_given_back_in_the_copy():
    source, target = sqlite(), sqlite()
    source.put([new("1.1")])
    held = source.lease("w", HOUR)
    copy(source, target)
    (state,) = target.states("1.1")
    assert (state.status, state.attempt) == ("ready", 0)
    assert not target.settle(held, annotated(held.series))


@pytest.mark.parametrize("stop", range(14))
def test_a_copy_that_was_stopped_goes_on_where_it_was(monkeypatch, tmp_path, stop):
    monkeypatch.setattr(copying, "BATCH", 3)
    monkeypatch.setattr(copying, "RESULTS", 2)
    with closing(fill(sqlite())) as source, closing(sqlite(tmp_path / "new.db")) as target:
        taken: list[Copied] = []
        take_in = target.take_in

        def take(copied: Copied, rows: Sequence[Cells]) -> None:
            if len(taken) == stop:
                raise Unavailable("the disk is full")
            taken.append(copied)
            take_in(copied, rows)

        monkeypatch.setattr(target, "take_in", take)
        with pytest.raises(Unavailable):
            copy(source, target)
        monkeypatch.undo()
        if stop:  # otherwise nothing says what was begun
            with pytest.raises(Misconfigured, match=r"sqlite:///old into that queue was begun"):
                copy_queue(source, target, "sqlite:///another", (), lambda part: ignored)
        copy(source, target)
        assert told(target) == told(source)


def test_only_an_empty_queue_is_copied_into():
    source = fill(sqlite())
    for thing in (
        lambda queue: queue.put([new("1.1")]),
        lambda queue: queue.bar({"a": "erased"}),
        lambda queue: queue.hold("daily", "s3://a"),
        lambda queue: copy(source, queue),
    ):
        target = sqlite()
        thing(target)
        with pytest.raises(Misconfigured, match="an empty one"):
            copy(source, target)


def test_nobody_uses_a_queue_that_was_copied_in_part(tmp_path):
    settings = load_settings(data=tmp_path)
    with closing(fill(sqlite())) as source, closing(sqlite(tmp_path / "tomodex.db")) as target:
        target.take_in(Copied("sqlite:///old", "task", 1), source.portion("task", 0, 1))
        with pytest.raises(Misconfigured, match=r"sqlite:///old .* only in part.*queue copy"):
            queue_of(settings)
        copy(source, target)
        queue_of(settings).close()


def test_the_command_copies_and_says_what(tmp_path):
    data = ("--data", str(tmp_path))
    with closing(fill(sqlite(tmp_path / "tomodex.db"))) as source:
        before = told(source)
    to = f"sqlite://{tmp_path}/new.db"
    with locked(tmp_path, "run", "taken"):
        refused = CliRunner().invoke(app, [*data, "queue", "copy", "--to", to])
    assert isinstance(refused.exception, Unavailable)
    done = CliRunner().invoke(app, [*data, "queue", "copy", "--to", to, "--json"])
    assert done.exception is None, done.exception
    assert orjson.loads(done.stdout)["task"] == sum(before["count"].values())
    with closing(sqlite(tmp_path / "new.db")) as target:
        # The command knows the consumers of the settings alone.
        assert {**told(target), "places": []} == {**before, "places": []}
    again = CliRunner().invoke(app, [*data, "queue", "copy", "--to", to])
    assert "an empty one" in str(again.exception)
