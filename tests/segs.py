"""DICOM SEG objects written by hand, so that nothing but the test decides what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

Coded = tuple[str, str, str]  #: value, scheme, meaning

STRUCTURE: Coded = ("91723000", "SCT", "Anatomical Structure")
ALTERED: Coded = ("49755003", "SCT", "Morphologically Altered Structure")
TISSUE: Coded = ("85756007", "SCT", "Tissue")
LEFT: Coded = ("7771000", "SCT", "Left")
RIGHT: Coded = ("24028007", "SCT", "Right")
LIVER: Coded = ("10200004", "SCT", "Liver")
SPLEEN: Coded = ("78961009", "SCT", "Spleen")
KIDNEY: Coded = ("64033007", "SCT", "Kidney")


@dataclass(frozen=True, kw_only=True)
class Seg:
    """A segment to be written."""

    kind: Coded | None = LIVER
    category: Coded | None = STRUCTURE
    modifier: Coded | None = None
    region: Coded | None = None
    region_modifier: Coded | None = None
    label: str = "Segment"
    algorithm_type: str = "AUTOMATIC"
    algorithm_name: str = "Drawn"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame to be written, with (rows, columns) pixels as they are stored."""

    pixels: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]  #: (4, 4), (slice, row, column, 1) -> LPS; slice is 0 here
    segment: int = 1


def code(coded: Coded) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = coded
    return item


def write_seg(
    path: Path,
    frames: Sequence[Frame],
    segments: Sequence[Seg] = (Seg(),),
    *,
    kind: str = "BINARY",
    between_mm: float | None = None,
    thickness_mm: float | None = None,
    made: tuple[str, str] = ("20200101", "120000"),
    transfer_syntax: str = ExplicitVRLittleEndian,
    encoded: Sequence[bytes] | None = None,
    **others: object,
) -> Path:
    """Write an object with these frames, in this order; `others` are set last, by keyword."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.SOPClassUID = LABELMAP_STORAGE if kind == "LABELMAP" else SEG_STORAGE
    ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.Modality, ds.SegmentationType = "SEG", kind
    ds.Manufacturer, ds.SoftwareVersions = "Tests", "1"
    ds.ContentDate, ds.ContentTime = made
    ds.Rows, ds.Columns = frames[0].pixels.shape
    ds.NumberOfFrames = len(frames)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 1 if kind == "BINARY" else 8 * frames[0].pixels.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = 0
    if kind == "FRACTIONAL":
        ds.MaximumFractionalValue, ds.SegmentationFractionalType = 200, "PROBABILITY"
    ds.SegmentSequence = Items(
        [_segment(number, segment) for number, segment in enumerate(segments, start=1)]
    )
    ds.PerFrameFunctionalGroupsSequence = Items(
        [_groups(frame, kind, between_mm, thickness_mm) for frame in frames]
    )
    ds.PixelData = encapsulate(list(encoded)) if encoded else _pack(frames, bits)
    ds["PixelData"].VR = "OB" if bits < 16 or encoded else "OW"
    ds["PixelData"].is_undefined_length = encoded is not None
    for keyword, value in others.items():
        setattr(ds, keyword, value)
    if transfer_syntax == DEFLATED_FRAMES:
        # Too new for pydicom, which must be told how the rest of the object is encoded.
        ds.preamble = bytes(128)
        ds.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)
    else:
        ds.save_as(path, enforce_file_format=True)
    return path


def _pack(frames: Sequence[Frame], bits: int) -> bytes:
    values = np.stack([frame.pixels for frame in frames])
    if bits == 1:
        packed = np.packbits(values.ravel() > 0, bitorder="little").tobytes()
    else:
        packed = values.astype(f"<u{bits // 8}").tobytes()
    return packed + b"\0" * (len(packed) % 2)


def _segment(number: int, segment: Seg) -> Dataset:
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = number, segment.label
    item.SegmentAlgorithmType = segment.algorithm_type
    item.SegmentAlgorithmName = segment.algorithm_name
    if segment.category:
        item.SegmentedPropertyCategoryCodeSequence = Items([code(segment.category)])
    if segment.kind:
        kind = code(segment.kind)
        if segment.modifier:
            kind.SegmentedPropertyTypeModifierCodeSequence = Items([code(segment.modifier)])
        item.SegmentedPropertyTypeCodeSequence = Items([kind])
    if segment.region:
        region = code(segment.region)
        if segment.region_modifier:
            region.AnatomicRegionModifierSequence = Items([code(segment.region_modifier)])
        item.AnatomicRegionSequence = Items([region])
    return item


def _groups(
    frame: Frame, kind: str, between_mm: float | None, thickness_mm: float | None
) -> Dataset:
    down, along = frame.affine[:3, 1], frame.affine[:3, 2]
    spacing = [float(np.linalg.norm(down)), float(np.linalg.norm(along))]
    groups, position, turned, measures = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [_decimal(v) for v in frame.affine[:3, 3]]
    cosines = [*(along / spacing[1]), *(down / spacing[0])]
    turned.ImageOrientationPatient = [_decimal(v) for v in cosines]
    measures.PixelSpacing = [_decimal(v) for v in spacing]
    if between_mm is not None:
        measures.SpacingBetweenSlices = _decimal(between_mm)
    if thickness_mm is not None:
        measures.SliceThickness = _decimal(thickness_mm)
    groups.PlanePositionSequence = Items([position])
    groups.PlaneOrientationSequence = Items([turned])
    groups.PixelMeasuresSequence = Items([measures])
    if kind != "LABELMAP":
        identification = Dataset()
        identification.ReferencedSegmentNumber = frame.segment
        groups.SegmentIdentificationSequence = Items([identification])
    return groups


def _decimal(value: float) -> str:
    """A number in the 16 characters that DICOM's DS has for it."""
    return f"{value:.8f}"[:16]


def frame_affine(affine: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """The affine of slice `k` of a volume, with that slice as its slice 0."""
    moved = affine.copy()
    moved[:3, 3] += k * affine[:3, 0]
    return moved


def frames_of(
    mask: npt.NDArray[Any], affine: npt.NDArray[np.float64], segment: int = 1
) -> list[Frame]:
    """One frame for each slice of a (slices, rows, columns) mask that is not empty."""
    return [
        Frame(pixels=plane, affine=frame_affine(affine, k), segment=segment)
        for k, plane in enumerate(mask)
        if plane.any()
    ]
