"""Asks an Elasticsearch or OpenSearch server, and says in our words what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from opensearchpy import exceptions as errors
from pydantic import Field

from tomodex.errors import BadQuery, Misconfigured, Unavailable
from tomodex.options import Options, Secret, read_options, without_query

# At its levels it logs what is asked and answered, which is not for logs.
for _name in ("opensearch", "opensearchpy.trace"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

PORT = 9200

#: Connections to each server: a page asks several things at once, for several people.
CONNECTIONS = 8

#: What a server answers when the same request may do better later.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

#: What it answers to whom it does not know, and to whom it does not let.
REFUSED = (401, 403)

#: What a server that has scripts switched off says, both kinds.
_NO_SCRIPTS = ("cannot execute [inline] scripts", "script_lang not supported")


class ServerOptions(Options):
    """What the URL of a server may set."""

    password: Secret | None = None  #: Basic, for the user in the URL
    token: Secret | None = None  #: an API key, as Elasticsearch encodes them
    ca: Path | None = None  #: certificates to trust instead of the usual ones
    cert: Path | None = None  #: client certificate and key, PEM
    shards: int = Field(1, ge=1, le=1024)  #: of an index that is made
    replicas: int = Field(0, ge=0, le=16)  #: of an index that is made
    #: Seconds until what was written is found, of an index that is made.
    refresh_s: int = Field(1, ge=1, le=3600)
    #: Whether writing waits until what was written is found: at once, soon, or not at all.
    refresh: Literal["true", "wait_for", "false"] = "false"
    timeout_s: float = Field(60.0, gt=0, le=3600)


class Server:
    """The server, and the name of the index there, that a URL means.

    Raises:
        Misconfigured: an option or a secret is not as it should be.
    """

    def __init__(self, url: str) -> None:
        self.options = read_options(url, ServerOptions)
        self.name = urlsplit(url).path.strip("/") or "tomodex"
        self.shown = without_query(url)
        self.client = _client(url, self.options)

    @contextmanager
    def asked(self) -> Iterator[OpenSearch]:
        """The client, whose errors become ours, without a word of what was asked."""
        try:
            yield self.client
        except errors.SSLError as distrusted:
            raise self._distrust(distrusted) from None
        except errors.ConnectionError as silent:
            raise Unavailable(f"{self.shown} does not answer: {type(silent).__name__}") from None
        except (errors.AuthenticationException, errors.AuthorizationException) as refused:
            raise self.refusal(refused.status_code) from None
        except errors.NotFoundError:
            raise Unavailable(
                f"{self.shown} has no such index, or no more what was being read: it was made anew"
            ) from None
        except errors.TransportError as failed:
            if failed.status_code in AGAIN:
                raise Unavailable(f"{self.shown} answers HTTP {failed.status_code}") from None
            _raise_ours(failed, self.shown)
            raise

    @cached_property
    def distribution(self) -> str:
        """ "opensearch" or "elasticsearch"."""
        with self.asked() as client:
            return str(client.info()["version"].get("distribution", "elasticsearch"))

    def refusal(self, status: int | str) -> Misconfigured:
        """What to tell whoever can let us in."""
        if status == REFUSED[0]:
            return Misconfigured(
                f"{self.shown} does not know us (HTTP 401); see its options `password` and `token`"
            )
        return Misconfigured(
            f"{self.shown} knows us and forbids it (HTTP 403); docs/how-to/search-on-a-server.md "
            "lists what our user has to be allowed"
        )

    def _distrust(self, distrusted: errors.SSLError) -> Misconfigured | Unavailable:
        if "CERTIFICATE_VERIFY_FAILED" not in str(distrusted):
            return Unavailable(f"{self.shown} does not answer: SSLError")
        return Misconfigured(
            f"{self.shown} shows a certificate that is not trusted here, has expired, or is for "
            "another name; see its option `ca`"
        )


def _raise_ours(failed: errors.TransportError, shown: str) -> None:
    """Raise what a refused request means for somebody, if it does."""
    said = str(failed.info)
    if "too_many" in said and "clauses" in said:
        raise BadQuery("this asks for too much at once; leave some of it out") from None
    if any(words in said for words in _NO_SCRIPTS):
        raise Misconfigured(
            f"{shown} runs no scripts, by which patients are counted; allow inline ones "
            "(`script.allowed_types`, `script.allowed_contexts`)"
        ) from None


def _client(url: str, options: ServerOptions) -> OpenSearch:
    parts = urlsplit(url)
    secure = parts.scheme.endswith("+https")
    given: dict[str, Any] = {
        "timeout": options.timeout_s,
        "max_retries": 3,
        "pool_maxsize": CONNECTIONS,
    }
    if parts.username:
        if options.password is None:
            raise Misconfigured(f"{without_query(url)} names a user, and no `password`")
        given["http_auth"] = (parts.username, options.password.read())
    if options.token:
        if parts.username:
            raise Misconfigured(f"{without_query(url)} has a user and a `token`; one of them")
        given["headers"] = {"Authorization": f"ApiKey {options.token.read()}"}
    if secure:
        given |= {"verify_certs": True, "ca_certs": _file(options.ca)}
    if options.cert:
        given["client_cert"] = _file(options.cert)
    return OpenSearch([{**node, "use_ssl": secure} for node in _nodes(url)], **given)


def _nodes(url: str) -> list[dict[str, Any]]:
    """Host and port of each server that a URL names, as `host,other:9201`."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    try:
        nodes = [urlsplit(f"//{place}") for place in places]
        found = [{"host": node.hostname, "port": node.port or PORT} for node in nodes]
    except ValueError as wrong:  # a port that is no number, an unclosed bracket
        raise Misconfigured(f"{without_query(url)} names no host and port: {wrong}") from None
    if not all(node["host"] for node in found):
        raise Misconfigured(f"{without_query(url)} names no host")
    return found


def _file(path: Path | None) -> str | None:
    if path is not None and not path.is_file():
        raise Misconfigured(f"there is no file {path}, which should hold certificates")
    return str(path) if path else None
