"""Answers from `tomodex serve`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from pydantic import TypeAdapter, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tomodex.client.result import Cell, Result, Rows
from tomodex.cohorts import Anatomy, Counts, OneSeries
from tomodex.doors import is_loopback
from tomodex.errors import (
    BadQuery,
    Forbidden,
    Misconfigured,
    NotThere,
    TomodexError,
    Unavailable,
)
from tomodex.manifests import ENDINGS, UIDS, Format, keep
from tomodex.saved import Difference, SavedCohort
from tomodex.search import Sample

#: Seconds until it answers at all, and between two parts of an answer: a Parquet file is sent when
#: all of it is written.
TIMEOUT_S = (10.0, 600.0)

#: A request that came too often was not done, so it can be sent again.
AGAIN = Retry(total=5, connect=1, read=0, other=0, status_forcelist=[429], allowed_methods=None)

CHUNK_BYTES = 1 << 18

T = TypeVar("T")

#: What reads answers; each takes some milliseconds to make.
_ADAPTERS: dict[object, TypeAdapter[Any]] = {}


class Remote:
    """A server that is asked over HTTP."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address.rstrip("/")
        parts = urlsplit(self._address)
        if token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise Misconfigured(
                f"{parts.hostname} is asked over https: a token can be read on http"
            )
        self._session = requests.Session()
        self._session.mount(self._address, HTTPAdapter(max_retries=AGAIN))
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def count(self, query: str) -> Counts:
        return self._read(Counts, "POST", "/v1/cohort/counts", json={"query": query})

    def rows(self, query: str, columns: Sequence[str], limit: int | None, sort: str) -> Rows:
        body = {"query": query, "columns": list(columns), "sort": sort}
        lines = self._lines("/v1/cohort/manifest.json", body)
        facts = _facts(next(lines, b""))
        shown = tuple(dict.fromkeys(column for column in columns if column not in UIDS))
        rows = _series_of(lines, limit)
        counts = Counts(
            patients=facts["patients"],
            studies=facts["studies"],
            series=facts["series"],
            size_bytes=facts["size_bytes"],
        )
        return Rows(counts=counts, columns=(*UIDS, *shown), rows=rows)

    def facets(self, query: str, fields: Sequence[str]) -> Mapping[str, Mapping[str, int | None]]:
        body = {"query": query, "fields": list(fields)}
        found = self._ask("POST", "/v1/cohort/facets", json=body).json()
        return {
            field: {cell["value"]: cell["count"] for cell in cells}
            for field, cells in found.items()
        }

    def structures(self, text: str) -> Sequence[Anatomy]:
        return self._read(tuple[Anatomy, ...], "GET", "/v1/structures", params={"text": text})

    def series(self, uid: str) -> OneSeries:
        return self._read(OneSeries, "GET", f"/v1/series/{_segment(uid)}")

    def manifest(
        self,
        kind: Format,
        query: str,
        columns: Sequence[str],
        sample: Sample | None,
        sort: str,
        file: Path,
    ) -> None:
        body: dict[str, object] = {"query": query, "columns": list(columns), "sort": sort}
        if sample:
            body |= {"sample": sample.size, "seed": sample.seed}
        self._fetch(file, "POST", f"/v1/cohort/manifest.{_ending(kind)}", json=body)

    def save(self, name: str, query: str) -> SavedCohort:
        return self._read(SavedCohort, "POST", "/v1/cohorts", json={"name": name, "query": query})

    def cohorts(self) -> Sequence[SavedCohort]:
        return self._read(tuple[SavedCohort, ...], "GET", "/v1/cohorts")

    def cohort(self, cohort_id: str) -> SavedCohort:
        return self._read(SavedCohort, "GET", f"/v1/cohorts/{_segment(cohort_id)}")

    def diff(self, cohort_id: str, limit: int) -> Difference:
        path = f"/v1/cohorts/{_segment(cohort_id)}/diff"
        return self._read(Difference, "GET", path, params={"limit": limit})

    def delete(self, cohort_id: str) -> None:
        self._ask("DELETE", f"/v1/cohorts/{_segment(cohort_id)}")

    def export(self, kind: Format, cohort_id: str, file: Path) -> None:
        self._fetch(file, "GET", f"/v1/cohorts/{_segment(cohort_id)}/manifest.{_ending(kind)}")

    def sql(self, statement: str) -> Result:
        return self._read(Result, "POST", "/v1/sql", json={"sql": statement})

    def close(self) -> None:
        self._session.close()

    def _read(self, kind: type[T], method: str, path: str, **what: Any) -> T:
        """An answer as what the core would have given."""
        content = self._ask(method, path, **what).content
        try:
            found: T = _adapter(kind).validate_json(content)
        except ValidationError as other:
            raise _no_tomodex(self._address) from other
        return found

    def _lines(self, path: str, body: Mapping[str, object]) -> Generator[bytes, None, None]:
        with self._asked("POST", path, json=body, stream=True) as answer:
            yield from answer.iter_lines(CHUNK_BYTES)

    def _fetch(self, file: Path, method: str, path: str, **what: Any) -> None:
        with self._asked(method, path, stream=True, **what) as answer:
            keep(self._pieces(answer), file)

    def _pieces(self, answer: requests.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(CHUNK_BYTES)
        except requests.RequestException as failed:
            # An OSError too, which would look like one of the file that is written.
            raise self._silent(failed) from failed

    def _ask(self, method: str, path: str, **what: Any) -> requests.Response:
        with self._asked(method, path, **what) as answer:
            return answer

    @contextmanager
    def _asked(self, method: str, path: str, **what: Any) -> Iterator[requests.Response]:
        """An answer that is no problem; what breaks off while it is read is one."""
        url = f"{self._address}{path}"
        try:
            # A token is for this server, and for nobody that it names.
            answer = self._session.request(
                method, url, timeout=TIMEOUT_S, allow_redirects=False, **what
            )
            with answer:
                if not answer.ok or answer.is_redirect:
                    raise _problem(answer, self._address)
                yield answer
        except requests.exceptions.InvalidURL as wrong:
            raise Misconfigured(f"{self._address} is no address") from wrong
        except requests.RequestException as failed:
            raise self._silent(failed) from failed

    def _silent(self, failed: requests.RequestException) -> Unavailable:
        return Unavailable(f"{self._address} does not answer: {type(failed).__name__}")


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _segment(text: str) -> str:
    return quote(text, safe="") or "-"


def _ending(kind: Format) -> str:
    return next(ending for ending, one in ENDINGS.items() if one == kind)


def _facts(first: bytes) -> Mapping[str, Any]:
    """What the first line of a manifest says."""
    try:
        found = json.loads(first.rstrip(b",") + b"}")["manifest"]
    except (ValueError, KeyError, TypeError) as other:
        raise Unavailable("the server did not send a manifest") from other
    return dict(found)


def _series_of(lines: Generator[bytes, None, None], limit: int | None) -> Iterator[Sequence[Cell]]:
    """The rows of a manifest in JSON: so many, and the rest is not waited for; or all.

    Raises:
        Unavailable: it was cut off on its way.
    """
    digest, rows, last = hashlib.sha256(), 0, b""
    for last in lines:
        if rows == limit:
            lines.close()
            return
        if last.startswith(b"{"):
            one = json.loads(last.rstrip(b","))
            rows += 1
            digest.update(f"{one['SeriesInstanceUID']}\n".encode())
            yield list(one.values())
    if last != f'"rows": {rows}, "sha256": "{digest.hexdigest()}"}}'.encode():
        raise Unavailable("the list was cut off on its way; ask again")


def _problem(answer: requests.Response, address: str) -> TomodexError:
    """What a server complains of (RFC 9457), as the core would have raised it."""
    try:
        said = answer.json()
        sentence, kind = str(said["detail"]), str(said["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):
        return _no_tomodex(address)
    match answer.status_code:
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            place = said.get("place")
            return BadQuery(
                sentence,
                place=tuple(place) if place else None,
                suggestions=tuple(said.get("suggestions") or ()),
            )
        case HTTPStatus.UNAUTHORIZED:
            return Misconfigured(f"{address} wants a token, and another one than was sent")
        case HTTPStatus.FORBIDDEN:
            return Forbidden(sentence)
        case HTTPStatus.NOT_FOUND:
            return NotThere(sentence)
        case HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.TOO_MANY_REQUESTS:
            return Unavailable(sentence)
    return TomodexError(f"{address}: {kind}: {sentence}")


def _no_tomodex(address: str) -> Misconfigured:
    return Misconfigured(f"{address} does not answer as `tomodex serve` of this version does")
