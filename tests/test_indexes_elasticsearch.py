"""What of the index on a server can be seen without one; the rest is in tests/servers."""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import BadQuery, Misconfigured, Unavailable, Unsuitable
from tomodex.indexes import open_index
from tomodex.indexes.elasticsearch import ElasticsearchIndex, documents, writing
from tomodex.indexes.elasticsearch.conditions import clause_of
from tomodex.indexes.elasticsearch.counting import buckets
from tomodex.indexes.elasticsearch.documents import (
    VERSION,
    document_of,
    seen_of,
    signed,
    unsigned,
)
from tomodex.indexes.elasticsearch.order import (
    lies_between,
    lies_between_any,
    line_of,
    words_of,
)
from tomodex.search import Above, And, Between, Has, Interval, Or, Query, Shows, parse
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
        "vertebra between rib and rib",
        "all vertebra complete between rib and vertebra",
        "musculoskeletal system above rib",
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
        ((0, 3), (1.5, 2), ["b<b"]),
    ],
)
def test_what_ends_below_what_is_a_word(
    lower: tuple[float, float], upper: tuple[float, float], words: list[str]
):
    assert sorted(words_of({"a": lower, "b": upper})) == words


def test_a_series_without_structures_has_no_words():
    assert words_of({}) == []


def test_what_takes_too_many_words_is_a_script_where_the_structures_are_shown():
    clause = asked("vertebra between rib complete and rib complete")
    *candidates, script = clause["bool"]["filter"]
    assert all("rib_left_1" in c["terms"]["complete"] for c in candidates[1:])
    assert script["script"]["script"]["params"]["place"] == "between"
    assert len(json.dumps(clause)) < 20_000


def test_nobody_writes_down_all_words_of_all_structures():
    names = tuple(load_terminology().structures)
    everything = Shows(structures=names)
    for term in (
        Above(subject=everything, landmark=everything),
        Between(subject=everything, one=everything, other=everything),
    ):
        assert scripts_of(clause_of(term))


def found(clause: Any, document: Mapping[str, Any]) -> bool:
    """Whether a server would find the document."""
    match clause:
        case {"term": term}:
            return all(value in document[field] for field, value in term.items())
        case {"terms": terms}:
            return any(set(document[field]) & set(words) for field, words in terms.items())
        case {"intervals": intervals}:
            return all(ends_of(rule, document[f].split(), 0) for f, rule in intervals.items())
        case {"bool": parts}:
            return (
                all(found(part, document) for part in parts.get("filter", ()))
                and not any(found(part, document) for part in parts.get("must_not", ()))
                and ("should" not in parts or any(found(p, document) for p in parts["should"]))
            )
    raise AssertionError(clause)


def ends_of(rule: Any, line: list[str], begin: int) -> int:
    """Where in a line what is looked for ends, as early as it can after `begin`; 0 if nowhere."""
    match rule:
        case {"match": {"query": word}}:
            return line.index(word, begin) + 1 if word in line[begin:] else 0
        case {"any_of": {"intervals": rules}}:
            ends = [ends_of(one, line, begin) for one in rules]
            return min(filter(None, ends), default=0)
        case {"all_of": {"intervals": rules, "ordered": True}}:
            at = begin
            for one in rules:
                if not (at := ends_of(one, line, at)):
                    return 0
            return at
    raise AssertionError(rule)


#: Some of the ribs and vertebrae, as of series that show no more of them.
NAMES = ("rib_left_1", "rib_left_2", "rib_right_1", "vertebrae_T1", "vertebrae_T2", "liver")

#: A lower end and a thickness, mm, which often differ by the tolerance, and by nothing.
HEIGHTS = st.integers(0, 24).map(lambda n: 1019.1 + n / 2)
THICKNESSES = st.sampled_from([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 9])

GROUPS = st.sampled_from(["rib", "left rib", "thoracic vertebra", "L1", "liver"])


@given(
    shown=st.dictionaries(st.sampled_from(NAMES), st.tuples(HEIGHTS, THICKNESSES)),
    groups=st.tuples(
        *[st.sampled_from(["rib", "left rib", "thoracic vertebra", "L1", "liver"])] * 2
    ),
)
# One that is thin, between an end and a beginning that overlap; and with a rib besides, below all.
@example(shown={"liver": (10.5, 0), "rib_left_2": (10, 1.4)}, groups=("rib", "rib"))
@example(
    shown={"liver": (10.5, 0), "rib_left_2": (10, 1.4), "rib_left_1": (0, 5)},
    groups=("rib", "left rib"),
)
@settings(max_examples=200, deadline=None)
def test_the_line_says_what_lies_between_any_of_some_as_the_words_say_it_of_each(
    shown: Mapping[str, tuple[float, float]], groups: tuple[str, str]
):
    ends = {name: (bottom, bottom + thick) for name, (bottom, thick) in shown.items()}
    document = {"below": words_of(ends), "line": line_of(ends), "shown": list(ends)}
    one, other = map(load_terminology().resolve, groups)
    pairs = [pair for pair in product(one, other) if {*pair} <= shown.keys()]
    for subject in NAMES:
        each = [found(lies_between(subject, *pair), document) for pair in pairs]
        expected = subject in shown and any(each)
        assert found(lies_between_any(subject, one, other), document) == expected


RIBS = load_terminology().resolve("rib")


def test_a_family_of_structures_is_one_word_of_the_line():
    assert line_of({"rib_left_3": (0, 10)}).split() == [
        "rib_left_3[",
        *("[rib_left_3", "[rib_left_#", "[rib_#", "]rib_left_3"),
        *("rib_left_3]", "rib_left_#]", "rib_#]"),
    ]
    assert "rib_left_3" not in json.dumps(
        lies_between_any("liver", RIBS, RIBS)["bool"]["should"][1]
    )
    assert '"rib_left_3]"' in json.dumps(lies_between_any("liver", RIBS[1:], RIBS))


def test_no_value_is_part_of_a_script_or_a_pattern():
    clause: Any = clause_of(Has(keyword="Manufacturer", values=("*a*?\\b*",)))
    assert clause["bool"]["filter"][1]["bool"]["should"][0]["wildcard"] == {
        "a.Manufacturer.folded": {"value": r"*a\*\?\\b*"}
    }
    (first,), (second,) = (
        scripts_of(asked(f"vertebra between rib volume > {n} and rib")) for n in (1, 2)
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
        ("elasticsearch+https://host,:9200/x", "names no host"),
        ("elasticsearch+https://host,other:http/x", "no host and port"),
        ("elasticsearch+https://me@host/x", "no `password`"),
        ("elasticsearch+https://me@host/x?password=env:PATH&token=env:PATH", "one of them"),
        ("elasticsearch+https://host/x?ca=/nowhere/ca.pem", "no file /nowhere/ca.pem"),
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
    here = {("GET", "/x*/_alias/x*"): (200, {f"x-{VERSION}": {"aliases": {"x": {}}}}), **answers}

    def answer(request: Request) -> Response:
        status, body = here.get((request.method, request.path), (404, {}))
        return Response(json.dumps(body), status, mimetype="application/json")

    server.expect_request(re.compile(".*")).respond_with_handler(answer)
    return server.url_for("/x").replace("http://", "opensearch+http://")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Misconfigured),
        (403, Misconfigured),
        (404, Unavailable),
        (429, Unavailable),
        (503, Unavailable),
    ],
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


@pytest.mark.parametrize(
    ("status", "error"), [(400, Unsuitable), (403, Misconfigured), (503, Unavailable)]
)
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
    other = {("GET", "/x*/_alias/x*"): (200, {"x-0123456789ab": {"aliases": {"x": {}}}})}
    index = ElasticsearchIndex(answering(httpserver, other))
    with pytest.raises(Misconfigured, match="tomodex rebuild"):
        index.search(ALL)
    index.close()


def many(count: int) -> list[AnnotatedSeries]:
    return [
        replace(ONE, series=replace(ONE.series, series_uid=f"1.2.{number}"))
        for number in range(count)
    ]


class Taking:
    """A server that takes documents, and answers each request as `statuses` has it next."""

    def __init__(self, *statuses: Mapping[str, int] | int) -> None:
        self.statuses = list(statuses)  #: of the whole request, or of documents by their UID
        self.asked: list[list[str]] = []  #: lines of each request

    def answer(self, request: Request) -> Response:
        self.asked.append(request.get_data(as_text=True).splitlines())
        status = self.statuses.pop(0) if self.statuses else {}
        if isinstance(status, int):
            return Response("{}", status, mimetype="application/json")
        items = [self._item(json.loads(line), status) for line in self.asked[-1]]
        body = json.dumps({"errors": bool(status), "items": list(filter(None, items))})
        return Response(body, 200, mimetype="application/json")

    def _item(self, line: Any, status: Mapping[str, int]) -> dict[str, Any] | None:
        kind = next(iter(line))
        if kind not in ("index", "delete"):
            return None
        code = status.get(line[kind]["_id"], 200)
        error = {"error": {"type": "mapper_parsing_exception", "reason": "Miller"}}
        return {kind: {"_id": line[kind]["_id"], "status": code, **(error if code > 299 else {})}}

    def uids(self) -> list[list[str]]:
        lines = [[json.loads(line) for line in asked] for asked in self.asked]
        return [[line["index"]["_id"] for line in some if "index" in line] for some in lines]


@pytest.fixture
def taking(httpserver: HTTPServer) -> Iterator[tuple[Taking, ElasticsearchIndex]]:
    server = Taking()
    httpserver.expect_request("/_bulk", method="POST").respond_with_handler(server.answer)
    index = ElasticsearchIndex(answering(httpserver, {}))
    yield server, index
    index.close()


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FIRST_REST_S", 0)


def test_a_server_with_too_much_to_do_is_asked_again(
    taking: tuple[Taking, ElasticsearchIndex],
):
    server, index = taking
    server.statuses = [429, {"1.2.1": 429}]
    index.write(many(3))
    assert server.uids() == [["1.2.0", "1.2.1", "1.2.2"]] * 2 + [["1.2.1"]]


def test_a_server_that_stays_too_busy_is_unavailable(taking: tuple[Taking, ElasticsearchIndex]):
    server, index = taking
    server.statuses = [{"1.2.1": 429}] * 20
    with pytest.raises(Unavailable, match="429"):
        index.write(many(3))
    assert len(server.asked) == 1 + writing.RETRIES


def test_a_poisonous_document_does_not_hold_up_others(taking: tuple[Taking, ElasticsearchIndex]):
    server, index = taking
    server.statuses = [{"1.2.1": 400}]
    with pytest.raises(Unsuitable):
        index.write(many(1001))
    assert [len(some) for some in server.uids()] == [500, 500, 1]


def test_one_that_may_go_in_later_is_not_taken_for_poison(
    taking: tuple[Taking, ElasticsearchIndex],
):
    server, index = taking
    server.statuses = [{"1.2.1": 400, "1.2.2": 503}]
    with pytest.raises(Unavailable):
        index.write(many(3))


def test_requests_have_a_limited_size(
    taking: tuple[Taking, ElasticsearchIndex], monkeypatch: pytest.MonkeyPatch
):
    server, index = taking
    monkeypatch.setattr(writing, "MOST_BYTES", 5_000)
    index.write(many(40))
    assert len(server.asked) > 3
    assert all(sum(map(len, asked)) < 5_000 for asked in server.asked)
    assert [uid for some in server.uids() for uid in some] == [f"1.2.{n}" for n in range(40)]


def test_what_is_older_than_what_is_there_is_passed_over(
    taking: tuple[Taking, ElasticsearchIndex], caplog: pytest.LogCaptureFixture
):
    server, index = taking
    server.statuses = [{"1.2.0": 409}]
    with caplog.at_level(logging.INFO):
        index.write_entries({7: many(1)[0]})
    assert json.loads(server.asked[0][0])["index"] == {
        "_id": "1.2.0",
        "_index": "x",
        "version": 7,
        "version_type": "external_gte",
    }
    assert "older passed over" in [record.message for record in caplog.records]


def test_nothing_is_written_to_an_index_that_nobody_made(httpserver: HTTPServer):
    url = answering(httpserver, {("POST", "/_bulk"): (200, {"errors": False, "items": []})})
    index = ElasticsearchIndex(url)
    index.write([ONE])
    (asked_for,) = [r for r, _ in httpserver.log if r.path == "/_bulk"]
    assert asked_for.args["require_alias"] == "true"
    index.close()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("too_many_nested_clauses", BadQuery),
        ("too_many_clauses", BadQuery),
        ("cannot execute [inline] scripts", Misconfigured),
    ],
)
def test_what_a_server_will_not_run_is_told_to_whom_it_concerns(
    httpserver: HTTPServer, said: str, error: type[Exception]
):
    refused = {"error": {"type": said, "root_cause": [{"type": said, "reason": said}]}}
    index = ElasticsearchIndex(answering(httpserver, {("POST", "/x/_search"): (400, refused)}))
    with pytest.raises(error):
        index.search(ALL)
    index.close()


def test_part_of_an_answer_is_none(httpserver: HTTPServer):
    index = ElasticsearchIndex(answering(httpserver, {}))
    with pytest.raises(Unavailable):
        index.search(ALL)
    asked_for = httpserver.log[-1][0]
    assert (asked_for.path, asked_for.args["allow_partial_search_results"]) == (
        "/x/_search",
        "false",
    )
    index.close()


def test_another_server_is_asked_where_one_is_down(httpserver: HTTPServer):
    place = answering(httpserver, {}).partition("//")[2]
    index = ElasticsearchIndex(f"opensearch+http://127.0.0.1:9,{place}?timeout_s=5")
    for _ in range(3):
        assert index._generations.written() == "x"
    index.close()


class Secured(NamedTuple):
    """A server with TLS, and the authority that it is certified by."""

    server: HTTPServer
    ca: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with HTTPServer(host="localhost", ssl_context=context) as server:
        yield Secured(server, ca)


def secured_url(secured: Secured, user: str, *options: str) -> str:
    secured.server.clear()
    answering(secured.server, {})
    place = f"{user}localhost:{secured.server.port}/x"
    return f"opensearch+https://{place}?{'&'.join([f'ca={secured.ca}', *options])}"


def test_a_server_is_trusted_by_an_authority_of_ours_and_told_who_we_are(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SEARCH_PASSWORD", "open sesame")
    index = ElasticsearchIndex(secured_url(secured, "me@", "password=env:SEARCH_PASSWORD"))
    index._generations.ensure()
    said = secured.server.log[-1][0].authorization
    assert said is not None
    assert (said.type, said.username, said.password) == ("basic", "me", "open sesame")
    assert "sesame" not in index.url
    index.close()


def test_an_api_key_is_told_as_the_server_encoded_it(secured: Secured, tmp_path: Path):
    (tmp_path / "key").write_text("VnVhQ2ZHY0JDZGJrUW0tZTVhT3g=\n")
    index = ElasticsearchIndex(secured_url(secured, "", f"token=file:{tmp_path / 'key'}"))
    index._generations.ensure()
    said = secured.server.log[-1][0].headers["Authorization"]
    assert said == "ApiKey VnVhQ2ZHY0JDZGJrUW0tZTVhT3g="
    index.close()


def test_a_server_that_nobody_vouches_for_is_not_told_anything(secured: Secured, tmp_path: Path):
    stranger = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    secured_url(secured, "")
    place = f"localhost:{secured.server.port}"
    index = ElasticsearchIndex(f"opensearch+https://{place}/x?ca={stranger}")
    with pytest.raises(Misconfigured, match="not trusted"):
        index.search(ALL)
    assert not secured.server.log
    index.close()


def test_a_certificate_of_the_past_is_not_trusted(tmp_path: Path):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = [datetime.now(UTC) - timedelta(days=days) for days in (30, 1)]
    authority.issue_cert("localhost", not_before=past[0], not_after=past[1]).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with HTTPServer(host="localhost", ssl_context=context) as server:
        url = f"opensearch+https://localhost:{server.port}/x?ca={tmp_path / 'ca.pem'}"
        index = ElasticsearchIndex(url)
        with pytest.raises(Misconfigured, match=r"not trusted|expired"):
            index.search(ALL)
        index.close()


def fields_of(mappings: Any, before: str = "") -> set[str]:
    """Names of all fields of a mapping."""
    found = set()
    for name, field in mappings["properties"].items():
        whole = f"{before}{name}"
        found |= fields_of(field, f"{whole}.") if "properties" in field else {whole}
        found |= {f"{whole}.{sub}" for sub in field.get("fields", {})}
    return found


def mentioned(value: object) -> set[str]:
    """Every field that a saved object names."""
    match value:
        case {"field": str(field)}:
            return {field}
        case dict():
            return {field for part in value.values() for field in mentioned(part)}
        case list():
            return {field for part in value for field in mentioned(part)}
    return set()


def test_dashboards_name_fields_and_objects_that_there_are():
    lines = Path("deploy/dashboards/tomodex.ndjson").read_text().splitlines()
    saved = {(one["type"], one["id"]): one for one in map(json.loads, lines)}
    fields = fields_of(documents.MAPPINGS)
    pattern = saved["index-pattern", "tomodex"]["attributes"]
    assert pattern["timeFieldName"] in fields
    assert json.loads(pattern["fieldAttrs"]).keys() <= fields
    for one in saved.values():
        assert all((ref["type"], ref["id"]) in saved for ref in one["references"])
        asked_for = mentioned(json.loads(one["attributes"].get("visState", "{}")))
        assert {*asked_for, *one["attributes"].get("columns", [])} <= fields
        panels = json.loads(one["attributes"].get("panelsJSON", "[]"))
        names = {ref["name"] for ref in one["references"]}
        assert {panel["panelRefName"] for panel in panels} <= names


def test_the_page_about_the_server_explains_every_field():
    text = Path("docs/how-to/search-on-a-server.md").read_text()
    top = {name for name in documents.MAPPINGS["properties"] if name not in ("a", "m")}
    assert all(f"`{name}`" in text for name in top)
