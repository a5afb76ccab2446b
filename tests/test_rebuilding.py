"""The index is made anew for who asks for it, and they are told how far that is."""

from __future__ import annotations

import time

import pytest

from tests.contracts.queue import new, settle_next
from tests.corpus import corpus
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes import Index, open_index
from tomodex.operations import Operations
from tomodex.queues import NewTask, Queue, open_queue
from tomodex.rebuilding import KIND, PAUSE_S, Rebuilder, rebuild_next
from tomodex.search import Query
from tomodex.settings import load_settings
from tomodex.wiring import index_of, operations_of, queue_of

EVERYTHING = Query(text="", term=None)


@pytest.fixture
def queue(tmp_path) -> Queue:
    opened = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    fill(opened)
    return opened


@pytest.fixture
def index() -> Index:
    return open_index("duckdb:")


@pytest.fixture
def operations(tmp_path) -> Operations:
    return Operations(tmp_path / "operations.db")


def fill(queue: Queue) -> None:
    for one in corpus(5):
        queue.put([NewTask(series=one.series, source="folder:///archive")])
        settle_next(queue, one)


def test_nothing_is_done_for_nobody(operations, queue, index):
    assert not rebuild_next(operations, queue, "index", index)
    assert index.search(EVERYTHING).series == 0


def test_an_index_is_made_anew_from_the_results(operations, queue, index):
    index.write(corpus(30))
    asked = operations.put(KIND, "{}", "ada")
    assert rebuild_next(operations, queue, "index", index)
    assert index.search(EVERYTHING).series == 5
    done = operations.find(asked.id)
    assert (done.status, dict(done.result)) == ("completed", {"results": "5"})
    assert done.done == 5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misconfigured("the index is of another version"), "failed"),
        (KeyError("x"), "failed"),
        (Unavailable("another process writes"), "in-progress"),
    ],
)
def test_who_asked_is_told_what_went_wrong(operations, queue, index, monkeypatch, error, status):
    def fail() -> None:
        raise error

    monkeypatch.setattr(index, "clear", fail)
    asked = operations.put(KIND, "{}", "ada")
    assert rebuild_next(operations, queue, "index", index)
    ended = operations.find(asked.id)
    assert ended.status == status
    assert len(ended.errors) == 1


def test_the_serving_process_looks_whether_somebody_asks(tmp_path):
    settings = load_settings(data=tmp_path / "data")
    fill(queue_of(settings))
    asked = operations_of(settings).put(KIND, "{}", "ada")
    rebuilder = Rebuilder(settings)
    rebuilder.start()
    end = time.monotonic() + 10 * PAUSE_S
    while operations_of(settings).find(asked.id).status != "completed":
        assert time.monotonic() < end
        time.sleep(0.1)
    rebuilder.end()
    assert index_of(settings).search(EVERYTHING).series == 5
    assert queue_of(settings).put([new("1.2.3")]) == 1
