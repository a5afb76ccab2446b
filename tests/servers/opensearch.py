"""OpenSearch and Elasticsearch with one node, from their modules on Maven Central, as install.sh
puts them together; OpenSearch with its security plugin, or with several nodes, too.

Of Elasticsearch its script language is not there: `elasticsearch/StandIn.java` has our scripts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.servers.ports import free_port

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")

#: As in opensearch/install.sh and elasticsearch/install.sh.
OLDER, NEWER = "2.19.1", "3.8.0"
ELASTICSEARCH, OLDER_ELASTICSEARCH = "9.5.3", "8.19.21"

#: On a busy machine with two cores it takes a minute to start.
START_S = 240

_SETTINGS = {
    "network.host": "127.0.0.1",
    "discovery.type": "single-node",
    "cluster.name": "tomodex-test",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}


#: Of the users of the secured server, as in opensearch/security/internal_users.yml.
PASSWORD = "only-of-tests"

#: What a secured server is told, with files in its folder `config`.
_TLS = [
    "plugins.security.allow_default_init_securityindex=true",
    "plugins.security.ssl.http.enabled=true",
    "plugins.security.ssl.transport.enforce_hostname_verification=false",
    *(
        f"plugins.security.ssl.{side}.{kind}_filepath={name}"
        for side in ("http", "transport")
        for kind, name in (
            ("pemcert", "node.pem"),
            ("pemkey", "node-key.pem"),
            ("pemtrustedcas", "ca.pem"),
        )
    ),
]


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
def running_elasticsearch(folder: Path, version: str = ELASTICSEARCH) -> Iterator[str]:
    """URL of an Elasticsearch, as far as Maven Central has it, that keeps its data in `folder`."""
    home = SERVERS / f"elasticsearch-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "modules").exists():
        shutil.copytree(home / "modules", folder / "modules")
    path = ["--module-path", str(home / "lib"), "--add-modules", "ALL-MODULE-PATH"]
    classes = ["-cp", str(home / "classes"), "ElasticNode", str(folder)]
    with _running([java_for(NEWER), "-Xmx1g", *path, *classes], folder) as place:
        yield f"elasticsearch+http://{place}"


class Secured(NamedTuple):
    """A server that people have to log in to: `tomodex`, and a `stranger` without any rights."""

    place: str  #: host and port
    ca: Path
    password: Path  #: of either


@contextmanager
def running_secured(folder: Path) -> Iterator[Secured]:
    """The older OpenSearch with its security plugin: TLS, and the role that is documented."""
    _write_security(folder / "config")
    (folder / "password").write_text(PASSWORD)
    jars = SERVERS / f"opensearch-{OLDER}"
    classes = f"{jars}:{jars}/*:{jars}/security/*"
    command = [java_for(OLDER), "-Xmx1g", "-cp", classes, "SearchNode", *_TLS]
    with _running(command, folder, None, f"path.home={folder}", asked=_as_tomodex(folder)) as place:
        yield Secured(place, folder / "config/ca.pem", folder / "password")


def _as_tomodex(folder: Path) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # which may name other authorities
    session.auth = ("tomodex", PASSWORD)
    session.verify = str(folder / "config/ca.pem")
    return session


def _write_security(config: Path) -> None:
    """Certificates, users, and the role that the page about the server tells people to make."""
    rules = config / "opensearch-security"
    shutil.copytree(SERVERS / f"opensearch-{OLDER}/security/config", rules)
    shutil.copytree(Path(__file__).parent / "opensearch/security", rules, dirs_exist_ok=True)
    text = Path("docs/how-to/search-on-a-server.md").read_text()
    (role,) = re.findall(r"^    # roles.yml\n((?:    .*\n)+)", text, re.M)
    head = "_meta: {type: roles, config_version: 2}\n"
    (rules / "roles.yml").write_text(head + textwrap.dedent(role))
    authority = trustme.CA()
    node = authority.issue_cert("127.0.0.1", common_name="node", key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(str(config / "ca.pem"))
    node.cert_chain_pems[0].write_to_path(str(config / "node.pem"))
    key = load_pem_private_key(node.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (config / "node-key.pem").write_bytes(pem)


@contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    port: int | None = None,
    *more: str,
    asked: requests.Session | None = None,
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
            scheme = "https" if asked else "http"
            _wait(f"{scheme}://{place}", asked or requests.Session(), process, folder)
            yield place
        finally:
            process.kill()
            process.wait()


def java_for(version: str) -> str:
    """The `java` that runs this version: the newer one needs 21 or more, which Debian 12 lacks."""
    return "java" if version == OLDER else (SERVERS / "java-21").read_text().strip()


def _wait(
    url: str, session: requests.Session, process: subprocess.Popen[bytes], folder: Path
) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(requests.ConnectionError):
            answer = session.get(f"{url}/_cluster/health?wait_for_status=yellow", timeout=30)
            # A secured server refuses everybody until it has read its rules.
            if answer.ok:
                return
        time.sleep(0.3)
    raise AssertionError(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="session")
def secured_search_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server of the older version, secured, that all tests share."""
    with running_secured(tmp_path_factory.mktemp("opensearch")) as server:
        yield server


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


@pytest.fixture(scope="session")
def older_elasticsearch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an Elasticsearch of the older version that all tests share."""
    folder = tmp_path_factory.mktemp("elasticsearch8")
    with running_elasticsearch(folder, OLDER_ELASTICSEARCH) as url:
        yield url
