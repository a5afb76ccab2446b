"""What a DICOM object that we make says of patient, study, equipment and itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tomodex.errors import Unavailable, Unsuitable
from tomodex.header import Header, read_header

MANUFACTURER = "Tomodex"

#: Characters of a Code Value; what is longer is a Long Code Value.
_CODE_VALUE = 16

#: Drawn once; another one would give every object a new UID.
_NAMESPACE = uuid.UUID("8f6a3f5e-0a3c-4b57-9a0e-51f1c7d2b6a4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose study it is, as every object of the study has to say it (PS3.3 C.7.1.1, C.7.2.1)."""

    study_uid: str
    patient_id: str
    issuer: str = ""  #: of `patient_id`
    patient_name: str = ""
    birth_date: str = ""  #: YYYYMMDD
    sex: str = ""
    study_date: str = ""  #: YYYYMMDD
    study_time: str = ""
    study_id: str = ""
    #: How far its times are from UTC, such as +0100; "": nobody says
    timezone: str = ""
    accession_number: str = ""
    referring_physician: str = ""
    identity_removed: str = ""  #: Patient Identity Removed, "YES" or "NO"; "": nobody says
    #: How it was removed; "" where it was not, or nobody says
    removed_by: str = ""


def made_uid(*facts: object) -> str:
    """A UID that is always the same for the same facts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, repr(facts)).int}"


# --- reading it from an instance ------------------------------------------------------------------


def read_subject(path: Path, study_uid: str) -> Subject:
    """Whose study an instance belongs to, by its header; values that are none are left out.

    `study_uid` is what the archive says of the study, which counts more than the header.

    Raises:
        Unsuitable: the file is no DICOM.
        Unavailable: it cannot be read.
    """
    return subject_of(header_in(path).elements.text, study_uid)


def header_in(path: Path) -> Header:
    """The header of an instance's file; raises as `read_subject`."""
    try:
        with path.open("rb", buffering=0) as stream:
            header = read_header(stream)
    except OSError as refused:
        raise Unavailable(f"cannot read a file: {refused.strerror}") from refused
    if header is None:
        raise Unsuitable("unreadable", "an instance is no DICOM file any more")
    return header


def subject_of(text: Callable[[str], str], study_uid: str) -> Subject:
    """Whose study it is; `text` gives the value of a keyword, "" where there is none."""

    def said(keyword: str, is_valid: Callable[[str], bool]) -> str:
        value = text(keyword)
        return value if is_valid(value) else ""

    removed = said("PatientIdentityRemoved", frozenset({"YES", "NO"}).__contains__)
    return Subject(
        study_uid=study_uid,
        patient_id=said("PatientID", _is_line),
        issuer=said("IssuerOfPatientID", _is_line),
        patient_name=said("PatientName", _is_name),
        birth_date=said("PatientBirthDate", _is_date),
        sex=said("PatientSex", frozenset("MFO").__contains__),
        study_date=said("StudyDate", _is_date),
        study_time=said("StudyTime", _is_time),
        study_id=said("StudyID", _is_short),
        timezone=said("TimezoneOffsetFromUTC", _is_offset),
        accession_number=said("AccessionNumber", _is_short),
        referring_physician=said("ReferringPhysicianName", _is_name),
        identity_removed=removed,
        removed_by=said("DeidentificationMethod", _is_line) if removed == "YES" else "",
    )


def _is_line(text: str) -> bool:
    """A Long String (PS3.5 6.2): 64 characters that can be shown, no backslash."""
    return 0 < len(text) <= 64 and text.isprintable() and "\\" not in text


def _is_short(text: str) -> bool:
    return _is_line(text) and len(text) <= 16


def _is_name(text: str) -> bool:
    """A Person Name: up to three groups of 64 characters, of five parts each."""
    groups = text.split("=")
    return len(groups) <= 3 and all(
        len(group) <= 64
        and group.count("^") <= 4
        and (not group or group.isprintable())
        and "\\" not in group
        for group in groups
    )


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{8}", text, re.ASCII) and date.fromisoformat(text))
    except ValueError:
        return False


def _is_time(text: str) -> bool:
    clock = r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"
    return bool(re.fullmatch(clock, text, re.ASCII))


def _is_offset(text: str) -> bool:
    """Timezone Offset From UTC (PS3.3 C.12.1.1.2); "-0000" is none."""
    return bool(re.fullmatch(r"\+(0\d|1[0-4])[0-5]\d|-(?!0000)(0\d|1[0-2])[0-5]\d", text, re.ASCII))


# --- writing it into an object --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What tells an object that we make from others."""

    sop_class: str
    sop_uid: str
    series_uid: str
    series_number: int
    series_description: str
    modality: str
    at: datetime  #: with offset: when somebody began to make what it says


def begin_object(subject: Subject, made: Made, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """A dataset with patient, study, series, equipment and SOP common modules."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(made.sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(made.sop_uid)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = made.sop_class, made.sop_uid
    put_subject(ds, subject)
    ds.Modality, ds.SeriesInstanceUID = made.modality, made.series_uid
    ds.SeriesNumber, ds.SeriesDescription = made.series_number, made.series_description
    ds.InstanceNumber = 1
    put_equipment(ds)
    at = _by_its_clock(made.at, subject)
    day, clock = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    # Not when this instance was written down: a second try writes it again, to the last byte.
    ds.SeriesDate = ds.ContentDate = day
    ds.SeriesTime = ds.ContentTime = clock
    return ds


def moment(at: datetime) -> str:
    """The second of a moment, as it is part of UIDs: objects say their time as exactly."""
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _by_its_clock(at: datetime, subject: Subject) -> datetime:
    """The moment by the clock of the study, or of this machine where nobody says which that is.

    An object has one offset for all its times (PS3.3 C.12.1.1.2), and that of the study is among
    them as it was read.
    """
    clock = datetime.strptime(subject.timezone, "%z").tzinfo if subject.timezone else None
    return at.astimezone(clock)


def put_subject(ds: Dataset, subject: Subject) -> None:
    """Whose study it is."""
    ds.PatientName, ds.PatientID = subject.patient_name, subject.patient_id
    ds.PatientBirthDate, ds.PatientSex = subject.birth_date, subject.sex
    ds.StudyInstanceUID = subject.study_uid
    ds.StudyDate, ds.StudyTime, ds.StudyID = (
        subject.study_date,
        subject.study_time,
        subject.study_id,
    )
    ds.AccessionNumber = subject.accession_number
    ds.ReferringPhysicianName = subject.referring_physician
    optional = {
        "TimezoneOffsetFromUTC": subject.timezone,
        "IssuerOfPatientID": subject.issuer,
        "PatientIdentityRemoved": subject.identity_removed,
        "DeidentificationMethod": subject.removed_by,
    }
    for keyword, value in optional.items():
        if value:
            setattr(ds, keyword, value)


def put_equipment(ds: Dataset) -> None:
    """What made it."""
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, "Tomodex"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", version("tomodex")


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry (PS3.3 8.8), of a value and a meaning of any length."""
    item = Dataset()
    if len(value) <= _CODE_VALUE:
        item.CodeValue = value
    else:
        item.LongCodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning[:64]
    return item


def reference(sop_class: str, sop_uid: str) -> Dataset:
    """A reference to an instance (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
    return item


def referenced_series(series_uid: str, instances: Sequence[tuple[str, str]]) -> Dataset:
    """A series with (class, UID) of some of its instances (PS3.3 C.12.4.1)."""
    item = Dataset()
    item.SeriesInstanceUID = series_uid
    item.ReferencedInstanceSequence = [reference(*one) for one in instances]
    return item
