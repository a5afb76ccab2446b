"""The web page and HTTP on an index on a server: they answer as they do on the embedded one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import requests

from tests.contracts.index import archive
from tests.servers.browser import serve, tomodex
from tomodex.pseudonym import load_key
from tomodex.queues import NewTask
from tomodex.queues.sqlite import SqliteQueue

pytestmark = pytest.mark.server

#: Series of some 40 patients, of which the last 60 are withdrawn again.
SERIES = archive()

ROLES = ("viewer", "researcher", "operator")

QUERIES = [
    "",
    "left autochthon between heart and L1",
    "kidney complete and PatientSex = F",
    "liver volume > 1500 ml and not prostate",
    "segmented = waiting",
    "gallbladder between kidney and kidney",
]


class Sites(NamedTuple):
    """URLs of two that serve the same results from one index and the other."""

    embedded: str
    served: str
    folder: Path  #: data of the one whose index is on a server
    environment: Mapping[str, str]  #: of the same


@pytest.fixture(scope="module")
def sites(newer_search_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    embedded, served = (tmp_path_factory.mktemp(name) / "data" for name in ("one", "other"))
    embedded.mkdir()
    with closing(SqliteQueue(f"sqlite://{embedded / 'tomodex.db'}")) as queue:
        for one in SERIES:
            queue.put([NewTask(series=one.series, source="folder:///archive")])
            task = queue.lease("worker", timedelta(minutes=5))
            assert task is not None
            assert queue.settle(task, one)
        for one in SERIES[-60:]:
            queue.withdraw(one.series.series_uid)
    load_key(embedded / "pseudonym.key")  # by which both disturb what viewers are told
    _run(embedded, {}, "rebuild")
    shutil.copytree(embedded, served, ignore=shutil.ignore_patterns("index*"))
    index = {"TOMODEX_INDEX": f"{newer_search_server}/served-{uuid4().hex}?shards=2&refresh=true"}
    _run(served, index, "rebuild")
    tokens = {name: {"secret": f"env:TOKEN_{name}", "roles": [name]} for name in ROLES}
    access = {"TOMODEX_ACCESS": json.dumps({"tokens": tokens})}
    secrets = {f"TOKEN_{name}": name * 4 for name in ROLES}
    with ExitStack() as stack:
        one = stack.enter_context(_serving(embedded, {**access, **secrets}))
        other = stack.enter_context(_serving(served, {**access, **secrets, **index}))
        yield Sites(one, other, served, index)


@contextmanager
def _serving(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    for site in serve(folder, (), environment):
        yield site.url


def _run(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(
        [*tomodex(folder), *words],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    # What a doctor finds to say of other things, such as no source, is exit code 1.
    assert done.returncode == 0 or words == ("doctor",), done.stderr
    return done.stdout


def _asked(site: str, role: str, path: str, body: object = None) -> Any:
    """What a site answers, without what differs from time to time."""
    headers = {"Authorization": f"Bearer {role * 4}"}
    kind = "GET" if body is None else "POST"
    answer = requests.request(kind, f"{site}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code < 300, (path, answer.status_code, answer.text[:500])
    text = answer.text.replace(site.removeprefix("http:"), "//HERE")
    if "json" not in answer.headers["content-type"]:
        return re.sub(r"[0-9.,]+ m?s\b", "", text)
    found = json.loads(text)
    if isinstance(found, dict):
        found.pop("milliseconds", None)
    return found


@pytest.mark.parametrize("role", ["viewer", "researcher"])
def test_people_are_told_the_same(sites: Sites, role: str) -> None:
    fields = ["structure", "complete", "PatientSex", "AgeDecade", "StudyYear", "Manufacturer"]
    for query in QUERIES:
        for path, more in (
            ("/v1/cohort/counts", {}),
            ("/v1/cohort/facets", {"fields": fields}),
            *((("/v1/cohort/series", {"structures": True}),) if role == "researcher" else ()),
        ):
            body = {"query": query, **more}
            one, other = (_asked(site, role, path, body) for site in sites[:2])
            assert one == other, (path, query)
    known = [_asked(site, role, "/v1/structures?text=kidney") for site in sites[:2]]
    assert known[0] == known[1]


def test_researchers_see_the_same_pages_and_files(sites: Sites) -> None:
    uid = next(one.series.series_uid for one in SERIES if len(one.annotations) > 5)
    for path in (
        "/?q=kidney+complete",
        "/?q=left+autochthon+between+heart+and+L1",
        "/?q=kidney&sort=largest+left+kidney",
        "/?q=vertebra+between+rib+and+rib&sort=eldest",
        f"/series/{uid}",
        "/structures",
        f"/v1/series/{uid}/structures",
        "/v1/cohort/manifest.csv?query=kidney+complete",
        "/v1/cohort/manifest.txt?query=liver+above+sacrum",
        "/v1/attributes/Manufacturer/values?prefix=",
        "/v1/completions?text=kid&cursor=3",
        "/dicomweb/series?PatientSex=F&limit=5",
    ):
        one, other = (_asked(site, "researcher", path) for site in sites[:2])
        assert one == other, path
        assert one, path


def test_a_saved_cohort_is_compared_with_what_is_found_today(sites: Sites) -> None:
    body = {"name": "kidneys", "query": "kidney complete"}
    saved = _asked(sites.served, "researcher", "/v1/cohorts", body)
    diff = _asked(sites.served, "researcher", f"/v1/cohorts/{saved['id']}/diff")
    assert not any(diff[part] for part in ("added", "removed") if part in diff)


def test_who_operates_it_sees_its_index(sites: Sites) -> None:
    stats = [_asked(site, "operator", "/metrics") for site in sites[:2]]
    series = [re.findall(r"^tomodex_index_series\S* \S+", text, re.M) for text in stats]
    assert series[0] == series[1] != []
    assert _asked(sites.served, "operator", "/v1/ready")
    doctor = _run(sites.folder, sites.environment, "doctor")
    assert "opensearch 3." in doctor
    assert "240 series are in it" in doctor


def test_who_is_erased_or_opts_out_is_found_no_more(sites: Sites, tmp_path: Path) -> None:
    erased, out = (SERIES[number].series.patient for number in (10, 40))
    before = _asked(sites.served, "researcher", "/v1/cohort/counts", {"query": ""})
    why = ("--reason", "asked")
    _run(sites.folder, sites.environment, "erase", "--pseudonym", erased, *why, "--yes")
    (tmp_path / "out").write_text(f"{out}\n")
    _run(sites.folder, sites.environment, "optout", "add", str(tmp_path / "out"), *why)
    after = _asked(sites.served, "researcher", "/v1/cohort/counts", {"query": ""})
    assert after["patients"] == before["patients"] - 2
    found = _asked(sites.served, "researcher", "/v1/cohort/series", {"query": "", "limit": 1000})
    assert not {hit["patient"] for hit in found["hits"]} & {erased, out}
    # Nor after it is made anew.
    _run(sites.folder, sites.environment, "rebuild")
    assert _asked(sites.served, "researcher", "/v1/cohort/counts", {"query": ""}) == after
