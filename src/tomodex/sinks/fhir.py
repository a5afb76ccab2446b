"""Sends annotated series to a FHIR R5 server, one transaction for each.

An ImagingStudy has all series of its study, and a series comes alone. So what was sent of each
study is remembered in a file beside the queue.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import apsw
import orjson
from pydantic import Field

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.fhir import (
    IndexedSeries,
    Naming,
    Resource,
    Study,
    WriteMode,
    indexed_series,
    observations,
    study_of,
    transaction,
    withdrawal,
)
from tomodex.formats.fhir.bundle import put_entry
from tomodex.options import Options, Secret, read_options, without_query
from tomodex.probe import Probe

if TYPE_CHECKING:
    import requests

#: What a server answers when the same request may do better later.
AGAIN = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})

#: What it answers to every request of ours alike.
OURS = frozenset({401, 403, 404, 405})

#: Seconds before a second try, twice as long before each further one.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

JSON = "application/fhir+json"

SCHEMA = """
create table if not exists sent (
    series_uid text primary key,
    study_uid  text not null,
    study      text not null,    -- JSON of `Study`
    entry      text not null,    -- JSON of `IndexedSeries`
    runs       text not null     -- JSON list of the ids of its Provenances
) strict, without rowid;
create index if not exists sent_study on sent (study_uid);
"""


class FhirOptions(Options):
    """What the URL of a FHIR server may set."""

    mode: WriteMode = "put"
    base: str = Naming().base  #: canonical base of our profiles, code systems and identifiers
    patient_system: str = ""  #: system of the patient pseudonyms; empty: one below `base`
    observations: Literal["yes", "no"] = "no"  #: also an Observation for each number
    token: Secret | None = None  #: Bearer
    password: Secret | None = None  #: Basic, for the user in the URL
    ca: Path | None = None  #: certificates to trust instead of the usual ones
    cert: Path | None = None  #: client certificate and key, PEM
    tries: int = Field(6, ge=1, le=20)  #: of one transaction, before it is delivered later
    timeout_s: float = Field(60.0, gt=0, le=3600)


class FhirSink:
    """`fhir+https://server/fhir?mode=put&token=file:/run/secrets/fhir`

    Args:
        url: of the server; `fhir+http` for one without TLS.
        state: folder for what was sent; None keeps it in memory.
        sleep: waits so many seconds between two tries.

    Raises:
        Misconfigured: an option or a secret is not as it should be.
    """

    def __init__(
        self, url: str, state: Path | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        options = read_options(url, FhirOptions)
        shown = without_query(url)
        self._options = options
        self._server = shown.removeprefix("fhir+").rstrip("/")
        self._naming = Naming(base=options.base.rstrip("/"), patient_system=options.patient_system)
        self._session = _session(url, options)
        self._sleep = sleep
        self._memory = _Memory(shown, state)

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Send these, one after the other, so that the last of a study has all before it."""
        for one in annotated:
            known = self._memory.study(one.series.study_uid)
            study = {**known, one.series.series_uid: indexed_series(one)}
            bundle = transaction(one, tuple(study.values()), self._naming, self._options.mode)
            if self._options.observations == "yes":
                bundle["entry"] += [
                    put_entry(o, self._naming) for o in observations(one, self._naming)
                ]
            self._send(bundle)
            self._memory.remember(one, _runs(bundle))

    def erase(self, series_uids: Sequence[str]) -> None:
        """Take these out of their studies, and what was said of them away."""
        for uid in series_uids:
            if (known := self._memory.series(uid)) is None:
                continue
            study, runs = known
            indexed = self._memory.study(study.study_uid)
            rest = [one for other, one in indexed.items() if other != uid]
            self._send(withdrawal(study, uid, rest, runs, self._naming, self._options.mode))
            self._memory.forget(uid)

    def probe(self) -> Iterator[Probe]:
        """Whether the server answers, and is an R5 one."""
        try:
            answer = self._session.get(
                f"{self._server}/metadata",
                headers={"Accept": JSON},
                timeout=min(self._options.timeout_s, 20),
            )
            said = answer.json() if answer.ok else {}
        except (OSError, ValueError) as silent:
            yield Probe(
                subject="FHIR server",
                verdict="wrong",
                sentence=f"{self._server} does not answer: {type(silent).__name__}",
                advice="check its address, that it runs, and that this machine may reach it",
            )
            return
        version = said.get("fhirVersion", "") if isinstance(said, dict) else ""
        if not answer.ok or not version.startswith("5."):
            yield Probe(
                subject="FHIR server",
                verdict="wrong",
                sentence=f"{self._server}/metadata: {answer.status_code}, FHIR {version or 'none'}",
                advice="Tomodex writes FHIR R5 (5.0.0); name the R5 endpoint of the server",
            )
            return
        software = said.get("software", {})
        name = " ".join(str(software.get(k, "")) for k in ("name", "version")).strip()
        yield Probe(subject="FHIR server", verdict="ok", sentence=f"{name or 'FHIR'}, R5 {version}")

    def close(self) -> None:
        """Give back what it holds open."""
        self._session.close()
        self._memory.close()

    def _send(self, bundle: Resource) -> None:
        """Post one transaction until the server has taken it.

        Raises:
            Unavailable: it did not, however often it was asked.
            Unsuitable: it refuses this one.
            Misconfigured: it refuses us.
        """
        body, pause_s = orjson.dumps(bundle), FIRST_PAUSE_S
        for _ in range(self._options.tries):
            sentence, asked_s = self._post(body)
            if not sentence:
                return
            self._sleep(min(asked_s or pause_s, LONGEST_PAUSE_S))
            pause_s *= 2
        raise Unavailable(f"{self._server}: {sentence}, {self._options.tries} times")

    def _post(self, body: bytes) -> tuple[str, float]:
        """Why it should be sent again, and after how many seconds; "" if it was taken."""
        import requests

        try:
            answer = self._session.post(
                self._server,
                data=body,
                headers={"Content-Type": JSON, "Accept": JSON, "Prefer": "return=minimal"},
                timeout=(10, self._options.timeout_s),
            )
        except requests.exceptions.SSLError as wrong:
            raise Misconfigured(f"{self._server}: its certificate is not trusted") from wrong
        except requests.exceptions.RequestException as silent:
            return f"no answer ({type(silent).__name__})", 0.0
        if answer.ok:
            return "", 0.0
        if answer.status_code in AGAIN:
            return f"status {answer.status_code}", _retry_after_s(answer)
        if answer.status_code in OURS:
            raise Misconfigured(
                f"{self._server} answers {answer.status_code}: check its address, and what the "
                "token or user may do (it needs to send transactions)"
            )
        raise Unsuitable(
            "refused", f"the FHIR server refuses it: {answer.status_code} {_issues(answer)}"
        )


class _Memory:
    """The series of each study that a server has."""

    def __init__(self, url: str, state: Path | None) -> None:
        if state is None:
            self._db = apsw.Connection(":memory:")
        else:
            name = sha256(url.encode()).hexdigest()[:16]
            self._db = apsw.Connection(str(state / f"fhir-{name}.db"))
            self._db.set_busy_timeout(10_000)
        with self._named():
            self._db.execute(SCHEMA)

    def study(self, study_uid: str) -> dict[str, IndexedSeries]:
        """The series of a study that were sent, by their UIDs."""
        sql = "select series_uid, entry from sent where study_uid = ?"
        with self._named():
            rows: list[Any] = self._db.execute(sql, (study_uid,)).fetchall()
        return {uid: IndexedSeries(**json.loads(entry)) for uid, entry in rows}

    def series(self, series_uid: str) -> tuple[Study, list[str]] | None:
        """The study of a series that was sent, and its runs; None if it was not."""
        sql = "select study, runs from sent where series_uid = ?"
        with self._named():
            rows: list[Any] = self._db.execute(sql, (series_uid,)).fetchall()
        return next(((Study(**json.loads(s)), json.loads(runs)) for s, runs in rows), None)

    def remember(self, annotated: AnnotatedSeries, runs: Sequence[str]) -> None:
        """Keep what was sent of a series; the runs of before are still on the server."""
        known = self.series(annotated.series.series_uid)
        all_runs = list(dict.fromkeys([*(known[1] if known else ()), *runs]))
        row = (
            annotated.series.series_uid,
            annotated.series.study_uid,
            json.dumps(asdict(study_of(annotated))),
            json.dumps(asdict(indexed_series(annotated))),
            json.dumps(all_runs),
        )
        with self._named():
            self._db.execute("insert or replace into sent values (?, ?, ?, ?, ?)", row)

    def forget(self, series_uid: str) -> None:
        with self._named():
            self._db.execute("delete from sent where series_uid = ?", (series_uid,))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as wrong:
            raise Misconfigured(f"cannot use what was sent to FHIR: {wrong}") from wrong


def _session(url: str, options: FhirOptions) -> requests.Session:
    import requests

    session = requests.Session()
    # A proxy or a .netrc of the machine must not change where a hospital's data goes.
    session.trust_env = False
    if options.token:
        session.headers["Authorization"] = f"Bearer {options.token.read()}"
    if options.password:
        session.auth = (urlsplit(url).username or "", options.password.read())
    if options.ca:
        session.verify = str(options.ca)
    if options.cert:
        session.cert = str(options.cert)
    return session


def _runs(bundle: Resource) -> list[str]:
    """Ids of the Provenances in a transaction."""
    resources = [entry["resource"] for entry in bundle["entry"]]
    return [one["id"] for one in resources if one["resourceType"] == "Provenance"]


def _retry_after_s(answer: requests.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "")))
    except ValueError:
        return 0.0


def _issues(answer: requests.Response) -> str:
    """Codes and places of an OperationOutcome; its texts may quote what was sent."""
    try:
        issues = answer.json().get("issue", [])
        said = [f"{one.get('code')} at {one.get('expression', ['?'])[0]}" for one in issues[:3]]
    except (ValueError, AttributeError, TypeError, IndexError):
        return ""
    return "; ".join(said)
