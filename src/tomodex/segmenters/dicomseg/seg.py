"""What a DICOM SEG object says of its segments and frames, without its pixels (PS3.3 A.51)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from tomodex.elements import Elements
from tomodex.errors import Unavailable, Unsuitable
from tomodex.header import read_header
from tomodex.instance import SEGMENTATIONS

Kind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]

#: Pixels of one frame: four times the largest CT matrix there is.
MAX_FRAME_PIXELS = 4096 * 4096
#: Pixels of all frames: 117 structures of 512 x 512 x 560, none of them left out where empty.
MAX_PIXELS = 2**34
#: No patient is farther from the origin of a frame of reference, mm.
_FARTHEST_MM = 1e5
#: A direction cosine may be off by so much: some writers round to three decimals.
_COSINE_TOLERANCE = 0.01

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded entry (PS3.3 8.8)."""

    scheme: str  #: coding scheme designator, such as "SCT", "SRT", "99DCMQI"
    value: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one segment is said to be."""

    number: int
    label: str  #: free text: for resolving only, never published or logged
    category: Code | None
    kind: Code | None  #: Segmented Property Type
    kind_modifiers: tuple[Code, ...]
    region: Code | None  #: anatomic region, where the type is no structure
    region_modifiers: tuple[Code, ...]
    algorithm_type: str  #: AUTOMATIC, SEMIAUTOMATIC, MANUAL
    algorithm_name: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SegFrame:
    """Where one frame lies, and of which segment it is."""

    index: int  #: in the pixel data, from 0
    segment: int | None  #: segment number; None: a label map, its values are segment numbers
    affine: Affine  #: (4, 4), (distance along the normal in mm, row, column, 1) -> LPS, mm
    between_mm: float | None  #: Spacing Between Slices (0018,0088)
    thickness_mm: float | None  #: Slice Thickness (0018,0050)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Seg:
    """One DICOM SEG object."""

    path: Path
    sop_uid: str
    kind: Kind
    made: str  #: content date and time as DICOM writes them: the later, the greater
    made_by: str  #: manufacturer, model and software version
    transfer_syntax: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_data: tuple[int, int] | None  #: as in `tomodex.instance.Instance`
    max_fraction: int  #: of FRACTIONAL: the value that means 1
    segments: tuple[Segment, ...]
    frames: tuple[SegFrame, ...]


def read_seg(path: Path) -> Seg | None:
    """Read the header of a DICOM SEG object; None if the file is something else.

    Raises:
        Unsuitable: it is one, but broken, or larger than can be meant (unreadable, too_large).
        Unavailable: the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            header = read_header(stream)
    except OSError as refused:
        raise Unavailable(f"cannot read a file: {refused.strerror}") from refused
    if header is None or header.elements.text("SOPClassUID") not in SEGMENTATIONS:
        return None
    elements = header.elements
    kind = elements.text("SegmentationType")
    if kind not in get_args(Kind):
        raise Unsuitable("unreadable", "its Segmentation Type is none that we know")
    frames = tuple(_frames(elements, kind == "LABELMAP"))
    rows, columns = _positive(elements, "Rows"), _positive(elements, "Columns")
    _require_size(rows, columns, len(frames))
    if len(frames) != (elements.integer("NumberOfFrames") or 1):
        raise Unsuitable("unreadable", f"it describes {len(frames)} frames, and has others")
    return Seg(
        path=path,
        sop_uid=elements.text("SOPInstanceUID"),
        kind=cast(Kind, kind),
        made=f"{elements.text('ContentDate')}{elements.text('ContentTime')}",
        made_by=_made_by(elements),
        transfer_syntax=header.transfer_syntax,
        rows=rows,
        columns=columns,
        bits_allocated=_positive(elements, "BitsAllocated"),
        bits_stored=_positive(elements, "BitsStored"),
        pixel_data=header.pixel_data,
        max_fraction=elements.integer("MaximumFractionalValue") or 255,
        segments=tuple(_segments(elements)),
        frames=frames,
    )


def _positive(elements: Elements, keyword: str) -> int:
    value = elements.integer(keyword)
    if value is None or value < 1:
        raise Unsuitable("unreadable", f"its {keyword} is {value}")
    return value


def _require_size(rows: int, columns: int, frames: int) -> None:
    if rows * columns > MAX_FRAME_PIXELS or rows * columns * frames > MAX_PIXELS:
        found = f"{frames} frames of {rows} x {columns}"
        raise Unsuitable("too_large", f"{found} are more than a segmentation can be meant to have")


def _made_by(elements: Elements) -> str:
    said = (elements.text(k) for k in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))
    return printable(" ".join(filter(None, said)))


def printable(text: str) -> str:
    """As much of a text as fits into DICOM's LO, without what could move a terminal's cursor."""
    return "".join(c for c in text[:64] if c.isprintable()).strip()


# --- segments -----------------------------------------------------------------------------------


def _segments(elements: Elements) -> Iterator[Segment]:
    for item in elements.items("SegmentSequence"):
        number = item.integer("SegmentNumber")
        if number is None:
            raise Unsuitable("unreadable", "a segment has no number")
        kind = item.first("SegmentedPropertyTypeCodeSequence")
        region = item.first("AnatomicRegionSequence")
        yield Segment(
            number=number,
            label=item.text("SegmentLabel"),
            category=_code(item.first("SegmentedPropertyCategoryCodeSequence")),
            kind=_code(kind),
            kind_modifiers=_codes(kind, "SegmentedPropertyTypeModifierCodeSequence"),
            region=_code(region),
            region_modifiers=_codes(region, "AnatomicRegionModifierSequence"),
            algorithm_type=printable(item.text("SegmentAlgorithmType")),
            algorithm_name=printable(item.text("SegmentAlgorithmName")),
        )


def _code(item: Elements | None) -> Code | None:
    """The code of an item; None where it has none."""
    if item is None:
        return None
    values = (item.text(k) for k in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    value = next(filter(None, values), "")
    scheme, meaning = item.text("CodingSchemeDesignator"), item.text("CodeMeaning")
    return Code(scheme=scheme, value=value, meaning=meaning) if value else None


def _codes(item: Elements | None, keyword: str) -> tuple[Code, ...]:
    items = item.items(keyword) if item else ()
    return tuple(code for code in map(_code, items) if code)


# --- frames -------------------------------------------------------------------------------------


#: Functional groups by keyword, of one frame or shared by all.
_Macros = Mapping[str, Elements]

_MACROS = (
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "SegmentIdentificationSequence",
)


def _frames(elements: Elements, labelmap: bool) -> Iterator[SegFrame]:
    shared = _macros(elements.first("SharedFunctionalGroupsSequence"))
    for index, own in enumerate(elements.items("PerFrameFunctionalGroupsSequence")):
        macros = {**shared, **_macros(own)}
        measures = macros.get("PixelMeasuresSequence")
        identified = macros.get("SegmentIdentificationSequence")
        segment = identified.integer("ReferencedSegmentNumber") if identified else None
        if segment is None and not labelmap:
            raise Unsuitable("unreadable", f"frame {index + 1} does not say its segment")
        yield SegFrame(
            index=index,
            segment=None if labelmap else segment,
            affine=_affine(macros),
            between_mm=_length(measures, "SpacingBetweenSlices"),
            thickness_mm=_length(measures, "SliceThickness"),
        )


def _macros(group: Elements | None) -> _Macros:
    items = ((k, group.first(k) if group else None) for k in _MACROS)
    return {keyword: item for keyword, item in items if item is not None}


def _length(measures: Elements | None, keyword: str) -> float | None:
    """A length in mm; None where it is missing or cannot be meant."""
    value = measures.number(keyword) if measures else None
    return value if value is not None and 1e-3 <= value <= 1e3 else None


def _affine(macros: _Macros) -> Affine:
    """From the Image Plane's attributes (PS3.3 C.7.6.2.1.1), with the normal as first axis."""
    position = _numbers(macros, "PlanePositionSequence", "ImagePositionPatient")
    if len(position) != 3 or max(map(abs, position)) > _FARTHEST_MM:
        raise Unsuitable("no_geometry", "a frame does not say where in the patient it lies")
    affine = np.eye(4)
    affine[:3, :3] = _axes(
        _numbers(macros, "PlaneOrientationSequence", "ImageOrientationPatient"),
        _numbers(macros, "PixelMeasuresSequence", "PixelSpacing"),
    )
    affine[:3, 3] = position
    return affine


def _numbers(macros: _Macros, group: str, keyword: str) -> tuple[float, ...]:
    return macros[group].numbers(keyword) if group in macros else ()


@lru_cache(maxsize=16)
def _axes(cosines: tuple[float, ...], spacing: tuple[float, ...]) -> Affine:
    """(3, 3): normal, step from row to row, step from column to column."""
    if len(spacing) != 2 or not 1e-3 <= min(spacing) <= max(spacing) <= 1e3:
        raise Unsuitable("no_geometry", "a frame does not say how far its pixels are apart")
    if len(cosines) != 6 or max(map(abs, cosines)) > 2:
        raise Unsuitable("no_geometry", "a frame does not say how it is turned")
    along_row, along_column = np.reshape(cosines, (2, 3))
    normal = np.cross(along_row, along_column)
    lengths = np.linalg.norm([along_row, along_column, normal], axis=1)
    # The length of the normal tells that the other two are at right angles.
    if not np.allclose(lengths, 1.0, rtol=0.0, atol=_COSINE_TOLERANCE):
        raise Unsuitable("no_geometry", "the orientation of a frame is no orientation")
    return np.stack([normal, along_column * spacing[0], along_row * spacing[1]], axis=1)
