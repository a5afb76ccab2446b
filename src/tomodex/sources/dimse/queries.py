"""Questions as C-FIND writes them, and what the archive's answers say.

The ends of ranges of time overlap by a second and the outermost are open, so that a study is in one
of them however its archive compares "12", "1200" and "120000.000000".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from io import BytesIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from tomodex.elements import Elements
from tomodex.instance import FREE_TEXT, read_instance_from
from tomodex.sources import Pseudonymize
from tomodex.sources.answers import Answer

DAY_S = 86_400

#: What else of a study is asked for, as far as an archive knows it at this level (PS3.4 C.6.2.1).
_OF_STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
)
_OF_SERIES = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDate",
    "BodyPartExamined",
    "PatientPosition",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "NumberOfSeriesRelatedInstances",
)
_TEXT_OF_STUDY = frozenset({"StudyDescription"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Studies of some days; of a single day perhaps only those of some hours, or of a modality."""

    first: date | None  #: None: from the beginning
    last: date | None  #: None: without end
    begin_s: int = 0  #: seconds since midnight
    end_s: int = DAY_S  #: not included
    modality: str = ""  #: studies that have a series of it; "": all

    def halves_of_time(self) -> tuple[Question, Question] | None:
        """The same in two parts; None if it is a single second."""
        if self.end_s - self.begin_s < 2:
            return None
        middle = (self.begin_s + self.end_s) // 2
        return self._between(self.begin_s, middle), self._between(middle, self.end_s)

    def _between(self, begin_s: int, end_s: int) -> Question:
        return Question(
            first=self.first, last=self.last, begin_s=begin_s, end_s=end_s, modality=self.modality
        )

    def of_modality(self, modality: str) -> Question:
        """Only those that have a series of it."""
        return Question(
            first=self.first,
            last=self.last,
            begin_s=self.begin_s,
            end_s=self.end_s,
            modality=modality,
        )

    @property
    def dates(self) -> str:
        """As StudyDate is matched (PS3.4 C.2.2.2.5); "" for all."""
        first, last = _compact(self.first), _compact(self.last)
        return first if first == last else f"{first}-{last}"

    @property
    def times(self) -> str:
        """As StudyTime is matched; "" for all."""
        begin = _clock(self.begin_s - 1) if self.begin_s else ""
        end = f"{_clock(self.end_s - 1)}.999999" if self.end_s < DAY_S else ""
        return f"{begin}-{end}" if begin or end else ""


class Row:
    """One answer, of a study or of a series."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._elements = Elements(dataset)

    @cached_property
    def study_uid(self) -> str:
        return self._uid("StudyInstanceUID")

    @cached_property
    def series_uid(self) -> str:
        return self._uid("SeriesInstanceUID")

    @cached_property
    def uid(self) -> str:
        """What tells it from every other answer of its level; "" if it has nothing."""
        return self.series_uid or self.study_uid

    @property
    def sop_uid(self) -> str:
        return self._uid("SOPInstanceUID")

    @property
    def sop_class(self) -> str:
        return self._uid("SOPClassUID")

    @property
    def day(self) -> date | None:
        """Study Date; None if it has none."""
        match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", self._elements.text("StudyDate"))
        try:
            return date(*map(int, match.groups())) if match else None
        except ValueError:
            return None

    @property
    def second(self) -> int | None:
        """Study Time, in seconds since midnight; None if it has none."""
        text = self._elements.text("StudyTime").replace(":", "")
        match = re.match(r"(\d\d)(\d\d)?(\d\d)?", text, re.ASCII)
        if match is None:
            return None
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds

    @property
    def modalities(self) -> frozenset[str]:
        """What series the study has, or what the series is; empty if the archive does not say."""
        return frozenset(
            self._elements.texts("ModalitiesInStudy") or self._elements.texts("Modality")
        )

    @property
    def series_count(self) -> int | None:
        return self._elements.integer("NumberOfStudyRelatedSeries")

    @property
    def instance_count(self) -> int | None:
        return self._elements.integer("NumberOfSeriesRelatedInstances")

    def raw(self) -> Iterator[RawDataElement]:
        """Its elements that have a value, as the archive wrote them."""
        for tag in self._dataset.keys():  # noqa: SIM118  a Dataset iterates over values
            element = self._dataset.get_item(tag, keep_deferred=True)
            if isinstance(element, RawDataElement) and element.value:
                yield element

    def _uid(self, keyword: str) -> str:
        uid = next(iter(self._elements.texts(keyword)), "")
        return uid if re.fullmatch(r"[0-9.]{1,64}", uid, re.ASCII) else ""


def rows_of(identifiers: Sequence[Dataset]) -> list[Row]:
    """One row for each answer that names something, however often it is there."""
    rows = (Row(identifier) for identifier in identifiers)
    return list({row.uid: row for row in rows if row.uid}.values())


# --- keys ---------------------------------------------------------------------------------------


def study_keys(question: Question, free_text: bool) -> Dataset:
    """Asks for studies."""
    keys = _keys("STUDY", _OF_STUDY, _texts(free_text) & _TEXT_OF_STUDY)
    keys.StudyDate, keys.StudyTime = question.dates, question.times
    keys.ModalitiesInStudy = question.modality
    return keys


def series_keys(question: Question, free_text: bool) -> Dataset:
    """Asks for the series of all those studies at once, which is a relational query."""
    keys = _keys("SERIES", (*_OF_STUDY, *_OF_SERIES), _texts(free_text))
    keys.StudyDate, keys.StudyTime = question.dates, question.times
    keys.Modality = question.modality
    return keys


def series_of_study_keys(study_uid: str, free_text: bool, modality: str = "") -> Dataset:
    """Asks for the series of one study."""
    keys = _keys("SERIES", _OF_SERIES, _texts(free_text) - _TEXT_OF_STUDY)
    keys.StudyInstanceUID, keys.Modality = study_uid, modality
    return keys


def one_study_keys(study_uid: str, free_text: bool) -> Dataset:
    """Asks for one study."""
    keys = _keys("STUDY", _OF_STUDY, _texts(free_text) & _TEXT_OF_STUDY)
    keys.StudyInstanceUID = study_uid
    return keys


def one_series_keys(study_uid: str, series_uid: str, free_text: bool) -> Dataset:
    """Asks for one series; without its study, which is a relational query."""
    keys = series_of_study_keys(study_uid, free_text)
    keys.SeriesInstanceUID = series_uid
    return keys


def instance_keys(study_uid: str, series_uid: str, sop_uid: str = "") -> Dataset:
    """Asks for the instances of a series, or for one of them."""
    keys = _keys("IMAGE", ("SOPInstanceUID", "SOPClassUID"), frozenset())
    keys.StudyInstanceUID, keys.SeriesInstanceUID = study_uid, series_uid
    keys.SOPInstanceUID = sop_uid
    return keys


def transfer_keys(study_uid: str, series_uid: str) -> Dataset:
    """Names a series for C-GET and C-MOVE."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "SERIES"
    keys.StudyInstanceUID, keys.SeriesInstanceUID = study_uid, series_uid
    return keys


def _keys(level: str, keywords: Sequence[str], texts: frozenset[str]) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    for keyword in (*keywords, *sorted(texts)):
        setattr(keys, keyword, None)
    return keys


def _texts(free_text: bool) -> frozenset[str]:
    return frozenset(FREE_TEXT) if free_text else frozenset()


def _compact(day: date | None) -> str:
    return day.isoformat().replace("-", "") if day else ""


def _clock(second: int) -> str:
    return f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"


def days_between(first: date, last: date) -> int:
    """How many days that is, both included."""
    return (last - first) // timedelta(days=1) + 1


# --- as a header --------------------------------------------------------------------------------

#: Preamble, magic number, and file meta that names Implicit VR Little Endian.
_PROLOGUE = (
    bytes(128)
    + b"DICM"
    + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 26)
    + struct.pack("<HH2sH18s", 2, 0x10, b"UI", 18, b"1.2.840.10008.1.2")
)


def answer_of(
    study: Row, series: Row, pseudonymize: Pseudonymize, free_text: bool
) -> Answer | None:
    """What the archive says of a series and its study, read as if it were a header.

    None if it makes no sense: it does not even say of which modality it is.

    Raises:
        Unsuitable: the same.
    """
    elements = {int(e.tag): e for row in (study, series) for e in row.raw()}
    written = b"".join(_write(elements[tag]) for tag in sorted(elements))
    instance = read_instance_from(BytesIO(_PROLOGUE + written), "", pseudonymize, free_text)
    if instance is None or not instance.series_uid:
        return None
    return Answer(instance=instance, count=series.instance_count)


def _write(element: RawDataElement) -> bytes:
    value = element.value or b""
    value += b"\0" * (len(value) % 2)
    tag = element.tag
    return struct.pack("<HHI", tag.group, tag.element, len(value)) + value
