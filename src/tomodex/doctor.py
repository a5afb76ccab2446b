"""Looks at everything that the settings name, and says of each fault what to do.

Nothing is changed, and nobody is waited for longer than a set time: what does not answer by then is
said, and the rest is looked at all the same.
"""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory

from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.locks import is_locked
from tomodex.places import destination_folder
from tomodex.probe import Probe, probe_room
from tomodex.queues import Queue
from tomodex.receiving import spool_of, spool_url
from tomodex.running import LOCK
from tomodex.segmenters import open_segmenter
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.sinks import Sink, open_sink
from tomodex.wiring import (
    index_of,
    left_alone,
    queue_of,
    segmenter_urls,
    source_of,
    store_of,
)
from tomodex.worker import describe

log = logging.getLogger(__name__)

#: How long one part may take to answer; an archive's own time-outs are shorter.
PATIENCE_S = 60.0

#: A file in the data folder may be so much ahead of the clock: network disks have their own.
SKEW_S = 120.0

Look = Callable[[], Iterable[Probe]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was seen of one part of the whole."""

    part: str  #: such as "source pacs", "queue", "segmenter totalsegmentator:"
    probe: Probe

    @property
    def facts(self) -> dict[str, object]:
        """The same for a program."""
        return {"part": self.part, **asdict(self.probe)}


def examine(settings: Settings, patience_s: float = PATIENCE_S) -> Iterator[Finding]:
    """Look at the data folder, sources, destinations, the queue, the index, sinks and segmenters.

    Where there is no data folder yet, none is made: what lies elsewhere is looked at with one that
    is thrown away.
    """
    if settings.data.is_dir():
        yield from _findings(_parts(settings), patience_s)
        return
    with TemporaryDirectory(prefix="tomodex-doctor-", ignore_cleanup_errors=True) as scratch:
        elsewhere = settings.model_copy(update={"data": Path(scratch)})
        lie_there = {"queue": not settings.queue, "index": not settings.index}
        parts = [part for part in _outside_data(elsewhere) if not lie_there.get(part[0])]
        yield from _findings([("data folder", partial(_look_at_data, settings))], patience_s)
        yield from _findings(parts, patience_s)


def _findings(parts: Iterable[tuple[str, Look]], patience_s: float) -> Iterator[Finding]:
    for part, look in parts:
        for probe in answers(look, patience_s):
            yield Finding(part=part, probe=probe)


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong; what is only doubtful does not count."""
    return not any(finding.probe.verdict == "wrong" for finding in findings)


def _parts(settings: Settings) -> Iterator[tuple[str, Look]]:
    yield "data folder", partial(_look_at_data, settings)
    yield from _outside_data(settings)
    yield "sources", partial(_look_at_suspensions, settings)


def _outside_data(settings: Settings) -> Iterator[tuple[str, Look]]:
    yield "rules", partial(_look_at_rules, settings)
    yield "queue", partial(_look_and_close, partial(queue_of, settings))
    yield "index", partial(_look_and_close, partial(index_of, settings))
    for url in settings.sinks:
        yield f"sink {_scheme(url)}", partial(_look_at_sink, settings, url)
    for url in segmenter_urls(settings):
        yield f"segmenter {_scheme(url)}", partial(_look_at_segmenter, url)
    for name in sorted(settings.sources):
        yield f"source {name}", partial(_look_at_source, settings, name)
    for name in sorted(settings.destinations):
        yield f"destination {name}", partial(_look_at_destination, settings, name)
    if spool_of(settings).is_dir():
        yield "spool", partial(_look_at_source, settings, spool_url(settings))


def _scheme(url: str) -> str:
    return f"{url.partition(':')[0]}:"


# --- one part -------------------------------------------------------------------------------------


def answers(look: Look, patience_s: float) -> Iterator[Probe]:
    """What one part answers, for as long as there is patience with all of it together."""
    heard: SimpleQueue[Probe | BaseException | None] = SimpleQueue()
    # A daemon: a part that hangs is left behind, and ends with the process.
    threading.Thread(target=_ask, args=(look, heard), daemon=True).start()
    end = time.monotonic() + patience_s
    while True:
        try:
            answer = heard.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            sentence = f"no answer within {patience_s:.0f} s"
            advice = "see whether the other side works, and whether a firewall swallows packets"
            yield Probe(subject="answer", verdict="wrong", sentence=sentence, advice=advice)
            return
        if answer is None:
            return
        yield answer if isinstance(answer, Probe) else _of_error(answer)


def _ask(look: Look, heard: SimpleQueue[Probe | BaseException | None]) -> None:
    try:
        for probe in look():
            heard.put(probe)
    except BaseException as error:  # noqa: BLE001 - said as a finding: the rest is looked at too
        heard.put(error)
    heard.put(None)


def _of_error(error: BaseException) -> Probe:
    """What could not even be looked at; our own sentences say what helps."""
    if isinstance(error, TomodexError):
        commands = tuple(error.commands) if isinstance(error, Misconfigured) else ()
        return Probe(
            subject="opening",
            verdict="wrong",
            sentence=str(error),
            advice="have somebody who may type the commands"
            if commands
            else "the sentence says what is wrong; see docs/reference/settings.md",
            commands=commands,
        )
    advice = "this is a fault of Tomodex: report it with this line"
    return Probe(subject="opening", verdict="wrong", sentence=describe(error), advice=advice)


def _look_at_data(settings: Settings) -> Iterator[Probe]:
    folder = settings.data
    if not folder.is_dir():
        sentence, advice = f"{folder} is not there yet", "it is made when something is indexed"
        yield Probe(subject="folder", verdict="doubtful", sentence=sentence, advice=advice)
        return
    yield probe_room(folder.absolute())
    yield _privacy("privacy", folder, f"chmod 700 {folder}")
    if settings.key_file.exists():
        yield _privacy("pseudonym key", settings.key_file, f"chmod 600 {settings.key_file}")
    yield _clock(folder)


def _privacy(subject: str, path: Path, advice: str) -> Probe:
    """Whether others than the owner can get at UIDs, dates and pseudonyms."""
    mode = stat.S_IMODE(path.stat().st_mode)
    open_to_others = bool(mode & 0o077)
    return Probe(
        subject=subject,
        verdict="wrong" if open_to_others else "ok",
        sentence=f"{path} has mode {mode:o}" + (", so others can read it" * open_to_others),
        advice=advice if open_to_others else "",
    )


def _clock(folder: Path) -> Probe:
    """Whether the clock stands behind what was written already: leases and hours go by it."""
    newest = max((f.stat().st_mtime for f in folder.iterdir() if f.is_file()), default=0.0)
    ahead_s = newest - time.time()
    here = datetime.now(UTC).astimezone()
    wrong = ahead_s > SKEW_S
    return Probe(
        subject="clock",
        verdict="wrong" if wrong else "ok",
        sentence=f"{here:%Y-%m-%d %H:%M %Z}"
        + (f", but files in {folder} are {ahead_s:.0f} s ahead of it" if wrong else ""),
        advice="set the clock, by NTP at best" if wrong else "",
    )


def _look_at_rules(settings: Settings) -> Iterator[Probe]:
    rules = load_rules(settings.rules)
    where = str(settings.rules) if settings.rules else "the packaged ones"
    yield Probe(subject="rules", verdict="ok", sentence=f"{where}, version {rules.digest[:16]}")


def _look_and_close(opened: Callable[[], Queue | Sink]) -> Iterator[Probe]:
    with closing(opened()) as part:
        yield from part.probe()


def _look_at_sink(settings: Settings, url: str) -> Iterator[Probe]:
    """A file that `tomodex run` writes to cannot be opened by anybody else, and need not be."""
    try:
        yield from _look_and_close(partial(open_sink, url))
    except Unavailable as unavailable:
        if not is_locked(settings.data, LOCK):
            raise
        advice = "`tomodex run` may hold it: its log says whether it delivers"
        sentence = str(unavailable)
        yield Probe(subject="opening", verdict="doubtful", sentence=sentence, advice=advice)


def _look_at_source(settings: Settings, name: str) -> Iterator[Probe]:
    yield from source_of(settings, name).probe()


def _look_at_destination(settings: Settings, name: str) -> Iterator[Probe]:
    """A folder that is not there is not made by looking at it."""
    folder = destination_folder(settings, name)
    if folder is not None and not folder.is_dir():
        sentence, advice = f"{folder} is not there yet", "it is made with the first masks"
        yield Probe(subject="folder", verdict="doubtful", sentence=sentence, advice=advice)
        return
    with closing(store_of(settings, name)) as store:
        yield from store.probe()


def _look_at_segmenter(url: str) -> Iterator[Probe]:
    begin = time.monotonic()
    open_segmenter(url)
    seconds = time.monotonic() - begin
    yield Probe(subject="model", verdict="ok", sentence=f"can be opened, in {seconds:.1f} s")


def _look_at_suspensions(settings: Settings) -> Iterator[Probe]:
    for one in left_alone(settings):
        yield Probe(
            subject="left alone",
            verdict="doubtful",
            sentence=f"{one.source} until {one.until.astimezone():%Y-%m-%d %H:%M}: {one.sentence}",
            advice="it is asked again by itself then",
        )
