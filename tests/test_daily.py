from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.archives import ADAPTER, asked, hold
from tests.phantoms import write_ball_series
from tomodex import daily, sources
from tomodex.daily import daily_window, discover_all, discover_daily
from tomodex.errors import Misconfigured, Unavailable
from tomodex.settings import Settings
from tomodex.sources import Window
from tomodex.wiring import logbook_of, queue_of

TODAY = date(2026, 3, 4)


@pytest.fixture(autouse=True)
def _a_day_in_march(monkeypatch):
    monkeypatch.setitem(sources.ADAPTERS, "test", ADAPTER)
    monkeypatch.setattr(daily, "today", lambda: TODAY)


@pytest.fixture
def file(tmp_path) -> Path:
    days = {f"1.{n}": (TODAY - timedelta(days=n)).isoformat() for n in range(9)}
    hold(tmp_path / "pacs.json", days)
    return tmp_path / "pacs.json"


@pytest.fixture
def settings(tmp_path, file) -> Settings:
    return Settings(data=tmp_path / "data", sources={"pacs": f"test://{file}?a=1"})


def waiting(settings) -> set[str]:
    return set(queue_of(settings).known(settings.sources["pacs"].partition("?")[0]))


def test_the_first_look_is_at_yesterday(settings, file):
    (look,) = discover_daily(settings, [])
    assert asked(file) == ["2026-03-03 2026-03-03"]
    assert waiting(settings) == {"1.1"}
    assert queue_of(settings).count() == {("daily", "ready"): 1}
    assert look.facts == {
        "source": f"test://{file}",
        "first": "2026-03-03",
        "last": "2026-03-03",
        "found": 1,
        "new": 1,
        "rejected": {},
        "withdrawn": 0,
        "error": "",
    }


def test_what_was_missed_while_nothing_ran_is_made_up_for(settings, file, monkeypatch):
    list(discover_daily(settings, ["pacs"]))
    monkeypatch.setattr(daily, "today", lambda: TODAY + timedelta(days=9))
    list(discover_daily(settings, ["pacs"]))
    assert asked(file)[-1] == "2026-03-03 2026-03-12"


def test_a_look_that_failed_is_made_up_for_and_holds_up_no_other(settings, file, tmp_path):
    hold(tmp_path / "other.json", {"2.1": "2026-03-03"})
    hold(file, {"1.1": "2026-03-03"}, down="no answer within 30 s", on="2026-03-03")
    both = settings.model_copy(
        update={"sources": {**settings.sources, "z": f"test://{tmp_path}/other.json"}}
    )
    silent, fine = discover_daily(both, [])
    assert isinstance(silent.error, Unavailable)
    assert silent.facts["error"] == "no answer within 30 s"
    assert (silent.discovery, fine.discovery.found) == (None, 1)
    assert logbook_of(both).last_day(silent.source) is None
    assert logbook_of(both).last_day(fine.source) == date(2026, 3, 3)


def test_since_goes_back_as_far_as_it_says(settings, file):
    list(discover_daily(settings, ["pacs"], since=date(2026, 2, 28)))
    assert asked(file) == ["2026-02-28 2026-03-03"]
    assert waiting(settings) == {"1.1", "1.2", "1.3", "1.4"}


@pytest.mark.parametrize(
    ("last", "since", "first"),
    [
        (None, None, "2026-03-03"),
        (date(2026, 3, 2), None, "2026-03-02"),
        (date(2026, 3, 3), None, "2026-03-03"),
        (date(2026, 3, 3), date(2026, 1, 1), "2026-01-01"),
        (None, date(2026, 3, 4), "2026-03-03"),
    ],
)
def test_a_daily_look_begins_a_day_before_what_is_new(last, since, first):
    """Studies of the last day that was listed come late."""
    expected = Window(first=date.fromisoformat(first), last=date(2026, 3, 3))
    assert daily_window(last, TODAY, since) == expected


def test_without_daily_all_that_there_is_is_listed(settings, file):
    list(discover_all(settings, ["pacs"]))
    assert asked(file) == ["all"]
    assert queue_of(settings).count() == {("on-demand", "ready"): 9}
    assert logbook_of(settings).last_day(f"test://{file}") is None


def test_a_folder_is_listed_as_a_whole_so_that_old_studies_are_found_too(tmp_path):
    (tmp_path / "archive").mkdir()
    write_ball_series(tmp_path / "archive")
    settings = Settings(data=tmp_path / "data", sources={"disk": str(tmp_path / "archive")})
    (look,) = discover_daily(settings, [])
    assert (look.window, look.discovery.found) == (None, 1)
    assert logbook_of(settings).last_day(look.source) == date(2026, 3, 3)


def test_options_that_workers_would_not_know_are_refused(settings, file):
    (look,) = discover_daily(settings, [f"test://{file}?a=2"])
    assert isinstance(look.error, Misconfigured)
    assert "give it a name" in str(look.error)
    assert waiting(settings) == set()
    with pytest.raises(Misconfigured, match="no source is configured"):
        list(discover_daily(Settings(data=settings.data), []))


def test_a_look_from_a_later_day_on_leaves_the_days_before_to_the_next(settings, file, monkeypatch):
    list(discover_daily(settings, ["pacs"]))
    monkeypatch.setattr(daily, "today", lambda: TODAY + timedelta(days=20))
    list(discover_daily(settings, ["pacs"], since=TODAY + timedelta(days=15)))
    list(discover_daily(settings, ["pacs"]))
    assert asked(file)[-1] == "2026-03-03 2026-03-23"


def test_a_daily_look_goes_back_as_far_as_is_set(settings, file, monkeypatch):
    list(discover_daily(settings, ["pacs"]))
    monkeypatch.setattr(daily, "today", lambda: TODAY + timedelta(days=1))
    list(discover_daily(settings, ["pacs"]))
    assert asked(file)[-1] == "2026-02-26 2026-03-04"
