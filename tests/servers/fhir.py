"""HAPI, from Maven Central: the validator that HL7's is built on, and a JPA server for FHIR R5.

Both take some 20 s of one core to start, so they are started once for all tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import requests

from tests.servers.ports import free_port, wait_until_listening

HOME = Path(os.environ.get("TOMODEX_SERVERS", Path.home() / ".cache/tomodex-servers")) / "fhir"
GUIDE = Path(__file__).parents[2] / "ig/build/fsh-generated/resources"

#: HAPI's own copy of this code system is older than what our guide depends on.
TERMINOLOGY = Path(__file__).parents[2] / "ig/node_modules/hl7.terminology.r5"
NEWER = TERMINOLOGY / "CodeSystem-v3-ObservationValue.json"

Severity = Literal["fatal", "error", "warning", "information"]
WRONG: frozenset[Severity] = frozenset({"fatal", "error"})

#: The first tier of the compiler alone: these programs run for seconds, not for hours.
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What the validator says of one place in a resource."""

    severity: Severity
    text: str
    place: str = ""


class Validator:
    """A running validator, which is asked line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def issues(self, resource: Any) -> list[Issue]:
        """What it says of a resource; of text, as it is."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        line = resource if isinstance(resource, str) else json.dumps(resource)
        stdin.write(f"{line}\n")
        stdin.flush()
        said = json.loads(stdout.readline())
        return [
            Issue(
                severity=one["severity"],
                text=one.get("diagnostics", ""),
                place=next(iter(one.get("expression", [])), ""),
            )
            for one in said.get("issue", [])
        ]

    def errors(self, resource: Any) -> list[Issue]:
        """What it says is wrong with a resource."""
        return [one for one in self.issues(resource) if one.severity in WRONG]


@contextmanager
def running_validator(
    release: Literal["R4", "R5"], definitions: Iterable[Path]
) -> Iterator[Validator]:
    """A validator that knows these definitions, files or folders, besides those of FHIR itself."""
    for path in definitions:
        assert path.exists(), f"there is no {path}: run `make ig`"
    command = [*JAVA, "-Xmx1500m", "-cp", _class_path(), "Validate", release]
    with subprocess.Popen(
        [*command, *map(str, definitions)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Validator(process)
        finally:
            process.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirServer:
    """A running R5 server, and where it is."""

    url: str

    def count(self, kind: str) -> int:
        """How many resources of a type it has."""
        return int(self.get(f"{kind}?_summary=count")["total"])

    def get(self, path: str) -> Any:
        """What it answers; an error fails the test."""
        return self._get(f"{self.url}/{path}")

    def _get(self, url: str) -> Any:
        answer = requests.get(url, timeout=120)
        assert answer.ok, f"{url}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def found(self, path: str) -> list[dict[str, Any]]:
        """Everything that a search finds, all pages of it."""
        page, resources = self.get(path), []
        while True:
            resources += [entry["resource"] for entry in page.get("entry", [])]
            following = [one["url"] for one in page.get("link", []) if one["relation"] == "next"]
            if not following:
                return resources
            page = self._get(following[0])

    def put(self, resource: dict[str, Any]) -> None:
        """Write one under the id that it has."""
        url = f"{self.url}/{resource['resourceType']}/{resource['id']}"
        answer = requests.put(url, json=resource, timeout=120)
        assert answer.ok, f"{url}: {answer.status_code} {answer.text[:2000]}"

    def empty(self) -> None:
        """It has nothing any more, and no memory of it."""
        everything = {"name": "expungeEverything", "valueBoolean": True}
        asked = {"resourceType": "Parameters", "parameter": [everything]}
        answer = requests.post(f"{self.url}/$expunge", json=asked, timeout=300)
        assert answer.ok, answer.text[:2000]


@contextmanager
def running_fhir_server(log: Path) -> Iterator[FhirServer]:
    """An empty server, with its database in memory."""
    port = free_port()
    command = [*JAVA, "-Xmx1500m", "-cp", _class_path(), "FhirServer", str(port)]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            wait_until_listening(port, process, seconds=600)
            yield FhirServer(url=f"http://127.0.0.1:{port}/fhir")
        finally:
            process.kill()
            process.wait()


def _class_path() -> str:
    assert (HOME / "made").exists(), f"there is no {HOME}: run tests/servers/java/install.sh"
    return f"{HOME / 'classes'}:{HOME / 'jars'}/*"


@pytest.fixture(scope="session")
def validator() -> Iterator[Validator]:
    """R5 and our own guide."""
    with running_validator("R5", [GUIDE, NEWER]) as running:
        yield running


@pytest.fixture(scope="session")
def r4_validator() -> Iterator[Validator]:
    """R4, without profiles of ours."""
    with running_validator("R4", [NEWER]) as running:
        yield running


@pytest.fixture(scope="session")
def _fhir_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirServer]:
    with running_fhir_server(tmp_path_factory.mktemp("fhir") / "server.log") as running:
        yield running


@pytest.fixture
def fhir_server(_fhir_server: FhirServer) -> FhirServer:
    """One that has nothing."""
    _fhir_server.empty()
    return _fhir_server
