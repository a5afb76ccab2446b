"""Every question goes through one place, which asks who asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contracts.queue import new
from tests.corpus import QUESTIONS, corpus
from tomodex.access import OWNER, RIGHTS, Asker
from tomodex.answered import AnsweredCrowds
from tomodex.cohorts import MOST_FIELDS, Cohorts
from tomodex.disclosure import Disclosure
from tomodex.errors import BadQuery, Forbidden, NotThere
from tomodex.indexes import Index, open_index
from tomodex.queues import Queue, open_queue
from tomodex.search import Sample
from tomodex.terminology import load_terminology

ADA = Asker(name="ada", roles=frozenset({"researcher"}))

#: Every way of asking, and the right that it takes.
WAYS: dict[str, tuple[str, Callable[[Cohorts, Asker], object]]] = {
    "counts": ("count", lambda c, a: c.counts(a, "liver")),
    "facets": ("count", lambda c, a: c.facets(a, "liver", ("PatientSex",))),
    "anatomy": ("count", lambda c, a: c.anatomy(a, "liver")),
    "attributes": ("count", lambda c, a: c.attributes(a)),
    "values": ("count", lambda c, a: c.values(a, "Manufacturer")),
    "completions": ("count", lambda c, a: c.completions(a, "li", 2)),
    "totals": ("count", lambda c, a: c.totals(a)),
    "series": ("rows", lambda c, a: c.series(a, "liver")),
    "strips": ("rows", lambda c, a: c.strips(a, "liver")),
    "rows": ("rows", lambda c, a: c.rows(a, "liver")),
    "one": ("rows", lambda c, a: c.one(a, "1.2.9.0")),
}


@pytest.fixture(scope="module")
def index() -> Index:
    opened = open_index("duckdb:")
    opened.write(corpus())
    return opened


@pytest.fixture
def queue(tmp_path) -> Queue:
    opened = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    opened.put([new("1.2.9.0")])
    return opened


@pytest.fixture
def cohorts(index, queue) -> Cohorts:
    disclosure = Disclosure(b"secret", 10, AnsweredCrowds(None, 1000))
    return Cohorts(index, load_terminology(), queue, disclosure)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", RIGHTS)
def test_each_way_of_asking_takes_its_right(cohorts, way, role):
    right, ask = WAYS[way]
    asker = Asker(name="x", roles=frozenset({role}))
    if asker.may(right):
        ask(cohorts, asker)
        return
    with pytest.raises(Forbidden):
        ask(cohorts, asker)


def test_every_public_way_of_asking_is_tried_with_every_role():
    unasked = {"parse", "order", "chips", "terminology", "reach"}
    public = {name for name in vars(Cohorts) if not name.startswith("_")}
    assert public - unasked == set(WAYS)


def test_counts_come_first_then_a_page_of_series(cohorts):
    found = cohorts.series(ADA, "liver", limit=4, offset=10)
    assert (found.counts.patients, found.counts.studies, found.counts.series) == (7, 15, 30)
    assert (found.among, found.offset, found.truncated) == (30, 10, True)
    assert len(found.hits) == 4
    assert found.seen == {}
    assert found.milliseconds > 0
    assert not cohorts.series(ADA, "liver", limit=20, offset=10).truncated
    assert cohorts.series(ADA, "liver", limit=20, offset=30).hits == ()


@pytest.mark.parametrize("question", QUESTIONS)
def test_counts_pages_and_rows_agree(cohorts, question):
    counts = cohorts.counts(ADA, question)
    pages = [cohorts.series(ADA, question, 7, offset).hits for offset in range(0, 35, 7)]
    paged = [hit for page in pages for hit in page]
    listed = [hit for batch in cohorts.rows(ADA, question) for hit in batch]
    assert paged == listed
    assert counts.series == len(paged)
    assert counts.patients == len({hit.patient for hit in paged})
    assert counts.studies == len({hit.study_uid for hit in paged})
    assert counts.size_bytes == sum(hit.attributes["size_bytes"] for hit in paged)


def test_a_page_can_come_with_what_each_series_shows(cohorts):
    found = cohorts.strips(ADA, "spleen", limit=3)
    assert set(found.seen) == {hit.series_uid for hit in found.hits}
    for seen in found.seen.values():
        assert {one.structure for one in seen} == {"liver", "spleen"}


def test_not_too_many_strips_are_shown_at_once(cohorts, monkeypatch):
    monkeypatch.setattr("tomodex.cohorts.MOST_STRIPS", 5)
    found = cohorts.strips(ADA, "", limit=10**9)
    assert (len(found.hits), len(found.seen), found.truncated) == (5, 5, True)


def test_a_sample_is_drawn_from_what_is_found(cohorts):
    drawn = [
        hit for batch in cohorts.rows(ADA, "spleen", (), Sample(size=5, seed=1)) for hit in batch
    ]
    again = [
        hit for batch in cohorts.rows(ADA, "spleen", (), Sample(size=5, seed=1)) for hit in batch
    ]
    assert len(drawn) == 5
    assert drawn == again


def test_facets_add_up_to_what_is_found(cohorts):
    facets = cohorts.facets(ADA, "spleen", ("PatientSex", "SliceThicknessClass", "structure"))
    assert {cell.value: cell.count for cell in facets["PatientSex"]} == {"M": 15}
    assert sum(cell.count for cell in facets["SliceThicknessClass"]) == 15
    assert {cell.value: cell.count for cell in facets["structure"]} == {"liver": 15, "spleen": 15}


def test_too_many_fields_are_not_counted_at_once(cohorts):
    with pytest.raises(BadQuery, match="at most 20 fields"):
        cohorts.facets(ADA, "", ["PatientSex"] * (MOST_FIELDS + 1))


def test_anatomy_says_how_many_series_show_it(cohorts):
    liver, spleen, heart = (cohorts.anatomy(ADA, name)[-1] for name in ("liver", "spleen", "heart"))
    assert (liver.named.name, liver.series, liver.complete) == ("liver", 30, 20)
    assert (spleen.series, spleen.complete) == (15, 15)
    assert (heart.named.name, heart.series, heart.complete) == ("heart", 0, 0)
    everything = cohorts.anatomy(ADA)
    assert len(everything) == len(load_terminology().structures) + len(load_terminology().groups)


def test_a_group_that_is_asked_for_is_counted_as_any_of_its_structures(cohorts):
    digestive, *_ = cohorts.anatomy(ADA, "digestive system")
    assert (digestive.named.name, digestive.series) == ("digestive_system", 30)
    assert digestive.complete == cohorts.counts(ADA, "digestive_system complete").series == 20
    uncounted = {one.series for one in cohorts.anatomy(ADA) if one.named.kind != "structure"}
    assert uncounted == {None}


def test_a_structure_that_is_misspelled_is_suggested(cohorts):
    with pytest.raises(BadQuery) as wrong:
        cohorts.anatomy(ADA, "livver")
    assert "liver" in wrong.value.suggestions


def test_values_come_with_counts_and_by_their_beginning(cohorts):
    assert [(v.value, v.count) for v in cohorts.values(ADA, "Manufacturer")] == [
        ('"q"#', 10),
        ("ACME", 10),
        ("Ümlaut, =Ltd", 10),
    ]
    assert [v.value for v in cohorts.values(ADA, "Manufacturer", "üm")] == ["Ümlaut, =Ltd"]
    assert len(cohorts.values(ADA, "Manufacturer", limit=1)) == 1


def test_an_attribute_that_is_no_list_or_unknown_is_refused_with_an_offer(cohorts):
    with pytest.raises(BadQuery) as number:
        cohorts.values(ADA, "PatientAge")
    assert number.value.suggestions == ("AgeDecade",)
    assert {cell.value for cell in cohorts.values(ADA, "AgeDecade")} == {"30-39", "40-49", "50-59"}
    with pytest.raises(BadQuery) as unknown:
        cohorts.values(ADA, "Manufacturr")
    assert "Manufacturer" in unknown.value.suggestions


def test_values_that_are_in_the_index_are_offered_while_typing(cohorts):
    offered = cohorts.completions(ADA, "Manufacturer = AC", 17)
    assert [(one.text, one.count) for one in offered] == [("ACME", 10)]


def test_the_whole_index_is_counted(cohorts):
    totals = cohorts.totals(ADA)
    assert (totals.series, totals.studies, totals.patients) == (30, 15, 7)
    assert (totals.segmented, totals.waiting) == (30, 0)


def test_one_series_comes_from_the_truth(cohorts):
    one = cohorts.one(ADA, "1.2.9.0")
    assert one.annotated is None
    assert [task.status for task in one.tasks] == ["ready"]
    assert one.study_uid == one.tasks[0].series.study_uid
    with pytest.raises(NotThere):
        cohorts.one(ADA, "9.9.9")


def test_a_series_that_was_withdrawn_is_told_by_its_audit(cohorts, queue):
    queue.withdraw("1.2.9.0", "", "no longer listed")
    one = cohorts.one(ADA, "1.2.9.0")
    assert (one.tasks, one.study_uid) == ((), None)
    assert [entry.event for entry in one.audit] == ["withdrawn"]


def test_the_owner_of_the_data_may_ask_everything(cohorts):
    for _, ask in WAYS.values():
        ask(cohorts, OWNER)
