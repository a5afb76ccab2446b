"""What every queue promises; each adapter's tests inherit this."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest

from tomodex.annotation import AnnotatedSeries, Annotation, Coding, Image, Provenance
from tomodex.measurement import Measurement
from tomodex.queues import Erasure, Failed, NewTask, Outcome, Queue, Rejected, Retry, Task
from tomodex.segmentation import Algorithm
from tomodex.series import Series
from tomodex.sources import Window

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

#: Moves the queue's clock on, by waiting where it has no other.
Later = Callable[[timedelta], None]


def ct(uid: str, *, date: str = "2021-03-04", fingerprint: str = "a") -> Series:
    return Series(
        series_uid=uid,
        study_uid="1",
        patient="p",
        modality="CT",
        sop_classes=("1.2.840.10008.5.1.4.1.1.2",),
        instance_count=120,
        fingerprint=fingerprint,
        attributes={"StudyDate": date, "SliceThickness": 1.5, "PatientSex": "F"},
    )


def new(
    uid: str,
    lane: str = "on-demand",
    *,
    date: str = "2021-03-04",
    fingerprint: str = "a",
    reason: str = "",
    configuration: str = "default",
) -> NewTask:
    return NewTask(
        series=ct(uid, date=date, fingerprint=fingerprint),
        source="folder:///archive",
        configuration=configuration,
        lane=lane,
        reason=reason,
        sentence="has 2 slices; at least 10 are needed" if reason else "",
    )


def ordered(uid: str) -> NewTask:
    """A series of which nothing but its UIDs is known, as it is ordered over HTTP."""
    series = Series(series_uid=uid, study_uid="1", patient="", modality="")
    return NewTask(series=series, source="folder:///archive", configuration="default")


def annotated(series: Series, *, liver_ml: float = 1500.0, structures: int = 1) -> AnnotatedSeries:
    """A result as a worker makes it, with as many structures as asked."""
    return AnnotatedSeries(
        series=series,
        image=Image(
            shape=(120, 512, 512),
            spacing_mm=(2.5, 0.8, 0.7),
            affine=((0.0, 0.0, 0.7, -180.0), (0.0, 0.8, 0.0, -200.0), (2.5, 0.0, 0.0, -700.0)),
            plane="axial",
            oblique_deg=0.0,
            tilt_deg=0.0,
            box_min_mm=(-180.35, -200.4, -701.25),
            box_max_mm=(178.05, 209.2, -401.25),
        ),
        annotations=tuple(_annotation(n, liver_ml + n / 7) for n in range(structures)),
        provenance=Provenance(
            algorithm=Algorithm(name="TotalSegmentator", version="2.11", model="total 3 mm"),
            terminology="2026-10",
            software={"tomodex": "0.1.0", "numpy": "2.2"},
            source="folder:///archive",
            configuration="default",
            started="2026-10-01T10:00:00+00:00",
            finished="2026-10-01T10:00:09+00:00",
        ),
    )


def listed(series: Series) -> AnnotatedSeries:
    """What discovery shows of a series that waits for a worker."""
    made = annotated(series, structures=0)
    return replace(made, image=None, provenance=replace(made.provenance, algorithm=None))


def _annotation(number: int, volume_ml: float) -> Annotation:
    return Annotation(
        structure="liver" if number == 0 else f"rib_left_{number}",
        codings=(
            Coding(system="http://snomed.info/sct", code=str(10200004 + number), display="Liver"),
            Coding(system="http://radlex.org", code=f"RID{58 + number}", display="liver"),
        ),
        laterality="",
        measurement=Measurement(
            voxel_count=1_071_428 + number * 7919,
            volume_ml=volume_ml,
            mean_hu=58.24 + volume_ml / 997,
            sd_hu=21.5,
            centroid_mm=(-62.125 + number, -11.5 - number / 3, -512.75 + number * 2),
            box_min_mm=(-160.1, -120.7 - number / 7, -600.0),
            box_max_mm=(40.2 + number / 9, 96.3, -450.0),
            cut=("superior",),
        ),
    )


def settle_next(queue: Queue, outcome: Outcome | None = None) -> Task:
    """Lease the next task and settle it, as completed unless said otherwise."""
    task = queue.lease("w", HOUR)
    assert task is not None
    assert queue.settle(task, outcome or annotated(task.series))
    return task


def order_of(queue: Queue) -> list[str]:
    """The series in the order in which they are handed out."""
    found = []
    while task := queue.lease("w", HOUR):
        found.append(task.series.series_uid)
    return found


def status_of(queue: Queue, uid: str) -> str:
    (state,) = queue.states(uid)
    return state.status


def feed(queue: Queue) -> list[tuple[str, float | None]]:
    """The results feed as (series, volume of its first structure), None for a tombstone."""
    return [
        (r.series_uid, r.annotated and r.annotated.annotations[0].measurement.volume_ml)
        for r in queue.results(0, 1000)
    ]


class QueueContract:
    @pytest.fixture
    def queue(self) -> Queue:
        """One that fails a task after 5 attempts and never favours the least urgent lane."""
        raise NotImplementedError

    @pytest.fixture
    def fair_queue(self) -> Queue:
        """One whose every third lease takes the least urgent lane."""
        raise NotImplementedError

    @pytest.fixture
    def daily_first_queue(self) -> Queue:
        """The same, whose lanes are daily, backfill, on-demand, reindex in this order."""
        raise NotImplementedError

    @pytest.fixture
    def later(self) -> Later:
        raise NotImplementedError

    # What comes in

    def test_an_empty_queue_hands_out_nothing(self, queue):
        assert queue.lease("w", HOUR) is None
        assert queue.count() == {}

    def test_a_task_carries_its_series_whole(self, queue):
        queue.put([new("1.2", "daily")])
        task = queue.lease("w", HOUR)
        assert task.series == ct("1.2")
        assert (task.source, task.configuration) == ("folder:///archive", "default")
        assert (task.lane, task.attempt) == ("daily", 1)

    def test_a_series_is_put_once_whatever_became_of_it(self, queue):
        assert queue.put([new("1.2"), new("1.3"), new("1.2")]) == 2
        assert queue.put([new("1.2")]) == 0
        settle_next(queue)
        settle_next(queue, Failed(sentence="KeyError"))
        assert queue.put([new("1.2"), new("1.3")]) == 0
        assert queue.lease("w", HOUR) is None

    def test_a_series_is_indexed_once_with_each_configuration(self, queue):
        assert queue.put([new("1.2"), new("1.2", configuration="fine")]) == 2
        configurations = [queue.lease("w", HOUR).configuration for _ in range(2)]
        assert configurations == ["default", "fine"]

    def test_all_of_a_put_is_there_or_nothing(self, queue):
        def source():
            yield new("1.2")
            raise OSError("the archive went away")

        with suppress(OSError):
            queue.put(source())
        assert queue.count() == {}

    def test_a_changed_fingerprint_starts_anew(self, queue):
        queue.put([new("1.2")])
        settle_next(queue)
        assert queue.put([new("1.2", fingerprint="b")]) == 1
        task = queue.lease("w", HOUR)
        assert (task.series.fingerprint, task.attempt) == ("b", 1)

    @pytest.mark.parametrize("reason", ["", "too_few_slices"])
    @pytest.mark.parametrize(("count", "replaces"), [(4, False), (120, False), (121, True)])
    def test_a_copy_elsewhere_replaces_a_result_only_if_it_has_more(
        self, queue, count, replaces, reason
    ):
        """Or two folders that hold a series, one of them in part, would take turns for ever."""
        queue.put([new("1.2")])
        settle_next(queue)
        copy = new("1.2", fingerprint="b", reason=reason)
        more = replace(copy.series, instance_count=count)
        assert queue.put([replace(copy, series=more, source="folder:///copy")]) == replaces
        assert queue.put([replace(copy, series=more)]) == (not replaces)

    @pytest.mark.parametrize(
        "outcome", [Rejected(reason="4d", sentence="4 phases"), Failed(sentence="KeyError")]
    )
    def test_a_changed_fingerprint_opens_what_was_rejected_or_failed(self, queue, outcome):
        queue.put([new("1.2")])
        settle_next(queue, outcome)
        assert queue.put([new("1.2", fingerprint="b")]) == 1
        (state,) = queue.states("1.2")
        assert (state.status, state.attempt, state.reason, state.sentence) == ("ready", 0, "", "")

    def test_an_archive_that_gives_no_fingerprint_changes_nothing(self, queue):
        queue.put([new("1.2")])
        settle_next(queue)
        assert queue.put([new("1.2", fingerprint="")]) == 0

    @pytest.mark.parametrize(
        ("instances", "source", "changed"),
        [(120, "folder:///archive", 0), (121, "folder:///archive", 1), (120, "dimse://pacs/A", 0)],
    )
    def test_a_series_that_was_ordered_by_its_uids_is_not_indexed_again_when_it_is_listed(
        self, queue, instances, source, changed
    ):
        queue.put([ordered("1.2")])
        settle_next(queue, annotated(ct("1.2", fingerprint="")))
        listed = replace(ct("1.2"), instance_count=instances)
        assert queue.put([replace(new("1.2"), series=listed, source=source)]) == changed
        assert queue.put([replace(new("1.2"), series=listed, source=source)]) == 0
        (state,) = queue.states("1.2")
        assert state.status == ("ready" if changed else "completed")

    def test_a_series_that_was_ordered_by_its_uids_is_indexed_again_when_it_changes(self, queue):
        queue.put([ordered("1.2")])
        settle_next(queue, annotated(ct("1.2", fingerprint="")))
        queue.put([new("1.2")])
        assert queue.put([new("1.2", fingerprint="b")]) == 1

    def test_a_series_that_changes_under_a_worker_is_done_again(self, queue):
        queue.put([new("1.2")])
        old = queue.lease("w", HOUR)
        queue.put([new("1.2", fingerprint="b")])
        assert not queue.settle(old, annotated(old.series))
        assert queue.lease("v", HOUR).series.fingerprint == "b"
        assert feed(queue) == []

    def test_a_rejected_series_is_kept_with_its_reason(self, queue):
        assert queue.put([new("1.2", reason="too_few_slices")]) == 1
        assert queue.put([new("1.2", reason="too_few_slices")]) == 0
        assert queue.lease("w", HOUR) is None
        (state,) = queue.states("1.2")
        assert (state.status, state.reason) == ("rejected", "too_few_slices")
        assert state.sentence == "has 2 slices; at least 10 are needed"

    def test_a_rejected_series_that_grows_is_wanted_and_the_other_way_round(self, queue):
        queue.put([new("1.2", reason="too_few_slices")])
        assert queue.put([new("1.2", fingerprint="b")]) == 1
        assert status_of(queue, "1.2") == "ready"
        assert queue.put([new("1.2", fingerprint="c", reason="4d")]) == 1
        assert status_of(queue, "1.2") == "rejected"

    def test_other_selection_rules_change_what_discovery_rejected(self, queue):
        queue.put([new("1.2", reason="too_few_slices")])
        assert queue.put([new("1.2")]) == 1
        assert status_of(queue, "1.2") == "ready"

    def test_what_a_worker_rejected_stays_rejected(self, queue):
        queue.put([new("1.2")])
        settle_next(queue, Rejected(reason="unreadable", sentence="JPEG 2000 stream ends early"))
        assert queue.put([new("1.2")]) == 0
        assert status_of(queue, "1.2") == "rejected"

    # In which order it goes out

    def test_lanes_go_out_in_their_order(self, queue):
        lanes = ["backfill", "daily", "reindex", "on-demand"]
        queue.put([new(lane, lane) for lane in lanes])
        assert order_of(queue) == ["on-demand", "daily", "reindex", "backfill"]

    def test_within_a_lane_the_oldest_study_goes_first(self, queue):
        dates = ["2019-05-01", "2003-01-31", "", "2019-04-30", "yesterday"]
        queue.put([new(f"{date}.{n}", date=date) for n, date in enumerate(dates)])
        order = order_of(queue)
        assert order == ["2003-01-31.1", "2019-04-30.3", "2019-05-01.0", ".2", "yesterday.4"]

    def test_a_waiting_series_moves_up_but_never_down(self, queue):
        queue.put([new("1", "daily", date="2001-01-01"), new("2", "backfill")])
        assert queue.put([new("2", "on-demand"), new("1", "backfill", date="2001-01-01")]) == 0
        assert queue.count() == {("on-demand", "ready"): 1, ("daily", "ready"): 1}
        assert order_of(queue) == ["2", "1"]

    def test_a_completed_series_does_not_move(self, queue):
        queue.put([new("1", "backfill")])
        settle_next(queue)
        queue.put([new("1", "on-demand")])
        assert queue.count() == {("backfill", "completed"): 1}

    def test_the_least_urgent_lane_never_starves(self, fair_queue):
        fair_queue.put([new(f"daily.{n}", "daily") for n in range(6)])
        fair_queue.put([new(f"legacy.{n}", "backfill") for n in range(6)])
        order = [uid.partition(".")[0] for uid in order_of(fair_queue)]
        assert order[:6].count("legacy") == 2
        assert order[:3].count("legacy") == 1

    def test_lanes_go_out_in_the_order_that_the_site_says(self, daily_first_queue):
        queue = daily_first_queue
        lanes = ["on-demand", "daily", "reindex", "backfill"]
        queue.put([new(f"{lane}.{n}", lane) for lane in lanes for n in (1, 2)])
        order = [uid.partition(".")[0] for uid in order_of(queue)]
        # Every third is of the least urgent lane, which is that of reindexing.
        first, last = ["daily", "daily", "reindex"], ["backfill", "backfill", "reindex"]
        assert order == [*first, *last, "on-demand", "on-demand"]

    def test_a_waiting_series_moves_up_as_the_site_says(self, daily_first_queue):
        queue = daily_first_queue
        queue.put([new("1", "on-demand"), new("2", "daily"), new("3", "reindex")])
        queue.put([new("1", "backfill"), new("2", "on-demand"), new("3", "on-demand")])
        assert {queue.states(uid)[0].lane for uid in "123"} == {"backfill", "daily", "on-demand"}
        assert order_of(queue)[:2] == ["2", "1"]

    def test_the_tasks_of_a_source_that_is_left_alone_let_others_pass(self, queue):
        queue.put([new("1.1", "daily"), new("1.2", "daily", date="2001-01-01")])
        queue.put([replace(new("2.1", "backfill"), source="dimse://pacs:104/A")])
        task = queue.lease("w", HOUR, avoiding=["folder:///archive", "s3://other"])
        assert task.series.series_uid == "2.1"
        assert queue.lease("w", HOUR, avoiding=["folder:///archive"]) is None
        assert not queue.is_due(avoiding=["folder:///archive"])
        assert queue.is_due()
        assert order_of(queue) == ["1.2", "1.1"]

    def test_a_lane_that_is_held_lets_others_pass(self, queue):
        queue.put([new("1", "backfill"), new("2", "daily", date="2022-01-01")])
        queue.put([replace(new("3", "backfill"), source="dimse://pacs:104/A")])
        queue.hold("backfill", "folder:///archive")
        queue.hold("backfill", "folder:///archive")
        assert queue.held() == [("backfill", "folder:///archive")]
        assert order_of(queue) == ["2", "3"]
        assert not queue.is_due()
        queue.release("backfill", "folder:///archive")
        assert (queue.held(), queue.is_due()) == ([], True)
        assert order_of(queue) == ["1"]

    def test_a_lane_can_hand_out_the_newest_of_a_source_first(self, queue):
        dates = ["2019-05-01", "2003-01-31", "2019-04-30"]
        queue.put([new(date, "backfill", date=date) for date in dates])
        queue.order("backfill", "folder:///archive", "newest first")
        assert queue.lease("w", HOUR).series.series_uid == "2019-05-01"
        queue.order("backfill", "folder:///archive", "oldest first")
        assert order_of(queue) == ["2003-01-31", "2019-04-30"]

    def test_what_is_put_into_a_held_lane_waits_too(self, queue):
        queue.hold("backfill", "folder:///archive")
        queue.put([new("1", "backfill")])
        assert queue.lease("w", HOUR) is None
        assert queue.count() == {("backfill", "ready"): 1}

    # Who holds it

    def test_a_task_has_one_holder(self, queue):
        queue.put([new("1.2")])
        assert queue.lease("w", HOUR) is not None
        assert queue.lease("v", HOUR) is None

    def test_a_dead_worker_gives_its_task_back(self, queue, later):
        queue.put([new("1.2")])
        first = queue.lease("w", HOUR)
        later(HOUR)
        second = queue.lease("v", HOUR)
        assert (second.id, second.attempt) == (first.id, 2)
        assert second.token > first.token

    def test_a_worker_that_asks_for_more_time_keeps_its_task(self, queue, later):
        queue.put([new("1.2")])
        task = queue.lease("w", HOUR)
        later(HOUR - timedelta(minutes=1))
        assert queue.extend(task, HOUR)
        later(HOUR - timedelta(minutes=1))
        assert queue.lease("v", HOUR) is None

    def test_a_late_worker_does_not_overrule_the_next(self, queue, later):
        queue.put([new("1.2")])
        late = queue.lease("w", HOUR)
        later(HOUR)
        task = queue.lease("v", HOUR)
        assert not queue.extend(late, HOUR)
        assert not queue.settle(late, annotated(late.series, liver_ml=1.0))
        assert not queue.give_back(late)
        assert queue.settle(task, annotated(task.series, liver_ml=2.0))
        assert not queue.settle(late, Rejected(reason="4d", sentence="4 phases"))
        assert feed(queue) == [("1.2", 2.0)]

    def test_a_late_worker_that_nobody_has_replaced_may_settle(self, queue, later):
        queue.put([new("1.2"), new("0.1", date="2001-01-01")])
        settle_next(queue)
        task = queue.lease("w", HOUR)
        later(HOUR)
        assert queue.settle(task, annotated(task.series))
        assert queue.lease("v", HOUR) is None

    def test_a_task_is_settled_once(self, queue):
        queue.put([new("1.2")])
        task = settle_next(queue)
        assert not queue.settle(task, annotated(task.series))
        assert len(feed(queue)) == 1

    def test_a_series_that_kills_its_workers_ends_as_failed(self, queue, later):
        queue.put([new("1.2"), new("1.3", date="2022-01-01")])
        for attempt in range(1, 6):
            assert queue.lease("w", HOUR).attempt == attempt
            later(HOUR)
        assert queue.lease("w", HOUR).series.series_uid == "1.3"
        (state,) = queue.states("1.2")
        assert (state.status, state.reason) == ("failed", "worker_lost")
        assert state.sentence == "5 workers did not come back from it"

    def test_a_dead_workers_tasks_can_be_given_back_at_once(self, queue):
        queue.put([new("1.2"), new("1.3")])
        lost, held = queue.lease("dead", HOUR), queue.lease("alive", HOUR)
        assert queue.bury("dead") == 1
        task = queue.lease("alive", HOUR)
        assert (task.id, task.attempt) == (lost.id, 2)
        assert queue.settle(held, annotated(held.series))

    def test_a_task_given_back_is_as_if_never_taken(self, queue):
        queue.put([new("1.2")])
        for _ in range(9):
            task = queue.lease("w", HOUR)
            assert task.attempt == 1
            assert queue.give_back(task)
        assert not queue.settle(task, annotated(task.series))
        assert status_of(queue, "1.2") == "ready"

    # What comes of it

    def test_unavailable_is_tried_again_later_and_later_but_not_for_ever(self, queue, later):
        queue.put([new("1.2")])
        for _ in range(4):
            settle_next(queue, Retry(sentence="the PACS closed the association"))
            assert queue.lease("w", HOUR) is None
            (state,) = queue.states("1.2")
            assert (state.status, state.sentence) == ("ready", "the PACS closed the association")
            later(DAY)
        settle_next(queue, Retry(sentence="the PACS closed the association"))
        later(DAY)
        assert queue.lease("w", HOUR) is None
        (state,) = queue.states("1.2")
        assert (state.status, state.reason, state.attempt) == ("failed", "unavailable", 5)
        assert state.sentence == "the PACS closed the association"

    def test_who_holds_a_task_is_known_until_it_is_settled(self, queue):
        queue.put([new("1.2"), new("1.3"), new("1.4")])
        mine = queue.lease("mine", HOUR)
        queue.lease("yours", HOUR)
        assert sorted(queue.holders()) == ["mine", "yours"]
        queue.settle(mine, annotated(mine.series))
        assert list(queue.holders()) == ["yours"]

    def test_a_task_is_due_when_a_lease_would_find_it(self, queue, later):
        assert not queue.is_due()
        queue.put([new("1.2")])
        assert queue.is_due()
        queue.lease("w", HOUR)
        assert not queue.is_due()
        later(DAY)
        assert queue.is_due()
        settle_next(queue, Retry(sentence="the PACS closed the association"))
        assert not queue.is_due()
        later(DAY)
        assert queue.is_due()

    def test_failed_series_are_tried_again_when_a_person_says_so(self, queue):
        queue.put([new("1.2"), new("1.3"), new("1.4"), new("1.5", reason="4d")])
        settle_next(queue, Failed(sentence="in measure", reason="KeyError"))
        settle_next(queue, Failed(sentence="in select", reason="ValueError"))
        settle_next(queue)
        assert queue.retry(reason="KeyError") == 1
        assert queue.lease("w", HOUR).attempt == 1
        assert queue.retry() == 1
        assert queue.retry("rejected", "no_pixels") == 0
        assert queue.retry("rejected", "4d") == 1
        assert queue.retry("completed") == 0

    def test_reasons_are_counted(self, queue):
        reasons = ["4d", "localizer", "4d"]
        queue.put([new(f"1.{n}", reason=reason) for n, reason in enumerate(reasons)])
        queue.put([new("2.1")])
        settle_next(queue, Failed(sentence="in measure", reason="KeyError"))
        assert queue.reasons() == {
            ("rejected", "4d"): 2,
            ("rejected", "localizer"): 1,
            ("failed", "KeyError"): 1,
        }

    def test_tasks_are_counted_by_lane_and_status(self, queue):
        queue.put([new("1.1", "daily"), new("1.2", "daily"), new("1.3", "backfill", reason="4d")])
        settle_next(queue)
        queue.lease("w", HOUR)
        assert queue.count() == {
            ("daily", "completed"): 1,
            ("daily", "in-progress"): 1,
            ("backfill", "rejected"): 1,
        }

    def test_tasks_are_found_by_status_and_reason_newest_first(self, queue, later):
        for n, reason in enumerate(["4d", "localizer", "4d"]):
            queue.put([new(f"1.{n}", reason=reason)])
            later(timedelta(minutes=1))
        uids = [s.series.series_uid for s in queue.find_states("rejected")]
        assert uids == ["1.2", "1.1", "1.0"]
        uids = [s.series.series_uid for s in queue.find_states("rejected", "4d")]
        assert uids == ["1.2", "1.0"]
        assert len(queue.find_states("rejected", limit=1)) == 1
        assert queue.find_states("ready", "4d") == []

    def test_times_are_rfc_3339_with_an_offset(self, queue):
        queue.put([new("1.2")])
        (state,) = queue.states("1.2")
        assert datetime.fromisoformat(state.updated).utcoffset() is not None

    def test_nothing_is_known_of_a_series_nobody_put(self, queue):
        assert queue.states("9.9") == []
        assert queue.result("9.9") is None
        assert not queue.withdraw("9.9")

    # The results feed

    def test_a_result_comes_back_as_it_was(self, queue):
        queue.put([new("1.2")])
        made = annotated(ct("1.2"), structures=30)
        settle_next(queue, made)
        (result,) = queue.results(0, 10)
        assert result.annotated == made
        assert queue.result("1.2") == result

    def test_a_result_that_cannot_be_stored_leaves_its_task_with_the_worker(self, queue):
        queue.put([new("1.2")])
        task = queue.lease("w", HOUR)
        with pytest.raises(ValueError, match=r"\w"):
            queue.settle(task, annotated(task.series, liver_ml=float("nan")))
        assert status_of(queue, "1.2") == "in-progress"
        assert queue.settle(task, Failed(sentence="no number"))

    def test_the_feed_is_read_in_pieces_in_the_order_of_settling(self, queue):
        queue.put([new(str(n)) for n in range(5)])
        for _ in range(5):
            settle_next(queue)
        first = queue.results(0, 3)
        second = queue.results(first[-1].sequence, 3)
        assert [r.series_uid for r in [*first, *second]] == ["0", "1", "2", "3", "4"]
        assert queue.results(second[-1].sequence, 3) == []

    def test_of_a_series_the_feed_keeps_the_newest_result(self, queue):
        queue.put([new("1"), new("2")])
        settle_next(queue, annotated(ct("1"), liver_ml=1.0))
        settle_next(queue, annotated(ct("2"), liver_ml=2.0))
        seen = queue.results(0, 10)[-1].sequence
        queue.put([new("2", fingerprint="b")])
        settle_next(queue, annotated(ct("2"), liver_ml=3.0))
        assert feed(queue) == [("1", 1.0), ("2", 3.0)]
        assert [r.series_uid for r in queue.results(seen, 10)] == ["2"]

    def test_a_result_stands_until_the_next_is_there(self, queue):
        queue.put([new("1.2")])
        settle_next(queue, annotated(ct("1.2"), liver_ml=1.0))
        queue.put([new("1.2", fingerprint="b")])
        assert feed(queue) == [("1.2", 1.0)]
        settle_next(queue, Failed(sentence="KeyError"))
        assert feed(queue) == [("1.2", 1.0)]

    def test_a_series_that_is_no_longer_suitable_leaves_a_tombstone(self, queue):
        queue.put([new("1.2"), new("1.3")])
        settle_next(queue)
        settle_next(queue)
        queue.put([new("1.2", fingerprint="b"), new("1.3", fingerprint="b", reason="4d")])
        settle_next(queue, Rejected(reason="missing_slice", sentence="a gap of 5 mm"))
        assert feed(queue) == [("1.3", None), ("1.2", None)]

    def test_another_configurations_result_stands_in_for_a_rejected_one(self, queue):
        queue.put([new("1.2"), new("1.2", configuration="fine")])
        settle_next(queue, annotated(ct("1.2"), liver_ml=1.0))
        settle_next(queue, annotated(ct("1.2"), liver_ml=2.0))
        assert feed(queue) == [("1.2", 1.0), ("1.2", 2.0)]
        seen = queue.results(0, 10)[-1].sequence
        queue.put([new("1.2", configuration="fine", fingerprint="b", reason="4d")])
        assert feed(queue) == [("1.2", 1.0)]
        assert queue.results(0, 10)[-1].sequence > seen

    def test_a_withdrawn_series_leaves_a_tombstone_and_nothing_else(self, queue):
        queue.put([new("1.2"), new("1.2", configuration="fine")])
        settle_next(queue)
        held = queue.lease("w", HOUR)
        assert queue.withdraw("1.2")
        assert feed(queue) == [("1.2", None)]
        assert queue.result("1.2").annotated is None
        assert queue.states("1.2") == []
        assert not queue.settle(held, annotated(held.series))
        assert not queue.withdraw("1.2")

    def test_a_series_that_was_never_indexed_leaves_no_tombstone(self, queue):
        queue.put([new("1.2")])
        assert queue.withdraw("1.2")
        assert feed(queue) == []

    def test_a_withdrawn_series_can_come_back(self, queue):
        queue.put([new("1.2")])
        late = queue.lease("w", HOUR)
        queue.settle(late, annotated(ct("1.2"), liver_ml=1.0))
        queue.withdraw("1.2")
        assert queue.put([new("1.2")]) == 1
        assert not queue.settle(late, annotated(ct("1.2"), liver_ml=1.0))
        settle_next(queue, annotated(ct("1.2"), liver_ml=2.0))
        assert feed(queue) == [("1.2", 2.0)]

    def test_the_series_of_a_patient_are_found_whoever_knew_whose_they_were(self, queue):
        queue.put([new("1.1"), new("1.2"), new("1.3"), new("1.4")])
        queue.put([replace(new("1.5"), series=replace(ct("1.5"), patient="other"))])
        unnamed = replace(ct("1.6"), patient="")
        queue.put([replace(new("1.6"), series=unnamed), new("1.2", configuration="fine")])
        patient = ct("1.1").patient
        for _ in range(7):
            task = queue.lease("w", HOUR)
            whose = replace(task.series, patient=task.series.patient or patient)
            queue.settle(task, annotated(whose))
        assert sorted(queue.of_patient(patient)) == ["1.1", "1.2", "1.3", "1.4", "1.6"]
        assert queue.of_patient("other") == ["1.5"]
        assert queue.of_patient("nobody") == []

    def test_a_series_that_is_excluded_is_rejected_whatever_stands_of_it(self, queue):
        queue.put([new("1.1"), new("1.2")])
        settle_next(queue)
        held = queue.lease("w", HOUR)
        for uid in ("1.1", "1.2"):
            assert queue.exclude(uid, "opted_out", "the patient does not want it")
        assert not queue.exclude("9.9", "opted_out", "")
        assert queue.result("1.1").annotated is None
        assert not queue.settle(held, annotated(held.series))
        assert [queue.states(uid)[0].reason for uid in ("1.1", "1.2")] == ["opted_out"] * 2
        assert queue.put([new("1.1"), new("1.2")]) == 0
        assert queue.lease("w", HOUR) is None
        assert queue.retry("rejected", "opted_out") == 2
        assert queue.lease("w", HOUR) is not None

    def test_of_a_series_that_is_forgotten_nothing_is_left(self, queue):
        queue.put([new("1.1"), replace(new("1.1"), source="s3://b"), new("1.2"), new("1.3")])
        settle_next(queue)
        held = queue.lease("w", HOUR)
        queue.set_aside("sink", queue.results(0, 1)[0], "no room")
        queue.forget(["1.1", "1.2", "9.9"])
        assert feed(queue) == []
        assert queue.result("1.1") is None
        assert queue.asides("sink") == []
        assert not queue.settle(held, annotated(held.series))
        assert [queue.states(uid) for uid in ("1.1", "1.2")] == [[], []]
        assert list(queue.known("s3://b")) == []
        assert sum(queue.count().values()) == 1

    # Who is kept out

    def test_who_is_barred_is_known_with_the_reason(self, queue):
        assert queue.barred() == {}
        assert queue.bar({"a": "opted_out", "b": "erased"}) == 2
        assert queue.bar({"a": "opted_out", "b": "erased"}) == 0
        assert queue.barred() == {"a": "opted_out", "b": "erased"}
        assert queue.unbar(["a", "b", "c"], "opted_out") == 1
        assert queue.barred() == {"b": "erased"}

    def test_who_was_erased_is_not_let_in_by_opting_out_and_in_again(self, queue):
        queue.bar({"a": "opted_out"})
        assert queue.bar({"a": "erased"}) == 1
        assert queue.bar({"a": "opted_out"}) == 0
        assert queue.unbar(["a"], "opted_out") == 0
        assert queue.barred() == {"a": "erased"}

    def test_an_erasure_is_remembered_until_it_has_ended(self, queue):
        first, second = Erasure(id="b", request="{}"), Erasure(id="a", request='{"x":1}')
        queue.begin_erasure(first)
        queue.begin_erasure(replace(first, request="[]"))
        queue.begin_erasure(second)
        assert sorted(queue.erasures(), key=lambda one: one.id) == [second, first]
        queue.end_erasure(first)
        queue.end_erasure(first)
        assert queue.erasures() == [second]

    # Indexed again

    def test_what_was_indexed_can_be_asked_for_again_and_stands_meanwhile(self, queue):
        queue.put([new("1.2"), new("1.3"), new("1.4")])
        for outcome in (None, None, Rejected(reason="4d", sentence="")):
            settle_next(queue, outcome)
        assert queue.renew(["1.2", "1.4", "9.9"]) == 1
        assert queue.renew(["1.2"]) == 0
        assert queue.put([new("1.2", "backfill")]) == 0
        assert [uid for uid, _ in feed(queue)] == ["1.2", "1.3"]
        task = queue.lease("w", HOUR)
        assert (task.series, task.lane, task.attempt) == (ct("1.2"), "reindex", 1)
        queue.settle(task, annotated(task.series, liver_ml=2.0))
        assert feed(queue) == [("1.3", 1500.0), ("1.2", 2.0)]

    def test_a_result_is_amended_without_its_task(self, queue):
        queue.put([new("1.2"), new("1.3")])
        settle_next(queue)
        settle_next(queue)
        first, second = queue.results(0, 10)
        queue.set_aside("sink", first, "no room")
        assert queue.amend(first, annotated(ct("1.2"), liver_ml=2.0))
        assert feed(queue) == [("1.3", 1500.0), ("1.2", 2.0)]
        assert queue.results(second.sequence, 10)[0].sequence > second.sequence
        assert status_of(queue, "1.2") == "completed"
        assert queue.asides("sink") == []

    def test_an_amendment_does_not_overrule_what_came_meanwhile(self, queue):
        queue.put([new("1.2"), new("1.3")])
        settle_next(queue)
        settle_next(queue)
        first, second = queue.results(0, 10)
        queue.put([new("1.2", fingerprint="b")])
        settle_next(queue, annotated(ct("1.2"), liver_ml=3.0))
        queue.withdraw("1.3")
        assert not queue.amend(first, annotated(ct("1.2"), liver_ml=2.0))
        assert not queue.amend(second, annotated(ct("1.3"), liver_ml=2.0))
        assert feed(queue) == [("1.2", 3.0), ("1.3", None)]

    def test_an_amendment_leaves_the_last_word_to_the_configuration_that_has_it(self, queue):
        queue.put([new("1.2"), new("1.2", configuration="fine")])
        settle_next(queue, annotated(ct("1.2"), liver_ml=1.0))
        settle_next(queue, annotated(ct("1.2"), liver_ml=2.0))
        assert queue.amend(queue.results(0, 10)[0], annotated(ct("1.2"), liver_ml=1.5))
        assert feed(queue) == [("1.2", 1.5), ("1.2", 2.0)]

    # What the archive listed

    def test_a_listed_series_is_in_the_feed_before_anybody_has_worked_on_it(self, queue):
        queue.put([replace(new("1.2"), listed=listed(ct("1.2")))])
        (result,) = queue.results(0, 10)
        assert result.annotated == listed(ct("1.2"))
        assert status_of(queue, "1.2") == "ready"

    def test_a_result_takes_the_place_of_the_listing(self, queue):
        queue.put([replace(new("1.2"), listed=listed(ct("1.2")))])
        settle_next(queue)
        assert feed(queue) == [("1.2", 1500.0)]

    def test_a_listing_never_takes_the_place_of_a_result(self, queue):
        queue.put([new("1.2")])
        settle_next(queue)
        queue.put([replace(new("1.2", fingerprint="b"), listed=listed(ct("1.2")))])
        queue.put([replace(new("1.2", configuration="fine"), listed=listed(ct("1.2")))])
        assert feed(queue) == [("1.2", 1500.0)]

    def test_a_listing_is_renewed_when_the_series_changes_and_only_then(self, queue):
        first, grown = listed(ct("1.2")), listed(ct("1.2", fingerprint="b"))
        queue.put([replace(new("1.2"), listed=first)])
        queue.put([replace(new("1.2"), listed=grown)])
        assert queue.results(0, 10)[0].annotated == first
        queue.put([replace(new("1.2", fingerprint="b"), listed=grown)])
        (result,) = queue.results(0, 10)
        assert result.annotated == grown

    def test_a_listed_series_that_is_rejected_leaves_a_tombstone(self, queue):
        uids = ["1.2", "1.3"]
        queue.put([replace(new(uid), listed=listed(ct(uid))) for uid in uids])
        settle_next(queue, Rejected(reason="missing_slice", sentence="a gap of 5 mm"))
        queue.put([new("1.3", fingerprint="b", reason="4d")])
        assert feed(queue) == [("1.2", None), ("1.3", None)]

    def test_a_listed_series_that_fails_stays_findable_by_its_tags(self, queue):
        queue.put([replace(new("1.2"), listed=listed(ct("1.2")))])
        settle_next(queue, Failed(sentence="KeyError"))
        assert queue.result("1.2").annotated == listed(ct("1.2"))

    def test_a_rejected_series_is_not_shown_as_listed(self, queue):
        queue.put([replace(new("1.2", reason="4d"), listed=listed(ct("1.2")))])
        assert queue.results(0, 10) == []

    # What a source has, and has no longer

    def test_what_a_source_has_is_known_by_the_day_of_the_study(self, queue):
        days = ["2019-05-01", "2019-05-02", "2019-05-03", ""]
        queue.put([new(f"1.{n}", date=day) for n, day in enumerate(days)])
        queue.put([replace(new("2.1", date="2019-05-02"), source="dimse://pacs:104/A")])
        queue.put([new("1.1", date="2019-05-02", configuration="fine")])
        two_days = Window(first=date(2019, 5, 1), last=date(2019, 5, 2))
        assert sorted(queue.known("folder:///archive")) == ["1.0", "1.1", "1.2", "1.3"]
        assert sorted(queue.known("folder:///archive", two_days)) == ["1.0", "1.1"]
        assert list(queue.known("dimse://pacs:104/A", two_days)) == ["2.1"]
        assert list(queue.known("s3://never-seen")) == []

    def test_what_was_only_ordered_is_not_known_of_a_source_until_it_was_seen(self, queue):
        queue.put([ordered("1.2"), ordered("1.3")])
        assert list(queue.known("folder:///archive")) == []
        settle_next(queue, annotated(ct("1.2", fingerprint="")))
        assert list(queue.known("folder:///archive")) == ["1.2"]
        queue.put([new("1.3")])
        assert sorted(queue.known("folder:///archive")) == ["1.2", "1.3"]

    @pytest.mark.parametrize("fingerprint", ["a", "b"])
    def test_a_series_that_another_source_has_too_is_left_to_it(self, queue, fingerprint):
        """Whichever of the two was listed first, and whatever they say of it."""
        first, second = "folder:///archive", "dimse://pacs:104/A"
        for uid in ("1.2", "1.3"):
            queue.put([new(uid)])
            queue.put([replace(new(uid, fingerprint=fingerprint), source=second)])
        assert sorted(queue.known(first)) == sorted(queue.known(second)) == ["1.2", "1.3"]
        assert not queue.withdraw("1.2", first, "no longer listed")
        assert not queue.withdraw("1.3", second, "no longer listed")
        sources = {uid: queue.states(uid)[0].source for uid in ("1.2", "1.3")}
        assert sources == {"1.2": second, "1.3": first}
        assert (list(queue.known(first)), list(queue.known(second))) == (["1.3"], ["1.2"])
        assert queue.withdraw("1.2", second, "no longer listed")
        assert queue.states("1.2") == []

    def test_what_was_withdrawn_is_kept_in_the_audit(self, queue):
        queue.put([new("1.2"), new("1.3"), replace(new("1.3"), source="s3://b")])
        queue.withdraw("1.2", "folder:///archive", "no longer listed")
        queue.withdraw("1.3", "folder:///archive", "no longer listed")
        queue.withdraw("9.9", "folder:///archive", "no longer listed")
        newest, oldest = queue.audit()
        assert (newest.event, newest.series_uid) == ("kept", "1.3")
        assert (oldest.event, oldest.series_uid) == ("withdrawn", "1.2")
        assert (oldest.source, oldest.sentence) == ("folder:///archive", "no longer listed")
        assert datetime.fromisoformat(oldest.at).utcoffset() is not None
        assert oldest.sequence < newest.sequence
        assert queue.audit("1.2") == [oldest]

    # How fast it goes

    def test_what_workers_settled_lately_is_counted_by_lane(self, queue, later):
        queue.put([new(str(n), "daily") for n in range(3)])
        settle_next(queue)
        later(DAY)
        settle_next(queue)
        settle_next(queue, Failed(sentence="KeyError"))
        queue.put([new("8", "backfill"), new("9", "backfill", reason="4d")])
        settle_next(queue, Rejected(reason="4d", sentence="4 phases"))
        since = datetime.fromisoformat(queue.states("8")[0].updated) - HOUR
        assert queue.pace(since) == {"daily": 2, "backfill": 1}

    def test_a_lane_says_since_when_its_oldest_task_waits(self, queue, later):
        assert queue.waiting_since("daily") is None
        queue.put([new("1", "daily")])
        later(HOUR)
        queue.put([new("2", "daily"), new("3", "backfill")])
        waiting = {uid: queue.states(uid)[0].updated for uid in ("1", "2", "3")}
        assert queue.waiting_since("daily") == datetime.fromisoformat(waiting["1"])
        assert queue.waiting_since("backfill") == datetime.fromisoformat(waiting["3"])
        settle_next(queue)
        assert queue.waiting_since("daily") == datetime.fromisoformat(waiting["2"])

    # Who has read it

    def test_each_consumer_keeps_its_own_place(self, queue):
        assert queue.cursor("index") == 0
        queue.confirm("index", 7)
        queue.confirm("fhir", 3)
        assert (queue.cursor("index"), queue.cursor("fhir")) == (7, 3)
        queue.confirm("index", 0)
        assert queue.cursor("index") == 0

    def test_a_consumer_can_be_claimed_again_after_a_claim(self, queue):
        for _ in range(2):
            with queue.claim("index"), queue.claim("fhir"):
                queue.confirm("index", 1)

    def test_a_result_that_a_consumer_cannot_take_is_set_aside(self, queue):
        queue.put([new("1.2"), new("1.3")])
        settle_next(queue)
        settle_next(queue)
        for result in queue.results(0, 10):
            queue.set_aside("index", result, "its name is too long")
        (newest, oldest) = queue.asides("index")
        assert (newest.series_uid, newest.sentence) == ("1.3", "its name is too long")
        assert oldest.series_uid == "1.2"
        assert queue.asides("index", limit=1) == [newest]
        assert queue.asides("fhir") == []

    def test_what_a_consumer_takes_after_all_is_set_aside_no_more(self, queue):
        queue.put([new("1"), new("2")])
        settle_next(queue)
        settle_next(queue)
        for result in queue.results(0, 2):
            queue.set_aside("index", result, "its name is too long")
            queue.set_aside("fhir", result, "its name is too long")
        (newest, oldest) = queue.asides("index")
        queue.accept(oldest)
        assert queue.asides("index") == [newest]
        assert len(queue.asides("fhir")) == 2

    def test_the_feed_says_how_far_it_reaches(self, queue):
        assert queue.newest() == 0
        queue.put([new("1"), new("2")])
        settle_next(queue)
        settle_next(queue)
        assert queue.newest() >= queue.results(0, 9)[-1].sequence
        before = queue.newest()
        queue.withdraw("1")
        assert queue.newest() > before

    def test_a_newer_result_ends_what_was_set_aside(self, queue):
        queue.put([new("1.2")])
        settle_next(queue)
        (result,) = queue.results(0, 10)
        queue.set_aside("index", result, "its name is too long")
        queue.put([replace(new("1.2"), series=ct("1.2", fingerprint="b"))])
        settle_next(queue)
        assert queue.asides("index") == []
        queue.set_aside("index", result, "read before it was replaced")
        assert queue.asides("index") == []
