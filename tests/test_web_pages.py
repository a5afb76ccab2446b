"""Pages, without a browser: what they say, what their links ask, who may see them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from html import unescape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.annotated import LIVER
from tests.contracts.queue import settle_next
from tests.corpus import corpus
from tomodex.access import OWNER, Asker
from tomodex.cohorts import Cohorts
from tomodex.doors import Serve
from tomodex.logbook import Logbook, Stretch
from tomodex.measurement import Measurement
from tomodex.queues import Failed, NewTask
from tomodex.search import Interval, Seen, parse
from tomodex.settings import Settings, load_settings
from tomodex.sources import Window
from tomodex.terminology import load_terminology
from tomodex.web.app import make_app
from tomodex.web.pages.asking import NOTHING, asked_of
from tomodex.web.pages.body import views_of
from tomodex.web.pages.calendar import years_of
from tomodex.web.pages.drawing import SHAPES
from tomodex.web.pages.edits import Question, demands, question_of, with_intervals
from tomodex.web.pages.operations import eta_s
from tomodex.web.pages.refining import refinements_of
from tomodex.web.pages.rendering import size, span
from tomodex.web.pages.search import EXAMPLES
from tomodex.web.pages.strip import WIDTH, axis_of, strip_of
from tomodex.wiring import cohorts_of, index_of, logbook_of, previews_of, queue_of

TERMS = load_terminology()

PAGES = (
    "/",
    "/?q=",
    "/?q=liver",
    "/?q=liver+complete&page=2",
    "/?q=lever",
    "/?q=gallbladder",
    "/series/1.2.9.0",
    "/series/1.2.3.4",
    "/structures",
    "/structures?text=leber",
    "/cohorts",
    "/operations",
)


def settings_of(data: Path, *roles: str) -> Settings:
    access = {"local": roles or ("researcher", "operator")}
    viewer = "https://viewer.example/?study={study}&series={series}"
    return load_settings(data=data, access=access, serve=Serve(per_second=10_000, viewer=viewer))


def client_of(data: Path, *roles: str) -> TestClient:
    app = make_app(settings_of(data, *roles))
    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder with 30 series, one of them read, one failed, and a planned back-fill."""
    data = tmp_path_factory.mktemp("pages") / "data"
    settings = settings_of(data)
    index_of(settings).write(corpus())
    queue, (first, second, *_) = queue_of(settings), corpus()
    queue.put([NewTask(series=first.series, source="folder:///archive")])
    settle_next(queue, first)
    queue.put([NewTask(series=second.series, source="folder:///archive")])
    settle_next(queue, Failed(sentence="out of <memory>", reason="memory"))
    days = [Window(first=date(2021, 5, day), last=date(2021, 5, day)) for day in (3, 4)]
    logbook_of(settings).plan("folder:///archive", days, "oldest first", 10.0)
    return data


@pytest.fixture(scope="module")
def client(folder) -> TestClient:
    return client_of(folder)


@pytest.fixture(scope="module")
def cohorts(folder) -> Cohorts:
    return cohorts_of(settings_of(folder))


def text_of(page: str) -> str:
    """What a person reads."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def question(text: str) -> Question:
    return question_of(parse(text, TERMS))


# --- what every page keeps to ---------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_nothing_that_its_policy_forbids(client, path):
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(
        r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", answer.text
    )
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?!/static/)", answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_that_is_only_asked_about_has_the_same_status_and_policy(client, path):
    whole, head = client.get(path), client.head(path)
    assert head.status_code == whole.status_code
    name = "content-security-policy"
    assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_one_first_heading_a_main_part_and_a_language(client, path):
    page = client.get(path).text
    assert len(re.findall(r"<h1[ >]", page)) == 1
    assert page.count("<main ") == 1
    assert '<html lang="en">' in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_what_was_typed_is_shown_and_never_run(client):
    hostile = "\"><script>alert(1)</script>' onx=y"
    page = client.get(f"/?q={quote(hostile)}").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    "asked",
    ["%00", "liver%00", "%ff", "(" * 500, "x" * 5000, "%F0%9F%92%A9", "liver and" + "+" * 900],
)
def test_a_strange_question_gets_a_page(client, asked):
    answer = client.get(f"/?q={asked}")
    assert answer.status_code == HTTPStatus.OK
    assert 'role="alert"' in answer.text


def test_a_question_is_taken_under_the_name_it_has_in_the_api_too(client):
    answer = client.get("/", params={"query": "liver complete"})
    assert answer.status_code in (HTTPStatus.SEE_OTHER, HTTPStatus.FOUND)
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked == {"q": ["liver complete"]}


def test_an_address_that_leads_nowhere_is_a_page_for_a_person_and_a_problem_for_a_program(client):
    person = client.get("/nowhere", headers={"Accept": "text/html,*/*"})
    assert person.status_code == HTTPStatus.NOT_FOUND
    assert person.headers["content-type"].startswith("text/html")
    for path, accepted in (("/nowhere", "*/*"), ("/v1/nowhere", "text/html")):
        program = client.get(path, headers={"Accept": accepted})
        assert program.status_code == HTTPStatus.NOT_FOUND
        assert program.headers["content-type"] == "application/problem+json"


def test_no_other_site_may_load_what_is_answered(client):
    for path in ("/", "/v1/version", "/nowhere"):
        assert client.get(path).headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("page", ["0", "-1", "x", "10000000000"])
def test_a_page_number_that_is_none_is_refused_with_a_page(client, page):
    answer = client.get(f"/?q=liver&page={page}")
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "<h1>" in answer.text


def test_style_and_script_are_served_and_asked_for_again_only_when_they_change(client):
    for name, kind in (("tomodex.css", "text/css"), ("tomodex.js", "text/javascript")):
        answer = client.get(f"/static/{name}")
        assert answer.headers["content-type"].startswith(kind)
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == HTTPStatus.NOT_MODIFIED
    assert client.get("/static/../routes.py").status_code == HTTPStatus.NOT_FOUND
    assert client.get("/static/%2e%2e/routes.py").status_code == HTTPStatus.NOT_FOUND


# --- the search -----------------------------------------------------------------------------------


def test_the_first_page_teaches_with_questions_that_can_be_asked(client, cohorts):
    page = client.get("/").text
    for example in EXAMPLES:
        assert f"/?q={quote(example.text, safe='').replace('%20', '+')}" in page
        assert cohorts.counts(OWNER, example.text).series is not None


def test_counts_come_before_the_series(client, cohorts):
    page = client.get("/?q=liver+complete").text
    counts = cohorts.counts(OWNER, "liver complete")
    said = text_of(page)
    assert f"{counts.patients} patients {counts.studies} studies {counts.series} series" in said
    assert page.index('id="counts"') < page.index('class="hit"')


def test_every_part_of_a_question_can_be_taken_away(client):
    page = client.get("/?q=liver+complete+and+women").text
    links = re.findall(r'<a href="([^"]+)" aria-label="Without: ([^"]+)"', page)
    assert [name for _, name in links] == ["Liver, whole", "Sex: female"]
    left = [parse_qs(urlsplit(unescape(href)).query)["q"] for href, _ in links]
    assert left == [["PatientSex = F"], ["liver complete"]]


def test_a_misspelled_name_is_mended_by_a_link(client):
    page = client.get("/?q=lver+complete+and+women").text
    assert "<mark>lver</mark>" in page
    offers = re.findall(r'<a href="(/[^"]+)">liver</a>', page)
    asked = [parse_qs(urlsplit(unescape(href)).query)["q"] for href in offers]
    assert ["liver complete and women"] in asked


def test_pages_of_series_follow_each_other(client):
    first, second = client.get("/?q=liver").text, client.get("/?q=liver&page=2").text
    uids = [re.findall(r'href="/series/([^"]+)"', page) for page in (first, second)]
    assert len(uids[0]) == 20
    assert len(uids[0]) + len(uids[1]) == 30
    assert not set(uids[0]) & set(uids[1])
    assert 'rel="next"' in first
    assert 'rel="next"' not in second


def test_series_are_sorted_by_what_is_asked_for_and_say_what_they_have_of_it(client):
    page = client.get("/?q=spleen").text
    (order,) = re.findall(r'<details class="pop" id="sort">.*?</details>', page, re.DOTALL)
    links = dict(re.findall(r'<a href="([^"]+)"[^>]*>([^<]+)</a>', order))
    assert "Newest first" in text_of(order)
    labels = {label: unescape(href) for href, label in links.items()}
    assert set(labels) >= {"Oldest first", "Largest spleen first", "Least dense spleen first"}
    page = client.get(labels["Largest spleen first"]).text
    assert re.findall(r'href="/series/1.2.9.([^"]+)"', page) == [str(n) for n in range(29, 0, -2)]
    assert "Spleen: 229 ml, " in text_of(page)
    assert "Spleen: 201 ml, " in text_of(page)


def test_an_order_stays_when_pages_are_turned_and_the_question_is_narrowed(client):
    page = client.get("/?q=liver&sort=-PatientAge").text
    assert "Eldest first" in text_of(page)
    kept = [h for h in re.findall(r'href="(/\?q=[^"]+)"', page) if "sort=eldest" in h]
    every = re.findall(r'href="(/\?q=[^"]+)"', page)
    order = re.search(r'<details class="pop" id="sort">.*?</details>', page, re.DOTALL)
    assert len(kept) >= len(every) - len(re.findall("href", order[0])) > 20
    (after,) = (h for h in kept if "page=2" in h)
    uids = [
        re.findall(r'href="/series/1.2.9.([^"]+)"', p)
        for p in (page, client.get(unescape(after)).text)
    ]
    assert [int(n) for n in (*uids[0], *uids[1])] == list(reversed(range(30)))
    assert '<input type="hidden" name="sort" value="eldest">' in page
    assert "sort=&#39;-PatientAge&#39;" in page
    assert "manifest.csv?query=liver&amp;sort=eldest" in page
    assert "← Newer" not in page
    assert "Next →" in page


def test_an_order_that_is_none_says_which_there_are(client):
    said = text_of(client.get("/?q=liver&sort=larges+spleen").text)
    assert "No order is called 'larges spleen'" in said


@pytest.mark.parametrize("sort", ["largest liver", "smallest liver", "nonsense", "-StudyDate"])
def test_who_may_only_count_learns_nothing_by_an_order(folder, sort):
    viewer = client_of(folder, "viewer")
    assert viewer.get("/", params={"q": "liver", "sort": sort}).text == viewer.get("/?q=liver").text
    body = {"query": "liver", "sort": sort}
    for path in ("/v1/cohort/series", "/v1/cohort/manifest.csv"):
        assert viewer.post(path, json=body).status_code == HTTPStatus.FORBIDDEN
    refused = viewer.post("/v1/cohort/counts", json=body)
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY


def test_nothing_found_offers_to_take_parts_away(client):
    page = client.get("/?q=gallbladder+and+women").text
    assert "No series fits all of it" in page
    assert "without <em>Gallbladder</em>" in page


@pytest.mark.parametrize(
    "text", ["", "liver", "liver complete and women", "PatientAge 40..49", "SliceThickness <= 1.5"]
)
def test_a_value_leads_to_as_many_series_as_it_says(cohorts, text):
    asked = question(text)
    sections = refinements_of(cohorts, OWNER, asked).sections
    assert {"PatientSex", "AgeDecade", "Manufacturer", "StudyYear"} <= {s.key for s in sections}
    for section in sections:
        chosen = sum(one.chosen for one in section.choices)
        for one in section.choices:
            if not chosen or (one.chosen and chosen == 1):
                wanted = text if one.chosen else one.text
                assert cohorts.counts(OWNER, wanted).series == one.count, (section.title, one)


def test_values_of_one_field_add_up_and_can_be_let_go(cohorts):
    def values(text):
        sections = refinements_of(cohorts, OWNER, question(text)).sections
        return {one.label: one for s in sections if s.key == "Manufacturer" for one in s.choices}

    one = values("liver")["ACME"].text
    both = values(one)['"q"#'].text
    together = values("liver")["ACME"].count + values("liver")['"q"#'].count
    assert cohorts.counts(OWNER, both).series == together
    assert [name for name, choice in values(both).items() if choice.chosen] == ['"q"#', "ACME"]
    assert values(values(both)["ACME"].text)['"q"#'].chosen
    assert values(values(one)["ACME"].text)["ACME"].text == one


def test_neighbouring_classes_become_one_range(cohorts):
    def ages(text):
        sections = refinements_of(cohorts, OWNER, question(text)).sections
        return {one.label: one for s in sections if s.key == "AgeDecade" for one in s.choices}

    assert ages(ages("")["30 to 39 years"].text)["40 to 49 years"].text == "PatientAge 30..49"
    apart = ages("PatientAge 30..39")["50 to 59 years"].text
    assert apart == "PatientAge 30..39 or PatientAge 50..59"
    assert [one.chosen for one in ages(apart).values()] == [True, False, True]
    assert ages(apart)["40 to 49 years"].text == "PatientAge 30..59"


def test_a_structure_says_how_often_it_is_whole_and_how_often_cut(cohorts):
    (section,) = refinements_of(cohorts, OWNER, question("liver complete and women")).wholeness
    whole, cut = section.choices
    assert whole.chosen
    assert whole.count == cohorts.counts(OWNER, "liver complete and women").series
    assert cut.text == "liver cut and PatientSex = F"
    assert cut.count == cohorts.counts(OWNER, cut.text).series
    assert whole.text == "liver and PatientSex = F"


@given(st.integers(0, 9), st.integers(0, 9))
def test_a_chosen_range_shows_as_chosen(one, other):
    low, high = sorted((one, other))
    asked = with_intervals(question("liver"), "PatientAge", [Interval(low=low, high=high)])
    read = question(asked.text)
    for number in range(10):
        inside = demands(read, "PatientAge", Interval(low=number, high=number))
        assert inside == (low <= number <= high)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("PatientAge >= 30", True),
        ("PatientAge > 30", False),
        ("PatientAge > 29.5", True),
        ("PatientAge <= 39", True),
        ("PatientAge < 39", False),
        ("PatientAge 20..50", True),
        ("PatientAge 20..35", False),
        ("liver", False),
    ],
)
def test_a_class_is_chosen_only_if_all_of_it_is_asked_for(text, inside):
    assert demands(question(text), "PatientAge", Interval(low=30.0, high=39.0)) == inside


# --- the body -------------------------------------------------------------------------------------


def test_every_structure_that_is_found_in_ct_is_in_the_picture_but_cysts():
    drawn = {shape.name for shape in SHAPES}
    total = {s.name for s in TERMS.structures.values() if s.total_class is not None}
    assert drawn <= TERMS.structures.keys()
    assert total - drawn == {"kidney_cyst_left", "kidney_cyst_right"}


def test_what_is_on_the_left_of_the_patient_is_on_our_right():
    for shape in SHAPES:
        xs = [float(x) for x in re.findall(r"[MLC ](-?[\d.]+) -?[\d.]+", shape.path)]
        middle = sum(xs) / len(xs)
        side = TERMS.structures[shape.name].laterality
        if side and "bronch" not in shape.name and "brachio" not in shape.name:
            assert ((240 - middle if shape.mirrored else middle) > 120) == (side == "left"), (
                shape.name
            )


def test_a_structure_is_asked_for_then_whole_then_no_more():
    text = "PatientSex = F"
    states = []
    for _ in range(4):
        asked = question(text)
        views = views_of(asked, asked_of(parse(text, TERMS).term), TERMS)
        region = next(r for view in views for r in view.regions if r.name == "sacrum")
        states.append((region.state, text))
        text = region.text
    assert states == [
        ("", "PatientSex = F"),
        ("asked", "PatientSex = F and sacrum"),
        ("whole", "PatientSex = F and sacrum complete"),
        ("", "PatientSex = F"),
    ]


@pytest.mark.parametrize(
    ("text", "layer"),
    [
        ("", "organs"),
        ("sacrum complete", "bones"),
        ("left autochthonous muscle between heart and L1", "muscles"),
        ("aorta", "vessels"),
        ("heart", "organs"),
    ],
)
def test_the_picture_opens_on_the_layer_of_what_is_looked_for(text, layer):
    views = views_of(question(text), asked_of(parse(text, TERMS).term), TERMS)
    assert [view.key for view in views if view.shown] == [layer]


# --- the strip ------------------------------------------------------------------------------------


def seen(name: str, bottom_mm: float, top_mm: float, complete: bool = True) -> Seen:
    return Seen(
        structure=name,
        volume_ml=1.0,
        mean_hu=1.0,
        bottom_mm=bottom_mm,
        top_mm=top_mm,
        complete=complete,
    )


SPINE = [seen(f"vertebrae_L{n}", 1000 - 30 * n, 1030 - 30 * n) for n in range(1, 6)]


def test_a_series_lies_where_its_vertebrae_do():
    strip = strip_of([*SPINE, seen("liver", 950, 1100, False)], (850, 1150), NOTHING, TERMS)
    marks = {mark.name: mark.x for mark in strip.marks}
    assert marks["T1"] < strip.cover.x < marks["T12"] < marks["L5"]
    assert strip.cover.x + strip.cover.width > marks["L5"]
    assert (strip.whole, strip.cut, strip.words) == (5, 1, "abdomen")


def test_a_vertebra_that_was_taken_for_another_does_not_turn_the_body_round():
    mistaken = [*SPINE, seen("vertebrae_C3", 955, 965)]
    axis = axis_of(mistaken, TERMS)
    scores = [axis.score(z_mm) for z_mm in range(800, 1200, 5)]
    assert scores == sorted(scores)
    assert axis_of([seen("vertebrae_C3", 0, 10, False)], TERMS) is None


@given(st.floats(-5000, 5000))
def test_where_the_table_stood_changes_nothing(shift_mm):
    shifted = [
        replace(one, bottom_mm=one.bottom_mm + shift_mm, top_mm=one.top_mm + shift_mm)
        for one in SPINE
    ]
    here = strip_of(SPINE, (850, 1150), NOTHING, TERMS)
    there = strip_of(shifted, (850 + shift_mm, 1150 + shift_mm), NOTHING, TERMS)
    assert here.cover.x == pytest.approx(there.cover.x, abs=0.2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(TERMS.structures)),
            st.floats(-1e6, 1e6),
            st.floats(0, 1e6),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_a_strip_stays_in_its_picture_whatever_was_measured(found):
    shown = [seen(name, low, low + length, whole) for name, low, length, whole in found]
    strip = strip_of(shown, None, NOTHING, TERMS)
    for bar in (*strip.bars, strip.cover):
        assert 0 <= bar.x <= WIDTH
        assert 0 < bar.width <= WIDTH + 2


def test_the_stretch_between_two_structures_is_framed():
    asked = asked_of(parse("left autochthonous muscle between L2 and L4", TERMS).term)
    strip = strip_of([*SPINE, seen("autochthon_left", 700, 1200)], (700, 1200), asked, TERMS)
    (frame,) = strip.frames
    l3 = strip_of(SPINE, (700, 1200), asked_of(parse("L3", TERMS).term), TERMS).frames[0]
    assert frame.x == pytest.approx(l3.x, abs=0.2)
    assert frame.width == pytest.approx(l3.width, abs=0.2)


def test_a_series_without_known_height_takes_the_whole_strip():
    strip = strip_of([seen("liver", 0, 100, False)], (0, 200), NOTHING, TERMS)
    assert (strip.cover.x, strip.cover.width, strip.marks) == (0, WIDTH, ())


# --- one series, structures, cohorts, operations --------------------------------------------------


def test_the_page_of_a_series_has_its_measurements_and_its_history(client):
    said = text_of(client.get("/series/1.2.9.0").text)
    measured: Measurement = LIVER.measurement
    assert f"{measured.volume_ml:.1f} ml" in said
    assert "cut inferior" in said or "whole" in said
    assert "drawn by hand" in said
    assert "https://viewer.example/?study=1.2.8.0&series=1.2.9.0" in unescape(
        client.get("/series/1.2.9.0").text
    )


def test_a_picture_is_shown_where_the_site_wants_pictures_and_to_who_may_see_series(folder):
    wanted = settings_of(folder).model_copy(update={"preview": "heads left out"})
    previews_of(wanted).put("1.2.9.0", np.zeros((4, 4, 3), np.uint8))
    place = "/series/1.2.9.0/preview.png"
    client = TestClient(make_app(wanted), base_url="http://127.0.0.1")
    assert place in client.get("/series/1.2.9.0").text
    assert client.get(place).content.startswith(b"\x89PNG")
    assert client.get("/series/1.2.9.1/preview.png").status_code == HTTPStatus.NOT_FOUND
    assert client_of(folder).get(place).status_code == HTTPStatus.NOT_FOUND
    viewer = wanted.model_copy(update={"access": settings_of(folder, "viewer").access})
    refused = TestClient(make_app(viewer), base_url="http://127.0.0.1").get(place)
    assert refused.status_code == HTTPStatus.FORBIDDEN


def test_a_series_that_is_not_known_is_a_page_that_says_so(client):
    answer = client.get("/series/1.2.3.4")
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert "1.2.3.4" in answer.text


def test_structures_are_found_by_synonym_in_german_and_by_code(client):
    for text in ("Leber", "10200004", "RID58"):
        assert ">Liver</a>" in client.get(f"/structures?text={text}").text


def test_a_cohort_is_saved_compared_and_deleted(client):
    made = client.post("/cohorts", data={"name": "<b>", "query": "liver complete"})
    assert made.status_code == HTTPStatus.SEE_OTHER
    place = made.headers["location"]
    page = client.get(place).text
    assert "&lt;b&gt;" in page
    assert "liver complete" in page
    assert "20 as they were" in text_of(client.get(f"{place}/today").text)
    assert place in client.get("/cohorts").text
    assert client.post(f"{place}/delete").headers["location"] == "/cohorts"
    assert client.get(place).status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    "form", [{"name": " "}, {"name": "x" * 500}, {"name": "a", "query": "lver"}]
)
def test_a_cohort_that_cannot_be_saved_says_why(client, form):
    answer = client.post("/cohorts", data=form)
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert "<h1>Bad Request</h1>" in answer.text


def test_failures_are_grouped_and_tried_again(folder, client):
    page = client.get("/operations").text
    assert "out of &lt;memory&gt;" in page
    assert client.post("/operations/retry").status_code == HTTPStatus.BAD_REQUEST
    assert client.post("/operations/retry", data={"reason": "memory"}).status_code == 303
    assert "memory" not in client.get("/operations").text
    queue = queue_of(settings_of(folder))
    assert [s.status for s in queue.states("1.2.9.1")] == ["ready"]


@pytest.mark.parametrize(
    ("left", "hour", "day", "seconds"),
    [
        (0, 10, 10, None),  # nothing is left
        (50, 0, 0, None),  # it stands
        (50, 100, 900, 1_800),  # soon, at the pace of now
        (9_000, 100, 900, 864_000),  # days, with the hours in which nothing may be asked
        (9_000, 100, 100, 324_000),  # it has only begun
        (9_000, 0, 900, 864_000),  # not in these hours
    ],
)
def test_a_lane_says_when_it_will_be_done_at_its_pace(left, hour, day, seconds):
    assert eta_s(left, hour, day) == seconds


def test_the_days_of_an_archive_are_drawn_by_year():
    stretches = [
        Stretch(first=date(2020, 12, 31), last=date(2021, 1, 1), status="listed", found=20),
        Stretch(first=date(2021, 1, 2), last=date(2021, 1, 2), status="failed", found=0),
        Stretch(first=date(2021, 1, 4), last=date(2021, 1, 4), status="planned", found=0),
        Stretch(first=date(2021, 1, 5), last=date(2021, 1, 5), status="listed", found=40),
    ]
    newer, older = years_of(stretches)
    assert (newer.year, newer.found, newer.listed, newer.failed, newer.planned) == (
        2021,
        50,
        2,
        1,
        1,
    )
    assert (older.year, older.found) == (2020, 10)
    # 1 January 2021 was a Friday; Monday the 4th begins the next week.
    assert [(c.kind, c.path) for c in newer.cells] == [
        ("0", "M11 0h9v9h-9z"),
        ("1", "M0 44h9v9h-9z"),
        ("4", "M11 11h9v9h-9z"),
        ("bad", "M0 55h9v9h-9z"),
    ]


def test_a_plan_of_centuries_is_drawn_in_no_time():
    stretch = Stretch(first=date(1, 1, 1), last=date(9999, 12, 30), status="planned", found=0)
    assert len(years_of([stretch])) <= 41


def test_the_logbook_tells_its_days(tmp_path):
    logbook = Logbook(tmp_path / "log.db")
    day = Window(first=date(2021, 5, 3), last=date(2021, 5, 3))
    logbook.plan("a", [day], "oldest first", 10.0)
    assert logbook.stretches() == [
        Stretch(first=day.first, last=day.last, status="planned", found=0)
    ]


# --- who may see what -----------------------------------------------------------------------------


def test_a_viewer_learns_counts_and_sees_no_series(folder):
    viewer = client_of(folder, "viewer")
    page = viewer.get("/?q=liver").text
    assert "fewer than 10" in text_of(page)
    assert "/series/" not in page
    assert "manifest" not in page
    for path in ("/series/1.2.9.0", "/cohorts", "/operations"):
        answer = viewer.get(path)
        assert answer.status_code == HTTPStatus.FORBIDDEN
        assert "1.2.8" not in answer.text


def test_a_viewer_who_asks_too_finely_is_told_what_may_be_asked(folder):
    said = text_of(client_of(folder, "viewer").get("/?q=SliceThickness+%3C+1.3").text)
    assert "in steps of 0.25. Such as 1.25" in said


def test_a_viewer_is_not_told_that_none_is_whole(folder, cohorts):
    viewer = Asker(name="vera", roles=frozenset({"viewer"}))
    found = refinements_of(cohorts, viewer, question("liver"))
    assert {choice.count for choice in found.wholeness[0].choices} == {None}


def test_few_patients_and_none_look_the_same_to_a_viewer(folder):
    viewer = client_of(folder, "viewer")

    def after_the_question(text):
        page = viewer.get(f"/?q={text}").text
        return page[page.index("How much was found") : page.index('class="picture"')]

    assert after_the_question("liver") == after_the_question("gallbladder")


def test_an_operator_sees_operations_and_no_patient_data(folder):
    operator = client_of(folder, "operator")
    assert operator.get("/").headers["location"] == "/operations"
    page = operator.get("/operations")
    assert page.status_code == HTTPStatus.OK
    assert "pseudonym-" not in page.text
    assert "/series/" not in page.text
    assert operator.get("/series/1.2.9.0").status_code == HTTPStatus.FORBIDDEN
    assert 'href="/structures"' not in page.text
    assert client_of(folder, "researcher").get("/operations").status_code == HTTPStatus.FORBIDDEN


def test_a_page_of_another_site_changes_nothing(client):
    for path in ("/cohorts", "/operations/retry"):
        answer = client.post(
            path,
            data={"name": "x", "query": "", "reason": "memory"},
            headers={"Sec-Fetch-Site": "cross-site"},
        )
        assert answer.status_code == HTTPStatus.FORBIDDEN


def test_who_has_a_token_logs_in_and_is_on_the_page_they_wanted(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("a-long-enough-secret-token-for-this")
    access = {"tokens": {"ada": {"secret": f"file:{secret}", "roles": ["researcher"]}}}
    settings = load_settings(data=tmp_path / "data", access=access)
    client = TestClient(make_app(settings), base_url="http://127.0.0.1", follow_redirects=False)
    away = client.get("/?q=liver", headers={"Accept": "text/html"})
    assert away.headers["location"] == "/login?next=%2F%3Fq%3Dliver"
    form = {"token": secret.read_text(), "next": "/?q=liver"}
    back = client.post("/login", data=form)
    assert back.headers["location"] == "/?q=liver"
    page = client.get("/?q=").text
    assert "Log out ada" in page
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)
    assert csrf
    refused = client.post("/cohorts", data={"name": "x", "query": ""})
    assert refused.status_code == HTTPStatus.FORBIDDEN
    made = client.post("/cohorts", data={"name": "x", "query": "", "csrf": csrf[1]})
    assert made.status_code == HTTPStatus.SEE_OTHER


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (19_300_000, "19 MB"),
     (999_600_000, "1.0 GB"), (1_400_000_000_000, "1.4 TB"), (3 * 10**18, "3,000 PB")],
)  # fmt: skip
def test_sizes_are_said_as_disks_have_them(count, said):
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "3 s"), (2580, "43 min"), (18_000, "5 h"), (864_000, "10 days"), (1e9, "31.7 years")],
)
def test_times_are_said_in_the_unit_of_people(seconds, said):
    assert span(seconds) == said
