"""Several nodes of OpenSearch that are one cluster, each of which can be killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.servers.opensearch import NEWER, SERVERS, START_S, java_for
from tests.servers.ports import free_port


@dataclass(frozen=True, kw_only=True)
class SearchCluster:
    """Its nodes, by the places where they answer."""

    nodes: dict[str, subprocess.Popen[bytes]]  #: host and port -> process

    @property
    def url(self) -> str:
        """All nodes, living or not."""
        return f"opensearch+http://{','.join(self.nodes)}"

    def kill_the_elected(self) -> str:
        """Kill the node that leads the cluster, without a word; which it was."""
        for place, node in self.nodes.items():
            elected = _get(place, "_cat/cluster_manager?h=node").text.strip()
            if elected == _name(place):
                node.kill()
                node.wait()
                return place
        raise AssertionError("no node leads the cluster")

    def wait_for(self, health: str) -> None:
        """Until any living node says that the cluster is so."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for place, node in self.nodes.items():
                with suppress(requests.ConnectionError):
                    if node.poll() is None and _health(place) == health:
                        return
            time.sleep(0.3)
        raise AssertionError(f"the cluster is not {health}")


@contextmanager
def running_cluster(folder: Path, count: int = 3) -> Iterator[SearchCluster]:
    """A cluster with so many nodes, with their data in `folder`."""
    ports = [(free_port(), free_port()) for _ in range(count)]
    places = [f"127.0.0.1:{http}" for http, _ in ports]
    with ExitStack() as stack:
        nodes = {}
        for place, (http, transport) in zip(places, ports, strict=True):
            settings = [
                f"node.name={_name(place)}",
                f"path.home={folder / _name(place)}",
                f"http.port={http}",
                f"transport.port={transport}",
                f"discovery.seed_hosts={','.join(f'127.0.0.1:{other}' for _, other in ports)}",
                f"cluster.initial_cluster_manager_nodes={','.join(map(_name, places))}",
            ]
            nodes[place] = stack.enter_context(_node(folder / _name(place), settings))
        cluster = SearchCluster(nodes=nodes)
        _wait_for_all(places)
        yield cluster


@contextmanager
def _node(home: Path, settings: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    (home / "config").mkdir(parents=True)
    jars = SERVERS / f"opensearch-{NEWER}"
    shared = [
        "network.host=127.0.0.1",
        "cluster.name=tomodex-test-cluster",
        "cluster.routing.allocation.disk.threshold_enabled=false",
    ]
    command = [java_for(NEWER), "-Xmx400m", "-cp", f"{jars}:{jars}/*", "SearchNode"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen([*command, *shared, *settings], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _wait_for_all(places: Sequence[str]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(requests.ConnectionError):
            if _get(places[0], "_cluster/health").json().get("number_of_nodes") == len(places):
                return
        time.sleep(0.5)
    raise AssertionError("the cluster did not come together")


def _health(place: str) -> str:
    return str(_get(place, "_cluster/health").json().get("status"))


def _get(place: str, path: str) -> requests.Response:
    return requests.get(f"http://{place}/{path}", timeout=30)


def _name(place: str) -> str:
    return f"node-{place.rpartition(':')[2]}"
