"""Writes and deletes many documents, in requests of limited size, whatever becomes of single ones.

Each document has the version of its place in the results feed. The server keeps the highest,
of deletions too for `documents.REMEMBERED`: whoever comes late with something older, comes in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from opensearchpy.helpers import streaming_bulk

from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.indexes.elasticsearch.server import AGAIN, REFUSED, Server

log = logging.getLogger(__name__)

#: Documents and bytes of one request.
MOST_DOCUMENTS = 500
MOST_BYTES = 10 * 2**20

#: A server that has too much to do is left alone for so long, then twice as long, seconds.
FIRST_REST_S = 1
LONGEST_REST_S = 30
RETRIES = 4

Action = dict[str, Any]


def written(uid: str, document: object, sequence: int | None) -> Action:
    """Takes the place of what there is of a series, unless that is newer."""
    return {"_op_type": "index", "_id": uid, "_source": document, **_version(sequence)}


def deleted(uid: str, sequence: int | None) -> Action:
    """Takes away what there is of a series, unless that is newer."""
    return {"_op_type": "delete", "_id": uid, **_version(sequence)}


def bulk(server: Server, alias: str, actions: Sequence[Action], refresh: str) -> None:
    """Do all of these that the server lets us.

    Raises:
        Misconfigured: it does not let us write.
        Unavailable: it did not do all of them; the same again does no harm.
        Unsuitable: it never will do one; the others are done.
    """
    refused: list[Any] = []
    older = 0
    for answer in _answers(server, ({**action, "_index": alias} for action in actions), refresh):
        match answer["status"]:
            case 409:
                older += 1
            case 404 if "error" not in answer:  # to be deleted, and not there
                pass
            case _:
                refused.append(answer)
    if older:
        # Many of them: the numbers are of another queue, and the index is to be made anew.
        log.warning("older passed over", extra={"index": server.shown, "series": older})
    if refused:
        raise _refusal(server, refused)


def _answers(server: Server, actions: Iterable[Action], refresh: str) -> Iterator[Any]:
    """What the server says to each that it did not do."""
    with server.asked() as client:
        for done, answer in streaming_bulk(
            client,
            actions,
            chunk_size=MOST_DOCUMENTS,
            max_chunk_bytes=MOST_BYTES,
            max_retries=RETRIES,
            initial_backoff=FIRST_REST_S,
            max_backoff=LONGEST_REST_S,
            raise_on_error=False,
            refresh=refresh,
            # Never an index that nobody made: its fields would be guessed.
            require_alias="true",
        ):
            if not done:
                yield from answer.values()


def _refusal(server: Server, refused: Sequence[Any]) -> Misconfigured | Unavailable | Unsuitable:
    """What is to be said, where what stands in the way of all comes first."""
    if forbidden := [one for one in refused if one["status"] in REFUSED]:
        return server.refusal(forbidden[0]["status"])
    again = [one for one in refused if one["status"] in AGAIN or one["status"] == 404]
    if again:
        return Unavailable(f"{server.shown} answers HTTP {again[0]['status']}")
    # Its reason may quote a value.
    kind = refused[0].get("error", {}).get("type", "unknown")
    sentence = f"{server.shown} does not take the document: {kind}"
    return Unsuitable("refused_by_index", sentence)


def _version(sequence: int | None) -> Action:
    if sequence is None:
        return {}
    return {"_version": sequence, "_version_type": "external_gte"}
