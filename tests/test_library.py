"""What people take away: who may, what it says, and what they are told when it cannot be."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest

from tests.corpus import corpus, series
from tomodex.access import OWNER, Asker
from tomodex.auditlog import AuditLog
from tomodex.cohorts import Cohorts
from tomodex.errors import BadQuery, Forbidden, NotThere
from tomodex.indexes import Index, open_index
from tomodex.library import Library
from tomodex.queues import open_queue
from tomodex.saved import SavedCohorts
from tomodex.search import Sample
from tomodex.terminology import load_terminology

ADA = Asker(name="ada", roles=frozenset({"researcher"}))
BOB = Asker(name="bob", roles=frozenset({"researcher"}))
STEWARD = Asker(name="eve", roles=frozenset({"steward"}))
VIEWER = Asker(name="vic", roles=frozenset({"viewer", "operator", "service"}))
THIN = "liver and SliceThickness <= 1.5"


@pytest.fixture
def index() -> Index:
    opened = open_index("duckdb:")
    opened.write(corpus())
    return opened


@pytest.fixture
def saved(tmp_path) -> SavedCohorts:
    return SavedCohorts(tmp_path / "saved.db")


@pytest.fixture
def library(index, saved, tmp_path) -> Library:
    queue = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    return Library(Cohorts(index, load_terminology(), queue), saved)


def test_a_saved_cohort_is_what_was_found_then_whatever_is_found_now(library, index):
    cohort = library.save(ADA, "thin", THIN)
    assert (cohort.patients, cohort.studies, cohort.series) == (7, 15, 20)
    assert (cohort.who, cohort.query) == ("ada", THIN)
    assert cohort.versions["terminology"] == load_terminology().version
    assert "tomodex" in cohort.versions
    index.write([series(30), series(31)])
    assert library.get(BOB, cohort.id) == cohort
    assert library.all(BOB) == [cohort]
    assert sum(map(len, library.members(BOB, cohort.id))) == 20


def test_a_difference_is_found_by_asking_again(library, index):
    cohort = library.save(ADA, "thin", THIN)
    index.write([series(30), series(31)])
    index.erase(["1.2.9.0"])
    other = series(1)
    other.series.attributes["PatientAge"] = 99.0
    index.write([other])
    difference = library.diff(BOB, cohort.id)
    assert difference.new.series_uids == ("1.2.9.30", "1.2.9.31")
    assert difference.gone.series_uids == ("1.2.9.0",)
    assert difference.changed.series_uids == ("1.2.9.1",)
    assert difference.same == 18


def test_nothing_is_different_as_long_as_nothing_changes(library):
    cohort = library.save(ADA, "all", "")
    difference = library.diff(ADA, cohort.id)
    assert (difference.same, difference.new.count, difference.gone.count) == (30, 0, 0)
    assert difference.changed.count == 0


ACTS = {
    "save": lambda library, cohort_id: library.save(VIEWER, "mine", ""),
    "all": lambda library, cohort_id: library.all(VIEWER),
    "get": lambda library, cohort_id: library.get(VIEWER, cohort_id),
    # An ID that there is not is no answer either.
    "get nothing": lambda library, cohort_id: library.get(VIEWER, "nothing"),
    "members": lambda library, cohort_id: library.members(VIEWER, cohort_id),
    "diff": lambda library, cohort_id: library.diff(VIEWER, cohort_id),
    "delete": lambda library, cohort_id: library.delete(VIEWER, cohort_id),
    "manifest": lambda library, cohort_id: library.manifest(VIEWER, "csv", ""),
    "manifest of": lambda library, cohort_id: library.manifest_of(VIEWER, "csv", cohort_id),
}


@pytest.mark.parametrize("act", ACTS)
def test_who_may_not_see_series_takes_nothing_away(library, act):
    cohort = library.save(ADA, "all", "")
    with pytest.raises(Forbidden):
        ACTS[act](library, cohort.id)
    assert library.all(ADA) == [cohort]


def test_one_deletes_ones_own_and_a_steward_any(library):
    first, second = library.save(ADA, "one", ""), library.save(ADA, "two", "")
    with pytest.raises(Forbidden, match="ada"):
        library.delete(BOB, first.id)
    library.delete(ADA, first.id)
    library.delete(STEWARD, second.id)
    assert library.all(OWNER) == []


def test_who_deletes_a_cohort_is_in_the_audit_log(index, saved, tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    queue = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    library = Library(Cohorts(index, load_terminology(), queue), saved, log)
    cohort = library.save(ADA, "thin", THIN)
    library.delete(STEWARD, cohort.id)
    last = list(log.entries())[-1]
    assert (last.who, last.act, last.text) == ("eve", "delete", THIN)
    assert last.facts == {"cohort": cohort.id, "saved_by": "ada"}


@pytest.mark.parametrize("how", ["get", "members", "diff", "delete"])
def test_an_id_that_nobody_has_is_not_there(library, how):
    with pytest.raises(NotThere, match="no saved cohort"):
        getattr(library, how)(ADA, "x" * 1000)


def test_a_manifest_lists_what_is_found_with_what_was_asked(library):
    taken = library.manifest(ADA, "json", THIN, ["StudyDate", "SeriesInstanceUID"])
    document = json.loads(b"".join(taken.content))
    facts = document["manifest"]
    assert (facts["query"], facts["series"], facts["patients"]) == (THIN, 20, 7)
    assert facts["size_bytes"] == 20 * 300 * 512 * 512 * 2
    assert facts["sample"] is None
    dates = [one["StudyDate"] for one in document["series"]]
    assert dates == sorted(dates, reverse=True)
    assert list(document["series"][0]) == [
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "patient",
        "StudyDate",
    ]


def test_a_sample_says_that_it_is_one(library):
    draw = Sample(size=5, seed=3)
    first, second = (
        json.loads(b"".join(library.manifest(ADA, "json", THIN, (), draw).content))
        for _ in range(2)
    )
    assert first["series"] == second["series"]
    assert (first["rows"], first["manifest"]["series"]) == (5, 20)
    assert first["manifest"]["sample"] == {"size": 5, "seed": 3}


def test_a_manifest_of_a_saved_cohort_is_its_frozen_list(library, index, saved):
    cohort = library.save(ADA, "thin", THIN)
    index.erase(["1.2.9.0"])
    saved.forget_patients(["pseudonym-1"])
    taken = library.manifest_of(BOB, "csv", cohort.id)
    text = b"".join(taken.content).decode()
    listed = list(csv.DictReader(line for line in text.splitlines() if line[0] != "#"))
    assert {row["patient"] for row in listed} == {f"pseudonym-{n}" for n in range(7)} - {
        "pseudonym-1"
    }
    assert "1.2.9.0" in [row["SeriesInstanceUID"] for row in listed]
    assert (taken.manifest.series, taken.manifest.removed) == (20, 20 - len(listed))
    assert (taken.manifest.cohort, taken.manifest.made) == (cohort.id, cohort.saved)


def test_a_column_that_is_none_is_said_with_what_was_meant(library):
    with pytest.raises(BadQuery, match="'SliceThicknes'") as wrong:
        library.manifest(ADA, "csv", "", ["SliceThicknes"])
    assert "SliceThickness" in wrong.value.suggestions


def test_what_is_wrong_with_a_question_shows_before_a_file_is_begun(library):
    with pytest.raises(BadQuery, match="livver"):
        library.manifest(ADA, "csv", "livver complete")
    with pytest.raises(BadQuery, match="livver"):
        library.save(ADA, "x", "livver complete")


def test_whoever_takes_something_away_is_in_the_audit_log_with_its_hash(index, saved, tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    queue = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    library = Library(Cohorts(index, load_terminology(), queue), saved, log)
    cohort = library.save(ADA, "thin", THIN)
    content = b"".join(library.manifest_of(BOB, "csv", cohort.id).content)
    # One who leaves before the end.
    next(library.manifest_of(BOB, "json", cohort.id).content)
    entries = [(one.who, one.act, one.text, dict(one.facts)) for one in log.entries()]
    begun = ("bob", "export", THIN, {"cohort": cohort.id})
    digest = hashlib.sha256(content).hexdigest()
    whole = {"cohort": cohort.id, "bytes": len(content), "sha256": digest}
    assert entries == [
        ("ada", "save", THIN, {"cohort": cohort.id, "series": 20}),
        begun,
        ("bob", "export", THIN, whole),
        begun,
    ]
