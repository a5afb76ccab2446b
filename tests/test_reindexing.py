"""Results of older models and tables: counted, made again, coded anew."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import date

import pytest

from tests.contracts.queue import HOUR, annotated, ct, listed, new, settle_next
from tomodex.annotation import AnnotatedSeries
from tomodex.cli import main
from tomodex.delivery import deliver
from tomodex.queues import Queue, open_queue
from tomodex.reindexing import (
    NOBODY,
    Wanted,
    count_wanted,
    maker_of,
    makers,
    recode_results,
    reindex,
)
from tomodex.segmentation import Algorithm
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of

OLD = Algorithm(name="TotalSegmentator", version="2.5", model="total 3 mm", options={"mode": "x"})
TERMS = load_terminology()


def silent(done: int, total: int | None) -> None: ...


def made(uid: str, **provenance: object) -> AnnotatedSeries:
    """A result that shows a liver, with something else in its provenance."""
    one = annotated(ct(uid))
    return replace(one, provenance=replace(one.provenance, **provenance))


def fill(queue: Queue) -> None:
    """Five results: of an old model, of today's, of none, of last year, and one only listed."""
    uids = ["1.1", "1.2", "1.3", "1.4"]
    queue.put([new(uid) for uid in uids])
    for one in (
        made("1.1", algorithm=OLD),
        made("1.2"),
        made("1.3", algorithm=None),
        made("1.4", finished="2025-12-31T23:59:59+00:00"),
    ):
        settle_next(queue, one)
    queue.put([replace(new("1.5", "backfill"), listed=listed(ct("1.5")))])


@pytest.fixture
def queue() -> Queue:
    opened = open_queue("sqlite:")
    fill(opened)
    return opened


def waiting(queue: Queue) -> list[str]:
    return [t.series.series_uid for t in iter(lambda: queue.lease("w", HOUR), None)]


def test_a_maker_has_all_that_would_make_another_result_in_its_name():
    assert maker_of(OLD) == "TotalSegmentator 2.5; total 3 mm; mode=x"
    assert maker_of(None) == NOBODY


def test_makers_are_counted(queue):
    found = makers(queue, silent)
    assert found.models == {
        "TotalSegmentator 2.5; total 3 mm; mode=x": 1,
        "TotalSegmentator 2.11; total 3 mm": 2,
        NOBODY: 1,
    }
    assert found.terminologies == {"2026-10": 4}
    assert found.software == {"0.1.0": 4}


@pytest.mark.parametrize(
    ("wanted", "uids"),
    [
        (Wanted(made_by="TotalSegmentator 2.5;"), ["1.1"]),
        (Wanted(made_by="TotalSegmentator"), ["1.1", "1.2", "1.4"]),
        (Wanted(made_by=NOBODY), ["1.3"]),
        (Wanted(before=date(2026, 1, 1)), ["1.4"]),
        (Wanted(before=date(2025, 12, 31)), []),
        (Wanted(series_uids={"1.2", "9.9"}), ["1.2"]),
        (Wanted(made_by="TotalSegmentator 2.11", series_uids={"1.1", "1.2"}), ["1.2"]),
        (Wanted(), ["1.1", "1.2", "1.3", "1.4"]),
    ],
    ids=["version", "name", "nobody", "day", "that day", "uids", "both", "all"],
)
def test_only_what_is_wanted_is_indexed_again_after_all_that_is_more_urgent(queue, wanted, uids):
    assert count_wanted(queue, wanted, silent) == len(uids)
    assert reindex(queue, wanted, silent) == len(uids)
    assert reindex(queue, wanted, silent) == 0
    queue.put([new("2.1", "daily")])
    assert waiting(queue) == ["2.1", *uids, "1.5"]


def test_results_stand_while_they_are_made_again(queue):
    before = queue.results(0, 10)
    reindex(queue, Wanted(), silent)
    assert queue.results(0, 10) == before


def test_codes_come_from_todays_tables_and_measurements_stay(queue):
    before = {r.series_uid: r.annotated for r in queue.results(0, 10)}
    came = recode_results(queue, TERMS, silent, queue.amend)
    assert (came.changed, came.same, came.overtaken, came.unknown) == (4, 0, 0, {})
    for result in queue.results(0, 10):
        old, now = before[result.series_uid], result.annotated
        if old.image is None:
            assert now == old
            continue
        (liver,) = now.annotations
        assert liver.codings[0].code == TERMS.structures["liver"].snomed
        assert liver.measurement == old.annotations[0].measurement
        assert now.provenance == replace(old.provenance, terminology=TERMS.version)
        assert now.series == old.series
    again = recode_results(queue, TERMS, silent, queue.amend)
    assert (again.changed, again.same) == (0, 4)


def test_a_name_that_is_no_longer_in_the_tables_keeps_its_codes_and_is_said():
    queue = open_queue("sqlite:")
    queue.put([new("1.1")])
    one = annotated(ct("1.1"))
    settle_next(queue, replace(one, annotations=(replace(one.annotations[0], structure="gone"),)))
    came = recode_results(queue, TERMS, silent, queue.amend)
    assert (came.changed, came.same, came.unknown) == (0, 1, {"gone": 1})
    assert queue.result("1.1").annotated.annotations[0].structure == "gone"


def test_a_result_that_a_worker_replaces_meanwhile_is_left_to_the_worker(queue):
    def after_a_worker(result, coded):
        queue.put([new(result.series_uid, "on-demand", fingerprint="b")])
        settle_next(queue, made(result.series_uid))
        return queue.amend(result, coded)

    came = recode_results(queue, TERMS, silent, after_a_worker)
    assert (came.changed, came.overtaken) == (0, 4)


def test_what_comes_while_it_runs_is_not_waited_for():
    queue = open_queue("sqlite:")
    queue.put([new("1.1")])
    settle_next(queue)

    def and_one_more(result, coded):
        queue.put([new(f"{result.series_uid}.1")])
        settle_next(queue)
        return True

    assert recode_results(queue, TERMS, silent, and_one_more).changed == 1


@pytest.fixture
def tomodex(tmp_path, monkeypatch, capsys):
    """Run a command on a data folder that has these results in queue and index."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=tmp_path / "tomodex-data")
    settings.data.mkdir()
    queue = queue_of(settings)
    fill(queue)
    deliver(queue, settings.index_url, index_of(settings))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tomodex", "reindex", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        return code, *capsys.readouterr()

    return run


def test_the_plan_says_what_made_the_results(tomodex):
    code, out, _ = tomodex("plan")
    assert code == 0
    assert "TotalSegmentator 2.5; total 3 mm; mode=x" in out
    assert TERMS.version in out
    told = json.loads(tomodex("plan", "--json")[1])
    assert told["made"]["terminologies"] == {"2026-10": 4}


def test_a_search_chooses_what_is_made_again(tomodex):
    counted = tomodex("start", "--query", "liver", "--made-by", "TotalSegmentator 2.5", "--dry-run")
    assert counted[1] == "1 series would be indexed again\n"
    begun = tomodex("start", "--query", "liver", "--made-by", "TotalSegmentator 2.5", "--json")
    assert json.loads(begun[1]) == {"series": 1, "dry_run": False}


def test_everything_is_made_again_only_if_somebody_says_so(tomodex):
    code, out, err = tomodex("start")
    assert (code, out) == (2, "")
    assert "--all" in err
    assert tomodex("start", "--all")[1].startswith("4 series wait")


def test_codes_are_tried_before_they_are_changed(tomodex):
    assert tomodex("codes", "--dry-run")[1].startswith("4 results would get other codes")
    assert tomodex("codes")[1].startswith("4 results got other codes")
    assert tomodex("codes")[1].startswith("0 results got other codes, 4 had today's")
