"""`tomodex receive`: takes series that others push (C-STORE), and puts them into the queue.

listener.py      takes instances, in a process of its own
wire.py          lets peers in, within bounds
conversation.py  what is said from then on; command.py: what they ask for
steward.py       puts whole series, removes indexed ones
inquiries.py     asks the archive for more

The two processes, of the listener and of the steward, meet in the spool's folder alone.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tomodex.doors import Receive, is_loopback
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.heartbeat import beat, beating, working
from tomodex.logs import log_to_stderr
from tomodex.receiving.steward import Patience, Steward, Tally
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.sources.spool import SpoolSource
from tomodex.sources.spool_folder import Spool
from tomodex.wiring import queue_of, source_of

if TYPE_CHECKING:
    from tomodex.receiving.listener import Door

log = logging.getLogger(__name__)

#: Seconds between two looks for series that are whole, and for such as can be removed.
LOOK_S = 1.0
REMOVE_S = 60.0

#: Seconds between two lines in the log while instances arrive.
REPORT_S = 60.0

#: The longest that the listening process may take to start, and to end.
START_S = 60.0
END_S = 30.0

GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was received, and what became of it."""

    received: dict[str, Any]  #: instances: see `listener.Counts`
    series: Tally
    open: int  #: series that are not whole yet; they wait in the spool
    seconds: float


def spool_of(settings: Settings) -> Path:
    """The folder of the spool."""
    return (settings.receive.spool or settings.data / "spool").absolute()


def spool_url(settings: Settings) -> str:
    """The spool as a source, as tasks name it."""
    return f"spool://{quote(str(spool_of(settings)))}"


def receive(settings: Settings, stop: threading.Event, started: Callable[[int], None]) -> Summary:
    """Receive until `stop`; `started` is told the port.

    Raises:
        Misconfigured: the settings do not fit together, or the port or the spool cannot be used.
        Unavailable: the listening process has died; whatever it answered is safe.
    """
    begin = time.monotonic()
    require_guard(settings.receive)
    steward = steward_of(settings)
    with beating(settings.data, "receive"), _listener(settings) as (process, pipe):
        started(_port(pipe, process))
        working()
        _look_after(steward, stop, process)
        counts = _finish(pipe, process)
    _quietly(steward.put_whole)
    return Summary(
        received=counts,
        series=steward.tally,
        open=steward.open_series(),
        seconds=round(time.monotonic() - begin, 3),
    )


def require_guard(door: Receive) -> None:
    """Refuse to take instances from everybody who can reach this machine.

    Raises:
        Misconfigured: neither AE titles nor certificates say who may push.
    """
    if not is_loopback(door.host) and not (door.allow or door.peers):
        raise Misconfigured(
            f"{door.host} can be reached from other machines, so say who may push: `allow` names "
            "AE titles, `peers` the file of who signs their certificates"
        )
    if (door.key or door.peers) and door.certificate is None:
        raise Misconfigured("`key` and `peers` are for TLS, which needs a `certificate` too")


def steward_of(settings: Settings) -> Steward:
    """Who looks after the spool of these settings."""
    door = settings.receive
    source = source_of(settings, spool_url(settings))
    assert isinstance(source, SpoolSource)
    return Steward(
        Spool(spool_of(settings)),
        source,
        queue_of(settings),
        load_rules(settings.rules),
        Patience(quiet_s=door.quiet_s, missing_s=door.missing_s, keep_s=door.keep_s),
        lane=door.lane,
        configuration=settings.configuration,
        archive=source_of(settings, door.archive) if door.archive else None,
    )


def summary_lines(summary: Summary) -> Iterator[str]:
    """The summary for a person."""
    counts, series = summary.received, summary.series
    yield f"received {counts.get('received', 0):,} instances in {summary.seconds:,.0f} s"
    if counts.get("same") or counts.get("replaced"):
        yield f"of those {counts['same']:,} were here, {counts['replaced']:,} with other content"
    for status, refused in counts.get("refused", {}).items():
        yield f"refused {refused:,} with {status}"
    yield f"put {series.put:,} series, {series.known:,} were nothing new"
    for source, count in series.elsewhere.items():
        yield f"of those {count:,} stay with {source}"
    if series.partial:
        yield f"{series.partial:,} came in part only, and were whole when they were indexed before"
    yield f"removed {series.removed:,} that are indexed; {summary.open:,} are not whole yet"


# --- looking after ------------------------------------------------------------------------------


def _look_after(steward: Steward, stop: threading.Event, process: SpawnProcess) -> None:
    removed = float("-inf")
    while not stop.wait(LOOK_S):
        beat()
        if not process.is_alive():
            raise Unavailable(
                f"the process that receives ended with exit code {process.exitcode}; whatever was "
                "answered with success is safe"
            )
        _quietly(steward.put_whole)
        if time.monotonic() - removed > REMOVE_S:
            _quietly(steward.remove_settled)
            removed = time.monotonic()


def _quietly(do: Callable[[], int]) -> None:
    """Do it, or say why not: receiving goes on while the queue does not answer."""
    try:
        if done := do():
            log.info(do.__name__.replace("_", " "), extra={"series": done})
    except Unavailable as unavailable:
        log.warning("unavailable", extra={"sentence": str(unavailable)})


# --- the listening process ----------------------------------------------------------------------


@contextmanager
def _listener(settings: Settings) -> Iterator[tuple[SpawnProcess, Connection]]:
    """The process that listens, and a pipe to it; it ends when the pipe is closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_listen, args=(settings, theirs), name="tomodex-receive")
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.join(END_S)
        if process.exitcode is None:
            process.kill()
            process.join()


def _port(pipe: Connection, process: SpawnProcess) -> int:
    """The port, as soon as the process listens on it."""
    try:
        said = pipe.recv() if pipe.poll(START_S) else None
    except EOFError:
        said = None
    if isinstance(said, TomodexError):
        raise said
    if not isinstance(said, int):
        raise Unavailable(f"the process that receives did not start: {process.exitcode}")
    return said


def _finish(pipe: Connection, process: SpawnProcess) -> dict[str, Any]:
    """Have the process end, and return what it counted; {} if it died."""
    try:
        pipe.send("end")
        return dict(pipe.recv()) if pipe.poll(END_S) else {}
    except (EOFError, OSError):
        return {}


def _listen(settings: Settings, pipe: Connection) -> None:
    """What the listening process does."""
    # Ctrl-C and systemd reach every process; the one that started us says when to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log_to_stderr(settings.log_level, settings.log_format)
    from tomodex.receiving.listener import Counts, listening

    counts = Counts()
    try:
        spool = Spool(spool_of(settings))
        with spool.alone(), listening(_door(settings.receive), spool, counts) as port:
            # pynetdicom collects garbage every few seconds, and need not look at what stays.
            gc.freeze()
            pipe.send(port)
            _report_until_end(pipe, counts)
        pipe.send(counts.summary)
    except TomodexError as error:
        pipe.send(error)
    except (EOFError, OSError):  # whoever started us is gone
        return


def _report_until_end(pipe: Connection, counts: Any) -> None:
    before = counts.summary
    while not pipe.poll(REPORT_S):
        if counts.summary != before:
            before = counts.summary
            log.info("received", extra=before)
    pipe.recv()


def _door(door: Receive) -> Door:
    from tomodex.receiving.listener import Door

    return Door(
        host=door.host,
        port=door.port,
        aet=door.aet,
        allow=door.allow,
        associations=door.associations,
        reserve_bytes=round(door.reserve_gb * GB),
        certificate=door.certificate,
        key=door.key,
        peers=door.peers,
    )
