"""Sending to a FHIR server: what is sent, what is sent again, and what is given up."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.options import read_options
from tomodex.settings import Settings
from tomodex.sinks.fhir import FhirSink
from tomodex.sinks.fhir.session import ClientCredentials, FhirOptions
from tomodex.wiring import consumers_of


class Server:
    """A FHIR server that keeps what it is sent, and answers as a test wants it to."""

    def __init__(self, http: HTTPServer) -> None:
        self.url = f"fhir+{http.url_for('/fhir')}"
        self.sent: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[Response] = []
        http.expect_request("/fhir", method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if self.answers else Response("{}", 200)
        if answer.status_code < 300:
            self.sent.append(request.get_json(force=True))
        return answer

    def resources(self, kind: str) -> list[dict[str, Any]]:
        found = [e["resource"] for bundle in self.sent for e in bundle["entry"] if "resource" in e]
        return [one for one in found if one["resourceType"] == kind]


@pytest.fixture
def server(httpserver: HTTPServer) -> Server:
    return Server(httpserver)


def sibling(uid: str) -> AnnotatedSeries:
    return replace(ONE, series=replace(ONE.series, series_uid=uid))


def sink(server: Server, query: str = "", state: Path | None = None) -> FhirSink:
    return FhirSink(f"{server.url}?{query}", state, sleep=lambda s: None)


def test_a_study_is_sent_with_every_series_that_was_sent_of_it(
    server: Server, tmp_path: Path
) -> None:
    sink(server, state=tmp_path).write([ONE])
    sink(server, state=tmp_path).write([sibling("1.2.4")])
    first, second = server.resources("ImagingStudy")
    assert [s["uid"] for s in first["series"]] == ["1.2.3"]
    assert [s["uid"] for s in second["series"]] == ["1.2.3", "1.2.4"]
    assert first["id"] == second["id"]


def test_two_servers_do_not_share_what_was_sent(
    server: Server, tmp_path: Path, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/other").respond_with_data("{}")
    other = FhirSink(f"fhir+{httpserver.url_for('/other')}", tmp_path)
    other.write([ONE])
    sink(server, state=tmp_path).write([sibling("1.2.4")])
    (study,) = server.resources("ImagingStudy")
    assert [s["uid"] for s in study["series"]] == ["1.2.4"]


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_what_a_server_cannot_take_now_is_sent_again(server: Server, status: int) -> None:
    server.answers = [Response("", status), Response("", status)]
    sink(server).write([ONE])
    assert len(server.sent) == 1
    assert len(server.headers) == 3


def test_a_server_is_asked_again_when_it_says_so(server: Server) -> None:
    server.answers = [Response("", 429, {"Retry-After": "7"}), Response("", 503)]
    slept: list[float] = []
    FhirSink(server.url, sleep=slept.append).write([ONE])
    assert slept == [7.0, 1.0]


def test_a_server_that_never_takes_it_is_unavailable_and_nothing_is_remembered(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [Response("", 503)] * 3
    with pytest.raises(Unavailable, match="503, 3 times"):
        sink(server, "tries=3", tmp_path).write([ONE])
    sink(server, state=tmp_path).write([sibling("1.2.4")])
    (study,) = server.resources("ImagingStudy")
    assert [s["uid"] for s in study["series"]] == ["1.2.4"]


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="ConnectionError"):
        FhirSink("fhir+http://127.0.0.1:9/fhir?tries=2", sleep=lambda s: None).write([ONE])


def test_one_refused_series_is_unsuitable_and_its_reason_has_no_text_of_the_server(
    server: Server,
) -> None:
    outcome = (
        '{"resourceType": "OperationOutcome", "issue": [{"code": "invariant", "diagnostics":'
        ' "value pseudonym is wrong", "expression": ["Bundle.entry[0].resource"]}]}'
    )
    server.answers = [Response(outcome, 422)]
    with pytest.raises(Unsuitable, match="422 invariant at Bundle") as refused:
        sink(server).write([ONE])
    assert "pseudonym" not in str(refused.value)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_us_stops_the_delivery(server: Server, status: int) -> None:
    server.answers = [Response("", status)]
    with pytest.raises(Misconfigured, match=str(status)):
        sink(server).write([ONE])


def test_a_token_is_sent_and_never_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "s3cret")
    sink(server, "token=env:FHIR_TOKEN").write([ONE])
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(vars(sink(server, "token=env:FHIR_TOKEN")))


def test_observations_are_sent_on_request(server: Server) -> None:
    sink(server, "observations=yes").write([ONE])
    assert len(server.resources("Observation")) == 2


@pytest.mark.parametrize("mode", ["put", "conditional"])
def test_a_number_of_a_structure_that_is_seen_no_longer_is_taken_away(
    server: Server, mode: str
) -> None:
    one = sink(server, f"observations=yes&mode={mode}")
    one.write([replace(ONE, annotations=(LIVER, SPLEEN))])
    one.write([ONE])
    assert deletions(server.sent[-1]) == ["Observation", "Observation"]
    one.erase(["1.2.3"])
    assert sorted(deletions(server.sent[-1])) == [
        "BodyStructure",
        "ImagingStudy",
        "Observation",
        "Observation",
        "Provenance",
    ]


def test_by_conditions_an_observation_refers_to_what_comes_with_it(server: Server) -> None:
    sink(server, "observations=yes&mode=conditional").write([ONE])
    (bundle,) = server.sent
    there = {entry["fullUrl"] for entry in bundle["entry"]}
    for one in server.resources("Observation"):
        assert one["subject"]["reference"] in there
        assert one["partOf"][0]["reference"] in there
        assert one["device"]["reference"] in there


def deletions(bundle: dict[str, Any]) -> list[str]:
    requests = [entry["request"] for entry in bundle["entry"]]
    return [
        re.split("[/?]", request["url"])[0] for request in requests if request["method"] == "DELETE"
    ]


def test_a_series_that_is_gone_leaves_its_study(server: Server) -> None:
    one = sink(server)
    one.write([ONE, sibling("1.2.4")])
    one.erase(["1.2.3"])
    last = server.sent[-1]
    assert deletions(last) == ["Provenance", "BodyStructure"]
    assert [s["uid"] for s in server.resources("ImagingStudy")[-1]["series"]] == ["1.2.4"]


def test_a_study_goes_with_its_last_series_and_with_every_run_on_it(server: Server) -> None:
    one = sink(server)
    later = replace(ONE, provenance=replace(ONE.provenance, finished="2027-01-01T00:00:00+01:00"))
    one.write([ONE, later])
    one.erase(["1.2.3"])
    assert deletions(server.sent[-1]) == [
        "ImagingStudy",
        "Provenance",
        "Provenance",
        "BodyStructure",
    ]


def test_a_series_that_was_never_sent_is_not_erased(server: Server) -> None:
    sink(server).erase(["1.2.3"])
    assert server.sent == []


def test_by_conditions_a_series_is_erased_by_its_identifier(server: Server) -> None:
    one = sink(server, "mode=conditional")
    one.write([ONE, sibling("1.2.4")])
    one.erase(["1.2.3"])
    urls = [entry["request"]["url"] for entry in server.sent[-1]["entry"]]
    assert urls[1].startswith("BodyStructure?identifier=")
    assert urls[2].startswith("ImagingStudy?identifier=")
    study = server.resources("ImagingStudy")[-1]
    assert study["subject"]["reference"].startswith("Patient?identifier=")


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        ('{"fhirVersion": "5.0.0", "software": {"name": "HAPI", "version": "8"}}', "ok"),
        ('{"fhirVersion": "4.0.1"}', "wrong"),
        ("no json", "wrong"),
    ],
)
def test_a_server_is_probed_for_its_version(
    httpserver: HTTPServer, document: str, verdict: str
) -> None:
    httpserver.expect_request("/fhir/metadata").respond_with_data(document)
    (found,) = FhirSink(f"fhir+{httpserver.url_for('/fhir')}").probe()
    assert found.verdict == verdict


def test_what_was_sent_is_remembered_in_the_data_folder(server: Server, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, sinks=(server.url,))
    for uid in ("1.2.3", "1.2.4"):
        opened = consumers_of(settings)[server.url]
        assert isinstance(opened, FhirSink)
        opened.write([sibling(uid)])
        opened.close()
    assert [s["uid"] for s in server.resources("ImagingStudy")[-1]["series"]] == ["1.2.3", "1.2.4"]


class Tokens:
    """A server that gives tokens to client credentials, one after the other."""

    def __init__(self, http: HTTPServer) -> None:
        self.url = http.url_for("/token")
        self.asked: list[Request] = []
        self.answers: list[Response] = []
        http.expect_request("/token", method="POST").respond_with_handler(self._give)

    def _give(self, request: Request) -> Response:
        request.get_data()
        self.asked.append(request)
        if self.answers:
            return self.answers.pop(0)
        token = f'{{"access_token": "t{len(self.asked)}", "expires_in": 3600}}'
        return Response(token, 200, content_type="application/json")


@pytest.fixture
def tokens(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    monkeypatch.setenv("FHIR_CLIENT", "s3cret")
    return Tokens(httpserver)


def client(tokens: Tokens, more: str = "") -> str:
    return f"token_url={tokens.url}&client=tomodex&client_secret=env:FHIR_CLIENT&{more}"


def test_client_credentials_get_one_token_for_many_requests(server: Server, tokens: Tokens) -> None:
    sink(server, client(tokens, "scope=system/*.write+openid")).write([ONE, sibling("1.2.4")])
    assert [h["Authorization"] for h in server.headers] == ["Bearer t1", "Bearer t1"]
    (asked,) = tokens.asked
    assert asked.authorization is not None
    assert (asked.authorization.username, asked.authorization.password) == ("tomodex", "s3cret")
    assert dict(asked.form) == {
        "grant_type": "client_credentials",
        "scope": "system/*.write openid",
    }


def test_a_token_that_is_withdrawn_is_fetched_anew(server: Server, tokens: Tokens) -> None:
    server.answers = [Response("", 401)]
    sink(server, client(tokens)).write([ONE])
    assert [h["Authorization"] for h in server.headers] == ["Bearer t1", "Bearer t2"]


def test_a_client_that_is_refused_with_a_fresh_token_stops(server: Server, tokens: Tokens) -> None:
    server.answers = [Response("", 401), Response("", 401)]
    with pytest.raises(Misconfigured, match="401"):
        sink(server, client(tokens)).write([ONE])


def test_a_token_is_fetched_anew_before_its_end(tokens: Tokens) -> None:
    now = 0.0
    options = read_options(f"fhir+http://fhir.example?{client(tokens)}", FhirOptions)
    credentials = ClientCredentials(options, clock=lambda: now)

    def bearer() -> str:
        request = requests.Request("POST", "http://fhir.example").prepare()
        return credentials(request).headers["Authorization"]

    assert [bearer(), bearer()] == ["Bearer t1", "Bearer t1"]
    now = 3569.0
    assert bearer() == "Bearer t1"
    now = 3570.0
    assert bearer() == "Bearer t2"


def test_a_token_server_that_is_busy_is_asked_again(server: Server, tokens: Tokens) -> None:
    tokens.answers = [Response("", 503)]
    sink(server, client(tokens)).write([ONE])
    assert len(server.sent) == 1


@pytest.mark.parametrize(
    "answer",
    [Response("", 400), Response("", 302), Response("[]", 200), Response('{"access_token": 7}')],
)
def test_a_token_server_that_gives_none_stops_the_delivery(
    server: Server, tokens: Tokens, answer: Response
) -> None:
    tokens.answers = [answer]
    with pytest.raises(Misconfigured, match="/token") as stopped:
        sink(server, client(tokens)).write([ONE])
    assert "s3cret" not in str(stopped.value)


@pytest.mark.parametrize(
    "query",
    [
        "token=env:FHIR_CLIENT&password=env:FHIR_CLIENT",
        "client=tomodex",
        "token_url=https://login.example/token",
        "token_url=file:///etc/passwd&client=tomodex&client_secret=env:FHIR_CLIENT",
        "cert=/no/such/file",
    ],
)
def test_ways_to_be_known_that_do_not_go_together_are_refused(
    server: Server, tokens: Tokens, query: str
) -> None:
    with pytest.raises(Misconfigured):
        sink(server, query)


def test_a_password_is_sent_as_basic_authentication(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_PASSWORD", "s3cret")
    one = Server(httpserver)
    url = one.url.replace("://", "://tomodex@")
    FhirSink(f"{url}?password=env:FHIR_PASSWORD").write([ONE])
    assert one.headers[0]["Authorization"] == f"Basic {b64encode(b'tomodex:s3cret').decode()}"


def test_a_client_certificate_is_shown_to_a_server_that_wants_one(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, cert = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("tomodex").private_key_and_cert_chain_pem.write_to_path(cert)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with HTTPServer(host="127.0.0.1", ssl_context=context) as http:
        url = Server(http).url
        FhirSink(f"{url}?ca={ca}&cert={cert}").write([ONE])
        with pytest.raises(Misconfigured, match="certificate"):
            FhirSink(f"{url}?cert={cert}", sleep=lambda s: None).write([ONE])
        with pytest.raises((Unavailable, Misconfigured)):
            FhirSink(f"{url}?ca={ca}&tries=1", sleep=lambda s: None).write([ONE])


def test_a_server_that_sends_us_elsewhere_is_not_followed(server: Server) -> None:
    server.answers = [Response("", 302, {"Location": "https://other.example/fhir"})]
    with pytest.raises(Misconfigured, match="302"):
        sink(server).write([ONE])


def test_a_server_may_say_when_to_ask_again_as_a_time(server: Server) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.answers = [Response("", 503, {"Retry-After": when}), Response("", 503)]
    slept: list[float] = []
    FhirSink(server.url, sleep=slept.append).write([ONE])
    assert 15 < slept[0] <= 20
    assert slept[1] == 1.0


def test_a_series_that_shows_nothing_in_a_new_run_is_taken_away_first(server: Server) -> None:
    one = sink(server)
    one.write([ONE])
    one.write([replace(ONE, annotations=())])
    assert deletions(server.sent[1]) == ["ImagingStudy", "Provenance", "BodyStructure"]
    assert server.resources("ImagingStudy")[-1]["series"][0].keys() == {
        "id",
        "uid",
        "modality",
        "numberOfInstances",
    }


def test_two_who_send_one_study_at_once_wait_for_each_other(server: Server, tmp_path: Path) -> None:
    def send(number: int) -> None:
        with closing(sink(server, state=tmp_path)) as one:
            one.write([sibling(f"1.2.{number}")])

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(send, range(10, 22)))
    studies = server.resources("ImagingStudy")
    assert [len(study["series"]) for study in studies] == list(range(1, 13))
