"""The gate in front of an archive: its hours, its rest after failures, its rate and its places."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.options import read_options
from tomodex.sources.gate import Gate, GateOptions, NotReached, suspensions

URL = "dimse://pacs:104/ARCHIVE"


@dataclass
class Clock:
    """A clock that moves when somebody sleeps."""

    now_s: float = 1_790_000_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def gate(state: Path, clock: Clock, query: str = "") -> Gate:
    options = read_options(f"{URL}?{query}", GateOptions)
    return Gate(URL, state, options, now=clock, sleep=clock.sleep)


def fail(one: Gate, times: int = 1) -> None:
    for _ in range(times):
        with suppress(Unavailable), one.passing():
            raise Unavailable("association refused")


def passes(one: Gate) -> bool:
    try:
        with one.passing():
            return True
    except Suspended:
        return False


def test_an_archive_that_answers_is_asked_again_and_again(tmp_path: Path) -> None:
    one = gate(tmp_path, Clock())
    assert all(passes(one) for _ in range(20))


def test_an_archive_that_fails_three_times_is_left_alone_by_every_process(tmp_path: Path) -> None:
    clock = Clock()
    fail(gate(tmp_path, clock), 2)
    assert passes(gate(tmp_path, clock))
    fail(gate(tmp_path, clock), 3)
    with pytest.raises(Suspended, match="association refused") as suspended:
        gate(tmp_path, clock).passing().__enter__()
    assert suspended.value.source == URL
    assert suspended.value.until - datetime.fromtimestamp(clock(), UTC) == timedelta(seconds=30)


def test_what_is_left_alone_is_listed_with_its_reason(tmp_path: Path) -> None:
    clock = Clock()
    assert suspensions(tmp_path, clock) == []
    fail(gate(tmp_path, clock), 3)
    (one,) = suspensions(tmp_path, clock)
    assert (one.source, one.sentence) == (URL, "association refused")
    clock.now_s += 31
    assert suspensions(tmp_path, clock) == []


def test_when_the_rest_is_over_one_process_tries_alone(tmp_path: Path) -> None:
    clock = Clock()
    one = gate(tmp_path, clock)
    fail(one, 3)
    clock.now_s += 31
    with one.passing():
        assert not passes(gate(tmp_path, clock))
    assert passes(gate(tmp_path, clock))


def test_each_further_failure_doubles_the_rest_up_to_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    one = gate(tmp_path, clock)
    fail(one, 2)
    rests = []
    for _ in range(9):
        fail(one)
        (left,) = suspensions(tmp_path, clock)
        rests.append(round(left.until.timestamp() - clock()))
        clock.now_s += rests[-1] + 1
    assert rests == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_trial_that_never_ended_does_not_keep_the_archive_shut(tmp_path: Path) -> None:
    clock = Clock()
    one = gate(tmp_path, clock)
    fail(one, 3)
    clock.now_s += 31
    one._require_rest_over()  # and its process dies
    assert not passes(one)
    clock.now_s += 121
    assert passes(one)


def test_where_nobody_was_reached_nothing_was_tried(tmp_path: Path) -> None:
    clock = Clock()
    one = gate(tmp_path, clock)
    rests = []
    for _ in range(4):
        with pytest.raises(Suspended, match="nobody there") as suspended, one.passing():
            raise NotReached(f"{URL} nobody there")
        rests.append(round(suspended.value.until.timestamp() - clock()))
        clock.now_s += rests[-1] + 1
    assert rests == [5, 5, 30, 60]


def test_a_suspension_names_its_archive_once(tmp_path: Path) -> None:
    one = gate(tmp_path, Clock())
    for _ in range(3):
        with pytest.raises(Suspended), one.passing():
            raise NotReached(f"{URL} cannot be reached")
    with pytest.raises(Suspended) as suspended:
        one.passing().__enter__()
    assert str(suspended.value).count(URL) == 1
    assert suspensions(tmp_path, Clock())[0].sentence == "cannot be reached"


def test_nobody_waits_for_a_place_without_end(tmp_path: Path) -> None:
    clock = Clock()
    with gate(tmp_path, clock, "simultaneous=1").passing():
        begin = clock()
        with pytest.raises(Suspended, match="at most 1 at once") as suspended:
            gate(tmp_path, clock, "simultaneous=1").passing().__enter__()
        assert clock() - begin == pytest.approx(60, abs=1)
        assert suspended.value.source == URL


def test_locks_are_for_their_owner_alone(tmp_path: Path) -> None:
    with gate(tmp_path, Clock()).passing():
        (lock,) = [f for f in (tmp_path / "gates").iterdir() if f.suffix == ".lock"][:1]
        assert lock.stat().st_mode & 0o777 == 0o600


def test_another_error_does_not_count_against_the_archive(tmp_path: Path) -> None:
    one = gate(tmp_path, Clock())
    for _ in range(5):
        with suppress(KeyError), one.passing():
            raise KeyError
    assert passes(one)


def local(hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, 23, hour, minute).astimezone().timestamp()


@pytest.mark.parametrize(
    ("hours", "hour", "open_"),
    [
        ("19:00-06:00", 23, True),
        ("19:00-06:00", 5, True),
        ("19:00-06:00", 6, False),
        ("19:00-06:00", 12, False),
        ("08:00-17:00", 8, True),
        ("08:00-17:00", 17, False),
        ("19:00-06:00,12:00-13:00", 12, True),
    ],
)
def test_an_archive_is_asked_in_its_hours_only(
    tmp_path: Path, hours: str, hour: int, open_: bool
) -> None:
    assert passes(gate(tmp_path, Clock(local(hour)), f"hours={hours}")) == open_


def test_out_of_hours_it_is_said_when_they_begin(tmp_path: Path) -> None:
    with pytest.raises(Suspended, match="from 19:00 on") as suspended:
        gate(tmp_path, Clock(local(12)), "hours=19:00-06:00").passing().__enter__()
    assert suspended.value.until.timestamp() == local(19)


@pytest.mark.parametrize("hours", ["19-6", "25:00-06:00", "19:00", ""])
def test_hours_that_are_none_are_refused(tmp_path: Path, hours: str) -> None:
    with pytest.raises(Misconfigured, match="19:00-06:00"):
        gate(tmp_path, Clock(), f"hours={hours}")


def test_requests_begin_no_faster_than_the_rate(tmp_path: Path) -> None:
    clock = Clock()
    begun = clock()
    for _ in range(6):
        assert passes(gate(tmp_path, clock, "per_second=2"))
    assert clock() - begun == pytest.approx(2.5, abs=1e-3)


def test_no_more_requests_at_once_than_there_are_places(tmp_path: Path) -> None:
    options = GateOptions(simultaneous=2)
    counted, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(2, timeout=5)

    def ask() -> None:
        with Gate(URL, tmp_path, options).passing():
            with lock:
                counted[0] += 1
                most[0] = max(most[0], counted[0])
            together.wait()
            with lock:
                counted[0] -= 1

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2


def _hold(state: Path, held: multiprocessing.synchronize.Event) -> None:
    with Gate(URL, state, GateOptions(simultaneous=1)).passing():
        held.set()
        threading.Event().wait()


def test_the_place_of_a_process_that_was_killed_is_free_again(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(20)
    process.kill()
    process.join()
    clock = Clock()
    assert passes(gate(tmp_path, clock, "simultaneous=1"))


def test_hours_that_have_not_begun_are_known_to_those_who_only_look(tmp_path: Path) -> None:
    clock = Clock()
    here = datetime.fromtimestamp(clock.now_s, UTC).astimezone()
    begin, end = here + timedelta(hours=2), here + timedelta(hours=3)
    hours = f"hours={begin:%H:%M}-{end:%H:%M}"
    assert not passes(gate(tmp_path, clock, hours))
    (one,) = suspensions(tmp_path, clock)
    assert (one.source, one.sentence) == (URL, "these are not its hours")
    assert abs(one.until - begin) < timedelta(minutes=1)
    # A site that takes the hours out of its settings does not wait for them.
    assert passes(gate(tmp_path, clock))
    assert suspensions(tmp_path, clock) == []
    assert not passes(gate(tmp_path, clock, hours))
    clock.now_s += 7300
    assert suspensions(tmp_path, clock) == []
    assert passes(gate(tmp_path, clock, hours))
