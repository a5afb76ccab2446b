"""OpenSearch and Elasticsearch with one node, from their modules on Maven Central, as install.sh
puts them together.

Of Elasticsearch its script language is not there: `elasticsearch/StandIn.java` has our scripts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.servers.ports import free_port

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")

#: As in opensearch/install.sh and elasticsearch/install.sh.
OLDER, NEWER = "2.19.1", "3.8.0"
ELASTICSEARCH = "9.5.3"

#: On a busy machine with two cores it takes a minute to start.
START_S = 240

_SETTINGS = {
    "network.host": "127.0.0.1",
    "discovery.type": "single-node",
    "cluster.name": "tomodex-test",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}


@contextmanager
def running_opensearch(
    folder: Path,
    version: str = OLDER,
    port: int | None = None,
) -> Iterator[str]:
    """URL of a server that keeps its data in `folder`; on a port of its own if not given."""
    jars = SERVERS / f"opensearch-{version}"
    command = [java_for(version), "-Xmx1g", "-cp", f"{jars}:{jars}/*", "SearchNode"]
    with _running(command, folder, port, f"path.home={folder}") as place:
        yield f"opensearch+http://{place}"


@contextmanager
def running_elasticsearch(folder: Path) -> Iterator[str]:
    """URL of an Elasticsearch, as far as Maven Central has it, that keeps its data in `folder`."""
    home = SERVERS / f"elasticsearch-{ELASTICSEARCH}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "modules").exists():
        shutil.copytree(home / "modules", folder / "modules")
    path = ["--module-path", str(home / "lib"), "--add-modules", "ALL-MODULE-PATH"]
    classes = ["-cp", str(home / "classes"), "ElasticNode", str(folder)]
    with _running([java_for(NEWER), "-Xmx1g", *path, *classes], folder) as place:
        yield f"elasticsearch+http://{place}"


@contextmanager
def _running(
    command: Sequence[str], folder: Path, port: int | None = None, *more: str
) -> Iterator[str]:
    """Host and port of a server; it dies without a word."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    place = f"127.0.0.1:{port}"
    ports = (f"http.port={port}", f"transport.port={free_port()}")
    given = [*(f"{name}={value}" for name, value in _SETTINGS.items()), *ports, *more]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*command, *given], stdout=log, stderr=log)
        try:
            _wait(f"http://{place}", process, folder)
            yield place
        finally:
            process.kill()
            process.wait()


def java_for(version: str) -> str:
    """The `java` that runs this version: the newer one needs 21 or more, which Debian 12 lacks."""
    return "java" if version == OLDER else (SERVERS / "java-21").read_text().strip()


def _wait(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(f"{url}/_cluster/health?wait_for_status=yellow", timeout=30)
            return
        except requests.ConnectionError:
            time.sleep(0.3)
    raise AssertionError(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="session")
def search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that all tests share."""
    with running_opensearch(tmp_path_factory.mktemp("opensearch")) as url:
        yield url


@pytest.fixture(scope="session")
def newer_search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of the newer version that all tests share."""
    with running_opensearch(tmp_path_factory.mktemp("opensearch3"), NEWER) as url:
        yield url


@pytest.fixture(scope="session")
def elasticsearch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an Elasticsearch that all tests share."""
    with running_elasticsearch(tmp_path_factory.mktemp("elasticsearch")) as url:
        yield url
