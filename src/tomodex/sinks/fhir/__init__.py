"""Sends annotated series to a FHIR R5 server, one transaction for each.

An ImagingStudy has all series of its study, and a series comes alone. So what was sent of each
study is remembered in a file beside the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import orjson
import requests

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.fhir import (
    Naming,
    Resource,
    deletion,
    indexed_series,
    observations,
    told_of,
    transaction,
    withdrawal,
)
from tomodex.formats.fhir.checking import check_transaction
from tomodex.options import read_options, without_query
from tomodex.probe import Probe
from tomodex.sinks.fhir.memory import Memory
from tomodex.sinks.fhir.session import ClientCredentials, FhirOptions, open_session

#: What a server answers when the same request may do better later.
AGAIN = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})

#: What it answers to every request of ours alike.
OURS = frozenset({401, 403, 404, 405})

#: Seconds before a second try, twice as long before each further one.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

JSON = "application/fhir+json"


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
        self._session = open_session(url, options)
        self._sleep = sleep
        self._memory = Memory(shown, state)

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Send these, one after the other, so that the last of a study has all before it."""
        for one in annotated:
            with self._memory.alone_with(one.series.study_uid):
                if self._shows_no_more(one):
                    # A server keeps what Provenances point at, and would go on finding it.
                    self._erase(one.series.series_uid)
                self._write(one)

    def erase(self, series_uids: Sequence[str]) -> None:
        """Take these out of their studies, and what was said of them away."""
        for uid in series_uids:
            if (known := self._memory.series(uid)) is None:
                continue
            study, _ = known
            with self._memory.alone_with(study.study_uid):
                self._erase(uid)

    def probe(self) -> Iterator[Probe]:
        """Whether the server answers, and is an R5 one."""
        try:
            answer = self._session.get(
                f"{self._server}/metadata",
                headers={"Accept": JSON},
                timeout=min(self._options.timeout_s, 20),
            )
            said = answer.json() if answer.ok else {}
        except (OSError, ValueError, Misconfigured, Unavailable) as silent:
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

    def _shows_no_more(self, one: AnnotatedSeries) -> bool:
        known = self._memory.study(one.series.study_uid).get(one.series.series_uid)
        return known is not None and known.shows_structures and not one.annotations

    def _write(self, one: AnnotatedSeries) -> None:
        """Send a series, with what was sent of the others of its study."""
        known = self._memory.study(one.series.study_uid)
        study = {**known, one.series.series_uid: indexed_series(one)}
        numbers = observations(one, self._naming) if self._options.observations == "yes" else ()
        naming, mode = self._naming, self._options.mode
        bundle = transaction(one, tuple(study.values()), naming, mode, numbers)
        told = told_of(bundle)
        _, before = self._memory.series(one.series.series_uid) or (None, [])
        # Runs stay for good; a number of a structure that is seen no longer does not.
        stale = [url for url in before if url.startswith("Observation") and url not in told]
        bundle["entry"] += map(deletion, stale)
        check_transaction(bundle, naming)
        self._send(bundle)
        self._memory.remember(one, [url for url in (*before, *told) if url not in stale])

    def _erase(self, uid: str) -> None:
        if (known := self._memory.series(uid)) is None:
            return
        study, told = known
        indexed = self._memory.study(study.study_uid)
        rest = [one for other, one in indexed.items() if other != uid]
        self._send(withdrawal(study, uid, rest, told, self._naming, self._options.mode))
        self._memory.forget(uid)

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
        try:
            answer = self._answer(body)
        except requests.exceptions.SSLError as wrong:
            raise Misconfigured(f"{self._server}: its certificate is not trusted") from wrong
        except requests.exceptions.RequestException as silent:
            return f"no answer ({type(silent).__name__})", 0.0
        except Unavailable as no_token:
            return str(no_token), 0.0
        if answer.status_code < 300:
            return "", 0.0
        if answer.status_code in AGAIN:
            return f"status {answer.status_code}", _retry_after_s(answer)
        if answer.status_code in OURS or answer.is_redirect:
            raise Misconfigured(
                f"{self._server} answers {answer.status_code}: check its address, and what the "
                "token or user may do (it needs to send transactions)"
            )
        raise Unsuitable(
            "refused", f"the FHIR server refuses it: {answer.status_code} {_issues(answer)}"
        )

    def _answer(self, body: bytes) -> requests.Response:
        answer = self._request(body)
        if answer.status_code == 401 and isinstance(self._session.auth, ClientCredentials):
            # A token may be withdrawn before its end.
            self._session.auth.forget()
            return self._request(body)
        return answer

    def _request(self, body: bytes) -> requests.Response:
        return self._session.post(
            self._server,
            data=body,
            headers={"Content-Type": JSON, "Accept": JSON, "Prefer": "return=minimal"},
            timeout=(10, self._options.timeout_s),
            # Followed, it would be sent again without its body, and perhaps to somebody else.
            allow_redirects=False,
        )


def _retry_after_s(answer: requests.Response) -> float:
    """What the server asks for, as seconds or as a time; 0 if it does not."""
    asked = answer.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no time, or one without a zone
        return 0.0


def _issues(answer: requests.Response) -> str:
    """Codes and places of an OperationOutcome; its texts may quote what was sent."""
    try:
        issues = answer.json().get("issue", [])
        said = [f"{one.get('code')} at {one.get('expression', ['?'])[0]}" for one in issues[:3]]
    except (ValueError, AttributeError, TypeError, IndexError):
        return ""
    return "; ".join(said)
