"""OpenSearch with one node, from its modules on Maven Central, put together by install.sh."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.servers.ports import free_port

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
JARS = SERVERS / "opensearch-2.19.1"

#: On a busy machine with two cores it takes a minute to start.
START_S = 240


@contextmanager
def running_opensearch(folder: Path) -> Iterator[str]:
    """URL of a server that keeps its data in `folder`."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["java", "-Xmx1g", "-cp", f"{JARS}:{JARS}/*", "Node"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, str(folder), str(port), str(free_port())], stdout=log, stderr=log
        )
        try:
            _wait(f"http://127.0.0.1:{port}", process)
            yield f"opensearch+http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(f"{url}/_cluster/health?wait_for_status=yellow", timeout=30)
            return
        except requests.ConnectionError:
            time.sleep(0.3)
    raise AssertionError(f"OpenSearch did not start: {JARS}")


@pytest.fixture(scope="session")
def search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that all tests share."""
    with running_opensearch(tmp_path_factory.mktemp("opensearch")) as url:
        yield url
