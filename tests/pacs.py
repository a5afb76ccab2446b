"""A PACS for tests: studies in memory behind a real SCP, with the habits that PACSs have."""

from __future__ import annotations

import random
import socket
import ssl
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from tests.servers.ports import free_port
from tomodex.pixels import TRANSFER_SYNTAXES

VERIFICATION = "1.2.840.10008.1.1"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3))
#: CT, Enhanced CT, CR and SEG: pynetdicom copies all that it supports for each association.
STORED = tuple(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "2.1", "1", "66.4"))
DONE, PENDING, REFUSED, UNKNOWN_AE = 0x0000, 0xFF00, 0xA700, 0xA801


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSeries:
    """A series of the archive; `instances` are there only where they can be retrieved."""

    uid: str
    modality: str
    count: int
    instances: tuple[Dataset, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStudy:
    """A study of the archive."""

    uid: str
    day: str  #: YYYYMMDD; "" for none
    time: str  #: HHMMSS; "" for none
    patient: str
    series: tuple[HeldSeries, ...]

    @property
    def modalities(self) -> set[str]:
        return {one.modality for one in self.series}


@dataclass
class Pacs:
    """What it holds, what it does, and what it was asked."""

    studies: Sequence[HeldStudy]
    limit: int | None = None  #: answers to one question at most
    says_limit: bool = False  #: it answers with a failure then, instead of just stopping
    matches_times: bool = True
    matches_modalities: bool = True
    shows_modalities: bool = True  #: ModalitiesInStudy is returned
    counts: bool = True  #: numbers of related series and instances are returned
    says_series: int = 0  #: how many each study has, whatever it has; 0: the truth
    offers: tuple[str, ...] = (VERIFICATION, FIND, MOVE, GET)
    destinations: dict[str, int] = field(default_factory=dict)  #: ports of AE titles on loopback
    before_answer: Callable[[evt.Event, int], None] = lambda event, n: None  #: n: answers so far
    tls: ssl.SSLContext | None = None
    leaves_out: int = 0  #: instances of a series that it does not send, and does not tell
    requests: Counter[str] = field(default_factory=Counter)
    associations: int = 0
    keys: list[Dataset] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.studies = sorted(self.studies, key=lambda one: (one.day, one.time))
        self._days = [one.day for one in self.studies]
        self._by_uid = {one.uid: one for one in self.studies}

    @property
    def url(self) -> str:
        return f"dimse://TOMODEX@127.0.0.1:{self.port}/ARCHIVE"

    @contextmanager
    def running(self, **entity_options: Any) -> Iterator[Pacs]:
        """It listens on a free port of the loopback interface."""
        entity = AE(ae_title="ARCHIVE")
        entity.require_called_aet = True
        entity.maximum_associations = 20
        for name, value in entity_options.items():
            setattr(entity, name, value)
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        for sop_class in self.offers:
            entity.add_supported_context(sop_class, syntaxes)
        for sop_class in STORED:
            entity.add_supported_context(
                sop_class, sorted(TRANSFER_SYNTAXES), scu_role=False, scp_role=True
            )
            entity.add_requested_context(sop_class)
        self.port = free_port()
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_ACCEPTED, self._count_association),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
        ]
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self.tls
        )
        try:
            yield self
        finally:
            for association in server.active_associations:
                association.abort()
            server.shutdown()

    # --- what it answers ------------------------------------------------------------------------

    def _count_association(self, event: evt.Event) -> None:
        self.associations += 1

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        self.requests[f"C-FIND {keys.QueryRetrieveLevel}"] += 1
        self.keys.append(keys)
        answers = self._answers(keys)
        for n, answer in enumerate(answers):
            self.before_answer(event, n)
            if n == self.limit:
                if self.says_limit:
                    yield REFUSED, None
                return
            yield PENDING, answer
        self.before_answer(event, -1)

    def _answers(self, keys: Dataset) -> Iterator[Dataset]:
        level = keys.QueryRetrieveLevel
        for study in self.matching(keys):
            if level == "STUDY":
                yield self._study(study)
                continue
            for series in study.series:
                if _matches(keys, "Modality", series.modality) and _matches(
                    keys, "SeriesInstanceUID", series.uid
                ):
                    if level == "SERIES":
                        yield self._series(study, series, "StudyDate" in keys)
                    else:
                        yield from _instances(keys, series)

    def matching(self, keys: Dataset | Mapping[str, str]) -> Iterator[HeldStudy]:
        """The studies that a question is about, limited or not."""
        if uid := keys.get("StudyInstanceUID"):
            study = self._by_uid.get(uid)
            yield from [study] if study else []
            return
        begin, end = _range(str(keys.get("StudyDate") or ""))
        first = bisect_left(self._days, begin) if begin else 0
        last = bisect_right(self._days, end) if end else len(self._days)
        if begin or end:
            first = max(first, bisect_right(self._days, ""))
        modality = keys.get("ModalitiesInStudy") if self.matches_modalities else ""
        early, late = _range(str(keys.get("StudyTime") or "") if self.matches_times else "")
        for study in self.studies[first:last]:
            if (early or late) and not study.time:
                continue
            if (early and study.time < early) or (late and study.time > late):
                continue
            if not modality or modality in study.modalities:
                yield study

    def _study(self, study: HeldStudy) -> Dataset:
        answer = Dataset()
        answer.QueryRetrieveLevel = "STUDY"
        answer.StudyInstanceUID, answer.PatientID = study.uid, study.patient
        answer.StudyDate, answer.StudyTime = study.day, study.time
        answer.PatientSex, answer.PatientBirthDate = "F", "19600229"
        if self.shows_modalities:
            answer.ModalitiesInStudy = sorted(study.modalities)
        if self.counts:
            answer.NumberOfStudyRelatedSeries = self.says_series or len(study.series)
        return answer

    def _series(self, study: HeldStudy, series: HeldSeries, relational: bool) -> Dataset:
        answer = self._study(study) if relational else Dataset()
        answer.QueryRetrieveLevel = "SERIES"
        answer.StudyInstanceUID, answer.SeriesInstanceUID = study.uid, series.uid
        answer.Modality, answer.SeriesNumber = series.modality, 1
        answer.BodyPartExamined = "ABDOMEN"
        if self.counts:
            answer.NumberOfSeriesRelatedInstances = series.count
        return answer

    def _asked_for(self, keys: Dataset) -> list[Dataset]:
        return [
            instance
            for study in self.matching(keys)
            for series in study.series
            if _matches(keys, "SeriesInstanceUID", series.uid)
            for instance in series.instances[: series.count - self.leaves_out]
        ]

    def _get(self, event: evt.Event) -> Iterator[Any]:
        self.requests["C-GET"] += 1
        instances = self._asked_for(event.identifier)
        yield len(instances)
        for n, instance in enumerate(instances):
            self.before_answer(event, n)
            yield PENDING, instance

    def _move(self, event: evt.Event) -> Iterator[Any]:
        self.requests["C-MOVE"] += 1
        port = self.destinations.get(event.move_destination)
        if port is None:
            yield None, None
            return
        yield "127.0.0.1", port
        yield from self._get(event)


def _send_at_once(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _instances(keys: Dataset, series: HeldSeries) -> Iterator[Dataset]:
    for instance in series.instances:
        if _matches(keys, "SOPInstanceUID", instance.SOPInstanceUID):
            answer = Dataset()
            answer.QueryRetrieveLevel = "IMAGE"
            answer.SOPInstanceUID = instance.SOPInstanceUID
            answer.SOPClassUID = instance.SOPClassUID
            answer.SeriesInstanceUID = series.uid
            yield answer


def _matches(keys: Dataset, keyword: str, value: str) -> bool:
    wanted = keys.get(keyword)
    return not wanted or wanted == value


def _range(text: str) -> tuple[str, str]:
    begin, dash, end = text.partition("-")
    return (begin, end) if dash else (begin, begin)


def held_study(instances: Sequence[Dataset]) -> HeldStudy:
    """A study whose instances can be retrieved."""
    series: dict[str, list[Dataset]] = {}
    for instance in instances:
        series.setdefault(instance.SeriesInstanceUID, []).append(instance)
    first = instances[0]
    return HeldStudy(
        uid=first.StudyInstanceUID,
        day=str(first.get("StudyDate") or ""),
        time=str(first.get("StudyTime") or ""),
        patient=str(first.get("PatientID") or ""),
        series=tuple(
            HeldSeries(
                uid=uid,
                modality=group[0].Modality,
                count=len(group),
                instances=tuple(group),
            )
            for uid, group in series.items()
        ),
    )


# --- a hospital ---------------------------------------------------------------------------------


def hospital(series: int, *, busiest: int, seed: int = 1) -> list[HeldStudy]:
    """Studies that have `series` series together, on the days and at the hours they are made.

    From 1 to `busiest` studies a day: few long ago and on Sundays, most in the last years, on
    working days from 8 to 16, and some hundred at one minute, when a list is closed.
    """
    chance = random.Random(seed)
    studies: list[HeldStudy] = []
    day, left = date(2026, 6, 30), series
    while left > 0:
        weekend = day.weekday() >= 5
        many = int(busiest * (0.05 if weekend else 1.0) * chance.uniform(0.3, 1.0))
        minute = chance.randrange(8 * 60, 16 * 60)
        for _ in range(max(1, many)):
            if left <= 0:
                break
            count = min(left, chance.choice((1, 1, 2, 3, 5, 8, 14)))
            studies.append(_study(len(studies), day, _time(chance, minute), count, chance))
            left -= count
        day -= timedelta(days=1)
    return studies


def _study(number: int, day: date, clock: str, count: int, chance: random.Random) -> HeldStudy:
    modality = chance.choice(("CT", "CT", "MR", "CR", "US"))
    return HeldStudy(
        uid=f"1.2.3.{number}",
        day=day.isoformat().replace("-", ""),
        time=clock,
        patient=f"P{number // 3}",
        series=tuple(
            HeldSeries(uid=f"1.2.3.{number}.{n}", modality=modality, count=1 + n * 100)
            for n in range(count)
        ),
    )


def _time(chance: random.Random, minute: int) -> str:
    if chance.random() < 0.1:  # one minute in which many are made
        second = 60 * minute + chance.randrange(60)
    elif chance.random() < 0.9:
        second = int(min(max(chance.gauss(12 * 3600, 2 * 3600), 0), 86_399))
    else:
        second = chance.randrange(86_400)
    return f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"
