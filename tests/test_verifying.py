"""Where index, results and archives disagree, and where they only seem to."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from tests.contracts.queue import annotated, ct, listed, new, settle_next
from tomodex.cli import main
from tomodex.delivery import deliver
from tomodex.errors import NotThere, Unavailable
from tomodex.indexes import Index, open_index
from tomodex.queues import Queue, open_queue
from tomodex.search import Sample
from tomodex.series import Listing
from tomodex.settings import Settings
from tomodex.verifying import Archives, Disagreement, Verified, verify
from tomodex.wiring import index_of, queue_of

UIDS = [f"1.{n}" for n in range(1, 9)]
INDEX = "duckdb:"


def silent(done: int, total: int | None) -> None: ...


class Archive:
    """Has every series, but for what a test takes out of it."""

    def __init__(self) -> None:
        self.instances = dict.fromkeys(UIDS, ct("1.1").instance_count)
        self.answers = True

    def describe(self, series_uid: str) -> Listing:
        if not self.answers:
            raise Unavailable("no answer")
        if series_uid not in self.instances:
            raise NotThere("does not have it")
        series = replace(ct(series_uid), instance_count=self.instances[series_uid])
        return Listing(series=series, instances=())


@pytest.fixture
def queue() -> Queue:
    opened = open_queue("sqlite:")
    fill(opened)
    return opened


def fill(queue: Queue) -> None:
    """Eight results, of a withdrawn series and of one that is only listed among them."""
    queue.put([new(uid) for uid in UIDS[:-1]])
    for _ in UIDS[:-1]:
        settle_next(queue)
    queue.put([replace(new(UIDS[-1], "backfill"), listed=listed(ct(UIDS[-1])))])
    queue.withdraw("1.3")


@pytest.fixture
def index(queue) -> Index:
    opened = open_index(INDEX)
    deliver(queue, INDEX, opened)
    return opened


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def look(queue, index, archive):
    def look(size: int = 500) -> Verified:
        archives = Archives(queue, lambda url: archive)
        return verify(queue, index, INDEX, archives, Sample(size=size), silent)

    return look


def test_what_agrees_is_said_to_agree(look):
    verified = look()
    assert (verified.results, verified.indexed, verified.archived) == (8, 7, 7)
    assert (verified.waiting, verified.silent, verified.disagreements) == (0, {}, ())


def test_a_small_lot_is_drawn_from_all(look):
    assert 0 < look(3).results <= 3
    assert look(3) == look(3)


def test_a_series_that_the_index_lost_or_never_was_told_of_is_found(look, queue, index):
    index.erase(["1.2"])
    index.write([annotated(ct("9.9"))])
    assert look().disagreements == (
        Disagreement(series_uid="1.2", place="index", sentence="is not there"),
        Disagreement(series_uid="9.9", place="index", sentence="has no result"),
    )


def test_a_series_that_was_withdrawn_and_is_still_found_is_found(look, index):
    index.write([annotated(ct("1.3"))])
    places = {(one.series_uid, one.sentence) for one in look().disagreements}
    assert places == {
        ("1.3", "is there, but was withdrawn or rejected"),
        ("1.3", "has no result"),
    }


@pytest.mark.parametrize(
    "other",
    [
        {"volume_ml": 1501.0},
        {"mean_hu": 40.0},
        {"cut": ()},
        {"box_min_mm": (-160.1, -120.7, -601.0)},
        {"box_max_mm": (40.2, 96.3, -449.0)},
    ],
    ids=["volume", "density", "whole", "lower end", "upper end"],
)
def test_other_numbers_are_found(look, index, other):
    one = annotated(ct("1.2"))
    (liver,) = one.annotations
    changed = replace(liver, measurement=replace(liver.measurement, **other))
    index.write([replace(one, annotations=(changed,))])
    (wrong,) = look().disagreements
    assert (wrong.series_uid, wrong.sentence) == ("1.2", "other numbers for liver")


def test_another_structure_is_found(look, index):
    index.write([annotated(ct("1.2"), structures=2)])
    assert look().disagreements[0].sentence == "other numbers for rib_left_1"


def test_what_was_not_delivered_yet_is_not_held_against_the_index(look, queue):
    queue.put([new("1.2", fingerprint="b"), new("1.9")])
    settle_next(queue, annotated(ct("1.2"), liver_ml=2.0))
    settle_next(queue)
    queue.withdraw("1.4")
    verified = look()
    assert (verified.waiting, verified.disagreements) == (
        3,
        (Disagreement(series_uid="1.9", place="archive", sentence="does not have it"),),
    )


def test_what_an_archive_has_otherwise_is_found(look, archive):
    archive.instances["1.2"] += 1
    del archive.instances["1.4"]
    assert {(one.series_uid, one.place) for one in look().disagreements} == {
        ("1.2", "archive"),
        ("1.4", "archive"),
    }


def test_an_archive_that_does_not_answer_is_not_in_the_wrong(look, archive):
    archive.answers = False
    verified = look()
    assert verified.disagreements == ()
    assert verified.silent == {"folder:///archive": 7}


def test_the_command_ends_with_1_where_something_disagrees(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=tmp_path / "tomodex-data")
    settings.data.mkdir()
    fill(queue_of(settings))
    deliver(queue_of(settings), settings.index_url, index_of(settings))
    codes = []
    for gone in ([], ["1.2"]):
        index_of(settings).erase(gone)
        monkeypatch.setattr(sys, "argv", ["tomodex", "verify", "--no-archives", "--json"])
        try:
            main()
        except SystemExit as end:
            codes.append(end.code)
        told = json.loads(capsys.readouterr().out)
        assert [one["series_uid"] for one in told["disagreements"]] == gone
        assert told["archived"] == 0
    assert codes == [0, 1]
    monkeypatch.setattr(sys, "argv", ["tomodex", "verify", "--no-archives"])
    with pytest.raises(SystemExit):
        main()
    assert "disagrees on 1;" in capsys.readouterr().out
