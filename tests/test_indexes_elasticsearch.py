"""What of the index on a server can be seen without one; the rest is in tests/servers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.errors import BadQuery, Misconfigured, Unavailable, Unsuitable
from tomodex.indexes import open_index
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.indexes.elasticsearch.conditions import clause_of
from tomodex.indexes.elasticsearch.counting import buckets
from tomodex.indexes.elasticsearch.documents import (
    VERSION,
    document_of,
    seen_of,
    signed,
    unsigned,
)
from tomodex.indexes.elasticsearch.order import words_of
from tomodex.search import And, Has, Interval, Or, Query, Shows, parse
from tomodex.terminology import load_terminology

ALL = Query(text="", term=None)


def asked(text: str) -> Any:
    return clause_of(parse(text, load_terminology()).term)


def test_a_document_has_all_that_is_asked_for():
    document = document_of(replace(ONE, annotations=(LIVER, SPLEEN)))
    assert document["shown"] == ["liver", "spleen"]
    assert (document["complete"], document["cut"]) == (["spleen"], ["liver"])
    assert document["m"]["liver"] == {"v": 1500.0, "h": 61.5, "b": 1020.0, "t": 1180.0}
    assert document["a"]["PatientAge"] == 52.0
    json.dumps(document, allow_nan=False)


def test_of_two_measurements_of_a_structure_the_larger_counts():
    smaller = replace(LIVER, measurement=replace(LIVER.measurement, volume_ml=2.0))
    assert document_of(replace(ONE, annotations=(LIVER, smaller)))["m"]["liver"]["v"] == 1500.0


def test_a_patient_whom_nobody_knows_is_not_counted():
    unknown = replace(ONE, series=replace(ONE.series, patient=""))
    assert "patient_key" not in document_of(unknown)
    assert "patient_key" in document_of(ONE)


def test_structures_are_seen_from_head_to_foot():
    document = document_of(replace(ONE, annotations=(LIVER, SPLEEN)))
    lower = {**document["m"], "spleen": {**document["m"]["spleen"], "t": 1100.0}}
    assert [one.structure for one in seen_of({**document, "m": lower})] == ["liver", "spleen"]
    assert seen_of({}) == ()


@pytest.mark.parametrize("key", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_keys_keep_all_their_bits(key: int):
    assert -(1 << 63) <= signed(key) < 1 << 63
    assert unsigned(signed(key)) == key


def scripts_of(clause: object) -> list[Any]:
    """Every script in a clause."""
    match clause:
        case {"script": {"script": script}}:
            return [script]
        case dict():
            return [script for part in clause.values() for script in scripts_of(part)]
        case list():
            return [script for part in clause for script in scripts_of(part)]
    return []


@pytest.mark.parametrize(
    "text",
    [
        "left autochthon between heart and L1",
        "aorta complete between heart and sacrum",
        "kidney between any T9..T12 and any L1..L4 complete",
        "all L2..L4 between rib and sacrum volume > 100",
        "not (heart above liver mean 40..60 HU) or kidney below rib",
    ],
)
def test_places_are_found_without_a_script(text: str):
    assert not scripts_of(asked(text))


@pytest.mark.parametrize(
    ("lower", "upper", "words"),
    [
        ((0, 10), (30, 40), ["a<<b"]),
        ((0, 10), (11, 40), ["a<b"]),  # they miss each other by the tolerance
        ((0, 10), (9, 40), ["a<b"]),  # or overlap by it
        ((0, 10), (8.9, 40), []),
        ((0, 10), (11.1, 40), ["a<<b"]),
        ((0, 1), (0, 1), ["a<a", "a<b", "b<a", "b<b"]),  # no thicker than the tolerance
    ],
)
def test_what_ends_below_what_is_a_word(
    lower: tuple[float, float], upper: tuple[float, float], words: list[str]
):
    assert sorted(words_of({"a": lower, "b": upper})) == words


def test_a_series_without_structures_has_no_words():
    assert words_of({}) == []


def test_what_takes_too_many_words_is_a_script_where_the_structures_are_shown():
    clause = asked("vertebra between rib and rib")
    *candidates, script = clause["bool"]["filter"]
    assert all("rib_left_1" in c["terms"]["shown"] for c in candidates[1:])
    assert script["script"]["script"]["params"]["place"] == "between"
    assert len(json.dumps(clause)) < 20_000


def test_no_value_is_part_of_a_script_or_a_pattern():
    clause: Any = clause_of(Has(keyword="Manufacturer", values=("*a*?\\b*",)))
    assert clause["bool"]["filter"][1]["bool"]["should"][0]["wildcard"] == {
        "a.Manufacturer.folded": {"value": r"*a\*\?\\b*"}
    }
    (first,), (second,) = (
        scripts_of(asked(f"vertebra volume > {n} between rib and rib")) for n in (1, 2)
    )
    assert first["source"] == second["source"]  # so the server compiles it once
    assert first["params"] != second["params"]


def test_an_alternative_of_nothing_finds_nothing():
    assert clause_of(Or(terms=())) == {"match_none": {}}
    assert clause_of(Shows(structures=())) == {"match_none": {}}
    assert clause_of(And(terms=())) == {"bool": {"filter": []}}


@pytest.mark.parametrize(
    "term",
    [
        Has(keyword="Colour", values=("red",)),
        Has(keyword="Manufacturer", interval=Interval(low=1)),
        Has(keyword="KVP", values=("high",)),
    ],
)
def test_a_term_that_makes_no_sense_is_refused(term: Has):
    with pytest.raises(BadQuery):
        clause_of(term)


def test_a_field_that_is_not_counted_is_refused_with_what_was_meant():
    with pytest.raises(BadQuery) as refused:
        buckets("StudyYaer")
    assert "StudyYear" in refused.value.suggestions


def test_classes_of_thickness_have_their_upper_ends():
    ranges = buckets("SliceThicknessClass")["range"]["ranges"]
    assert ranges[0]["key"] == "up to 1 mm"
    assert "from" not in ranges[0]
    assert ranges[0]["to"] > 1.0
    assert "to" not in ranges[-1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("elasticsearch+https://me:secret@host/x", "password has no place"),
        ("elasticsearch+https://host/x?colour=red", "colour"),
        ("elasticsearch+https:///x", "names no host"),
        ("elasticsearch+https://me@host/x?password=env:TOMODEX_NOT_SET", "TOMODEX_NOT_SET"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str):
    with pytest.raises(Misconfigured, match=said):
        open_index(url)


def test_a_server_that_is_not_there_is_unavailable():
    index = ElasticsearchIndex("opensearch+http://127.0.0.1:9/tomodex?timeout_s=1")
    with pytest.raises(Unavailable, match="does not answer"):
        index.search(ALL)
    (probe,) = index.probe()
    assert probe.verdict == "wrong"
    index.close()


def answering(server: HTTPServer, answers: Mapping[tuple[str, str], tuple[int, object]]) -> str:
    """URL of a server that has an index of ours, and answers so besides."""
    here = {("GET", "/_alias/x"): (200, {f"x-{VERSION}": {"aliases": {"x": {}}}}), **answers}

    def answer(request: Request) -> Response:
        status, body = here.get((request.method, request.path), (404, {}))
        return Response(json.dumps(body), status, mimetype="application/json")

    server.expect_request(re.compile(".*")).respond_with_handler(answer)
    return server.url_for("/x").replace("http://", "opensearch+http://")


@pytest.mark.parametrize(
    ("status", "error"), [(401, Misconfigured), (403, Misconfigured), (503, Unavailable)]
)
def test_what_a_server_refuses_becomes_one_of_our_errors(
    httpserver: HTTPServer, status: int, error: type[Exception]
):
    url = answering(httpserver, {("POST", "/x/_search"): (status, {"error": "liver of Miller"})})
    index = ElasticsearchIndex(url)
    with pytest.raises(error) as raised:
        index.search(ALL)
    assert "Miller" not in str(raised.value)
    index.close()


@pytest.mark.parametrize(("status", "error"), [(400, Unsuitable), (503, Unavailable)])
def test_one_document_that_is_not_taken_is_an_error_of_the_batch(
    httpserver: HTTPServer, status: int, error: type[Exception]
):
    failed = {"status": status, "error": {"type": "mapper_parsing_exception", "reason": "Miller"}}
    items = {"errors": True, "items": [{"index": {"_id": "1.2.3", **failed}}]}
    index = ElasticsearchIndex(answering(httpserver, {("POST", "/_bulk"): (200, items)}))
    with pytest.raises(error) as raised:
        index.write([ONE])
    assert "Miller" not in str(raised.value)
    index.close()


def test_an_index_of_another_version_is_not_read(httpserver: HTTPServer):
    other = {("GET", "/_alias/x"): (200, {"x-0123456789ab": {"aliases": {"x": {}}}})}
    index = ElasticsearchIndex(answering(httpserver, other))
    with pytest.raises(Misconfigured, match="tomodex rebuild"):
        index.search(ALL)
    index.close()
