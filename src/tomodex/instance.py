"""What the header of one DICOM instance says, without its pixels.

An `Instance` is what `Source.find` and `Source.retrieve` read; geometry and selection are judged
from it alone. A multi-frame instance has one `Frame` for each of its frames, a classic one has one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from tomodex.errors import Unavailable, Unsuitable

if TYPE_CHECKING:
    from tomodex.elements import Elements

#: Patient coordinates: x to the Left, y to the Posterior, z to the Superior, in mm
#: (DICOM PS3.3 C.7.6.2.1.1).
LPS = tuple[float, float, float]

Kind = Literal["text", "number", "date"]

#: What can be searched by its DICOM keyword, and of which kind it is. A number has the unit DICOM
#: gives it, but PatientAge, which is in years; a date is YYYY-MM-DD.
ATTRIBUTES: Mapping[str, Kind] = {
    "Modality": "text",
    "StudyDate": "date",
    "SeriesDate": "date",
    "PatientAge": "number",
    "PatientSex": "text",
    "PatientPosition": "text",
    "BodyPartExamined": "text",
    "Manufacturer": "text",
    "ManufacturerModelName": "text",
    "SoftwareVersions": "text",
    "ConvolutionKernel": "text",
    "ContrastBolusAgent": "text",
    "SliceThickness": "number",
    "SpacingBetweenSlices": "number",
    "KVP": "number",
    "XRayTubeCurrent": "number",
    "SpiralPitchFactor": "number",
    "CTDIvol": "number",
    "ReconstructionDiameter": "number",
    "GantryDetectorTilt": "number",
    "SeriesNumber": "number",
    "Rows": "number",
    "Columns": "number",
}

#: Free text that a person typed, so it may hold a patient's name: read only where a site says so.
FREE_TEXT: Mapping[str, Kind] = {
    "StudyDescription": "text",
    "SeriesDescription": "text",
    "ProtocolName": "text",
}


#: What else tells an image that is not plain HU: multi-energy CT (PS3.3 C.8.2.2), projections and
#: other calculations (C.8.16.2), secondary capture (C.8.6.1), physical units (C.7.6.16.2.11).
HINTS = (
    "MultienergyCTAcquisition",
    "VolumetricProperties",
    "VolumeBasedCalculationTechnique",
    "ConversionType",
    "MeasurementUnitsCodeSequence",
)

#: Frames that one instance may describe; a whole-body dynamic CT has some thousands.
MAX_FRAMES = 65_536

#: First value of Software Versions (0018,1020) in every image that `tomodex.phantom` draws.
PHANTOM_MARKER = "TOMODEX-PHANTOM 1"

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
#: What images of these SOP classes are where nothing else says it: anonymisers blank Modality.
_MODALITIES = dict.fromkeys(
    (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.2.2",
    ),
    "CT",
)
SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where one image of an instance lies, and what its pixels mean."""

    position_mm: LPS | None  #: Image Position (Patient) (0020,0032), centre of the first pixel
    orientation: tuple[float, ...] | None  #: Image Orientation (Patient) (0020,0037), 6 cosines
    pixel_spacing_mm: tuple[float, float] | None  #: between (rows, columns) (0028,0030)
    rescale_slope: float | None  #: (0028,1053); None: the header does not say
    rescale_intercept: float | None  #: (0028,1052); None: the header does not say
    rescale_type: str = ""  #: (0028,1054), such as "HU"; "" where the header does not say
    image_type: tuple[str, ...] = ()  #: Image Type (0008,0008) or Frame Type (0008,9007)
    time_point: str = ""  #: tells phases of a 4-D series apart; "" where the header does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One DICOM instance, by its header."""

    path: str  #: a file, or "archive.zip!member" while it is still inside an archive
    series_uid: str  #: (0020,000E); "" where the header has none
    study_uid: str  #: (0020,000D); "" where the header has none
    sop_uid: str  #: (0008,0018), else the file meta's (0002,0003)
    sop_class: str  #: (0008,0016), else the file meta's (0002,0002)
    modality: str  #: (0008,0060), else CT if (0008,0016) is a class of CT
    transfer_syntax: str  #: (0002,0010), else Implicit VR Little Endian
    series_text: str = ""  #: a hash of what stands for (0020,000E) where that is no UID
    patient: str = ""  #: pseudonym; the identifiers themselves never leave the reader
    frame_of_reference_uid: str = ""  #: (0020,0052)
    rows: int = 0
    columns: int = 0
    number_of_frames: int = 1  #: as the header claims; `frames` has those that it describes
    samples_per_pixel: int = 1
    photometric: str = ""  #: (0028,0004)
    bits_allocated: int = 0
    bits_stored: int = 0
    pixel_representation: int = 0  #: 1: signed
    pixel_padding: tuple[int, int] | None = None  #: (0028,0120) to (0028,0121), stored values
    high_bit: int | None = None  #: (0028,0102)
    has_table: bool = False  #: values become HU by a Modality LUT Sequence (0028,3000)
    has_pixels: bool = False  #: Pixel Data (7FE0,0010) is there, and not empty
    #: Where its value begins in the file, and how long it claims to be (0xFFFFFFFF: fragments
    #: follow), bytes; of a deflated file, in what it inflates to. None: it is not there.
    pixel_data: tuple[int, int] | None = None
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    description: str = ""  #: Series Description: to judge by (spectral, ...); never logged or kept
    private: Mapping[str, str] = field(default_factory=dict)  #: `HINTS`: for selection only
    frames: tuple[Frame, ...] = ()
    attributes: Mapping[str, str | float] = field(default_factory=dict)  #: by DICOM keyword
    references: tuple[str, ...] = ()  #: series that a SEG, RTSTRUCT or the like speaks of
    referenced_sop_uids: tuple[
        str, ...
    ] = ()  #: some of its source images, where it names no series

    @property
    def is_phantom(self) -> bool:
        """Was it drawn by `tomodex.phantom`?"""
        return str(self.attributes.get("SoftwareVersions", "")).split("\\")[0] == PHANTOM_MARKER


def read_instance(
    path: str | Path, pseudonymize: Callable[[str], str], free_text: bool = False
) -> Instance | None:
    """What the header of a file says; None if it is no DICOM file.

    `pseudonymize` sees the patient's identifier, nobody else does; `free_text` adds what
    `FREE_TEXT` names to the attributes.

    Raises:
        Unsuitable: it is DICOM, but cannot be read ("unreadable").
        Unavailable: the file cannot be opened or read.
    """
    try:
        with Path(path).open("rb", buffering=0) as stream:
            return read_instance_from(stream, str(path), pseudonymize, free_text)
    except OSError as refused:
        raise Unavailable(f"cannot read a file: {refused.strerror}") from refused


def read_instance_from(
    stream: IO[bytes], path: str, pseudonymize: Callable[[str], str], free_text: bool = False
) -> Instance | None:
    """The same for a stream that stands at the beginning of the file called `path`."""
    # Imported here: it takes 0.3 s, and most commands read no header.
    from tomodex.header import read_header

    header = read_header(stream)
    if header is None:
        return None
    elements = header.elements
    sop_class = _uid(elements, "SOPClassUID") or _uid(header.meta, "MediaStorageSOPClassUID")
    modality = elements.text("Modality") or _MODALITIES.get(_uid(elements, "SOPClassUID"), "")
    if not (sop_class or modality):
        raise Unsuitable("unreadable", "it has neither a SOP Class UID nor a Modality")
    series_uid, study_uid = _uid(elements, "SeriesInstanceUID"), _uid(elements, "StudyInstanceUID")
    sop_uid = _uid(elements, "SOPInstanceUID") or _uid(header.meta, "MediaStorageSOPInstanceUID")
    groups = _Groups(elements)
    references = tuple(sorted(set(_references(elements))))
    return Instance(
        path=path,
        series_uid=series_uid,
        study_uid=study_uid,
        sop_uid=sop_uid,
        sop_class=sop_class,
        modality=modality,
        transfer_syntax=header.transfer_syntax,
        series_text="" if series_uid else _hash(elements.text("SeriesInstanceUID")),
        patient=pseudonymize(_patient(elements, study_uid or series_uid or sop_uid)),
        frame_of_reference_uid=_uid(elements, "FrameOfReferenceUID"),
        rows=elements.integer("Rows") or 0,
        columns=elements.integer("Columns") or 0,
        number_of_frames=_number_of_frames(elements),
        samples_per_pixel=elements.integer("SamplesPerPixel") or 1,
        photometric=elements.text("PhotometricInterpretation"),
        bits_allocated=elements.integer("BitsAllocated") or 0,
        bits_stored=elements.integer("BitsStored") or 0,
        pixel_representation=elements.integer("PixelRepresentation") or 0,
        pixel_padding=_pixel_padding(elements),
        high_bit=elements.integer("HighBit"),
        has_table="ModalityLUTSequence" in elements,
        has_pixels=header.pixel_data is not None and header.pixel_data[1] > 0,
        pixel_data=header.pixel_data,
        acquisition_number=elements.integer("AcquisitionNumber"),
        image_type=elements.texts("ImageType"),
        description=_printable(elements.text("SeriesDescription")),
        private=_hints(groups),
        frames=() if sop_class in SEGMENTATIONS else _frames(elements, groups),
        attributes=_attributes(groups, free_text) | ({"Modality": modality} if modality else {}),
        references=references,
        referenced_sop_uids=() if references else _referenced_sop_uids(elements, groups),
    )


def _uid(elements: Elements, keyword: str) -> str:
    """A UID, or "" where there is none or what stands there is none (PS3.5 9.1)."""
    uid = next(iter(elements.texts(keyword)), "")
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else ""


def _hash(text: str) -> str:
    """What tells one text from another and does not show it; "" of an empty one."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() if text else ""


def _patient(elements: Elements, otherwise: str) -> str:
    """What tells one patient from another: ID and its issuer, else the study alone."""
    identifier, issuer = elements.text("PatientID"), elements.text("IssuerOfPatientID")
    if not identifier:
        return f"study:{otherwise}"
    return f"{identifier}^^^{issuer}" if issuer else identifier


def _number_of_frames(elements: Elements) -> int:
    if "NumberOfFrames" not in elements:
        return 1
    return max(elements.integer("NumberOfFrames") or 1, 1)


def _pixel_padding(elements: Elements) -> tuple[int, int] | None:
    signed = elements.integer("PixelRepresentation") == 1
    value = elements.words("PixelPaddingValue", signed=signed)
    limit = elements.words("PixelPaddingRangeLimit", signed=signed) or value
    return (min(value[0], limit[0]), max(value[0], limit[0])) if value else None


# --- frames -------------------------------------------------------------------------------------


class _Groups:
    """Functional groups of a multi-frame instance: what is shared, and what each frame has."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self.shared = elements.first("SharedFunctionalGroupsSequence")
        self.first = elements.first("PerFrameFunctionalGroupsSequence")

    def everywhere(self) -> Iterator[Elements]:
        """Where an attribute of the series may stand: the dataset, shared, or in a first frame."""
        yield self.elements
        for group in (self.shared, self.first):
            if group:
                yield from group.flat()


def _frames(elements: Elements, groups: _Groups) -> tuple[Frame, ...]:
    """One frame for each that the functional groups describe; one for a classic instance."""
    if groups.first is None:
        return (_frame(elements, None, groups.shared),)
    frames: list[Frame] = []
    for group in elements.items("PerFrameFunctionalGroupsSequence"):
        if len(frames) == MAX_FRAMES:
            raise Unsuitable("unreadable", f"it describes more than {MAX_FRAMES} frames")
        frames.append(_frame(elements, group, groups.shared))
    return tuple(frames)


def _frame(elements: Elements, own: Elements | None, shared: Elements | None) -> Frame:
    def macro(keyword: str) -> Elements:
        for group in (own, shared):
            if group and (item := group.first(keyword)):
                return item
        return elements

    values = macro("PixelValueTransformationSequence")
    kind = macro("CTImageFrameTypeSequence")
    return Frame(
        position_mm=_three(macro("PlanePositionSequence").numbers("ImagePositionPatient")),
        orientation=_six(macro("PlaneOrientationSequence").numbers("ImageOrientationPatient")),
        pixel_spacing_mm=_two(macro("PixelMeasuresSequence").numbers("PixelSpacing")),
        rescale_slope=values.number("RescaleSlope"),
        rescale_intercept=values.number("RescaleIntercept"),
        rescale_type=values.text("RescaleType"),
        image_type=kind.texts("FrameType") or elements.texts("ImageType"),
        time_point=_time_point(elements, own),
    )


def _time_point(elements: Elements, own: Elements | None) -> str:
    """Which phase an image belongs to. Not its acquisition time: that differs slice by slice."""
    parts = []
    for keyword, sequence in _PHASES.items():
        item = (own.first(sequence) if own else None) or elements
        if (number := item.number(keyword)) is not None:
            parts.append(f"{keyword}={number:g}")
    return " ".join(parts)


#: What tells phases apart -> the functional group that it stands in (PS3.3 C.7.6.16.2).
_PHASES = {
    "TemporalPositionIdentifier": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "TemporalPositionTimeOffset": "TemporalPositionSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalPercentageOfRespiratoryPhase": "RespiratorySynchronizationSequence",
}


def _two(numbers: tuple[float, ...]) -> tuple[float, float] | None:
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _three(numbers: tuple[float, ...]) -> LPS | None:
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _six(numbers: tuple[float, ...]) -> tuple[float, ...] | None:
    return numbers if len(numbers) == 6 else None


# --- attributes ---------------------------------------------------------------------------------

#: Where enhanced CT has the same under another keyword.
_OTHER_KEYWORDS = {"XRayTubeCurrent": ("XRayTubeCurrentInmA",)}

#: Characters of one attribute that are kept; DICOM allows 64 a value, and several values.
_MAX_TEXT = 1024


def _attributes(groups: _Groups, free_text: bool) -> dict[str, str | float]:
    wanted = {**ATTRIBUTES, **FREE_TEXT} if free_text else ATTRIBUTES
    places = list(groups.everywhere())
    attributes: dict[str, str | float] = {}
    for keyword, kind in wanted.items():
        value = _age(groups.elements) if keyword == "PatientAge" else _find(places, keyword, kind)
        if value is not None and value != "":
            attributes[keyword] = value
    if "ContrastBolusAgent" not in attributes and (agent := _contrast_agent(groups.elements)):
        attributes["ContrastBolusAgent"] = agent
    return attributes


def _find(places: list[Elements], keyword: str, kind: Kind) -> str | float | None:
    """The first place's value that is one of that kind."""
    value: str | float | None = None
    for name in (keyword, *_OTHER_KEYWORDS.get(keyword, ())):
        for place in places:
            if kind == "number":
                value = place.number(name)
            elif kind == "date":
                day = _day(place.text(name))
                value = day.isoformat() if day else None
            else:
                value = _printable(place.text(name))
            if value is not None and value != "":
                return value
    return None


def _day(text: str) -> date | None:
    """A date, as DICOM writes it or as ACR-NEMA did."""
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text, re.ASCII)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _age(elements: Elements) -> float | None:
    """Age in years, as the header says it (PS3.5 6.2, AS), else on the day of the study."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", elements.text("PatientAge"), re.ASCII)
    if match:
        return round(int(match[1]) / _PER_YEAR[match[2]], 2)
    born, seen = _day(elements.text("PatientBirthDate")), _day(elements.text("StudyDate"))
    if born is None or seen is None or born > seen:
        return None
    birthday_passed = (seen.month, seen.day) >= (born.month, born.day)
    years = seen.year - born.year - (not birthday_passed)
    # Whole years from the first birthday on, as people and DICOM's "Y" count them.
    return float(years) if years else round((seen - born).days / _PER_YEAR["D"], 2)


_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}


def _contrast_agent(elements: Elements) -> str:
    agents = elements.items("ContrastBolusAgentSequence")
    return _printable("\\".join(filter(None, (agent.text("CodeMeaning") for agent in agents))))


def _printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or fill a page."""
    short = text[:_MAX_TEXT]
    return short if short.isprintable() else "".join(c if c.isprintable() else " " for c in short)


def _hints(groups: _Groups) -> dict[str, str]:
    """Values of `HINTS`, from wherever they stand."""
    hints: dict[str, str] = {}
    for place in groups.everywhere():
        for keyword in HINTS:
            if keyword in place and keyword not in hints:
                hints[keyword] = place.text(keyword)
        for mapping in place.items("RealWorldValueMappingSequence"):
            if unit := mapping.first("MeasurementUnitsCodeSequence"):
                hints.setdefault("MeasurementUnitsCodeSequence", unit.text("CodeValue"))
    return {keyword: _printable(text) for keyword, text in hints.items() if text}


# --- references ---------------------------------------------------------------------------------

#: Source images that are remembered of a segmentation which does not name their series: one finds
#: the series, some more are there for the case that it has been thinned out.
_MAX_SOURCE_IMAGES = 16


def _references(elements: Elements) -> Iterator[str]:
    """Series that the dataset names (PS3.3 C.12.4), or its RT frame of reference (C.8.8.5)."""
    series = list(elements.items("ReferencedSeriesSequence"))
    for frame in elements.items("ReferencedFrameOfReferenceSequence"):
        for study in frame.items("RTReferencedStudySequence"):
            series += study.items("RTReferencedSeriesSequence")
    for item in series:
        if uid := _uid(item, "SeriesInstanceUID"):
            yield uid


def _referenced_sop_uids(elements: Elements, groups: _Groups) -> tuple[str, ...]:
    """Some SOP Instance UIDs that the functional groups derive from (PS3.3 C.7.6.16.2.6)."""
    uids: dict[str, None] = {}
    shared = [groups.shared] if groups.shared else []
    for group in (*shared, *elements.items("PerFrameFunctionalGroupsSequence")):
        for derivation in group.items("DerivationImageSequence"):
            for source in derivation.items("SourceImageSequence"):
                uids[_uid(source, "ReferencedSOPInstanceUID")] = None
        if len(uids) >= _MAX_SOURCE_IMAGES:
            break
    return tuple(uid for uid in uids if uid)[:_MAX_SOURCE_IMAGES]
