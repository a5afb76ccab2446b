"""What people say instead of DICOM's keywords and codes: "women 40-60", "slices <= 1.5 mm"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tomodex.search.searchable import ASKABLE

#: Attributes by what they are called in English and German.
NAMES: Mapping[str, str] = {
    "age": "PatientAge",
    "aged": "PatientAge",
    "alter": "PatientAge",
    "sex": "PatientSex",
    "geschlecht": "PatientSex",
    "slices": "SliceThickness",
    "slice thickness": "SliceThickness",
    "schichtdicke": "SliceThickness",
    "date": "StudyDate",
    "study date": "StudyDate",
    "year": "StudyDate",
    "datum": "StudyDate",
    "jahr": "StudyDate",
    "body part": "BodyPartExamined",
    "scanner": "ManufacturerModelName",
    "hersteller": "Manufacturer",
    "kernel": "ConvolutionKernel",
    "contrast": "ContrastBolusAgent",
    "kontrastmittel": "ContrastBolusAgent",
    "scan length": "scan_length_mm",
    "schichten": "slice_count",
    "series uid": "SeriesInstanceUID",
    "study uid": "StudyInstanceUID",
    "size": "size_bytes",
}

#: DICOM's codes (PS3.3 C.7.1.1) by what people say.
VALUES: Mapping[str, Mapping[str, str]] = {
    "PatientSex": {
        **dict.fromkeys(("female", "woman", "women", "weiblich", "frau", "frauen"), "F"),
        **dict.fromkeys(("male", "man", "men", "männlich", "mann", "männer"), "M"),
        **dict.fromkeys(("other", "diverse", "divers"), "O"),
    },
}

_KEYWORDS = {keyword.casefold(): keyword for keyword in ASKABLE} | dict(NAMES)

_HYPHENED = re.compile(r"([0-9]+(?:\.[0-9]+)?)[-\N{EN DASH}]([0-9]+(?:\.[0-9]+)?)")


def keyword_of(text: str) -> str:
    """The attribute that `text` names in any case; "" if none."""
    return _KEYWORDS.get(text.casefold(), "")


def value_of(keyword: str, text: str) -> str:
    """How DICOM writes a value of an attribute: "female" is F; others as they are."""
    return VALUES.get(keyword, {}).get(text.casefold(), text)


def sex_of(word: str) -> str:
    """The code of a word that stands for people of one sex; "" for any other."""
    return VALUES["PatientSex"].get(word.casefold(), "")


def ends_of(text: str) -> tuple[str, str] | None:
    """The ends of a range that is written with a hyphen, "40-60"."""
    match = _HYPHENED.fullmatch(text)
    return (match[1], match[2]) if match else None
