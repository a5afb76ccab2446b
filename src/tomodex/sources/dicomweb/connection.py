"""Requests to a DICOMweb server: who asks, how long, how often again, and what a refusal means.

Nothing waits for ever: connecting, each piece of an answer, and a request with all its repeats have
their limits. Redirects, proxies of the environment and `.netrc` are not followed: what a URL does
not say does not happen.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import certifi
import orjson
import requests
import urllib3
from pydantic import Field
from requests.auth import AuthBase, HTTPBasicAuth

from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.options import Secret, without_query
from tomodex.sources.dicomweb.json_model import Json
from tomodex.sources.gate import Gate, GateOptions, NotReached
from tomodex.sources.hosts import is_loopback

#: Bytes of an answer in JSON, which is held in memory.
MAX_JSON = 64 * 2**20

#: Bytes that are received at once.
CHUNK = 2**16

#: What a server answers that is busy, or whose proxy does not reach it.
BUSY = frozenset({429, 502, 503, 504})

#: How often a request is made that fails so, and what is waited first; then twice as long.
ATTEMPTS, FIRST_WAIT_S = 4, 0.5

#: A server that wants to be asked later than this is not waited for.
LONGEST_WAIT_S = 20.0

Params = Mapping[str, str | Sequence[str]]  #: a name with several values comes several times
_T = TypeVar("_T")


class DicomWebOptions(GateOptions):
    """What the URL of a DICOMweb server can set."""

    password: Secret | None = None  #: of the user in the URL
    token: Secret | None = None  #: bearer token
    ca: Path | None = None  #: certificates of authorities to trust, PEM; None: the usual ones
    cert: Path | None = None  #: our certificate, PEM, for a server that asks who we are
    key: Path | None = None  #: its private key, PEM; None: it is in `cert`
    proxy: str = ""  #: URL of a proxy; "": none
    insecure: bool = False  #: let plain HTTP leave this machine
    connect_s: float = Field(10, gt=0, le=300)  #: until somebody answers
    read_s: float = Field(60, gt=0, le=3600)  #: until the next piece of an answer
    total_s: float = Field(1800, gt=0, le=86_400)  #: for a request, its repeats and its answer
    page: int = Field(500, ge=1, le=100_000)  #: answers asked for at once
    #: Answers that it gives at most, on all pages together; 0: any number; None: find out
    answer_limit: int | None = Field(None, ge=0)


class TooLong(Unavailable):
    """The server answers with more JSON than is held in memory; nothing is wrong with it."""


class Refused(Unavailable):
    """The server answered, and gave something else than what was asked for."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status  #: of HTTP


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sends, while it sends it."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


@dataclass(frozen=True, slots=True)
class _Busy:
    """It is to be asked again; `after_s` where the server says when."""

    status: int
    after_s: float | None


class Connection:
    """One DICOMweb server.

    Raises:
        Misconfigured: the URL or its options make no sense, or name what is not there.
    """

    def __init__(self, url: str, options: DicomWebOptions, gate: Gate) -> None:
        self.url = without_query(url)
        parts = urlsplit(self.url)
        scheme = parts.scheme.removeprefix("dicomweb+")
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if scheme == "https" else 80)
        self.is_tls = scheme == "https"
        self._base = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._options = options
        self._gate = gate
        self._require_sense(parts.username)
        self._session = _session(options, _credentials(parts.username, options))

    def _require_sense(self, user: str | None) -> None:
        options = self._options
        if not self.host:
            raise Misconfigured(f"{self.url} names no host")
        if not self.is_tls and not options.insecure and not is_loopback(self.host):
            raise Misconfigured(
                f"{self.url} sends patient data as plain text; use dicomweb+https://, or say "
                "insecure=yes if nobody else can listen"
            )
        if options.token and (user or options.password):
            raise Misconfigured(f"{self.url} is given a token and a user; it takes one of them")
        if bool(user) != bool(options.password):
            raise Misconfigured(
                f"{self.url}: a user goes into the URL, as https://user@host, with the place of "
                "the password, as ?password=file:/run/secrets/pacs"
            )
        if urlsplit(options.proxy).password is not None:
            raise Misconfigured(f"{self.url}: a proxy with a password cannot be used")
        for name in ("ca", "cert", "key"):
            file: Path | None = getattr(options, name)
            if file and not os.access(file, os.R_OK):
                raise Misconfigured(f"{self.url}: {name}={file} cannot be read")

    def json(self, path: str, params: Params | None = None) -> list[Json]:
        """The datasets that a resource answers in JSON; [] if there are none.

        Raises:
            Refused: the server answered something else.
            TooLong: it answers more than MAX_JSON.
            Unavailable: it did not answer, or not wholly.
        """
        found = self.ask(path, params or {}, "application/dicom+json", self._datasets)
        if isinstance(found, TooLong):
            raise found
        return found

    def _datasets(self, answer: Answer) -> list[Json] | TooLong:
        """The datasets; TooLong is given back, not raised: at the gate it is no failure."""
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            raise Unavailable(f"{self.url} answers with a part of its JSON only")
        held = bytearray()
        for chunk in answer.chunks:
            held += chunk
            if len(held) > MAX_JSON:
                return TooLong(f"{self.url} answers with more than {MAX_JSON} bytes of JSON")
        if answer.status == HTTPStatus.NO_CONTENT or not held.strip():
            return []
        try:
            found = orjson.loads(held)
        except orjson.JSONDecodeError as wrong:
            kind = answer.content_type[:80] or "something that it does not name"
            raise Unavailable(
                f"{self.url} answers no JSON but {kind}; is this where its DICOMweb service is?"
            ) from wrong
        # Some servers answer one dataset without brackets.
        datasets = [found] if isinstance(found, dict) else found
        if not isinstance(datasets, list) or not all(isinstance(one, dict) for one in datasets):
            raise Unavailable(f"{self.url} answers JSON, and no list of DICOM datasets")
        return datasets

    def ask(self, path: str, params: Params, accept: str, read: Callable[[Answer], _T]) -> _T:
        """What `read` makes of an answer.

        A server that is busy is asked again before `read` sees anything of it.

        Raises:
            Refused: the server answered with a status that is no success.
            Unavailable: it did not answer, or not wholly.
        """
        end = time.monotonic() + self._options.total_s
        with self._gate.passing():
            found = self._ask_repeatedly(path, params, accept, read, end)
        if isinstance(found, Refused):
            raise found
        return found

    def certificate_ends(self) -> datetime:
        """When the server's certificate ends to be valid; OSError where it cannot be looked at."""
        context = ssl.create_default_context(cafile=str(self._options.ca or certifi.where()))
        if self._options.cert:
            context.load_cert_chain(self._options.cert, self._options.key)
        address = (self.host, self.port)
        with (
            self._gate.passing(),
            socket.create_connection(address, self._options.connect_s) as plain,
            context.wrap_socket(plain, server_hostname=self.host) as secure,
        ):
            shown = secure.getpeercert() or {}
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)

    def _ask_repeatedly(
        self, path: str, params: Params, accept: str, read: Callable[[Answer], _T], end: float
    ) -> _T | Refused:
        wait_s = FIRST_WAIT_S
        for attempt in range(1, ATTEMPTS + 1):
            with self._sent(path, params, accept, end) as answer:
                if answer.status not in BUSY:
                    refused = self._refusal(answer)
                    if refused and not _says_only_this_time(refused.status):
                        raise refused
                    return refused or read(answer)
                busy = _Busy(answer.status, _retry_after_s(answer.headers))
            self._rest(busy, wait_s, end, is_last=attempt == ATTEMPTS)
            wait_s *= 2
        raise AssertionError  # the last rest raises

    def _rest(self, busy: _Busy, wait_s: float, end: float, *, is_last: bool) -> None:
        wait_s = max(wait_s, busy.after_s or 0)
        sentence = f"{self.url} answers {_named(busy.status)}"
        if busy.after_s is not None and wait_s > LONGEST_WAIT_S:
            until = datetime.now(UTC) + timedelta(seconds=wait_s)
            raise Suspended(
                f"{sentence} and wants to be asked again at {until:%H:%M:%S} UTC",
                source=self.url,
                until=until,
            )
        if is_last or time.monotonic() + wait_s > end:
            raise Unavailable(f"{sentence}, asked {ATTEMPTS} times at most")
        time.sleep(wait_s)

    @contextmanager
    def _sent(self, path: str, params: Params, accept: str, end: float) -> Iterator[Answer]:
        """One request and its answer; trouble of the network becomes Unavailable."""
        left_s = max(end - time.monotonic(), 0.001)
        limits = (min(self._options.connect_s, left_s), min(self._options.read_s, left_s))
        try:
            with self._session.get(
                f"{self._base}/{path}" if path else self._base,
                params=params,
                headers={"Accept": accept},
                timeout=limits,
                stream=True,
                allow_redirects=False,
            ) as response:
                chunks = self._chunks(response.raw, end)
                yield Answer(response.status_code, response.headers, chunks)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as wrong:
            # Not its own text: that repeats the address with all that was asked.
            error = NotReached if _was_not_reached(wrong) else Unavailable
            raise error(f"{self.url} {self._plain(wrong)}") from wrong

    def _chunks(self, raw: urllib3.HTTPResponse, end: float) -> Iterator[bytes]:
        while chunk := raw.read1(CHUNK, decode_content=True):
            if time.monotonic() > end:
                raise Unavailable(
                    f"{self.url} was not done with its answer after {self._options.total_s:g} s"
                )
            yield chunk

    def _plain(self, wrong: Exception) -> str:
        """What went wrong, in words of an administrator."""
        text = str(wrong)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            return (
                f"shows a certificate that is not trusted ({why or 'unknown'}); ca=FILE names the "
                "authority to trust"
            )
        if isinstance(wrong, requests.ConnectTimeout):
            return f"did not answer within {self._options.connect_s:g} s"
        timeouts = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)
        if isinstance(wrong, timeouts):
            return f"fell silent for {self._options.read_s:g} s"
        if isinstance(wrong, requests.exceptions.ProxyError):
            return "cannot be reached through the proxy"
        if isinstance(wrong, requests.exceptions.SSLError):
            return "and we do not agree on TLS; does it ask for a certificate (cert=FILE)?"
        if isinstance(wrong, urllib3.exceptions.HTTPError):
            return "broke off in the middle of its answer"
        return "cannot be reached: is the address right, does it run, does a firewall forbid it?"

    def _refusal(self, answer: Answer) -> Refused | None:
        """A status that is no success, in a sentence."""
        if answer.status in (200, 204, 206):
            return None
        sentence = f"{self.url} answers {_named(answer.status)}"
        if 300 <= answer.status < 400:
            target = urlsplit(answer.headers.get("Location", ""))
            where = f"{target.scheme}://{target.netloc}" if target.netloc else "elsewhere"
            sentence += f" and sends us to {where}; set the URL that it should be asked at"
        return Refused(f"{sentence}{_ADVICE.get(answer.status, '')}", answer.status)


def _was_not_reached(wrong: Exception) -> bool:
    """Whether there was no connection, so that nothing was asked."""
    no_way = (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    reason = getattr(wrong.args[0], "reason", None) if wrong.args else None
    refused = urllib3.exceptions.NewConnectionError
    return isinstance(wrong, no_way) or isinstance(reason, refused)


def _says_only_this_time(status: int) -> bool:
    """Whether a refusal is of what was asked for, not of us: then the server itself is well."""
    return 400 <= status < 500 and status not in (401, 407)


#: What helps where a server refuses.
_ADVICE = {
    401: ": it does not accept who we are; see password=, token=, cert= and the user",
    403: ": it knows who we are, and does not permit this",
    404: ": it has no such thing at this address",
    407: ": the proxy does not let us pass",
}


class _Bearer(AuthBase):
    """Shows a token with every request."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


def _credentials(user: str | None, options: DicomWebOptions) -> AuthBase | None:
    if options.token:
        return _Bearer(options.token.read())
    if user and options.password:
        # Bytes: requests would write text in Latin-1, which lacks letters (RFC 7617, 2.1).
        return HTTPBasicAuth(unquote(user).encode(), options.password.read().encode())
    return None


def _session(options: DicomWebOptions, credentials: AuthBase | None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.auth = credentials
    session.verify = str(options.ca) if options.ca else True
    if options.cert:
        session.cert = (str(options.cert), str(options.key or options.cert))
    if options.proxy:
        session.proxies = {"http": options.proxy, "https": options.proxy}
    return session


def moment(text: str) -> datetime | None:
    """A date and time as HTTP writes it; None if it is none."""
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, of a header that has seconds or a date (RFC 9110 10.2.3)."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    at = moment(said)
    return max((at - datetime.now(UTC)).total_seconds(), 0) if at else None


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)
