"""Saved cohorts: frozen, compared with today, and free of whoever was erased."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tomodex import saved
from tomodex.errors import BadQuery, Misconfigured
from tomodex.saved import SavedCohort, SavedCohorts, fingerprint_of
from tomodex.search import Hit

VERSIONS = {"tomodex": "0.1.0", "terminology": "2026-11-23"}


def hit(n: int, *, patient: str = "", study: str = "", **attributes: str | float) -> Hit:
    return Hit(
        series_uid=f"1.2.{n}",
        study_uid=study or f"1.{n}",
        patient=patient or f"p{n}",
        attributes={"Modality": "CT", "Rows": 512.0, **attributes},
        structure_count=3,
    )


HITS = [hit(1), hit(2), hit(3, patient="p2", study="1.2"), hit(4)]


@pytest.fixture
def store(tmp_path: Path) -> SavedCohorts:
    return SavedCohorts(tmp_path / "saved.db")


def save(store: SavedCohorts, *rows: list[Hit], name: str = "thin livers") -> SavedCohort:
    return store.save(name=name, query="liver complete", who="ada", versions=VERSIONS, rows=rows)


def uids(store: SavedCohorts, cohort: SavedCohort) -> list[str]:
    return [member.series_uid for batch in store.members(cohort.id) for member in batch]


def test_what_was_found_is_kept_with_who_asked_what_of_which_versions(store):
    cohort = save(store, HITS[:2], HITS[2:], name="  thin\tlivers ")
    assert (cohort.name, cohort.query, cohort.who) == ("thin livers", "liver complete", "ada")
    assert cohort.versions == VERSIONS
    assert (cohort.patients, cohort.studies, cohort.series, cohort.removed) == (3, 3, 4, 0)
    assert cohort.saved.endswith("+00:00")
    assert uids(store, cohort) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert store.find(cohort.id) == cohort


def test_a_series_of_nobody_is_no_patient(store):
    assert save(store, [replace(HITS[0], patient=""), HITS[1]]).patients == 1


def test_the_newest_is_first_and_one_that_is_deleted_is_gone_with_its_list(store, tmp_path):
    first, second = save(store, HITS), save(store, HITS[:1], name="other")
    assert store.all() == [second, first]
    assert (store.delete(first.id), store.delete(first.id)) == (True, False)
    assert store.all() == [second]
    assert uids(store, first) == []
    assert uids(store, second) == ["1.2.1"]
    assert store.find(first.id) is None


def test_a_long_list_comes_in_parts_none_twice(store, monkeypatch):
    monkeypatch.setattr(saved, "BATCH", 3)
    cohort = save(store, [hit(n) for n in range(10)])
    batches = [len(batch) for batch in store.members(cohort.id)]
    assert batches == [3, 3, 3, 1]
    assert len(set(uids(store, cohort))) == 10


def test_the_difference_to_today_names_what_is_new_gone_and_changed(store):
    cohort = save(store, HITS)
    resliced = hit(2, Rows=1024.0)
    today = [[HITS[0], resliced], [hit(7), hit(6), hit(5)], [HITS[2]]]
    difference = store.diff(cohort, today, limit=2)
    assert difference.cohort == cohort
    assert (difference.new.count, difference.new.series_uids) == (3, ("1.2.5", "1.2.6"))
    assert (difference.gone.count, difference.gone.series_uids) == (1, ("1.2.4",))
    assert (difference.changed.count, difference.changed.series_uids) == (1, ("1.2.2",))
    assert difference.same == 2


def test_a_comparison_changes_nothing_and_can_be_repeated(store):
    cohort = save(store, HITS)
    first = store.diff(cohort, [HITS[:1]])
    assert store.diff(cohort, [HITS[:1]]) == first
    assert len(uids(store, cohort)) == 4


@pytest.mark.parametrize(
    "other",
    [
        replace(HITS[0], structure_count=4),
        replace(HITS[0], study_uid="9"),
        replace(HITS[0], patient="another"),
        hit(1, SliceThickness=1.0),
        hit(1, slice_count=300.0),
        hit(1, segmented="no"),
    ],
)
def test_a_fingerprint_changes_with_what_is_known(other):
    assert fingerprint_of(other) != fingerprint_of(HITS[0])


def test_a_fingerprint_stays_when_a_setting_or_version_adds_something():
    wider = hit(1, StudyDescription="typed", some_new_fact=3.0, Rows=512)
    assert fingerprint_of(wider) == fingerprint_of(HITS[0])


def test_an_erased_patient_is_in_no_list_and_a_note_stays(store, tmp_path):
    one, other = save(store, HITS), save(store, HITS[:1], name="other")
    assert store.forget_patients(["p2", "nobody"]) == 2
    assert uids(store, one) == ["1.2.1", "1.2.4"]
    assert store.find(one.id) == replace(one, removed=2)
    assert store.find(other.id) == other
    # Not even in pages of the file that are free now.
    assert b"p2" not in (tmp_path / "saved.db").read_bytes()


def test_an_erased_series_is_in_no_list_and_a_note_stays(store):
    one, other = save(store, HITS), save(store, HITS[:1], name="other")
    assert store.forget_series(["1.2.1"]) == 2
    assert uids(store, one) == ["1.2.2", "1.2.3", "1.2.4"]
    assert uids(store, other) == []
    assert store.find(other.id) == replace(other, removed=1)
    assert store.forget_series(["1.2.1"]) == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\x1b[31m", "a\x00b"])
def test_a_name_that_nobody_could_read_is_refused(store, name):
    with pytest.raises(BadQuery, match="a cohort's name"):
        save(store, HITS, name=name)
    assert store.all() == []


def test_a_cohort_that_is_too_large_is_not_kept_by_half(store, monkeypatch):
    monkeypatch.setattr(saved, "MOST_SERIES", 3)
    with pytest.raises(BadQuery, match="at most 3 series"):
        save(store, HITS)
    assert store.all() == []


def test_a_search_that_breaks_off_leaves_nothing(store):
    def rows() -> Iterator[list[Hit]]:
        yield HITS
        raise Misconfigured("the index is damaged")

    with pytest.raises(Misconfigured, match="damaged"):
        store.save(name="half", query="", who="ada", versions={}, rows=rows())
    assert store.all() == []


def test_the_file_is_its_owners_alone(store, tmp_path):
    save(store, HITS)
    assert stat.S_IMODE((tmp_path / "saved.db").stat().st_mode) == 0o600


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "saved.db").write_bytes(b"no database" * 1000)
    with pytest.raises(Misconfigured, match=r"saved\.db"):
        SavedCohorts(tmp_path / "saved.db").all()
