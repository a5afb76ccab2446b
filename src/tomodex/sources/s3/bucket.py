"""One bucket: its objects page by page, and their bytes piece by piece.

Every request passes the gate and has its limits. boto3 finds credentials, signs, and asks again
where a server is busy; what it raises is named here after what the catcher does.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import boto3
import urllib3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from pydantic import Field

from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.options import Secret, without_query
from tomodex.sources.gate import Gate, GateOptions, NotReached
from tomodex.sources.hosts import is_loopback

#: Bytes that are received at once.
CHUNK = 2**16

_T = TypeVar("_T")


class S3Options(GateOptions):
    """What the URL of a bucket can set."""

    layout: Literal["instances", "archives"] = "instances"
    endpoint: str = ""  #: URL of the store; "": Amazon's, or what boto3 is told
    region: str = ""  #: "": what boto3 is told
    addressing: Literal["auto", "path", "virtual"] = "auto"  #: where the bucket's name stands
    key: Secret | None = None  #: access key; None: as boto3 finds one
    secret: Secret | None = None  #: secret key
    token: Secret | None = None  #: session token
    anonymous: bool = False  #: show no credentials: a public bucket
    ca: Path | None = None  #: certificates of authorities to trust, PEM; None: the usual ones
    proxy: str = ""  #: URL of a proxy; "": none
    insecure: bool = False  #: let plain HTTP leave this machine
    simultaneous: int = Field(8, ge=1, le=64)  #: requests at once, of all processes here
    connect_s: float = Field(10, gt=0, le=300)  #: until somebody answers
    read_s: float = Field(60, gt=0, le=3600)  #: until the next piece of an answer
    total_s: float = Field(1800, gt=0, le=86_400)  #: for an object, or a piece that is asked for


class Gone(Unavailable):
    """One object cannot be had; the others can."""


@dataclass(frozen=True, slots=True)
class Object:
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str  #: changes with the contents


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of an object."""

    data: bytes
    size: int  #: of the whole object
    etag: str


class Bucket:
    """The bucket that a URL names, and the prefix that its objects have.

    Raises:
        Misconfigured: the URL or its options make no sense, or name what is not there.
    """

    def __init__(self, url: str, options: S3Options, gate: Gate) -> None:
        self.url = without_query(url)
        parts = urlsplit(self.url)
        self.name = parts.netloc
        self.prefix = unquote(parts.path.removeprefix("/"))
        self.clock_skew_s: float | None = None  #: of the last answer; None: nothing was answered
        self._options = options
        self._gate = gate
        self._require_sense()
        self._made: Any = None  # boto3 has no types
        # Read now, so that what is missing is told before anything is asked.
        self._credentials = {
            name: secret.read()
            for name, secret in (
                ("aws_access_key_id", options.key),
                ("aws_secret_access_key", options.secret),
                ("aws_session_token", options.token),
            )
            if secret
        }

    def _require_sense(self) -> None:
        options = self._options
        if not self.name or "@" in self.name:
            raise Misconfigured(f"{self.url} names no bucket; write s3://bucket/prefix")
        endpoint = urlsplit(options.endpoint)
        if options.endpoint and (endpoint.scheme not in ("http", "https") or not endpoint.hostname):
            raise Misconfigured(f"{self.url}: endpoint is a URL, as https://s3.example:9000")
        if endpoint.password or urlsplit(options.proxy).password:
            raise Misconfigured(f"{self.url}: a password has no place in endpoint or proxy")
        if endpoint.scheme == "http" and not (
            options.insecure or is_loopback(endpoint.hostname or "")
        ):
            raise Misconfigured(
                f"{self.url} would send patient data as plain text; use an endpoint with https://, "
                "or say insecure=yes if nobody else can listen"
            )
        if bool(options.key) != bool(options.secret) or (options.token and not options.key):
            raise Misconfigured(f"{self.url}: key and secret go together, and token with them")
        if options.anonymous and options.key:
            raise Misconfigured(f"{self.url}: anonymous, and a key to show, is a contradiction")
        if options.ca and not os.access(options.ca, os.R_OK):
            raise Misconfigured(f"{self.url}: ca={options.ca} cannot be read")

    # --- asking ---------------------------------------------------------------------------------

    def objects(self) -> Iterator[Object]:
        """Every object below the prefix, and the one that it names, a page at a time."""
        if self.prefix and not self.prefix.endswith("/"):
            first = self._page(Prefix=self.prefix, MaxKeys=1).get("Contents", [])
            yield from (_object(one) for one in first if one["Key"] == self.prefix)
            yield from self._below(f"{self.prefix}/")
        else:
            yield from self._below(self.prefix)

    def _below(self, prefix: str) -> Iterator[Object]:
        asked = {"Prefix": prefix}
        while True:
            page = self._page(**asked)
            yield from map(_object, page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == asked.get("ContinuationToken"):
                raise Unavailable(f"{self.url} says that it has more objects, and not which")
            asked["ContinuationToken"] = token

    def _page(self, **asked: object) -> dict[str, Any]:
        with self._asking() as client:
            page: dict[str, Any] = client.list_objects_v2(Bucket=self.name, **asked)
            self._look_at_clock(page)
        return page

    def piece(self, key: str, first: int, size: int, etag: str = "") -> Piece:
        """Up to `size` bytes of an object from `first` on.

        Raises:
            Gone: the object is not there any more, cannot be had now, or has not this `etag`.
            Unavailable: the store did not answer, or not wholly.
        """
        asked = {"Range": f"bytes={first}-{first + size - 1}"} | ({"IfMatch": etag} if etag else {})

        def read(answer: dict[str, Any]) -> Piece:
            # Looked at before anything is held: without ranges, all there is would be sent.
            whole = _size(str(answer.get("ContentRange", "")), first, size)
            if whole is None:
                raise Unavailable(f"{self.url} does not answer ranges of bytes")
            if int(answer["ContentLength"]) > size:
                raise Unavailable(f"{self.url} sends more bytes than it was asked for")
            return Piece(b"".join(self._chunks(answer)), whole, answer["ETag"])

        return self._get(key, asked, read)

    def save(self, key: str, path: Path) -> None:
        """Write an object to a file; raises as `piece` does, and OSError for the file."""

        def write(answer: dict[str, Any]) -> None:
            with path.open("wb") as file:
                for chunk in self._chunks(answer):
                    file.write(chunk)

        self._get(key, {}, write)

    def _get(self, key: str, asked: dict[str, str], read: Callable[[dict[str, Any]], _T]) -> _T:
        try:
            with self._asking(_OF_OBJECTS | _FORBIDDEN) as client:
                return read(client.get_object(Bucket=self.name, Key=key, **asked))
        except _ObjectError as wrong:
            raise Gone(f"{self.url}: {wrong}") from wrong

    def _chunks(self, answer: dict[str, Any]) -> Iterator[bytes]:
        """The body of an answer, all of it."""
        end = time.monotonic() + self._options.total_s
        left = int(answer["ContentLength"])
        with answer["Body"] as raw:  # what it wraps, which alone can read what is there
            while left and (chunk := raw.read1(CHUNK)):
                left -= len(chunk)
                if left < 0:
                    raise Unavailable(f"{self.url} sends more bytes than it announced")
                if time.monotonic() > end:
                    raise Unavailable(
                        f"{self.url} was not done with an object after {self._options.total_s:g} s"
                    )
                yield chunk
        if left:
            raise Unavailable(f"{self.url} broke off in the middle of an object")

    # --- the client -----------------------------------------------------------------------------

    @contextmanager
    def _asking(self, of_objects: Mapping[str, str] = MappingProxyType({})) -> Iterator[Any]:
        """The client, for one request and its answer; its errors are named as ours are.

        `of_objects` are refusals that concern the one object that is asked for.
        """
        try:
            with self._gate.passing(), self._named_errors(of_objects):
                yield self._client()
        except _Refusal as refusal:
            raise refusal.outside_the_gate from refusal
        except Suspended as suspended:
            # By the name that tasks know it by: the gate may be that of all the bucket.
            raise Suspended(str(suspended), source=self.url, until=suspended.until) from suspended

    @contextmanager
    def _named_errors(self, of_objects: Mapping[str, str]) -> Iterator[None]:
        try:
            yield
        except ClientError as refused:
            raise self._refused(refused, of_objects) from refused
        except (NoCredentialsError, PartialCredentialsError) as missing:
            raise _Refusal(
                Misconfigured(
                    f"{self.url}: no credentials; name them with key= and secret=, or in the "
                    "places that boto3 looks at"
                )
            ) from missing
        except (BotoCoreError, urllib3.exceptions.HTTPError) as wrong:
            error = NotReached if isinstance(wrong, _NO_WAY) else Unavailable
            raise error(f"{self.url} {self._plain(wrong)}") from wrong

    def _client(self) -> Any:
        # Made when it is needed, and once. Threads may share it, but not make two from one session.
        with _one_at_a_time:
            if self._made is None:
                self._made = self._make_client()
        return self._made

    def _make_client(self) -> Any:
        options = self._options
        config = Config(
            signature_version=UNSIGNED if options.anonymous else None,
            connect_timeout=options.connect_s,
            read_timeout=options.read_s,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=options.simultaneous + 1,
            proxies={"http": options.proxy, "https": options.proxy} if options.proxy else {},
            # Other stores than Amazon's may not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": _style(options)},
        )
        try:
            return _session().client(
                "s3",
                endpoint_url=options.endpoint or None,
                region_name=options.region or ("us-east-1" if options.endpoint else None),
                verify=str(options.ca) if options.ca else None,
                config=config,
                **self._credentials,
            )
        except (BotoCoreError, ValueError) as wrong:
            raise _Refusal(Misconfigured(f"{self.url}: {type(wrong).__name__}: {wrong}")) from wrong

    # --- what went wrong ------------------------------------------------------------------------

    def _refused(self, refused: ClientError, of_objects: Mapping[str, str]) -> Exception:
        """What a refusal means; the store's own words may name the object, so they stay inside."""
        code = str(refused.response.get("Error", {}).get("Code", ""))
        status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if advice := of_objects.get(code):
            return _Refusal(_ObjectError(advice))
        if code in ("NoSuchBucket", "InvalidBucketName"):
            return _Refusal(Misconfigured(f"{self.url}: there is no bucket {self.name!r}"))
        advice = _ADVICE.get(code, "")
        return Unavailable(f"{self.url} answers {code or 'an error'} ({status}){advice}")

    def _plain(self, wrong: Exception) -> str:
        """What went wrong, in words of an administrator."""
        if isinstance(wrong, SSLError):
            return "cannot be talked to with TLS; ca=FILE names the authority to trust"
        if isinstance(wrong, ConnectTimeoutError):
            return f"did not answer within {self._options.connect_s:g} s"
        if isinstance(wrong, ReadTimeoutError | urllib3.exceptions.ReadTimeoutError):
            return f"fell silent for {self._options.read_s:g} s"
        if isinstance(wrong, EndpointConnectionError):
            return (
                "cannot be reached: is the endpoint right, does it run, does a firewall forbid it?"
            )
        if isinstance(wrong, HTTPClientError | urllib3.exceptions.HTTPError):
            return "broke off in the middle of its answer"
        return f"cannot be asked: {type(wrong).__name__}"

    def _look_at_clock(self, answer: dict[str, Any]) -> None:
        try:
            at = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        except (KeyError, ValueError):
            return
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        self.clock_skew_s = abs((datetime.now(UTC) - at).total_seconds())


#: There was no connection, so that nothing was asked.
_NO_WAY = (EndpointConnectionError, ConnectTimeoutError, SSLError, ProxyConnectionError)

_one_at_a_time = threading.Lock()


@cache
def _session() -> Any:
    """What boto3 knows, of all buckets together: to load it takes 0.3 s."""
    return boto3.session.Session()


class _Refusal(Exception):
    """The store is well, and refuses: so that nothing counts against it."""

    def __init__(self, outside_the_gate: Exception) -> None:
        super().__init__(str(outside_the_gate))
        self.outside_the_gate = outside_the_gate


class _ObjectError(Exception):
    """One object cannot be had."""


#: Refusals that are of one object, in a sentence.
_OF_OBJECTS = {
    "NoSuchKey": "an object is not there any more",
    "404": "an object is not there any more",
    "PreconditionFailed": "an object changed while it was read",
    "InvalidRange": "an object became smaller while it was read",
    "InvalidObjectState": "an object is in cold storage, and has to be restored first",
}

#: The same, and not of the bucket only where an object was asked for: listing needs more.
_FORBIDDEN = {
    "AccessDenied": "the credentials do not permit an object; they need GetObject of it",
    "403": "the credentials do not permit an object; they need GetObject of it",
}

#: What helps where the store refuses.
_ADVICE = {
    "AccessDenied": ": the credentials do not permit it; they need ListBucket and GetObject",
    "InvalidAccessKeyId": ": it does not know the access key",
    "SignatureDoesNotMatch": ": the secret key, or the region, is another one",
    "AuthorizationHeaderMalformed": ": the region is another one; set region=",
    "PermanentRedirect": ": the bucket is in another region; set region=",
    "ExpiredToken": ": the session token has ended",
    "RequestTimeTooSkewed": ": its clock and this machine's are too far apart",
    "SlowDown": ": it is asked too much; lower simultaneous= or set per_second=",
}


def _size(content_range: str, first: int, most: int) -> int | None:
    """Bytes of the whole object; None unless the range is of `most` bytes from `first` on."""
    found = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", content_range, re.ASCII)
    if found is None:
        return None
    begin, end, size = map(int, found.groups())
    return size if begin == first <= end < min(first + most, size) else None


def _style(options: S3Options) -> str:
    if options.addressing != "auto":
        return options.addressing
    return "path" if options.endpoint else "auto"


def _object(one: dict[str, Any]) -> Object:
    return Object(key=one["Key"], size=int(one["Size"]), etag=str(one.get("ETag", "")))
