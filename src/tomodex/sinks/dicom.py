"""Sends the measurements of each series as a DICOM structured report (TID 1500).

Only the report: masks are made on request, see `segmenting.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydicom.dataset import Dataset

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.dicom_header import Subject
from tomodex.formats.dicom_sr import Evidence, measurement_report
from tomodex.probe import Probe
from tomodex.registry import path_of
from tomodex.stores import DICOM, Archive, Store, open_store
from tomodex.terminology import load_terminology

log = logging.getLogger(__name__)

#: Whose a report says that it is.
#: archive: of whom the archive says that the study is, so it must have the study already.
#: pseudonym: of our pseudonym, as de-identified; for an archive of research.
Patient = Literal["archive", "pseudonym"]

_PATIENTS: tuple[Patient, ...] = ("archive", "pseudonym")

#: A DICOM Long String.
_LONG_STRING = 64


class DicomFileSink:
    """`dicom+file:///srv/reports`: a file for each series, under its pseudonym.

    Raises:
        Misconfigured: the folder cannot be made.
    """

    def __init__(self, url: str, state: Path | None = None) -> None:
        self._folder = path_of(url)
        self._store = open_store(f"folder://{self._folder}", state or Path())

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        for one in annotated:
            if one.annotations:
                _put(self._store, one, pseudonymous(one), Evidence())
            else:
                self.erase([one.series.series_uid])

    def erase(self, series_uids: Sequence[str]) -> None:
        for uid in series_uids:
            try:
                (self._folder / _name(uid)).unlink(missing_ok=True)
            except OSError as refused:
                raise Unavailable(f"{self._folder}: {refused.strerror}") from refused

    def probe(self) -> Iterator[Probe]:
        return self._store.probe()

    def close(self) -> None:
        self._store.close()


class DicomArchiveSink:
    """`dimse://OUR_AE@host:port/PACS_AE` or `dicomweb+https://host/dicom-web?token=...`

    The options are those of the source of the same scheme, and `patient=archive` or
    `patient=pseudonym`. A report that was stored stays: archives have no standard way to take
    back, so what is erased here is logged, to be deleted there.

    Raises:
        Misconfigured: an option is not as it should be.
    """

    def __init__(self, url: str, state: Path | None = None) -> None:
        self._patient, rest = _split_patient(url)
        # What is remembered of an archive is where other processes look for it, too.
        self._scratch = None if state else TemporaryDirectory(prefix="tomodex-")
        place = state or Path(self._scratch.name if self._scratch else "")
        self._archive = cast(Archive, open_store(rest, place))

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Send a report of each in which something was found.

        Raises:
            Unavailable: the archive does not answer, or does not have the study (yet).
            Unsuitable: it refuses the report.
        """
        for one in annotated:
            if not one.annotations:
                continue
            subject, evidence = self._belongs(one)
            _put(self._archive, one, subject, evidence)

    def erase(self, series_uids: Sequence[str]) -> None:
        for uid in series_uids:
            log.warning("report stays", extra={"series_uid": uid, "archive": self._archive.url})

    def probe(self) -> Iterator[Probe]:
        return self._archive.probe()

    def close(self) -> None:
        self._archive.close()
        if self._scratch:
            self._scratch.cleanup()

    def _belongs(self, annotated: AnnotatedSeries) -> tuple[Subject, Evidence]:
        if self._patient == "pseudonym":
            return pseudonymous(annotated), Evidence()
        series = annotated.series
        known = self._archive.known(series.study_uid, series.series_uid)
        if known is None:
            raise Unsuitable(
                "not_in_archive",
                f"{self._archive.url} does not have the series, so nobody knows whose the report "
                "is; patient=pseudonym sends it under our pseudonym",
            )
        subject, images = known
        return subject, Evidence(images=images)


def pseudonymous(annotated: AnnotatedSeries) -> Subject:
    """The patient as far as a result knows them: by pseudonym, sex and day of the study."""
    series = annotated.series
    said = {k: str(series.attributes.get(k, "")) for k in ("PatientSex", "StudyDate")}
    return Subject(
        study_uid=series.study_uid,
        patient_id=series.patient[:_LONG_STRING],
        patient_name=series.patient[:_LONG_STRING],
        sex=said["PatientSex"] if said["PatientSex"] in ("M", "F", "O") else "",
        study_date=said["StudyDate"].replace("-", ""),
        identity_removed="YES",
        removed_by="Pseudonym by Tomodex (HMAC with a key of the site)",
    )


def _put(store: Store, annotated: AnnotatedSeries, subject: Subject, evidence: Evidence) -> None:
    # The moment of the result, so that the same result is the same object to the last byte.
    at = datetime.fromisoformat(annotated.provenance.finished)
    report = measurement_report(annotated, subject, load_terminology(), evidence, at)
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        store.put([_save(report, Path(scratch), annotated.series.series_uid)], "")


def _save(report: Dataset, folder: Path, series_uid: str) -> Path:
    path = folder / _name(series_uid)
    report.save_as(path, enforce_file_format=True)
    return path


def _name(series_uid: str) -> str:
    return f"{series_uid.replace('/', '_')}{DICOM}"


def _split_patient(url: str) -> tuple[Patient, str]:
    """Our own option of a URL, and the URL without it."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    said = [value for name, value in options if name == "patient"] or ["archive"]
    found = next((one for one in _PATIENTS if said == [one]), None)
    if found is None:
        raise Misconfigured("patient is one of archive, pseudonym")
    rest = urlencode([pair for pair in options if pair[0] != "patient"], safe=":/,")
    return found, parts._replace(query=rest).geturl()
