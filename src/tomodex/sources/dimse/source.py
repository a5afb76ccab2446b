"""A PACS as a source: studies by their days, the series of each, and their instances."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from pydicom.dataset import Dataset

from tomodex.errors import NotThere, Unavailable, Unsuitable
from tomodex.instance import Instance, read_instance
from tomodex.probe import Probe
from tomodex.series import Listing, Series
from tomodex.sources import Progress, Pseudonymize, Window
from tomodex.sources.answers import Answer, listings_of
from tomodex.sources.dimse.asking import Asker
from tomodex.sources.dimse.association import (
    FIND,
    Found,
    Line,
    associated,
    query_contexts,
    relational_negotiation,
)
from tomodex.sources.dimse.limits import find_limit, remembered
from tomodex.sources.dimse.options import options_of, peer_of
from tomodex.sources.dimse.probing import probe_pacs
from tomodex.sources.dimse.queries import (
    Question,
    Row,
    answer_of,
    instance_keys,
    one_series_keys,
    one_study_keys,
    rows_of,
    series_keys,
    series_of_study_keys,
    study_keys,
)
from tomodex.sources.dimse.retrieving import CT_CLASSES, SEG_CLASSES, NotSent, Retriever
from tomodex.sources.dimse.splitting import MOST, SMALLEST_LIMIT, Limit, Reply, Splitter
from tomodex.sources.dimse.statuses import SUCCESS, describe_status, says_too_many
from tomodex.sources.dimse.storing import Shelf, shelf_in
from tomodex.sources.gate import Gate

log = logging.getLogger(__name__)

#: Instances of one series that are listened to.
MOST_INSTANCES = 100_000


class DimseSource:
    """`dimse://TOMODEX@pacs:11112/ARCHIVE?hours=19:00-06:00`"""

    def __init__(
        self, url: str, *, pseudonymize: Pseudonymize, state: Path, free_text: bool = False
    ) -> None:
        self._options = options_of(url)
        self._peer = peer_of(url)
        self.url = self._peer.url
        self._pseudonymize = pseudonymize
        self._state = state
        self._free_text = free_text
        self._gate = Gate(self.url, state, self._options)
        self._retriever = Retriever(self._peer, self._options, self._gate, state)
        self._skipped = Counter[str]()
        self._witness = ""  # UID of a series that the PACS has listed; "": none yet
        self._series_limit = self._options.answer_limit or SMALLEST_LIMIT

    # --- Source ---------------------------------------------------------------------------------

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """List every series, the oldest studies first; `progress` counts them.

        While a listing is in the hands of who asked for it, no association is open.
        """
        self._skipped = Counter()
        listed = 0
        with self._asking() as asker, self._threads() as threads:
            for rows in filter(None, self._rows(asker, threads, window)):
                studies = list(self._studies(asker, threads, rows))
                asker.close()
                for study in studies:
                    for listing in listings_of(study):
                        self._witness = listing.series.series_uid
                        yield listing
                listed += sum(map(len, studies))
                if progress:
                    progress(listed, None)

    def _rows(
        self, asker: Asker, threads: ThreadPoolExecutor, window: Window | None
    ) -> Iterator[Sequence[Row]]:
        """Studies, or all their series in a relational query, some days at a time."""
        ask = self._question(asker)
        limit = threads.submit(self._limit, ask).result()
        self._series_limit = limit.rows or SMALLEST_LIMIT
        splitter = Splitter(
            # Only the threads have associations: this one would take a place that they need.
            lambda question: threads.submit(ask, question).result(),
            limit,
            self._options.window_days,
            str(self._peer),
        )
        if window is None:
            return splitter.everything(_today())
        return splitter.between(window.first, window.last)

    def describe(self, series_uid: str) -> Listing:
        """List one series; a PACS that answers within studies only cannot be asked for it.

        Raises:
            NotThere: the PACS has no such series, and does find another that it has listed.
            Unavailable: it did not answer, or may not find a series without its study.
        """
        with self._asking() as asker:
            reply = self._ask(asker, one_series_keys("", series_uid, self._free_text))
            found = {row.series_uid: row for row in reply.rows}
            if not (reply.rows or reply.cut) and self._finds_without_study(asker):
                raise NotThere(f"{self._peer} does not have series {series_uid}")
            if series_uid not in found or not found[series_uid].study_uid:
                raise Unavailable(
                    f"{self._peer} does not have series {series_uid}, or does not find a series "
                    "without its study"
                )
            study = self._study(asker, found[series_uid].study_uid)
            for listing in listings_of(self._answers(study, self._series_of(asker, study))):
                if listing.series.series_uid == series_uid:
                    self._witness = series_uid
                    return listing
        raise Unavailable(f"{self._peer} does not have series {series_uid}")

    def _finds_without_study(self, asker: Asker) -> bool:
        """Whether the PACS finds a series that it has, when it is not told the study."""
        if not self._witness:
            return False
        keys = one_series_keys("", self._witness, self._free_text)
        return any(row.series_uid == self._witness for row in self._ask(asker, keys).rows)

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """Put the instances of a series into files, as the PACS sends them."""
        with self._asking() as asker:
            announced = self._announced(asker, series.study_uid, series.series_uid)
        classes = (*dict.fromkeys((*CT_CLASSES, *series.sop_classes)),)
        return self._files(
            series.study_uid, series.series_uid, into / "instances", announced, classes
        )

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances of the study that refer to the series.

        Those that the PACS cannot send, as it does not know their SOP class, are left out.
        """
        files: list[Path] = []
        for row in self._segmentations(series.study_uid):
            folder = into / "segmentations" / row.series_uid
            try:
                files += self._files(
                    series.study_uid, row.series_uid, folder, row.instance_count, SEG_CLASSES
                )
            except NotSent as not_sent:
                facts = {"series_uid": row.series_uid, "sentence": str(not_sent)}
                log.warning("left out a segmentation that the archive cannot send", extra=facts)
        return [file for file in files if self._refers(file, series)]

    def skipped(self) -> Mapping[str, int]:
        """How many answers of the last `find` named no series, or one that makes no sense."""
        return dict(+self._skipped)

    def probe(self) -> Iterator[Probe]:
        """Look whether the PACS can be reached and asked, and how much it answers."""
        return probe_pacs(self._peer, self._options, self._gate, self._limit_now)

    # --- asking ---------------------------------------------------------------------------------

    @contextmanager
    def _asking(self) -> Iterator[Asker]:
        each_s = 1 / self._options.per_second if self._options.per_second else 0.0
        with closing(Asker(self._line, each_s * self._options.simultaneous)) as asker:
            yield asker

    @contextmanager
    def _line(self) -> Iterator[Line]:
        negotiation = [relational_negotiation()] if self._options.relational else []
        with (
            self._gate.passing(),
            associated(
                self._peer, self._options, query_contexts(FIND), negotiation=negotiation
            ) as line,
        ):
            yield line

    @contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        threads = ThreadPoolExecutor(self._options.simultaneous, "dimse")
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)

    def _ask(self, asker: Asker, keys: Dataset, most: int = MOST) -> Reply:
        """The rows that a question has.

        Raises:
            Unavailable: it is refused, and not because it has too many.
        """
        found = asker.ask(keys, most)
        if found.status not in (SUCCESS, None) and not says_too_many(found.status):
            raise Unavailable(f"{self._peer} answers C-FIND with {describe_status(found.status)}")
        rows = rows_of(found.identifiers)
        self._skipped["no UID"] += _nameless(found, rows)
        why = "" if found.status in (SUCCESS, None) else describe_status(found.status)
        return Reply(rows=rows, cut=found.status != SUCCESS, why=why)

    def _question(self, asker: Asker) -> Callable[[Question], Reply]:
        keys = series_keys if self._options.relational else study_keys
        return lambda question: self._ask(asker, keys(question, self._free_text))

    def _limit(self, ask: Callable[[Question], Reply]) -> Limit:
        if self._options.answer_limit:
            return Limit(rows=self._options.answer_limit, seen=0)
        level = "series" if self._options.relational else "studies"
        return remembered(self._state, self.url, level, lambda: find_limit(ask, _today()))

    def _limit_now(self) -> Limit:
        with self._asking() as asker:
            return find_limit(self._question(asker), _today())

    # --- studies and their series ---------------------------------------------------------------

    def _studies(
        self, asker: Asker, threads: ThreadPoolExecutor, rows: Sequence[Row]
    ) -> Iterator[list[Answer]]:
        """The series of each study, in its order."""
        if self._options.relational:
            ordered = sorted(rows, key=_study_uid)
            for _, group in groupby(ordered, key=_study_uid):
                together = list(group)
                yield self._answers(together[0], together)
            return
        for study, series in zip(
            rows, threads.map(partial(self._series_of, asker), rows), strict=True
        ):
            yield self._answers(study, series)

    def _series_of(self, asker: Asker, study: Row) -> list[Row]:
        """The series of a study.

        Raises:
            Unavailable: the archive caps them, and does not give them by modality either.
        """
        keys = series_of_study_keys(study.study_uid, self._free_text)
        reply = self._ask(asker, keys)
        said = study.series_count
        if self._is_whole(reply) if said is None else len(reply.rows) >= said:
            return list(reply.rows)
        found = {row.uid: row for row in reply.rows}
        for modality in sorted(study.modalities.union(*(row.modalities for row in reply.rows))):
            keys.Modality = modality
            part = self._ask(asker, keys)
            found |= {row.uid: row for row in part.rows}
            if not self._is_whole(part) and (said is None or len(found) < said):
                raise Unavailable(
                    f"{self._peer} has more series of modality {modality} in study "
                    f"{study.study_uid} than the {len(part.rows)} that it gives at once"
                )
        if said is not None and len(found) < said:
            # Such counts are often old; every answer was short enough to be whole.
            facts = {"source": self.url, "said": said, "found": len(found)}
            log.info("fewer series than the study is said to have", extra=facts)
        return list(found.values())

    def _is_whole(self, reply: Reply) -> bool:
        """Whether an answer is shorter than the archive's longest."""
        return not reply.cut and len(reply.rows) < self._series_limit

    def _answers(self, study: Row, series: Iterable[Row]) -> list[Answer]:
        """What is said of each series, as far as it makes sense."""
        answers = []
        for row in series:
            try:
                answer = answer_of(study, row, self._pseudonymize, self._free_text)
            except Unsuitable:
                answer = None
            if answer is None:
                self._skipped["makes no sense"] += 1
            else:
                answers.append(answer)
        return answers

    def _study(self, asker: Asker, study_uid: str) -> Row:
        for row in self._ask(asker, one_study_keys(study_uid, self._free_text)).rows:
            if row.study_uid == study_uid:
                return row
        raise Unavailable(f"{self._peer} does not have study {study_uid}")

    # --- instances ------------------------------------------------------------------------------

    def _announced(self, asker: Asker, study_uid: str, series_uid: str) -> int:
        """How many instances of a series the archive has now, or at least."""
        keys = one_series_keys(study_uid, series_uid, self._free_text)
        for row in self._ask(asker, keys).rows:
            if row.series_uid == series_uid:
                if row.instance_count is not None:
                    return row.instance_count
                return len(self._instances(asker, study_uid, series_uid))
        raise Unavailable(f"{self._peer} does not have series {series_uid}")

    def _instances(self, asker: Asker, study_uid: str, series_uid: str) -> Sequence[Row]:
        keys = instance_keys(study_uid, series_uid)
        found = asker.ask(keys, MOST_INSTANCES)
        return [row for row in map(Row, found.identifiers) if row.sop_uid]

    def _files(
        self,
        study_uid: str,
        series_uid: str,
        folder: Path,
        announced: int | None,
        classes: Sequence[str],
    ) -> list[Path]:
        """All instances of a series.

        Raises:
            NotSent: the archive says that some failed.
            Unavailable: fewer came than the archive has.
        """
        shelf = shelf_in(folder, series_uid)
        sent = self._retriever.retrieve(study_uid, series_uid, shelf, classes)
        if sent.failed and (others := self._other_classes(study_uid, series_uid, classes)):
            sent = self._retriever.retrieve(study_uid, series_uid, shelf, (*classes, *others))
        arrived, wanted = len(shelf.files), max(announced or 0, sent.completed + sent.failed)
        if 0 < arrived < wanted and sent.status == SUCCESS and not sent.failed:
            wanted = self._counted(study_uid, series_uid, shelf) or wanted
        if arrived < wanted or not arrived:
            error = NotSent if sent.failed else Unavailable
            raise error(
                f"{self._peer} sent {arrived} of the {wanted} instances of series {series_uid}, "
                f"{sent.failed} failed there ({describe_status(sent.status)})"
            )
        return shelf.files

    def _counted(self, study_uid: str, series_uid: str, shelf: Shelf) -> int | None:
        """How many instances a series has, one by one: what a series is said to have may be old.

        None if the archive lists others than those that arrived, or may list some only.
        """
        with self._asking() as asker:
            listed = asker.ask(instance_keys(study_uid, series_uid), MOST_INSTANCES)
        sop_uids = {row.sop_uid for row in map(Row, listed.identifiers)}
        limit = self._options.answer_limit
        is_whole = listed.status == SUCCESS and (limit is None or len(sop_uids) < limit)
        arrived = {file.stem for file in shelf.files}
        return len(arrived) if is_whole and sop_uids == arrived else None

    def _other_classes(
        self, study_uid: str, series_uid: str, classes: Collection[str]
    ) -> list[str]:
        """SOP classes that a series has besides those which were asked for."""
        with self._asking() as asker:
            found = {row.sop_class for row in self._instances(asker, study_uid, series_uid)}
        return sorted(found - {"", *classes})

    def _segmentations(self, study_uid: str) -> list[Row]:
        """The series of the study that are DICOM SEG."""
        with self._asking() as asker:
            keys = series_of_study_keys(study_uid, self._free_text, "SEG")
            rows = self._ask(asker, keys).rows
        return [row for row in rows if "SEG" in row.modalities and row.series_uid]

    def _refers(self, file: Path, series: Series) -> bool:
        """Whether a segmentation is one of that series."""
        segmentation = _read(file)
        if segmentation is None or series.series_uid in segmentation.references:
            return segmentation is not None
        if segmentation.references:
            return False
        with self._asking() as asker:
            return any(
                row.sop_uid == uid
                for uid in segmentation.referenced_sop_uids[:1]
                for row in self._ask(
                    asker, instance_keys(series.study_uid, series.series_uid, uid)
                ).rows
            )


def _read(file: Path) -> Instance | None:
    try:
        return read_instance(file, _nobody)
    except Unsuitable:
        return None


def _nobody(identifier: str) -> str:
    """A pseudonym that nobody looks at."""
    return ""


def _study_uid(row: Row) -> str:
    return row.study_uid


def _nameless(found: Found, rows: Sequence[Row]) -> int:
    named = sum(bool(Row(identifier).uid) for identifier in found.identifiers)
    return len(found.identifiers) - named


def _today() -> date:
    # Days are those of the archive, which is where we are.
    return datetime.now(UTC).astimezone().date()
