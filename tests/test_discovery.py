from __future__ import annotations

import logging
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_selection import CAPTURE, of, overlaid, stack
from tomodex import discovery
from tomodex.discovery import Seen, discover
from tomodex.errors import Misconfigured, NotThere, Suspended, Unavailable
from tomodex.queues.sqlite import SqliteQueue
from tomodex.selection import load_rules
from tomodex.series import Listing, Series
from tomodex.sources import Window

RULES = load_rules()


class Archive:
    """A source that lists what it is given."""

    url = "test://archive"

    def __init__(self, *listings: Listing) -> None:
        self.listings = listings

    def find(self, progress=None, window=None):
        for done, listing in enumerate(self.listings, 1):
            if progress:
                progress(done, len(self.listings))
            date = listing.series.attributes.get("StudyDate", "")
            if window is None or window.first.isoformat() <= date <= window.last.isoformat():
                yield listing

    def describe(self, series_uid):
        for listing in self.listings:
            if listing.series.series_uid == series_uid:
                return listing
        raise NotThere(f"no series {series_uid}")


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

    def known(self, source, window=None):
        return iter([uid for uid, _ in self.tasks])

    def withdraw(self, series_uid, source, sentence):
        return self.tasks.pop((series_uid, "default"), None) is not None

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
    assert (found.found, found.wanted, found.new) == (6, 3, 6)
    assert found.rejected == {"secondary_capture": 1, "too_few_slices": 2}


def test_a_second_look_finds_nothing_new():
    queue, archive = Notebook(), Archive(ct("1.1"), ct("1.2", 3))
    discover(archive, RULES, queue)
    again = discover(archive, RULES, queue)
    assert (again.found, again.new, again.rejected) == (2, 0, {"too_few_slices": 1})


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
    assert (again.found, again.new) == (3, 2)
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

    def find(progress=None, window=None):
        yield from (ct(f"1.{k}") for k in range(5))
        assert len(queue.tasks) == 4

    archive = Archive()
    archive.find = find
    assert discover(archive, RULES, queue).found == 5
    assert queue.batches == [2, 2, 1]


def test_what_was_listed_before_an_archive_fell_silent_is_kept(monkeypatch):
    monkeypatch.setattr(discovery, "BATCH", 2)
    queue, archive = Notebook(), Archive()

    def find(progress=None, window=None):
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


# What is shown while it waits


def test_a_series_without_headers_can_be_searched_before_its_turn_comes():
    """By what the archive lists of it: searchable by its tags at once."""
    queue = SqliteQueue("sqlite:")
    discover(Archive(bare("1.1")), RULES, queue, lane="daily")
    (result,) = queue.results(0, 10)
    assert result.annotated.series == bare("1.1").series
    assert (result.annotated.image, result.annotated.annotations) == (None, ())
    made = result.annotated.provenance
    assert (made.algorithm, made.source, made.configuration) == (None, "test://archive", "default")


@pytest.mark.parametrize(("lane", "shown"), [("on-demand", 0), ("daily", 0), ("backfill", 1)])
def test_a_series_with_headers_is_shown_early_only_where_it_waits_for_long(lane, shown):
    queue = SqliteQueue("sqlite:")
    discover(Archive(ct()), RULES, queue, lane=lane)
    assert len(queue.results(0, 10)) == shown


def test_a_rejected_series_is_not_shown():
    queue = SqliteQueue("sqlite:")
    discover(Archive(ct(slices=3), bare("1.2", modality="MR")), RULES, queue, lane="backfill")
    assert queue.results(0, 10) == []


# What is gone


def bare(uid: str, date: str = "2021-03-04", modality: str = "CT") -> Listing:
    """A series as an archive over a network lists it."""
    return Listing(
        series=Series(
            series_uid=uid,
            study_uid="1",
            patient="p",
            modality=modality,
            instance_count=120,
            fingerprint="120",
            attributes={"StudyDate": date},
        )
    )


@pytest.fixture
def many() -> list[Listing]:
    return [bare(f"1.{k}") for k in range(60)]


def uids_of(queue) -> set[str]:
    return set(queue.known("test://archive"))


def test_a_series_that_the_archive_no_longer_has_is_withdrawn(many):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    again = discover(Archive(*many[3:]), RULES, queue)
    assert (again.found, again.new, again.withdrawn) == (57, 0, 3)
    assert uids_of(queue) == {f"1.{k}" for k in range(3, 60)}
    assert queue.result("1.0").annotated is None
    assert {entry.series_uid for entry in queue.audit()} == {"1.0", "1.1", "1.2"}


def test_an_archive_that_falls_silent_loses_nothing(many):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    archive = Archive()

    def find(progress=None, window=None):
        yield from many[:55]
        raise Unavailable("no answer within 30 s")

    archive.find = find
    with pytest.raises(Unavailable):
        discover(archive, RULES, queue)
    assert len(uids_of(queue)) == 60


@pytest.mark.parametrize("left", [0, 40])
def test_if_much_is_gone_at_once_the_operator_is_asked(many, left):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    archive = Archive(*many[:left], bare("2.1"))
    percent = {0: 99, 40: 33}[left]
    with pytest.raises(Misconfigured, match=f"--may-vanish {percent}"):
        discover(archive, RULES, queue)
    assert len(uids_of(queue)) == 61
    discover(archive, RULES, queue, may_vanish_percent=percent)
    assert len(uids_of(queue)) == left + 1


def test_an_empty_archive_was_perhaps_not_mounted(many):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many[:3]), RULES, queue)
    with pytest.raises(Misconfigured, match="3 of 3 series"):
        discover(Archive(), RULES, queue)
    assert len(uids_of(queue)) == 3


DAY = Window(first=date(2021, 3, 4), last=date(2021, 3, 4))


def test_a_look_at_one_day_says_nothing_of_the_others(many):
    queue = SqliteQueue("sqlite:")
    other = bare("2.1", "2021-03-05")
    discover(Archive(*many, other), RULES, queue)
    found = discover(Archive(*many[1:]), RULES, queue, window=DAY)
    assert (found.found, found.withdrawn) == (59, 1)
    assert uids_of(queue) == {f"1.{k}" for k in range(1, 60)} | {"2.1"}


def test_a_study_that_got_another_date_is_not_gone(many):
    """A look at its old day does not list it, but the archive knows it by its UID."""
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    moved = Archive(*many[1:], bare("1.0", "2021-03-09"))
    assert discover(moved, RULES, queue, window=DAY).withdrawn == 0
    assert len(uids_of(queue)) == 60


def test_an_archive_that_is_left_alone_in_between_loses_nothing(many):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    archive = Archive(*many[1:])

    def describe(series_uid):
        raise Suspended("left alone", source="test://archive", until=datetime.now(UTC))

    archive.describe = describe
    with pytest.raises(Suspended):
        discover(archive, RULES, queue, window=DAY)
    assert len(uids_of(queue)) == 60


@pytest.mark.parametrize("window", [DAY, None])
def test_an_archive_that_does_not_say_whether_it_has_a_series_loses_nothing(many, window):
    """Silence, and a PACS that cannot find a series without its study, prove nothing."""
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    archive = Archive(*many[4:])

    def describe(series_uid):
        raise Unavailable("it was silent for 120 s")

    archive.describe = describe
    assert discover(archive, RULES, queue, window=window).withdrawn == 0
    assert len(uids_of(queue)) == 60


def test_a_series_that_came_while_the_archive_was_listed_is_not_gone(many):
    queue = SqliteQueue("sqlite:")
    discover(Archive(*many), RULES, queue)
    archive = Archive(*many[1:])
    archive.describe = lambda series_uid: many[0]
    assert discover(archive, RULES, queue).withdrawn == 0


@given(st.sets(st.integers(0, 400)), st.sets(st.integers(0, 400)))
def test_what_was_seen_tells_what_is_missing(seen, known):
    one = Seen()
    one.add(map(str, sorted(seen)))
    assert set(one.missing(map(str, sorted(known)))) == {str(k) for k in known - seen}


def test_the_log_has_counts_and_nothing_else(caplog):
    caplog.set_level(logging.INFO, logger="tomodex.discovery")
    listing = ct(description="DOE^JOHN VNC")
    discover(Archive(listing), RULES, Notebook())
    (record,) = caplog.records
    assert (record.message, record.found, record.new) == ("discovered", 1, 1)
    assert record.rejected == {"spectral": 1}
    assert "DOE" not in str(vars(record))
