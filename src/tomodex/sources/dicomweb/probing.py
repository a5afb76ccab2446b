"""What `tomodex doctor` looks at of a DICOMweb server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from tomodex.errors import TomodexError
from tomodex.probe import Probe
from tomodex.sources.dicomweb.connection import Answer, Connection, Refused, moment
from tomodex.sources.dicomweb.json_model import Json, text
from tomodex.sources.dicomweb.retrieving import ACCEPTED
from tomodex.sources.dicomweb.studies import Searches

#: Clocks further apart than this spoil "yesterday", and tokens that end.
SKEW_S = 60.0

#: A certificate that ends sooner is worth a word.
WARN_DAYS = 30


def probe(connection: Connection, searches: Searches) -> Iterator[Probe]:
    """One thing after another; nothing more where it cannot be searched."""
    try:
        begun = time.monotonic()
        headers = connection.ask("studies", {"limit": "1"}, "application/dicom+json", _headers)
        took_ms = (time.monotonic() - begun) * 1000
    except TomodexError as wrong:
        yield Probe(
            subject="QIDO-RS",
            verdict="wrong",
            sentence=str(wrong),
            advice="try the same address with /studies?limit=1 in a browser on this machine",
        )
        return
    server = headers.get("Server", "a server that does not say which")[:80]
    yield Probe(subject="QIDO-RS", verdict="ok", sentence=f"{server} answers in {took_ms:.0f} ms")
    yield _clock(headers)
    if connection.is_tls:
        yield _certificate(connection)
    yield from _searching(connection, searches)


def _headers(answer: Answer) -> dict[str, str]:
    return dict(answer.headers)


def _clock(headers: dict[str, str]) -> Probe:
    at = moment(headers.get("Date", ""))
    if at is None:
        return Probe(subject="clock", verdict="ok", sentence="the server does not say its time")
    skew_s = abs((datetime.now(UTC) - at).total_seconds())
    if skew_s <= SKEW_S:
        return Probe(subject="clock", verdict="ok", sentence=f"{skew_s:.0f} s apart")
    return Probe(
        subject="clock",
        verdict="doubtful",
        sentence=f"this machine and the server are {skew_s:.0f} s apart",
        advice="let both take their time from the same NTP server",
    )


def _certificate(connection: Connection) -> Probe:
    """How long the server's certificate is valid; that it is trusted is known by now."""
    try:
        end = connection.certificate_ends()
    except (OSError, ValueError) as wrong:
        return Probe(
            subject="TLS certificate",
            verdict="doubtful",
            sentence=f"it cannot be looked at: {type(wrong).__name__}",
            advice="look at it with openssl s_client -connect",
        )
    days = (end - datetime.now(UTC)).days
    return Probe(
        subject="TLS certificate",
        verdict="ok" if days >= WARN_DAYS else "doubtful",
        sentence=f"valid for {days} days more, until {end:%Y-%m-%d}",
        advice="" if days >= WARN_DAYS else "ask who runs the server to renew it",
    )


def _searching(connection: Connection, searches: Searches) -> Iterator[Probe]:
    """How many answers it gives at once, whether there is a next page, and what else it can."""
    asked = {"limit": str(searches.page), "offset": "0"}
    try:
        first = connection.json("studies", asked)
        second = connection.json("studies", {**asked, "offset": str(len(first))})
        yield _limit(searches.page, first, second)
        yield from _series(connection, text(first[0], "StudyInstanceUID") if first else "")
    except TomodexError as wrong:
        yield Probe(
            subject="answer limit",
            verdict="wrong",
            sentence=str(wrong),
            advice="see the server's log of this minute",
        )


def _limit(page: int, first: list[Json], second: list[Json]) -> Probe:
    keys = [[text(one, "StudyInstanceUID") for one in some] for some in (first, second)]
    if first and keys[0] == keys[1]:
        return Probe(
            subject="answer limit",
            verdict="doubtful" if len(first) < 100 else "wrong",
            sentence=f"it gives the same {len(first)} studies again for the next page",
            advice="ask the vendor for paging (PS3.18 8.3.4.4); days with more studies than one "
            "answer holds cannot be listed",
        )
    if len(first) > page:
        sentence = f"it gives {len(first)} studies where {page} were asked for"
    elif second and len(first) < page:
        sentence = (
            f"it gives {len(first)} answers at once, though {page} were asked for; paging works"
        )
    else:
        sentence = f"it gives {len(first)} of {page} answers that were asked for at once"
    return Probe(subject="answer limit", verdict="ok", sentence=sentence)


def _series(connection: Connection, study_uid: str) -> Iterator[Probe]:
    if not study_uid:
        yield Probe(
            subject="WADO-RS",
            verdict="doubtful",
            sentence="it shows us no study to try it with",
            advice="if it is not empty, let this user see the studies",
        )
        return
    try:
        connection.json("series", {"limit": "1", "StudyInstanceUID": study_uid})
        yield Probe(subject="series search", verdict="ok", sentence="many studies at once")
    except Refused:
        yield Probe(
            subject="series search",
            verdict="doubtful",
            sentence="only study by study, which takes a request each",
            advice="ask the vendor for /series (PS3.18 10.6.1), or be patient",
        )
    instances = connection.json(f"studies/{study_uid}/instances", {"limit": "1"})
    yield _wado(connection, instances)


def _wado(connection: Connection, instances: list[Json]) -> Probe:
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    study, series, instance = [text(instances[0], key) if instances else "" for key in keys]
    path = f"studies/{study}/series/{series}/instances/{instance}"
    for accepted, how in zip(ACCEPTED, ("as they are kept", "uncompressed only"), strict=True):
        try:
            connection.ask(path, {}, accepted, _first)
        except TomodexError as wrong:
            refused = str(wrong)
        else:
            return Probe(subject="WADO-RS", verdict="ok", sentence=f"instances come {how}")
    return Probe(
        subject="WADO-RS",
        verdict="wrong",
        sentence=refused,
        advice="let this user retrieve instances, not only search for them",
    )


def _first(answer: Answer) -> bytes:
    return next(answer.chunks, b"")
