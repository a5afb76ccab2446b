from __future__ import annotations

import threading
import time
import zlib
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.contracts.queue import annotated, ct, new, settle_next
from tomodex import delivery
from tomodex.annotation import to_json
from tomodex.delivery import (
    Deliverer,
    deliver,
    deliver_batch,
    lag_of,
    pause_s,
    rebuild,
    start_over,
    take_again,
)
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.queues.sqlite import SqliteQueue


class Shelf:
    """An index that keeps what it is given, refuses some, and is down for some calls."""

    def __init__(self, poison: tuple[str, ...] = (), error: Exception | None = None) -> None:
        self.held: dict[str, float] = {}
        self.batches: list[int] = []
        self.poison = poison
        self.error = error or ValueError("DOE^JANE is too long")
        self.down_after = 10**9

    def write(self, annotated):
        self.batches.append(len(annotated))
        if len(self.batches) > self.down_after:
            raise Unavailable("the index does not answer")
        if any(one.series.series_uid in self.poison for one in annotated):
            raise self.error
        for one in annotated:
            self.held[one.series.series_uid] = one.annotations[0].measurement.volume_ml

    def erase(self, series_uids):
        for uid in series_uids:
            self.held.pop(uid, None)

    def clear(self):
        self.held.clear()

    def close(self):
        pass


@pytest.fixture
def queue() -> SqliteQueue:
    return SqliteQueue("sqlite:")


def index(queue, *uids, ml=1500.0, fingerprint="a"):
    queue.put([new(uid, fingerprint=fingerprint) for uid in uids])
    for uid in uids:
        settle_next(queue, annotated(ct(uid), liver_ml=ml))


def test_what_was_settled_is_written_once(queue):
    shelf = Shelf()
    index(queue, "1", "2", "3")
    assert deliver(queue, "shelf", shelf, batch=2) == 3
    assert shelf.held == {"1": 1500.0, "2": 1500.0, "3": 1500.0}
    assert deliver(queue, "shelf", shelf, batch=2) == 0
    assert shelf.batches == [2, 1]


def test_each_consumer_gets_everything(queue):
    index(queue, "1")
    for name in ("one", "other"):
        shelf = Shelf()
        deliver(queue, name, shelf)
        assert shelf.held == {"1": 1500.0}


def test_a_series_that_is_gone_is_erased(queue):
    shelf = Shelf()
    index(queue, "1", "2")
    deliver(queue, "shelf", shelf)
    queue.withdraw("1")
    assert deliver(queue, "shelf", shelf) == 1
    assert shelf.held == {"2": 1500.0}


def test_the_last_word_on_a_series_counts(queue):
    shelf = Shelf()
    queue.put([new("1"), new("1", configuration="fine")])
    settle_next(queue, annotated(ct("1"), liver_ml=1.0))
    settle_next(queue, annotated(ct("1"), liver_ml=2.0))
    deliver(queue, "shelf", shelf)
    assert shelf.held == {"1": 2.0}
    assert shelf.batches == [1]


def test_a_consumer_that_is_down_goes_on_where_it_stopped(queue):
    shelf = Shelf()
    index(queue, "1", "2", "3", "4")
    shelf.down_after = 1
    with pytest.raises(Unavailable):
        deliver(queue, "shelf", shelf, batch=2)
    assert queue.cursor("shelf") == 2
    shelf.down_after = 10**9
    assert deliver(queue, "shelf", shelf, batch=2) == 2
    assert set(shelf.held) == {"1", "2", "3", "4"}


def test_a_crash_between_writing_and_confirming_writes_again(queue, monkeypatch):
    shelf = Shelf()
    index(queue, "1")
    with stopping(monkeypatch, queue, "confirm"), pytest.raises(KeyboardInterrupt):
        deliver(queue, "shelf", shelf)
    assert queue.cursor("shelf") == 0
    assert deliver(queue, "shelf", shelf) == 1


@contextmanager
def stopping(monkeypatch, place, name):
    """The process ends where it calls this."""

    def end(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, name, end)
        yield


@pytest.mark.parametrize("error", [ValueError("DOE^JANE"), Unsuitable("x", "the name is too long")])
def test_a_result_that_cannot_be_written_does_not_hold_up_the_others(queue, error):
    uids = [str(n) for n in range(100, 140)]
    shelf = Shelf(poison=("103", "139"), error=error)
    index(queue, *uids)
    assert deliver(queue, "shelf", shelf) == 40
    assert set(shelf.held) == set(uids) - {"103", "139"}
    assert [a.series_uid for a in queue.asides("shelf")] == ["139", "103"]
    assert len(shelf.batches) < 30


def test_what_is_set_aside_says_why_without_the_value(queue):
    shelf = Shelf(poison=("1",))
    index(queue, "1")
    deliver(queue, "shelf", shelf)
    (aside,) = queue.asides("shelf")
    assert aside.sentence.startswith("ValueError at test_delivery.py:")
    assert "DOE" not in aside.sentence


def test_a_sink_that_refuses_everything_loses_nothing(queue):
    uids = [str(n) for n in range(100, 130)]
    shelf = Shelf(poison=tuple(uids))
    index(queue, *uids)
    with pytest.raises(Misconfigured, match="takes none of 30 results"):
        deliver(queue, "shelf", shelf)
    assert queue.cursor("shelf") == 0
    assert queue.asides("shelf") == []


def test_an_unexpected_error_keeps_the_place_in_the_feed(queue):
    index(queue, "1")
    with pytest.raises(KeyError):
        deliver(queue, "shelf", Shelf(poison=("1",), error=KeyError("1")))
    assert queue.cursor("shelf") == 0


def test_an_index_is_rebuilt_from_the_feed_alone(queue):
    shelf = Shelf()
    index(queue, "1", "2")
    index(queue, "2", ml=2.0, fingerprint="b")
    deliver(queue, "shelf", shelf)
    shelf.held = {"2": 9.0, "left over": 9.0}
    assert rebuild(queue, "shelf", shelf) == 2
    assert shelf.held == {"1": 1500.0, "2": 2.0}


@pytest.mark.parametrize("stopped_at", ["confirm", "clear"])
def test_a_rebuild_that_is_stopped_is_made_good_by_the_next_delivery(
    queue, stopped_at, monkeypatch
):
    shelf = Shelf()
    index(queue, "1", "2")
    deliver(queue, "shelf", shelf)
    place = shelf if stopped_at == "clear" else queue
    with stopping(monkeypatch, place, stopped_at), pytest.raises(KeyboardInterrupt):
        rebuild(queue, "shelf", shelf)
    deliver(queue, "shelf", shelf)
    assert set(shelf.held) == {"1", "2"}


def test_two_deliverers_take_turns(tmp_path):
    """One that was read before the other's newer result must not be written after it."""
    url = f"sqlite://{tmp_path}/tomodex.db"
    shelf, writing, go_on = Shelf(), threading.Event(), threading.Event()
    with closing(SqliteQueue(url)) as queue, closing(SqliteQueue(url)) as other:
        index(queue, "1", ml=1.0)
        slow = Shelf()
        slow.held = shelf.held

        def write_slowly(annotated):
            writing.set()
            assert go_on.wait(10)
            Shelf.write(slow, annotated)

        slow.write = write_slowly
        first = threading.Thread(target=deliver_batch, args=(other, "shelf", slow))
        first.start()
        assert writing.wait(10)
        index(queue, "1", ml=2.0, fingerprint="b")
        second = threading.Thread(target=deliver, args=(queue, "shelf", shelf))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        go_on.set()
        first.join()
        second.join()
    assert shelf.held == {"1": 2.0}


def test_a_withdrawal_that_cannot_be_passed_on_holds_up_nothing(queue):
    shelf = Shelf()
    index(queue, "1", "2", "3")
    deliver(queue, "shelf", shelf)
    queue.withdraw("1")
    queue.withdraw("2")
    index(queue, "4")
    erase = shelf.erase

    def keep_one(uids):
        if "2" in uids:
            raise Unsuitable("kept", "the record is locked")
        erase(uids)

    shelf.erase = keep_one
    assert deliver(queue, "shelf", shelf) == 3
    assert set(shelf.held) == {"2", "3", "4"}
    (aside,) = queue.asides("shelf")
    assert aside.series_uid == "2"
    shelf.erase = erase
    assert take_again(queue, "shelf", shelf) == (1, [])
    assert set(shelf.held) == {"3", "4"}


# What was set aside, how far it is, and all of it again


def test_what_was_set_aside_is_brought_once_more_when_it_is_asked_for(queue):
    shelf = Shelf(poison=("1", "3"))
    index(queue, "1", "2", "3")
    deliver(queue, "shelf", shelf)
    shelf.poison = ("3",)
    taken, refused = take_again(queue, "shelf", shelf)
    assert (taken, [aside.series_uid for aside in refused]) == (1, ["3"])
    assert set(shelf.held) == {"1", "2"}
    assert queue.asides("shelf") == refused


def test_what_was_set_aside_does_not_come_back_over_what_is_newer(queue, monkeypatch):
    shelf = Shelf(poison=("1",))
    index(queue, "1")
    deliver(queue, "shelf", shelf)
    old = queue.asides("shelf")
    index(queue, "1", ml=2.0, fingerprint="b")
    shelf.poison = ()
    monkeypatch.setattr(queue, "asides", lambda *_: old)  # read before it was replaced
    assert take_again(queue, "shelf", shelf)[0] == 0
    assert shelf.held == {}


def test_a_consumer_says_how_far_it_is_behind(queue):
    index(queue, "1", "2", "3")
    name = "ndjson:///out?password=file:/secret"
    deliver_batch(queue, name, Shelf(poison=("1",)), batch=1)
    lag = lag_of(queue, name)
    assert (lag.consumer, lag.behind, lag.since) == (
        "ndjson:///out",
        2,
        "2026-10-01T10:00:09+00:00",
    )
    assert [aside.series_uid for aside in lag.asides] == ["1"]
    deliver(queue, name, Shelf())
    lag = lag_of(queue, name)
    assert (lag.behind, lag.since) == (0, None)


def test_a_consumer_is_brought_everything_from_the_beginning(queue):
    shelf = Shelf()
    index(queue, "1", "2")
    deliver(queue, "shelf", shelf)
    shelf.held.clear()
    start_over(queue, "shelf")
    assert lag_of(queue, "shelf").behind == 2
    deliver(queue, "shelf", shelf)
    assert set(shelf.held) == {"1", "2"}


# One process for each consumer


class Faulty(Shelf):
    """A sink that fails in all the ways there are, one after the other."""

    def __init__(self, *faults: Exception) -> None:
        super().__init__()
        self.faults = list(faults)
        self.opened = 0

    def open(self):
        self.opened += 1
        return self

    def write(self, annotated):
        if self.faults:
            raise self.faults.pop(0)
        super().write(annotated)


@pytest.fixture
def url(tmp_path) -> str:
    with closing(SqliteQueue(f"sqlite://{tmp_path}/tomodex.db")) as queue:
        index(queue, "1", "2", "3")
    return f"sqlite://{tmp_path}/tomodex.db"


@pytest.fixture
def rests(monkeypatch) -> list[float]:
    """How long was rested, which takes no time."""
    found: list[float] = []
    monkeypatch.setattr(delivery, "rest", lambda seconds, stop: found.append(seconds))
    return found


def test_a_sink_that_fails_is_left_alone_for_longer_each_time_and_opened_anew(url, rests):
    faults = [Unavailable("no answer"), Misconfigured("token expired"), KeyError("bug")]
    sink = Faulty(*faults, *[Unavailable("no answer")] * 6)
    Deliverer(lambda: SqliteQueue(url), "shelf", sink.open).keep_on(lambda: bool(sink.held))
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60, 2]
    assert sink.opened == 10
    assert set(sink.held) == {"1", "2", "3"}


def test_a_sink_that_came_back_is_soon_asked_again_when_it_fails_once_more(url, rests):
    class Relapsing(Faulty):
        def write(self, annotated):
            super().write(annotated)
            if "4" not in self.held:
                self.faults = [Unavailable("no answer")]
                with closing(SqliteQueue(url)) as queue:
                    index(queue, "4")

    sink = Relapsing(*[Unavailable("no answer")] * 2)
    Deliverer(lambda: SqliteQueue(url), "shelf", sink.open).keep_on(lambda: "4" in sink.held)
    assert rests == [1, 2, 1, 2]


def test_a_queue_that_does_not_answer_is_asked_again(url, rests):
    sink, silent = Shelf(), [Unavailable("no answer")] * 2

    def opened():
        if silent:
            raise silent.pop()
        return SqliteQueue(url)

    Deliverer(opened, "shelf", lambda: sink).keep_on(lambda: bool(sink.held))
    assert rests == [1, 2, 2]


def test_who_searches_what_is_written_has_most_of_the_time(monkeypatch):
    assert pause_s(0.01, 0.04) == 2
    assert pause_s(1.0, 0.04) == pytest.approx(24)
    assert pause_s(100.0, 0.04) == 60
    assert pause_s(100.0, 1.0) == 2


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_a_large_backlog_takes_no_more_memory_than_a_small_one(queue, monkeypatch):
    """Of 10,000 results for a slow sink only some are in memory, which is then used again."""
    document = zlib.compress(to_json(annotated(ct("1"), structures=4)))
    with queue._writing() as db:
        for n in range(10_000):
            queue._publish(db, f"1.{n}", "default", document)

    class Slow(Shelf):
        def write(self, annotated):
            time.sleep(0.01)
            seen.append(resident_mib())

    seen: list[float] = []
    # All of one series but for the feed, so what is written is one of each batch.
    assert deliver(queue, "shelf", Slow()) == 10_000
    assert len(seen) == 20
    assert max(seen) - seen[1] < 25


class StagedShelf(Shelf):
    """One that is filled beside what it holds, and knows each entry by its place in the feed."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def renew(self):
        self.said.append("renewed")

    def complete(self):
        self.said.append("complete")

    def write_entries(self, entries):
        self.said += [f"{at} {one.series.series_uid}" for at, one in entries.items()]

    def erase_entries(self, entries):
        self.said += [f"{at} gone {uid}" for at, uid in entries.items()]


def test_a_staged_index_is_complete_when_it_has_all_of_the_feed(queue: SqliteQueue):
    queue.put([new("1.1"), new("1.2"), new("1.3")])
    for _ in range(3):
        settle_next(queue)
    queue.withdraw("1.2")
    shelf = StagedShelf()
    rebuild(queue, "shelf", shelf, batch=2)
    assert shelf.said == ["renewed", "1 1.1", "3 1.3", "4 gone 1.2", "complete"]
