"""What `tomodex doctor` looks at in a PACS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.probe import Probe
from tomodex.sources.dimse.association import (
    FIND,
    GET,
    MOVE,
    VERIFICATION,
    associated,
    certificate_of,
    query_contexts,
)
from tomodex.sources.dimse.options import DimseOptions, Peer
from tomodex.sources.dimse.splitting import MOST, Limit
from tomodex.sources.gate import Gate, was_tried

#: A certificate that ends sooner than this is worth a word.
SOON = timedelta(days=30)


def probe_pacs(
    peer: Peer, options: DimseOptions, gate: Gate, find_limit: Callable[[], Limit]
) -> Iterator[Probe]:
    """One check after another; those that need an association come only where there is one."""
    if options.tls != "no":
        yield _probe_certificate(peer, options)
    try:
        with (
            gate.passing(),
            associated(peer, options, query_contexts(VERIFICATION, FIND, GET, MOVE)) as line,
        ):
            offered = {uid for uid in (VERIFICATION, FIND, GET, MOVE) if line.accepts(uid)}
            if VERIFICATION in offered:
                line.echo()
            name = line.implementation or "a PACS without a name"
    except (Unavailable, Misconfigured) as refused:
        if isinstance(refused, Suspended) and not was_tried(refused):
            yield _probe("C-ECHO", "doubtful", str(refused), "look again then")
            return
        advice = "check host, port, both AE titles, and that the PACS lists ours"
        yield _probe("C-ECHO", "wrong", str(refused), advice)
        return
    yield _probe("C-ECHO", "ok", f"{peer} answers {peer.calling}; it is {name}")
    yield _probe_find(peer, offered)
    yield _probe_retrieve(peer, options, offered)
    yield from _probe_ports(options)
    if FIND in offered:
        yield _probe_limit(find_limit)


def _probe_find(peer: Peer, offered: set[str]) -> Probe:
    if FIND in offered:
        return _probe("C-FIND", "ok", "it can be asked what it holds (study root)")
    advice = f"permit {peer.calling} to query in the PACS"
    return _probe("C-FIND", "wrong", "it does not take study root queries from us", advice)


def _probe_retrieve(peer: Peer, options: DimseOptions, offered: set[str]) -> Probe:
    can_get = GET in offered and options.retrieve != "move"
    can_move = MOVE in offered and options.retrieve != "get" and bool(options.move_port)
    if can_get or can_move:
        way = "C-GET" if can_get else "C-MOVE"
        return _probe("retrieve", "ok", f"series come by {way}")
    if MOVE in offered and options.retrieve != "get":
        advice = "give move_port, and enter it in the PACS with our AE title and this machine"
        return _probe("retrieve", "wrong", "it offers C-MOVE only, and has nowhere to send", advice)
    advice = f"permit {peer.calling} to retrieve in the PACS"
    return _probe("retrieve", "wrong", "it lets us retrieve nothing", advice)


def _probe_ports(options: DimseOptions) -> Iterator[Probe]:
    """Whether the ports of C-MOVE can be opened; one that a worker uses now cannot be told."""
    for port in options.move_port:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((options.move_address, port))
            except OSError as taken:
                sentence = f"port {port} of move_port cannot be opened: {taken.strerror}"
                advice = "nothing to do if a worker retrieves now; else choose another port"
                yield _probe("move port", "doubtful", sentence, advice)
            else:
                yield _probe("move port", "ok", f"port {port} can be opened")


def _probe_limit(find_limit: Callable[[], Limit]) -> Probe:
    try:
        limit = find_limit()
    except Unavailable as refused:
        advice = "see whether the log of the PACS says why"
        return _probe("answer limit", "wrong", str(refused), advice)
    if limit.rows is None:
        seen = f"more than {MOST}" if limit.seen >= MOST else f"{limit.seen}"
        return _probe("answer limit", "ok", f"no limit met; the longest answer was {seen}")
    sentence = f"it gives {limit.rows} answers at once at most; it is asked in smaller parts"
    return _probe("answer limit", "ok", sentence)


def _probe_certificate(peer: Peer, options: DimseOptions) -> Probe:
    try:
        shown = certificate_of(peer, options)
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
    except (OSError, KeyError, Misconfigured) as wrong:
        advice = "name the authority that signed it as ca=FILE; see also cert and key"
        return _probe("TLS", "wrong", f"no TLS with {peer}: {wrong}", advice)
    left = ends - datetime.now(UTC)
    sentence = f"its certificate is good until {ends:%Y-%m-%d}"
    if left < SOON:
        return _probe("TLS", "doubtful", sentence, "have it renewed before it ends")
    return _probe("TLS", "ok", sentence)


def _probe(subject: str, verdict: str, sentence: str, advice: str = "") -> Probe:
    return Probe(subject=subject, verdict=verdict, sentence=sentence, advice=advice)  # type: ignore[arg-type]
