from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.archives import ADAPTER, asked, hold
from tests.contracts.queue import annotated
from tests.test_sources_folder import slice_of, write
from tomodex import backfill, sources
from tomodex.backfill import (
    list_plan,
    only_lister,
    pause,
    plan_backfill,
    plans_of,
    start,
    status_of,
)
from tomodex.errors import BadQuery, Suspended, Unavailable
from tomodex.logbook import Logbook
from tomodex.queues import NewTask, Rejected
from tomodex.settings import Settings
from tomodex.wiring import index_of, logbook_of, queue_of

FIRST, LAST = date(2019, 1, 1), date(2019, 1, 10)
LEASE = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _test_archives(monkeypatch):
    monkeypatch.setitem(sources.ADAPTERS, "test", ADAPTER)


@pytest.fixture
def series() -> dict[str, str]:
    """Three of each day, two days without any, and some before and after."""
    days = [FIRST + timedelta(days=n) for n in (-1, 0, 1, 2, 5, 6, 7, 8, 9, 10)]
    return {f"1.{n}": days[n % len(days)].isoformat() for n in range(30)}


@pytest.fixture
def file(tmp_path, series) -> Path:
    hold(tmp_path / "pacs.json", series)
    return tmp_path / "pacs.json"


@pytest.fixture
def settings(tmp_path, file) -> Settings:
    return Settings(data=tmp_path / "data", sources={"pacs": f"test://{file}"}, workers=2)


def list_all(settings, stop=lambda: False) -> None:
    for plan in plans_of(settings, None):
        list_plan(settings, plan, stop, lambda done, total: None)


def wanted(series) -> set[str]:
    return {uid for uid, day in series.items() if FIRST.isoformat() <= day <= LAST.isoformat()}


def known(settings, file) -> set[str]:
    return set(queue_of(settings).known(f"test://{file}"))


def test_every_day_is_listed_once_from_the_first_to_the_last(settings, file, series):
    url, new = plan_backfill(settings, "pacs", FIRST, LAST)
    assert (url, new) == (f"test://{file}", 10)
    start(settings, "pacs")
    list_all(settings)
    assert asked(file) == [f"2019-01-{n:02} 2019-01-{n:02}" for n in range(1, 11)]
    assert known(settings, file) == wanted(series)
    assert queue_of(settings).count() == {("backfill", "ready"): 24}


def test_what_is_listed_can_be_searched_before_a_pixel_is_read(settings):
    from tomodex.delivery import deliver
    from tomodex.search import parse
    from tomodex.terminology import load_terminology

    plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    list_all(settings)
    index = index_of(settings)
    deliver(queue_of(settings), "index", index)
    query = parse("segmented = waiting and StudyDate >= 2019-01-08", load_terminology())
    assert index.search(query).series == 9


def test_the_newest_come_first_if_the_plan_says_so(settings, file):
    plan_backfill(settings, "pacs", FIRST, LAST, order="newest first", days=4)
    start(settings, None)
    list_all(settings)
    expected = ["2019-01-09 2019-01-10", "2019-01-05 2019-01-08", "2019-01-01 2019-01-04"]
    assert asked(file) == expected
    task = queue_of(settings).lease("w", LEASE)
    assert task.series.attributes["StudyDate"] == "2019-01-10"


def test_nothing_is_listed_before_it_starts_or_while_it_is_paused(settings, file):
    plan_backfill(settings, "pacs", FIRST, LAST)
    list_all(settings)
    assert asked(file) == []
    start(settings, None)
    list_all(settings, stop=iter([False, False, True]).__next__)
    assert len(asked(file)) == 2
    pause(settings, None)
    list_all(settings)
    assert len(asked(file)) == 2


def test_a_paused_back_fill_hands_nothing_out_and_goes_on_when_told(settings):
    plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    list_all(settings)
    queue = queue_of(settings)
    pause(settings, "pacs")
    assert queue.lease("w", LEASE) is None
    assert status_of(settings, plans_of(settings, None)[0]).state == "paused"
    start(settings, "pacs")
    assert queue.lease("w", LEASE) is not None


def test_a_day_that_cannot_be_listed_whole_holds_up_no_other_and_is_tried_again(
    settings, file, series, monkeypatch
):
    hold(file, series, down="answers are cut off at 500", on="2019-01-02")
    plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    list_all(settings)
    assert len(asked(file)) == 10
    (plan,) = plans_of(settings, None)
    status = status_of(settings, plan)
    assert (status.days.listed, status.days.failed, status.days.left) == (9, 1, 1)
    (failed,) = status.failed_days
    assert (failed.first, failed.attempts) == ("2019-01-02", 1)
    assert failed.sentence == "answers are cut off at 500"
    hold(file, series)
    list_all(settings)
    assert len(asked(file)) == 10  # not yet
    later = Logbook(settings.data / "discovery.db", now=lambda: time.time() + 61)
    monkeypatch.setattr(backfill, "logbook_of", lambda settings: later)
    list_all(settings)
    assert asked(file)[10:] == ["2019-01-02 2019-01-02"]
    assert known(settings, file) == wanted(series)
    assert status_of(settings, plan).failed_days == ()


def test_a_back_fill_is_done_when_nothing_of_its_source_waits_in_any_lane(settings, file, series):
    hold(file, series)
    (url, _) = plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    list_all(settings)
    queue = queue_of(settings)
    task = queue.lease("w", LEASE)
    queue.give_back(task)
    moved = NewTask(series=task.series, source=url, configuration=task.configuration, lane="daily")
    queue.put([moved])
    (plan,) = plans_of(settings, None)
    before = status_of(settings, plan)
    assert (before.state, before.elsewhere) == ("running", 1)
    assert "1 of the source wait in other lanes" in before.pixels_forecast
    while task := queue.lease("w", LEASE):
        assert status_of(settings, plan).state == "running"
        queue.settle(task, Rejected(reason="4d", sentence="moves"))
    assert status_of(settings, plan).state == "done"
    queue.put([replace(moved, series=replace(moved.series, fingerprint="changed"))])
    assert status_of(settings, plan).state == "running"


def test_an_archive_that_is_left_alone_is_held_against_no_day(settings, file, series):
    hold(file, series, down="suspended")
    plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    with pytest.raises(Suspended):
        list_all(settings)
    assert len(asked(file)) == 1
    assert logbook_of(settings).days(f"test://{file}").planned == 10


def test_planned_again_what_was_listed_is_not_listed_again(settings, file):
    plan_backfill(settings, "pacs", date(2019, 1, 3), date(2019, 1, 5))
    start(settings, None)
    list_all(settings)
    assert plan_backfill(settings, "pacs", FIRST, LAST)[1] == 7
    list_all(settings)
    assert sorted(asked(file)) == [f"2019-01-{n:02} 2019-01-{n:02}" for n in range(1, 11)]


def test_a_plan_that_is_extended_leaves_no_day_out(settings, file):
    """The last window of a plan may be short; extended, it begins on the same day."""
    plan_backfill(settings, "pacs", FIRST, date(2019, 1, 5), days=4)
    start(settings, None)
    list_all(settings)
    assert plan_backfill(settings, "pacs", FIRST, LAST, days=4)[1] == 2
    list_all(settings)
    assert sorted(asked(file)) == [
        "2019-01-01 2019-01-04",
        "2019-01-05 2019-01-05",
        "2019-01-05 2019-01-08",
        "2019-01-09 2019-01-10",
    ]


def test_a_folder_is_walked_once_for_all_its_years(tmp_path):
    for uid, day in (("1.1", "20020304"), ("1.2", "20190305"), ("1.3", "20260101"), ("1.4", "")):
        write(tmp_path / "archive" / uid, slice_of(uid, 0, StudyDate=day))
    settings = Settings(data=tmp_path / "data", sources={"disk": str(tmp_path / "archive")})
    url, windows = plan_backfill(settings, "disk", date(1999, 1, 1), date(2019, 12, 31))
    assert windows == 1
    start(settings, None)
    list_all(settings)
    assert sorted(queue_of(settings).known(url)) == ["1.1", "1.2"]


def test_one_process_at_a_time_lists_an_archive(settings, file):
    plan_backfill(settings, "pacs", FIRST, LAST)
    start(settings, None)
    with only_lister(settings, f"test://{file}"), pytest.raises(Unavailable, match="another"):
        list_all(settings)
    list_all(settings)


@pytest.mark.parametrize("command", [start, pause])
def test_what_was_not_planned_is_said(settings, command):
    with pytest.raises(BadQuery, match="no back-fill of pacs is planned"):
        command(settings, "pacs")
    with pytest.raises(BadQuery, match="the first day comes first"):
        plan_backfill(settings, "pacs", LAST, FIRST)


# How long it takes


def test_a_forecast_is_made_of_what_was_done_lately(settings, file):
    plan_backfill(settings, "pacs", FIRST, LAST)
    (plan,) = start(settings, None)
    list_all(settings, stop=iter([False] * 6 + [True]).__next__)
    queue = queue_of(settings)
    for _ in range(3):
        task = queue.lease("w", LEASE)
        queue.settle(task, annotated(task.series))
    (plan,) = plans_of(settings, None)
    status = status_of(
        settings, plan, datetime.fromtimestamp(plan.started_s, UTC) + timedelta(minutes=30)
    )
    assert (status.days.listed, status.days.planned, status.days.wanted) == (6, 4, 12)
    assert (status.indexed, status.waiting) == (3, 9)
    assert (status.days_per_hour, status.series_per_hour) == (12.0, 6.0)
    assert "the remaining 4 take until" in status.listing_forecast
    # 9 that wait, and 12 / 6 of each of the 4 days to come.
    assert "at the present rate of 6 series/h the remaining 17 take until" in status.pixels_forecast
    assert "with 4 workers instead of 2" in status.pixels_forecast
    assert status.facts["days_left"] == 4


def test_without_a_rate_there_is_no_forecast(settings):
    plan_backfill(settings, "pacs", FIRST, LAST)
    (plan,) = plans_of(settings, None)
    assert status_of(settings, plan).listing_forecast == "10 windows are to be listed"
    start(settings, None)
    (plan,) = plans_of(settings, None)
    assert "none was in the last hour" in status_of(settings, plan).listing_forecast
    list_all(settings)
    status = status_of(settings, plan)
    assert status.listing_forecast == "all 10 windows are listed"
    assert "24 series are to be indexed, and none" in status.pixels_forecast


# Whatever is killed when


def test_kill_9_at_any_moment_of_the_listing_loses_and_doubles_nothing(settings, file, tmp_path):
    """A process that lists is killed again and again, then left to finish."""
    series = {f"1.{n}": (FIRST + timedelta(days=n % 60)).isoformat() for n in range(600)}
    hold(file, series)
    last = FIRST + timedelta(days=59)
    plan_backfill(settings, "pacs", FIRST, last)
    start(settings, None)
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.archives import ADAPTER
from tomodex import sources
sources.ADAPTERS["test"] = ADAPTER
from tomodex.backfill import list_plan, plans_of
from tomodex.settings import Settings
settings = Settings(data={str(settings.data)!r}, sources={settings.sources!r})
print("ready", flush=True)
for plan in plans_of(settings, None):
    list_plan(settings, plan, lambda: False, lambda done, total: None)
"""
    kills = 0
    while True:
        lister = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert lister.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0.02, 0.25))
        if kills < 4 and lister.poll() is None:
            os.kill(lister.pid, signal.SIGKILL)
            kills += 1
        lister.stdout.close()
        if lister.wait() == 0:
            break
    assert kills > 1
    assert known(settings, file) == set(series)
    assert queue_of(settings).count() == {("backfill", "ready"): 600}
    feed = [result.series_uid for result in queue_of(settings).results(0, 1000)]
    assert len(feed) == len(set(feed)) == 600
    days = logbook_of(settings).days(f"test://{file}")
    assert (days.listed, days.left, days.found) == (60, 0, 600)
    # Every day was listed whole; one that a kill interrupted was listed again.
    assert 60 <= len(asked(file)) <= 60 + kills
