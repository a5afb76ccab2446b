"""The same questions asked of core, REST, client and command line, of a server that really runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from pytest_httpserver import HTTPServer

from tests.corpus import QUESTIONS, corpus
from tests.servers.ports import free_port, wait_until_listening
from tomodex.access import OWNER
from tomodex.cli import main
from tomodex.client import COLUMNS, Index
from tomodex.cohorts import Counts
from tomodex.errors import (
    BadQuery,
    Forbidden,
    Misconfigured,
    NotThere,
    TomodexError,
    Unavailable,
)
from tomodex.queues import NewTask, open_queue
from tomodex.settings import load_settings
from tomodex.wiring import cohorts_of, index_of

TOKEN = "a-token-that-nobody-guesses"
FIELDS = ["PatientSex", "StudyYear", "structure", "Manufacturer", "SliceThicknessClass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which thirty series were indexed."""
    made = tmp_path_factory.mktemp("client") / "tomodex-data"
    settings = load_settings(data=made)
    index = index_of(settings)
    index.write(corpus())
    index.close()
    queue = open_queue(settings.queue_url)
    for one in corpus(4):
        queue.put([NewTask(series=one.series, source="folder:///a")])
        task = queue.lease("worker", timedelta(minutes=5))
        assert task is not None
        assert queue.settle(task, one)
    queue.close()
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """`tomodex serve` on that folder, in a process of its own."""
    port = free_port()
    config = folder.parent / "tomodex.toml"
    config.write_text(
        "[serve]\nper_second = 1000\n"
        "[access.tokens]\n"
        'ada = { secret = "env:ADA", roles = ["researcher"] }\n'
        'vic = { secret = "env:VIC", roles = ["viewer"] }\n'
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOMODEX_")},
        "TOMODEX_CONFIG": str(config),
        "ADA": TOKEN,
        "VIC": f"{TOKEN}-of-vic",
    }
    code = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", code, "--data", str(folder), "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until_listening(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def remote(server: str) -> Iterator[Index]:
    with Index(server, TOKEN) as opened:
        yield opened


@pytest.fixture
def local(folder: Path) -> Iterator[Index]:
    with Index(folder) as opened:
        yield opened


@pytest.fixture(params=["local", "remote"])
def index(request: pytest.FixtureRequest) -> Index:
    found: Index = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command on that folder; give what it prints."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tomodex", "--data", str(folder), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    return run


def post(server: str, path: str, body: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return requests.post(f"{server}{path}", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("query", QUESTIONS)
def test_however_it_is_asked_the_answer_is_the_same(
    query, folder, server, local, remote, command, tmp_path
):
    cohorts = cohorts_of(load_settings(data=folder))
    page = cohorts.series(OWNER, query, 100)
    uids = [hit.series_uid for hit in page.hits]
    counts = page.counts
    cells = cohorts.facets(OWNER, query, FIELDS)
    facets = {field: {c.value: c.count for c in found} for field, found in cells.items()}
    # REST
    asked = post(server, "/v1/cohort/series", {"query": query, "limit": 100}).json()
    assert [hit["series_uid"] for hit in asked["hits"]] == uids
    assert Counts(**asked["counts"]) == counts
    # client, both ways
    for index in (local, remote):
        assert index.count(query) == counts
        assert index.facets(query, FIELDS) == facets
        found = index.search(query)
        assert (found.counts, [row["SeriesInstanceUID"] for row in found]) == (counts, uids)
        file = tmp_path / "list.txt"
        index.manifest(query, file)
        assert [line.split("\t")[1] for line in file.read_text().splitlines()] == uids
    assert local.search(query) == remote.search(query)
    # command line
    printed = json.loads(command("search", query, "--json", "--limit", "100"))
    assert [hit["series_uid"] for hit in printed["found"]["hits"]] == uids
    assert Counts(**printed["found"]["counts"]) == counts


#: Orders, and what they come to: numbers of the corpus from the first on. It has a spleen in every
#: second series, and two series of each day.
ORDERS = {
    "oldest": sorted(range(30), key=lambda n: (n // 2, str(n))),
    "-PatientAge": list(reversed(range(30))),
    "smallest Leber": list(range(30)),
    "largest spleen": [*range(29, 0, -2), *range(28, -1, -2)],
}


@pytest.mark.parametrize("sort", ORDERS)
def test_an_order_is_the_same_however_it_is_asked_for(
    sort, server, local, remote, command, tmp_path
):
    uids = [f"1.2.9.{n}" for n in ORDERS[sort]]
    body = {"query": "", "limit": 12, "offset": 5, "sort": sort}
    asked = post(server, "/v1/cohort/series", body).json()
    assert [hit["series_uid"] for hit in asked["hits"]] == uids[5:17]
    for index in (local, remote):
        found = index.search("", limit=12, sort=sort)
        assert [row["SeriesInstanceUID"] for row in found] == uids[:12]
        index.manifest("", tmp_path / "list.json", sort=sort)
        listed = json.loads((tmp_path / "list.json").read_text())
        assert [row["SeriesInstanceUID"] for row in listed["series"]] == uids
        assert listed["manifest"]["sort"] == asked["sort"]
    printed = json.loads(command("search", "", "--json", "--limit", "12", "--sort", sort))
    assert [hit["series_uid"] for hit in printed["found"]["hits"]] == uids[:12]
    command("search", "", "--sort", sort, "--manifest", str(tmp_path / "list.txt"))
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines] == uids


def test_the_questions_find_all_some_and_none(local):
    found = {query: local.count(query).series for query in QUESTIONS}
    assert (found[""], found["gallbladder"]) == (30, 0)
    assert sorted(set(found.values()))[1] < 15


def test_a_result_becomes_a_data_frame_with_types(index):
    result = index.search("liver", ["StudyDate", "PatientAge", "Manufacturer", "tilt_deg"], limit=5)
    assert (len(result), result.counts.series) == (5, 30)
    frame = result.to_pandas()
    assert [str(dtype) for dtype in frame.dtypes] == [
        "str",
        "str",
        "str",
        "datetime64[us]",
        "float64",
        "str",
        "float64",
    ]
    assert (frame["StudyDate"][0].date(), frame["PatientAge"][0]) == (date(2026, 1, 15), 58.0)
    other = result.to_polars()
    assert other["StudyDate"].to_list() == [row.date() for row in frame["StudyDate"]]
    assert other["PatientAge"].to_list() == list(frame["PatientAge"])
    assert other.columns == list(frame.columns)


def test_nothing_found_is_a_frame_with_columns(index):
    result = index.search("gallbladder")
    assert (len(result), list(result.to_pandas().columns)) == (0, list(result.columns))
    assert result.to_polars().columns == list(result.columns)
    assert list(result.columns)[3:] == list(COLUMNS)


def test_what_is_not_known_is_empty_in_each_frame(index):
    result = index.search("liver", ["ConvolutionKernel", "KVP"], limit=1)
    assert next(iter(result))["KVP"] is None
    assert result.to_pandas()["KVP"].isna().all()
    assert result.to_polars()["ConvolutionKernel"].to_list() == [None]


def test_the_vocabulary_and_one_series_are_the_same_both_ways(local, remote):
    assert local.structures("spleen") == remote.structures("spleen")
    assert remote.structures("spleen")[0].series == 15
    one = remote.series("1.2.9.1")
    assert one == local.series("1.2.9.1")
    assert [a.structure for a in one.annotated.annotations] == ["liver", "spleen"]


def test_a_cohort_is_kept_compared_written_and_deleted(index, tmp_path):
    cohort = index.cohorts.save("spleens", "spleen complete")
    assert (cohort.series, index.cohorts.get(cohort.id)) == (15, cohort)
    assert cohort in index.cohorts.list()
    difference = index.cohorts.diff(cohort.id)
    assert (difference.same, difference.cohort, difference.new.count) == (15, cohort, 0)
    index.cohorts.export(cohort.id, tmp_path / "spleens.csv")
    assert f'# cohort: "{cohort.id}"' in (tmp_path / "spleens.csv").read_text()
    index.cohorts.delete(cohort.id)
    assert cohort not in index.cohorts.list()
    with pytest.raises(NotThere, match="no saved cohort"):
        index.cohorts.get(cohort.id)


def test_a_sample_is_drawn_by_its_seed(local, remote, tmp_path):
    for n, index in enumerate((local, remote)):
        index.manifest("liver", tmp_path / f"{n}.txt", sample=4, seed=11)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert len((tmp_path / "0.txt").read_text().splitlines()) == 4


def test_a_mistake_is_the_same_mistake_both_ways(local, remote, tmp_path):
    for ask in (
        lambda index: index.count("livver complete"),
        lambda index: index.search("livver complete"),
        lambda index: index.manifest("livver complete", tmp_path / "x.csv"),
        lambda index: index.cohorts.save("x", "livver complete"),
        lambda index: index.search("", ["SliceThicknes"]),
        lambda index: index.facets("", ["PatientSexx"]),
    ):
        wrong = []
        for index in (local, remote):
            with pytest.raises(BadQuery) as raised:
                ask(index)
            wrong.append((str(raised.value), raised.value.place, raised.value.suggestions))
        assert wrong[0] == wrong[1]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadQuery, match="should end with"):
        remote.manifest("liver", tmp_path / "x.doc")
    for index in (local, remote):
        with pytest.raises(NotThere):
            index.series("1.2.9.999")


def test_who_may_only_count_is_told_so(server, tmp_path):
    with Index(server, f"{TOKEN}-of-vic") as index:
        # There are seven patients in all.
        assert index.count("liver") == Counts(
            patients=None, studies=None, series=None, fewer_than=10
        )
        for ask in (
            lambda: index.search("liver"),
            lambda: index.manifest("liver", tmp_path / "x.csv"),
            lambda: index.cohorts.save("x", "liver"),
            lambda: index.series("1.2.9.1"),
        ):
            with pytest.raises(Forbidden):
                ask()
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_wrong_is_said_and_one_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.delenv("TOMODEX_TOKEN", raising=False)
    with Index(server) as index, pytest.raises(Misconfigured, match="wants a token"):
        index.count("")
    monkeypatch.setenv("TOMODEX_TOKEN", TOKEN)
    with Index(server) as index:
        assert index.count("").series == 30


# --- servers that are not as they should be ----------------------------------------------------


def test_a_token_is_not_sent_where_others_can_read_it():
    with pytest.raises(Misconfigured, match="asked over https") as wrong:
        Index("http://tomodex.example", TOKEN)
    assert TOKEN not in str(wrong.value)


def test_a_token_is_not_carried_on_to_where_a_server_points(httpserver: HTTPServer):
    httpserver.expect_request("/v1/cohort/counts").respond_with_data(
        status=307, headers={"Location": httpserver.url_for("/elsewhere")}
    )
    with Index(httpserver.url_for(""), TOKEN) as index, pytest.raises(Misconfigured):
        index.count("")
    assert [request.path for request, _ in httpserver.log] == ["/v1/cohort/counts"]


def test_nobody_there_is_unavailable():
    with Index(f"http://127.0.0.1:{free_port()}") as index, pytest.raises(Unavailable):
        index.count("")


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[1]", b'{"patients": "many"}'])
def test_another_server_is_said_to_be_none_of_ours(httpserver: HTTPServer, content):
    httpserver.expect_request("/v1/cohort/counts").respond_with_data(content)
    with Index(httpserver.url_for("")) as index, pytest.raises(Misconfigured, match="tomodex"):
        index.count("")


def test_a_fault_of_the_server_is_no_mistake_of_the_question(httpserver: HTTPServer):
    problem = {"type": "urn:tomodex:problem:bug", "title": "", "status": 500, "detail": "a fault"}
    httpserver.expect_request("/v1/cohort/counts").respond_with_json(problem, status=500)
    with Index(httpserver.url_for("")) as index, pytest.raises(TomodexError, match="a fault") as e:
        index.count("")
    assert type(e.value) is TomodexError


def test_too_often_is_waited_for(httpserver: HTTPServer):
    counts = {"patients": 1, "studies": 1, "series": 1}
    path = "/v1/cohort/counts"
    httpserver.expect_ordered_request(path).respond_with_data(
        status=HTTPStatus.TOO_MANY_REQUESTS, headers={"Retry-After": "0"}
    )
    httpserver.expect_ordered_request(path).respond_with_json(counts)
    with Index(httpserver.url_for("")) as index:
        assert index.count("") == Counts(**counts)


FACTS = {"patients": 1, "studies": 1, "series": 2, "size_bytes": None}
LINES = [
    json.dumps({"manifest": FACTS})[:-1] + ",",
    '"series": [',
    '{"SeriesInstanceUID": "1", "StudyInstanceUID": "2", "patient": null},',
    '{"SeriesInstanceUID": "3", "StudyInstanceUID": "2", "patient": null}',
    "],",
]


@pytest.mark.parametrize("lines", [2, 3, 4, 5])
def test_a_list_that_was_cut_off_is_no_answer(httpserver: HTTPServer, lines):
    content = "\n".join(LINES[:lines])
    httpserver.expect_request("/v1/cohort/manifest.json").respond_with_data(content)
    with Index(httpserver.url_for("")) as index, pytest.raises(Unavailable, match="cut off"):
        index.search("", [])


@pytest.mark.parametrize("limit", [0, 1])
def test_who_wants_few_does_not_wait_for_the_rest(httpserver: HTTPServer, limit):
    httpserver.expect_request("/v1/cohort/manifest.json").respond_with_data("\n".join(LINES))
    with Index(httpserver.url_for("")) as index:
        assert len(index.search("", [], limit=limit)) == limit


def test_a_file_that_breaks_off_is_not_kept(tmp_path):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n# que\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(chunked)

        thread = threading.Thread(target=answer)
        thread.start()
        index = Index(f"http://127.0.0.1:{port}")
        with index, pytest.raises(Unavailable, match="does not answer"):
            index.manifest("", tmp_path / "x.csv")
        thread.join(10)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_nothing_was_indexed_is_said(tmp_path):
    with pytest.raises(Misconfigured, match="nothing was indexed"):
        Index(tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []
