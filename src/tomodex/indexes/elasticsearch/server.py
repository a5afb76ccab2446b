"""Asks an Elasticsearch or OpenSearch server, and says in our words what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from opensearchpy import exceptions as errors
from opensearchpy.helpers import bulk
from opensearchpy.helpers.errors import BulkIndexError
from pydantic import Field

from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.options import Options, Secret, read_options, without_query

# At its levels it logs what is asked and answered, which is not for logs.
for _name in ("opensearch", "opensearchpy.trace"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

#: What a server answers when the same request may do better later.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Documents and bytes of one request.
MOST_DOCUMENTS = 500
MOST_BYTES = 20 * 2**20


class ServerOptions(Options):
    """What the URL of a server may set."""

    password: Secret | None = None  #: Basic, for the user in the URL
    token: Secret | None = None  #: an API key, as Elasticsearch encodes them
    ca: Path | None = None  #: certificates to trust instead of the usual ones
    cert: Path | None = None  #: client certificate and key, PEM
    shards: int = Field(1, ge=1, le=1024)  #: of an index that is made
    replicas: int = Field(0, ge=0, le=16)  #: of an index that is made
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
        parts = urlsplit(url)
        self.name = parts.path.strip("/") or "tomodex"
        self.shown = without_query(url)
        self.client = _client(url, self.options)

    @contextmanager
    def asked(self) -> Iterator[OpenSearch]:
        """The client, whose errors become ours, without a word of what was asked."""
        try:
            yield self.client
        except errors.ConnectionError as silent:
            raise Unavailable(f"{self.shown} does not answer: {type(silent).__name__}") from None
        except (errors.AuthenticationException, errors.AuthorizationException) as refused:
            raise Misconfigured(
                f"{self.shown} refuses us (HTTP {refused.status_code}); see its options "
                "`password` and `token`"
            ) from None
        except errors.TransportError as failed:
            if failed.status_code in AGAIN:
                raise Unavailable(f"{self.shown} answers HTTP {failed.status_code}") from None
            raise

    def bulk(self, actions: Sequence[dict[str, Any]], refresh: str) -> None:
        """Write, or delete, many.

        Raises:
            Unavailable: the server did not take all of them.
            Unsuitable: it never will take one.
        """
        with self.asked() as client:
            try:
                bulk(
                    client,
                    actions,
                    chunk_size=MOST_DOCUMENTS,
                    max_chunk_bytes=MOST_BYTES,
                    max_retries=3,
                    initial_backoff=1,
                    refresh=refresh,
                    raise_on_error=True,
                )
            except BulkIndexError as some:
                raise self._refusal(some) from None

    def _refusal(self, some: BulkIndexError) -> Unavailable | Unsuitable:
        answers = [answer for item in some.errors for answer in item.values()]
        worst = next((a for a in answers if a["status"] not in AGAIN), answers[0])
        if worst["status"] in AGAIN:
            return Unavailable(f"{self.shown} answers HTTP {worst['status']}")
        # Its reason may quote a value.
        kind = worst.get("error", {}).get("type", "unknown")
        sentence = f"{self.shown} does not take the document: {kind}"
        return Unsuitable("refused_by_index", sentence)


def _client(url: str, options: ServerOptions) -> OpenSearch:
    parts = urlsplit(url)
    secure = parts.scheme.endswith("+https")
    if not parts.hostname:
        raise Misconfigured(f"{without_query(url)} names no host")
    node = {
        "host": parts.hostname,
        "port": parts.port or 9200,
        "use_ssl": secure,
    }
    given: dict[str, Any] = {"timeout": options.timeout_s, "max_retries": 3}
    if parts.username and options.password:
        given["http_auth"] = (parts.username, options.password.read())
    if options.token:
        given["headers"] = {"Authorization": f"ApiKey {options.token.read()}"}
    if secure:
        given |= {"verify_certs": True, "ca_certs": str(options.ca) if options.ca else None}
    if options.cert:
        given["client_cert"] = str(options.cert)
    return OpenSearch([node], **given)
