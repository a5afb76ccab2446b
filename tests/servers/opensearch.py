"""OpenSearch with one node, from its modules on Maven Central, put together by install.sh."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
import requests

from tests.servers.ports import free_port

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")

#: As in install.sh.
OLDER, NEWER = "2.19.1", "3.8.0"

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
    settings: Mapping[str, str] = MappingProxyType({}),
    port: int | None = None,
) -> Iterator[str]:
    """URL of a server that keeps its data in `folder`."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    jars, port = SERVERS / f"opensearch-{version}", port or free_port()
    given = {
        **_SETTINGS,
        "path.home": str(folder),
        "http.port": str(port),
        "transport.port": str(free_port()),
        **settings,
    }
    command = [java_for(version), "-Xmx1g", "-cp", f"{jars}:{jars}/*", "SearchNode"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in given.items())],
            stdout=log,
            stderr=log,
        )
        try:
            _wait(f"http://127.0.0.1:{port}", process, jars)
            yield f"opensearch+http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def java_for(version: str) -> str:
    """The `java` that runs this version: the newer one needs 21 or more, which Debian 12 lacks."""
    return "java" if version == OLDER else (SERVERS / "java-21").read_text().strip()


def _wait(url: str, process: subprocess.Popen[bytes], jars: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(f"{url}/_cluster/health?wait_for_status=yellow", timeout=30)
            return
        except requests.ConnectionError:
            time.sleep(0.3)
    raise AssertionError(f"OpenSearch did not start: {jars}")


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
