"""Taking patients out: for good, or for as long as they do not want to be in an index.

An erasure is remembered until it has reached everything, so that whatever stops it in between,
the next one goes on with it. First the patient is excluded and the truth forgotten; whatever is
delivered from then on does not have them, and each consumer is told while nobody delivers to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import orjson

from tomodex import wiring
from tomodex.access import Asker
from tomodex.errors import TomodexError, Unavailable
from tomodex.exclusions import sentence_of
from tomodex.locks import locked
from tomodex.options import without_query
from tomodex.queues import Erasure, Queue
from tomodex.receiving import spool_of
from tomodex.settings import Settings
from tomodex.sources.catalogue import forget_series, series_in
from tomodex.sources.spool_folder import Spool

log = logging.getLogger(__name__)

#: Files of the data folder that remember what folders and buckets hold.
CATALOGUES = ("folder-*.db", "s3-*.db")

#: How often it is looked whether something was begun elsewhere.
LOOK_S = 30.0

#: How long one who erases waits for another, and the end of the program for one who looks.
PATIENCE_S = 60.0
END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was taken out."""

    patients: int
    series: int

    def __add__(self, other: Taken) -> Taken:
        return Taken(patients=self.patients + other.patients, series=self.series + other.series)


NOTHING = Taken(patients=0, series=0)


def erase(
    settings: Settings,
    asker: Asker,
    *,
    pseudonyms: Sequence[str] = (),
    series_uids: Sequence[str] = (),
    reason: str,
) -> Taken:
    """Erase patients, with all of their series, and single series; what was begun before first.

    Raises:
        Unavailable: a consumer does not answer. It is remembered; `resume` goes on.
    """
    asker.require("identify")
    with closing(wiring.queue_of(settings)) as queue:
        exclusions = wiring.exclusions_of(settings, queue)
        exclusions.exclude_patients(pseudonyms, "erased")
        exclusions.exclude_series(series_uids, "erased")
        theirs = _series_of(settings, queue, pseudonyms)
        request = {
            "asker": asker.name,
            "roles": sorted(asker.roles),
            "reason": reason,
            "pseudonyms": sorted(set(pseudonyms)),
            "series": sorted({*series_uids, *theirs}),
        }
        with _alone(settings):
            queue.begin_erasure(Erasure(id=uuid4().hex, request=orjson.dumps(request).decode()))
            return _carry_out(settings, queue)


def resume(settings: Settings) -> Taken:
    """Go on with every erasure that was begun, here or on another machine; raises as `erase`."""
    with closing(wiring.queue_of(settings)) as queue, _alone(settings):
        return _carry_out(settings, queue)


@contextmanager
def erasing_beside(settings: Settings) -> Iterator[None]:
    """Meanwhile carry out what is begun to be erased on other machines, as they do ours."""
    ended = Event()
    thread = Thread(target=_keep_erasing, args=(settings, ended), name="erase", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_S)


def _keep_erasing(settings: Settings, ended: Event) -> None:
    while not ended.is_set():
        try:
            with closing(wiring.queue_of(settings)) as queue:
                while not ended.wait(LOOK_S):
                    if queue.erasures():
                        with _alone(settings):
                            _carry_out(settings, queue)
        except TomodexError as error:
            log.warning("not erased", extra={"sentence": str(error)})
            ended.wait(LOOK_S)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Be the only one who erases in this data folder; two would both say that they did it.

    Raises:
        Unavailable: another process does, for too long.
    """
    end = time.monotonic() + PATIENCE_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(settings.data, "erase", "another process is erasing"))
            except Unavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                break
        yield


def _carry_out(settings: Settings, queue: Queue) -> Taken:
    taken = NOTHING
    for erasure in queue.erasures():
        taken += _finish(settings, queue, erasure)
    return taken


def opt_out(settings: Settings, asker: Asker, pseudonyms: Sequence[str], reason: str) -> Taken:
    """Have patients in no index and no count until they opt in again; raises as `erase` does."""
    asker.require("identify")
    with closing(wiring.queue_of(settings)) as queue:
        patients = wiring.exclusions_of(settings, queue).exclude_patients(pseudonyms, "opted_out")
        series = _series_of(settings, queue, pseudonyms)
        sentence = sentence_of("opted_out")
        known = [uid for uid in series if queue.exclude(uid, "opted_out", sentence)]
        # Those who are silent now, or on another machine, get it from the feed.
        _tell_consumers(settings, queue, known)
    wiring.saved_of(settings).forget_patients(pseudonyms)
    taken = Taken(patients=patients, series=len(known))
    wiring.audit_of(settings).write(
        asker, "opt-out", reason, patients=taken.patients, series=taken.series
    )
    return taken


def opt_in(settings: Settings, asker: Asker, pseudonyms: Sequence[str], reason: str) -> int:
    """Have patients indexed again who had opted out; how many.

    Everything that waits for somebody to opt in is tried again: who is still out is rejected
    before anything is read.
    """
    asker.require("identify")
    with closing(wiring.queue_of(settings)) as queue:
        patients = wiring.exclusions_of(settings, queue).readmit_patients(pseudonyms)
        queue.retry("rejected", "opted_out")
    wiring.audit_of(settings).write(asker, "opt-in", reason, patients=patients)
    return patients


def _finish(settings: Settings, queue: Queue, erasure: Erasure) -> Taken:
    request = orjson.loads(erasure.request)
    pseudonyms = request["pseudonyms"]
    # The catalogues of this data folder may know of more than whoever began it.
    series = sorted({*request["series"], *_series_of(settings, queue, pseudonyms)})
    queue.forget(series)
    silent = _tell_consumers(settings, queue, series)
    for file in _catalogues(settings.data):
        forget_series(file, series)
    _empty_spool(spool_of(settings), series)
    saved = wiring.saved_of(settings)
    saved.forget_patients(pseudonyms)
    saved.forget_series(series)
    wiring.operations_of(settings).forget(series)
    if identities := wiring.identities_of(settings):
        identities.forget(pseudonyms)
    _require_answers(silent)
    taken = Taken(patients=len(pseudonyms), series=len(series))
    asker = Asker(name=request["asker"], roles=frozenset(request["roles"]))
    wiring.audit_of(settings).write(
        asker, "erase", request["reason"], patients=taken.patients, series=taken.series
    )
    queue.end_erasure(erasure)
    return taken


def _series_of(settings: Settings, queue: Queue, pseudonyms: Iterable[str]) -> list[str]:
    """Every series of these patients that the queue or a catalogue knows."""
    found = chain.from_iterable(
        chain(
            queue.of_patient(pseudonym),
            *(series_in(file, pseudonym) for file in _catalogues(settings.data)),
        )
        for pseudonym in pseudonyms
    )
    return list(dict.fromkeys(found))


def _tell_consumers(settings: Settings, queue: Queue, series_uids: Sequence[str]) -> list[str]:
    """Have every consumer erase series, while nobody delivers older results to it; who did not."""
    silent = []
    openers = wiring.consumer_openers(settings) if series_uids else {}
    for name, opened in openers.items():
        try:
            with closing(opened()) as sink, queue.claim(name):
                sink.erase(series_uids)
        except Unavailable as why:
            log.warning("not erased", extra={"consumer": without_query(name), "sentence": str(why)})
            silent.append(without_query(name))
    return silent


def _require_answers(silent: Sequence[str]) -> None:
    if silent:
        raise Unavailable(
            f"erased from everything but {', '.join(silent)}, which did not take it; "
            "`tomodex erase --resume` tells it again"
        )


def _catalogues(data: Path) -> Iterator[Path]:
    for pattern in CATALOGUES:
        yield from sorted(data.glob(pattern))


def _empty_spool(root: Path, series_uids: Sequence[str]) -> None:
    """Remove what was pushed of these series, and what is remembered of it."""
    if not root.is_dir():
        return
    gone = set(series_uids)
    with closing(Spool(root)) as spool:
        for folder in list(spool.folders()):
            if folder.series_uid in gone:
                spool.remove(folder)
        spool.erase(series_uids)
