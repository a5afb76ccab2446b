from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tomodex.schedule import Schedule, read_schedule


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        ("2026-03-01 05:31", "2026-03-02 05:29", False),
        ("2026-03-01 05:31", "2026-03-02 05:30", True),
        ("2026-03-02 05:30", "2026-03-02 23:59", False),
        ("2026-03-02 05:29", "2026-03-02 05:31", True),
        ("2026-02-11 00:00", "2026-03-02 04:00", True),
        ("2026-03-01 04:00", "2026-03-02 04:00", True),
    ],
)
def test_a_time_of_day_is_due_once_and_made_up_for_if_it_was_missed(last, now, due):
    assert read_schedule("05:30").is_due(at(last), at(now)) == due


def test_what_was_never_done_is_due_at_once():
    assert read_schedule("05:30").is_due(None, at("2026-03-02 04:00"))
    assert not Schedule().is_due(None, at("2026-03-02 04:00"))


def test_several_times_of_the_day_are_each_due():
    twice = read_schedule("05:30, 12:00")
    assert twice.is_due(at("2026-03-02 05:31"), at("2026-03-02 12:01"))
    assert not twice.is_due(at("2026-03-02 05:31"), at("2026-03-02 11:59"))


@pytest.mark.parametrize(("text", "every"), [("every 4h", 240), ("every 30min", 30)])
def test_an_interval_is_due_when_it_has_passed(text, every):
    schedule, last = read_schedule(text), datetime(2026, 3, 2, tzinfo=UTC)
    assert not schedule.is_due(last, last + timedelta(minutes=every - 1))
    assert schedule.is_due(last, last + timedelta(minutes=every))


def test_nothing_set_is_never_due():
    assert not read_schedule("").is_due(at("2020-01-01"), at("2026-03-02"))


@pytest.mark.parametrize("text", ["5:30", "24:00", "every 0h", "daily", "05:30;06:00", "every 4 d"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError, match="a schedule is"):
        read_schedule(text)
