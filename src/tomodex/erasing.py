"""Taking patients out: for good, or for as long as they do not want to be in an index.

An erasure is remembered until it has reached everything, so that whatever stops it in between,
the next one goes on with it. First the patient is excluded and the truth forgotten; whatever is
delivered from then on does not have them, and each consumer is told while nobody delivers to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tomodex import wiring
from tomodex.access import Asker
from tomodex.errors import Unavailable
from tomodex.exclusions import SENTENCES, Exclusions
from tomodex.options import without_query
from tomodex.queues import Queue
from tomodex.receiving import spool_of
from tomodex.settings import Settings
from tomodex.sources.catalogue import forget_series, series_in
from tomodex.sources.spool_folder import Spool

log = logging.getLogger(__name__)

#: Files of the data folder that remember what folders and buckets hold.
CATALOGUES = ("folder-*.db", "s3-*.db")


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
    exclusions, queue = wiring.exclusions_of(settings), wiring.queue_of(settings)
    exclusions.exclude_patients(pseudonyms, "erased")
    exclusions.exclude_series(series_uids, "erased")
    theirs = _series_of(settings, queue, pseudonyms)
    exclusions.begin_erasure(
        {
            "asker": asker.name,
            "roles": sorted(asker.roles),
            "reason": reason,
            "pseudonyms": sorted(set(pseudonyms)),
            "series": sorted({*series_uids, *theirs}),
        }
    )
    return resume(settings)


def resume(settings: Settings) -> Taken:
    """Go on with every erasure that was begun; raises as `erase` does."""
    exclusions, taken = wiring.exclusions_of(settings), NOTHING
    for number, request in exclusions.open_erasures():
        taken += _finish(settings, exclusions, number, request)
    return taken


def opt_out(settings: Settings, asker: Asker, pseudonyms: Sequence[str], reason: str) -> Taken:
    """Have patients in no index and no count until they opt in again; raises as `erase` does."""
    asker.require("identify")
    exclusions, queue = wiring.exclusions_of(settings), wiring.queue_of(settings)
    patients = exclusions.exclude_patients(pseudonyms, "opted_out")
    series = _series_of(settings, queue, pseudonyms)
    sentence = f"the series {SENTENCES['opted_out']}"
    known = [uid for uid in series if queue.exclude(uid, "opted_out", sentence)]
    # Those who are silent now get it from the feed.
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
    patients = wiring.exclusions_of(settings).readmit_patients(pseudonyms)
    wiring.queue_of(settings).retry("rejected", "opted_out")
    wiring.audit_of(settings).write(asker, "opt-in", reason, patients=patients)
    return patients


def _finish(settings: Settings, exclusions: Exclusions, number: int, request: Any) -> Taken:
    pseudonyms, series = request["pseudonyms"], request["series"]
    queue = wiring.queue_of(settings)
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
    exclusions.end_erasure(number)
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
