"""A DICOMweb server as a source of series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tomodex.errors import NotThere, Unavailable, Unsuitable
from tomodex.instance import SEGMENTATIONS, Instance, read_instance
from tomodex.options import read_options, without_query
from tomodex.probe import Probe
from tomodex.series import Listing, Series
from tomodex.sources import Progress, Window
from tomodex.sources.answers import Answer, listings_of
from tomodex.sources.dicomweb import probing
from tomodex.sources.dicomweb.connection import (
    Connection,
    DicomWebOptions,
    Params,
    Refused,
    TooLong,
)
from tomodex.sources.dicomweb.json_model import Json, count, instance_of, items, text
from tomodex.sources.dicomweb.retrieving import retrieve
from tomodex.sources.dicomweb.studies import (
    EVER,
    Answers,
    Searches,
    Stuck,
    by_days,
    of_days,
    without_day,
)
from tomodex.sources.gate import Gate

#: What a server may know of a study, and does not tell unless it is asked.
OF_STUDY = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientSex",
    "PatientBirthDate",
    "PatientAge",
    "StudyDate",
    "NumberOfStudyRelatedSeries",
)

#: The same of a series.
OF_SERIES = (
    "Modality",
    "SeriesDate",
    "SeriesNumber",
    "BodyPartExamined",
    "PatientPosition",
    "Manufacturer",
    "ManufacturerModelName",
    "NumberOfSeriesRelatedInstances",
)

#: What people type, and may be a name: not even asked for where a site does not want it.
FREE_TEXT = (("StudyDescription",), ("SeriesDescription", "ProtocolName"))

#: What a server answers that does not know a resource.
UNKNOWN = frozenset({400, 403, 404, 405, 406, 410, 501})


#: A UID, and nothing that could be another resource, or a path.
UID = re.compile(r"[0-9.]{1,64}(?<!\.)", re.ASCII)


class DicomWebSource:
    """`dicomweb+https://user@host/dicom-web?password=file:/run/secrets/pacs`"""

    def __init__(
        self,
        url: str,
        *,
        pseudonymize: Callable[[str], str],
        state: Path,
        free_text: bool = False,
    ) -> None:
        self.url = without_query(url)
        self._options = read_options(url, DicomWebOptions)
        gate = Gate(self.url, state, self._options)
        self._connection = Connection(url, self._options, gate)
        self._searches = Searches(self._connection, self._options.page, self._options.answer_limit)
        self._pseudonymize = pseudonymize
        self._free_text = free_text
        typed = FREE_TEXT if free_text else ((), ())
        # Each comes with a name of its own: Orthanc 1.10 does not understand %2C between them.
        self._of_study: Params = {"includefield": (*OF_STUDY, *typed[0])}
        self._of_series: Params = {"includefield": (*OF_SERIES, *typed[1])}
        self._skipped = Counter[str]()
        #: Whether /series can be asked for the series of many studies at once.
        self._is_relational = True

    # --- Source ---------------------------------------------------------------------------------

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """List every series, study by study in order of their days, without headers."""
        self._skipped.clear()
        done = 0
        for studies, series in self._find(window):
            for uid, study in studies.items():
                for listing in self._listings(study, series.get(uid, {})):
                    yield listing
                    done += 1
            if progress:
                progress(done, None)

    def describe(self, series_uid: str) -> Listing:
        """List one series, with its headers where the server shows them as metadata.

        Raises:
            NotThere: the server answers that it has no such series.
            Unavailable: it did not answer, or not so that anybody could tell.
        """
        found = self._searches.everything(
            "series",
            {"SeriesInstanceUID": series_uid, **self._of_series},
            "SeriesInstanceUID",
        )
        if not found:
            raise self._no_series(series_uid)
        study_uid = text(found.get(series_uid, {}), "StudyInstanceUID")
        for listing in self._listings_of_study(study_uid):
            if listing.series.series_uid == series_uid:
                return replace(listing, instances=self._headers(study_uid, series_uid))
        raise Unavailable(f"{self.url} answers, and not what it has of series {series_uid}")

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """The instances of a series, as the server keeps them, in files `into`."""
        path = f"studies/{series.study_uid}/series/{series.series_uid}"
        try:
            files = retrieve(self._connection, path, series.series_uid, into / "instances")
        except Refused as refused:
            if refused.status not in (404, 410):
                raise
            files = self._one_by_one(path, series.series_uid, into / "instances")
            if not files:
                raise self._no_series(series.series_uid) from refused
        if series.instance_count is None:
            announced = self._announced(series.study_uid, series.series_uid)
        else:
            announced = series.instance_count
        self._require(files, announced, series.series_uid)
        return files

    def _one_by_one(self, path: str, series_uid: str, into: Path) -> list[Path]:
        """The instances of a series that is not given as a whole.

        Orthanc says that it has no such series where several studies have one of that UID.
        """
        try:
            found = self._searches.everything(f"{path}/instances", {}, "SOPInstanceUID")
            return [
                file
                for uid in filter(UID.fullmatch, found)
                for file in retrieve(
                    self._connection, f"{path}/instances/{uid}", series_uid, into / uid
                )
            ]
        except Refused as refused:
            if refused.status in (404, 410):
                return []
            raise

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances of its study that refer to the series."""
        if not series.segmentations:
            return []
        found: list[Path] = []
        images = _Images(self._searches, series)
        for uid, one in self._series_of_study(series.study_uid).items():
            if text(one, "Modality") == "SEG" and self._may_refer(series, uid):
                path = f"studies/{series.study_uid}/series/{uid}"
                files = retrieve(self._connection, path, uid, into / "segmentations" / uid)
                announced = count(one, "NumberOfSeriesRelatedInstances")
                self._require(files, announced or len(files), uid)
                found += [file for file in files if _refers(_header(file), images)]
        return found

    def skipped(self) -> Mapping[str, int]:
        """Answers of the last `find` that name no series: unreadable."""
        return dict(self._skipped)

    def probe(self) -> Iterator[Probe]:
        """Look whether it answers, whether it permits, and how."""
        return probing.probe(self._connection, self._searches)

    # --- searching ------------------------------------------------------------------------------

    def _find(self, window: Window | None) -> Iterator[tuple[Answers, Mapping[str, Answers]]]:
        """Some studies, and the series of each of them by its UID."""
        dated = 0
        for days, studies in by_days(self._searches, window or EVER, self._of_study):
            dated += len(studies)
            yield studies, self._series_of(studies, of_days(days))
        if window is None:
            for studies in without_day(self._searches, self._of_study, dated):
                yield studies, self._series_of(studies, None)

    def _series_of(self, studies: Answers, days: Params | None) -> Mapping[str, Answers]:
        """The series of studies, asked for at once where that works, else study by study."""
        found, is_all = ({}, False) if days is None else self._series_of_days(studies, days)
        for uid, study in studies.items():
            mine = found.get(uid, {})
            said = count(study, "NumberOfStudyRelatedSeries")
            if not mine or (len(mine) < said if said is not None else not is_all):
                found[uid] = self._series_of_study(uid)
        return found

    def _series_of_days(self, studies: Answers, days: Params) -> tuple[dict[str, Answers], bool]:
        """The series of some days by their study, and whether these are all."""
        found: dict[str, Answers] = {}
        if not self._is_relational or len(studies) < 2:
            return found, False
        try:
            pages = self._searches.pages("series", {**days, **self._of_series}, "SeriesInstanceUID")
            for page in pages:
                for uid, one in page.items():
                    found.setdefault(text(one, "StudyInstanceUID"), {})[uid] = one
                foreign = sum(text(one, "StudyInstanceUID") not in studies for one in page.values())
                if 2 * foreign > len(page):  # it does not look at the day
                    self._is_relational = False
                    return {}, False
            self._searches.require_whole("series", sum(map(len, found.values())))
        except Stuck:
            return found, False
        except Refused as refused:
            if refused.status not in UNKNOWN:
                raise
            self._is_relational = False
            return {}, False
        return found, True

    def _series_of_study(self, study_uid: str) -> Answers:
        path = f"studies/{study_uid}/series"
        try:
            return self._searches.everything(path, self._of_series, "SeriesInstanceUID")
        except Refused as refused:
            if refused.status in (404, 410):  # it was deleted since it was listed
                return {}
            raise

    def _announced(self, study_uid: str, series_uid: str) -> int:
        """How many instances of a series there are, by the series level or one by one; else 0."""
        path = f"studies/{study_uid}/series"
        try:
            asked = {"SeriesInstanceUID": series_uid, **self._of_series}
            found = self._searches.everything(path, asked, "SeriesInstanceUID")
            said = count(found.get(series_uid, {}), "NumberOfSeriesRelatedInstances")
            if said is not None:
                return said
            path = f"{path}/{series_uid}/instances"
            return len(self._searches.everything(path, {}, "SOPInstanceUID"))
        except Refused as refused:
            if refused.status not in UNKNOWN:
                raise
            return 0

    def _require(self, files: Sequence[Path], announced: int, series_uid: str) -> None:
        if len(files) < max(announced, 1):
            raise Unavailable(
                f"{self.url} sent {len(files)} of {announced or 'the'} instances that it announced "
                f"of {series_uid}"
            )

    # --- listing --------------------------------------------------------------------------------

    def _listings_of_study(self, study_uid: str) -> Iterator[Listing]:
        if not study_uid:
            return
        asked = {"StudyInstanceUID": study_uid, **self._of_study}
        found = self._searches.everything("studies", asked, "StudyInstanceUID")
        if study_uid in found:
            yield from self._listings(found[study_uid], self._series_of_study(study_uid))

    def _listings(self, study: Json, series: Answers) -> Iterator[Listing]:
        answers = [self._answer({**study, **one}) for one in series.values()]
        self._skipped.update(["unreadable"] * answers.count(None))
        return listings_of([answer for answer in answers if answer])

    def _answer(self, both: Json) -> Answer | None:
        """What the server says of a series; None if it says no UID and no modality."""
        instance = instance_of(both, "", self._pseudonymize, self._free_text)
        if instance is None or not (instance.series_uid and instance.study_uid):
            return None
        return Answer(instance=instance, count=count(both, "NumberOfSeriesRelatedInstances"))

    # --- headers --------------------------------------------------------------------------------

    def _headers(self, study_uid: str, series_uid: str) -> tuple[Instance, ...]:
        """The headers of a series without its pixels; () where it shows none, or too long ones."""
        path = f"studies/{study_uid}/series/{series_uid}/metadata"
        try:
            metadata = self._connection.json(path)
        except (Refused, TooLong):
            return ()
        read = (instance_of(one, "", self._pseudonymize, self._free_text) for one in metadata)
        # Metadata comes without pixels, and may not say whether there are some.
        return tuple(replace(one, has_pixels=one.rows > 0) for one in read if one)

    def _may_refer(self, series: Series, segmentation_uid: str) -> bool:
        """Whether a SEG series names a series in its metadata, or leaves it open."""
        path = f"studies/{series.study_uid}/series/{segmentation_uid}/metadata"
        try:
            metadata = self._connection.json(path)
        except (Refused, TooLong):
            return True
        named = [
            {text(item, "SeriesInstanceUID") for item in items(one, "ReferencedSeriesSequence")}
            for one in metadata
        ]
        return not named or any(not uids or series.series_uid in uids for uids in named)

    def _no_series(self, series_uid: str) -> NotThere:
        return NotThere(f"{self.url} has no series {series_uid}")


class _Images:
    """A series, and its instances once somebody asks for them."""

    def __init__(self, searches: Searches, series: Series) -> None:
        self.series_uid = series.series_uid
        self._searches = searches
        self._path = f"studies/{series.study_uid}/series/{series.series_uid}/instances"
        self._sop_uids: frozenset[str] | None = None

    def have(self, sop_uids: Sequence[str]) -> bool:
        """Whether one of these is an instance of the series."""
        if self._sop_uids is None:
            self._sop_uids = frozenset(self._searches.everything(self._path, {}, "SOPInstanceUID"))
        return not self._sop_uids.isdisjoint(sop_uids)


def _refers(instance: Instance | None, images: _Images) -> bool:
    """Whether a DICOM SEG instance refers to a series, by its UID or by its images."""
    if instance is None or instance.sop_class not in SEGMENTATIONS:
        return False
    if instance.references:
        return images.series_uid in instance.references
    return images.have(instance.referenced_sop_uids)


def _header(file: Path) -> Instance | None:
    try:
        return read_instance(file, _nobody)
    except Unsuitable:
        return None


def _nobody(identifier: str) -> str:
    """A pseudonym that nobody looks at."""
    return ""
