from __future__ import annotations

import logging

import pytest

from tests.test_selection import CAPTURE, of, overlaid, stack
from tomodex import discovery
from tomodex.discovery import discover
from tomodex.errors import Unavailable
from tomodex.selection import load_rules
from tomodex.series import Listing

RULES = load_rules()


class Archive:
    """A source that lists what it is given."""

    url = "test://archive"

    def __init__(self, *listings: Listing) -> None:
        self.listings = listings

    def find(self, progress=None):
        for done, listing in enumerate(self.listings, 1):
            if progress:
                progress(done, len(self.listings))
            yield listing


class Notebook:
    """A queue that only takes tasks, and knows a series again by its fingerprint."""

    def __init__(self) -> None:
        self.tasks = {}
        self.batches = []

    def put(self, tasks):
        tasks = list(tasks)
        self.batches.append(len(tasks))
        new = [t for t in tasks if self._fingerprint(t) != t.series.fingerprint]
        self.tasks.update({(t.series.series_uid, t.configuration): t for t in new})
        return len(new)

    def _fingerprint(self, task):
        known = self.tasks.get((task.series.series_uid, task.configuration))
        return known.series.fingerprint if known else None


def ct(uid: str = "1.1", slices: int = 12, fingerprint: str = "f", **changes) -> Listing:
    return of(stack(slices, **changes), series_uid=uid, fingerprint=fingerprint)


def test_wanted_series_are_put_with_their_lane_and_configuration():
    queue = Notebook()
    discover(Archive(ct()), RULES, queue, lane="backfill", configuration="fast")
    (task,) = queue.tasks.values()
    assert (task.lane, task.configuration, task.source) == ("backfill", "fast", "test://archive")
    assert (task.reason, task.sentence, task.series.fingerprint) == ("", "", "f")


def test_rejected_series_are_put_with_their_reason():
    queue = Notebook()
    discover(Archive(ct(slices=3)), RULES, queue)
    (task,) = queue.tasks.values()
    assert (task.reason, task.sentence) == ("too_few_slices", "3 slices, fewer than 10")


def test_what_was_found_is_counted():
    archive = Archive(
        ct("1.1"), ct("1.2"), ct("1.3", sop_class=CAPTURE), ct("1.4", 3), ct("1.5", 4), of(())
    )
    found = discover(archive, RULES, Notebook())
    assert (found.found, found.wanted, found.new, found.unchanged) == (6, 3, 6, 0)
    assert found.rejected == {"secondary_capture": 1, "too_few_slices": 2}


def test_a_second_look_finds_nothing_new():
    queue, archive = Notebook(), Archive(ct("1.1"), ct("1.2", 3))
    discover(archive, RULES, queue)
    again = discover(archive, RULES, queue)
    assert (again.new, again.unchanged, again.rejected) == (0, 2, {"too_few_slices": 1})


def test_a_changed_series_is_put_again():
    queue = Notebook()
    discover(Archive(ct("1.1"), ct("1.2", 9)), RULES, queue)
    grown = Archive(ct("1.1", fingerprint="g"), ct("1.2", 12, fingerprint="g"))
    assert discover(grown, RULES, queue).new == 2
    assert [t.reason for t in queue.tasks.values()] == ["", ""]


def test_a_change_of_the_rules_judges_the_rejected_again_and_leaves_the_wanted(tmp_path):
    queue, archive = Notebook(), Archive(ct("1.1"), ct("1.2", 6), ct("1.3", 3))
    discover(archive, RULES, queue)
    lenient = overlaid(tmp_path, "rule.min_slices.min_slices = 5")
    again = discover(archive, lenient, queue)
    assert (again.new, again.unchanged) == (2, 1)
    reasons = {uid: task.reason for (uid, _), task in queue.tasks.items()}
    assert reasons == {"1.1": "", "1.2": "", "1.3": "too_few_slices"}
    assert queue.tasks["1.3", "default"].sentence == "3 slices, fewer than 5"


def test_a_change_of_the_rules_rejects_what_was_wanted(tmp_path):
    queue, archive = Notebook(), Archive(ct("1.1"))
    discover(archive, RULES, queue)
    strict = overlaid(tmp_path, "rule.min_slices.min_slices = 20")
    assert discover(archive, strict, queue).new == 1
    assert queue.tasks["1.1", "default"].reason == "too_few_slices"


def test_a_long_listing_is_put_in_batches_as_it_comes(monkeypatch):
    monkeypatch.setattr(discovery, "BATCH", 2)
    queue = Notebook()

    def find(progress=None):
        yield from (ct(f"1.{k}") for k in range(5))
        assert len(queue.tasks) == 4

    archive = Archive()
    archive.find = find
    assert discover(archive, RULES, queue).found == 5
    assert queue.batches == [2, 2, 1]


def test_what_was_listed_before_an_archive_fell_silent_is_kept(monkeypatch):
    monkeypatch.setattr(discovery, "BATCH", 2)
    queue, archive = Notebook(), Archive()

    def find(progress=None):
        yield from (ct(f"1.{k}") for k in range(2))
        raise Unavailable("no answer within 30 s")

    archive.find = find
    with pytest.raises(Unavailable):
        discover(archive, RULES, queue)
    assert len(queue.tasks) == 2


def test_progress_is_told():
    told = []
    discover(
        Archive(ct("1.1"), ct("1.2")), RULES, Notebook(), progress=lambda *step: told.append(step)
    )
    assert told == [(1, 2), (2, 2)]


def test_a_series_listed_without_headers_is_wanted_without_a_reason():
    queue = Notebook()
    discover(Archive(of(())), RULES, queue)
    (task,) = queue.tasks.values()
    assert (task.reason, task.sentence) == ("", "")


def test_the_log_has_counts_and_nothing_else(caplog):
    caplog.set_level(logging.INFO, logger="tomodex.discovery")
    listing = ct(description="DOE^JOHN VNC")
    discover(Archive(listing), RULES, Notebook())
    (record,) = caplog.records
    assert (record.message, record.found, record.new) == ("discovered", 1, 1)
    assert record.rejected == {"spectral": 1}
    assert "DOE" not in str(vars(record))
