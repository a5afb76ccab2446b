"""What takes long is remembered, worked on by one at a time, and never lost."""

from __future__ import annotations

import stat

import pytest

from tomodex.errors import Misconfigured
from tomodex.operations import MOST_ATTEMPTS, MOST_ERRORS, Operations

LEASE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def operations(tmp_path, clock):
    return Operations(tmp_path / "operations.db", clock)


def test_what_was_asked_is_found_again_with_what_came_of_it(operations):
    asked = operations.put("segment", '{"series": "1.2"}', "ada")
    assert (asked.status, asked.done, asked.total, asked.attempt) == ("ready", 0, None, 0)
    held = operations.lease(("segment",), LEASE_S)
    assert held.id == asked.id
    assert operations.report(held, 3, 10, LEASE_S)
    operations.complain(held, "one series has no pixels")
    assert operations.find(asked.id).done == 3
    assert operations.finish(held, {"file": "/masks/1.2"})
    done = operations.find(asked.id)
    assert (done.status, done.total, dict(done.result)) == ("completed", 10, {"file": "/masks/1.2"})
    assert done.errors == ("one series has no pixels",)
    assert done.request == '{"series": "1.2"}'
    assert operations.lease(("segment",), LEASE_S) is None


def test_the_oldest_of_a_kind_comes_first_and_only_once(operations, clock):
    first = operations.put("segment", "1", "ada")
    clock.s += 1
    operations.put("segment", "2", "ada")
    assert operations.lease(("rebuild",), LEASE_S) is None
    assert operations.lease(("rebuild", "segment"), LEASE_S).id == first.id
    assert operations.lease(("segment",), LEASE_S).request == "2"
    assert operations.lease(("segment",), LEASE_S) is None


def test_the_same_key_of_the_same_asker_is_the_same_operation(operations):
    one = operations.put("segment", "1", "ada", key="1.2.3")
    assert operations.put("segment", "1", "ada", key="1.2.3").id == one.id
    assert operations.put("segment", "1", "bob", key="1.2.3").id != one.id
    assert operations.put("segment", "1", "ada").id != operations.put("segment", "1", "ada").id


def test_an_operation_of_a_dead_worker_is_taken_up_by_another_which_alone_may_end_it(
    operations, clock
):
    operations.put("segment", "1", "ada")
    dead = operations.lease(("segment",), LEASE_S)
    clock.s += LEASE_S + 1
    held = operations.lease(("segment",), LEASE_S)
    assert held.attempt == 2
    assert not operations.report(dead, 1, 1, LEASE_S)
    assert not operations.finish(dead, {"file": "old"})
    assert not operations.fail(dead, "late")
    assert operations.finish(held, {"file": "new"})
    ended = operations.find(held.id)
    assert (dict(ended.result), ended.errors) == ({"file": "new"}, ())


def test_who_reports_holds_it_longer(operations, clock):
    operations.put("segment", "1", "ada")
    held = operations.lease(("segment",), LEASE_S)
    clock.s += LEASE_S - 1
    assert operations.report(held, 1, None, LEASE_S)
    clock.s += LEASE_S - 1
    assert operations.lease(("segment",), LEASE_S) is None


def test_an_operation_that_no_worker_survives_is_failed(operations, clock):
    asked = operations.put("segment", "1", "ada")
    for _ in range(MOST_ATTEMPTS):
        assert operations.lease(("segment",), LEASE_S)
        clock.s += LEASE_S + 1
    other = operations.put("segment", "2", "ada")
    assert operations.lease(("segment",), LEASE_S).id == other.id
    given_up = operations.find(asked.id)
    assert given_up.status == "failed"
    assert "3 attempts" in given_up.errors[0]


def test_what_is_given_back_does_not_count_as_an_attempt(operations):
    operations.put("segment", "1", "ada")
    for _ in range(MOST_ATTEMPTS + 1):
        held = operations.lease(("segment",), LEASE_S)
        assert held.attempt == 1
        assert operations.give_back(held)


def test_of_many_errors_some_are_kept(operations):
    operations.put("segment", "1", "ada")
    held = operations.lease(("segment",), LEASE_S)
    for number in range(MOST_ERRORS + 5):
        operations.complain(held, f"{number} " + "x" * 10_000)
    errors = operations.find(held.id).errors
    assert len(errors) == MOST_ERRORS
    assert len(errors[0]) == 500


def test_each_asker_sees_theirs_newest_first(operations, clock):
    mine = []
    for number in range(3):
        clock.s += 1
        mine.append(operations.put("segment", str(number), "ada").id)
        operations.put("segment", str(number), "bob")
    assert [one.id for one in operations.newest("ada")] == mine[::-1]
    assert len(operations.newest()) == 6
    assert len(operations.newest(limit=2)) == 2


def test_only_the_owner_can_read_the_file(operations, tmp_path):
    operations.put("segment", "1", "ada")
    assert stat.S_IMODE((tmp_path / "operations.db").stat().st_mode) == 0o600


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    (tmp_path / "operations.db").write_bytes(b"x" * 5000)
    with pytest.raises(Misconfigured, match=r"operations\.db"):
        Operations(tmp_path / "operations.db").newest()
