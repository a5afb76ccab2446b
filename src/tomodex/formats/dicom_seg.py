"""Masks as DICOM SEG objects (PS3.3 A.51): one for each layer, as segments of one do not overlap.

A label map (LABELMAP) has one frame for each slice, and its values are segment numbers. BINARY,
which older software knows, has a frame of one bit a pixel for each slice of each segment that is
not empty. Frames lie where those of the series truly lie: nothing is mirrored or evened out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)
from pydicom.valuerep import format_number_as_ds

from tomodex.errors import Misconfigured
from tomodex.formats.dicom_coding import Coded, coded
from tomodex.formats.dicom_header import (
    Made,
    Subject,
    begin_object,
    code_item,
    made_uid,
    moment,
    referenced_series,
)
from tomodex.formats.lossy import Lossy, put_lossy
from tomodex.geometry import Geometry
from tomodex.instance import Instance
from tomodex.masks import Labels, Masks
from tomodex.segmentation import Algorithm
from tomodex.terminology import Terminology

#: How segments are stored.
Kind = Literal["LABELMAP", "BINARY"]

#: How the file is packed. rle: label maps only. deflated: the whole file, also of BINARY.
Packing = Literal["native", "rle", "deflated"]

SOP_CLASSES: Mapping[Kind, str] = {
    "LABELMAP": "1.2.840.10008.5.1.4.1.1.66.7",
    "BINARY": "1.2.840.10008.5.1.4.1.1.66.4",
}

_SYNTAXES: Mapping[Packing, UID] = {
    "native": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "deflated": DeflatedExplicitVRLittleEndian,
}

#: Behind the series of an archive, which are numbered from 1.
SERIES_NUMBER = 9101

#: Frames of one bit are packed so many at a time, as then they fill whole bytes.
_WHOLE_BYTES = 8

#: Segment Algorithm Name and other Long Strings (PS3.5 6.2).
_LONG_STRING = 64

_BACKGROUND = Coded("125040", "DCM", "Background")
_SEGMENTATION = Coded("113076", "DCM", "Segmentation")
_SOURCE_IMAGE = Coded("121322", "DCM", "Source image for image processing operation")
_AI = Coded("123110", "DCM", "Artificial Intelligence")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Origin:
    """The series that masks are of."""

    series_uid: str
    subject: Subject
    instances: Sequence[Instance]
    geometry: Geometry
    lossy: Lossy | None = None  #: how its images were compressed with loss; None: they were not


def write_segs(
    masks: Masks,
    origin: Origin,
    terminology: Terminology,
    kind: Kind,
    packing: Packing,
    at: datetime,
) -> Iterator[Dataset]:
    """A DICOM SEG for each layer of `masks`, which lie on the frames of the series.

    The UIDs are made from what was segmented, how, with which codes and when: the same again is the
    same object, and anything else another one (PS3.5 9.1). 117 structures of 400 x 512 x 512
    voxels: see `bench/dicom_seg.py`.

    Raises:
        Misconfigured: BINARY cannot be packed so.
    """
    if kind == "BINARY" and packing == "rle":
        raise Misconfigured("one bit a pixel cannot be packed by rle; use native or deflated")
    for number, (labels, names) in enumerate(zip(masks.layers, masks.names, strict=True)):
        layer = _Layer(labels=labels, names=list(names.items()), algorithm=masks.algorithm)
        yield _write(layer, number, origin, terminology, kind, packing, at)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Layer:
    labels: Labels
    names: Sequence[tuple[int, str]]  #: label and structure; the first is segment 1
    algorithm: Algorithm

    @property
    def segments(self) -> npt.NDArray[np.uint8]:
        """(256,): the segment number of each label."""
        table = np.zeros(256, np.uint8)
        for number, (label, _) in enumerate(self.names, start=1):
            table[label] = number
        return table


def _write(
    layer: _Layer,
    number: int,
    origin: Origin,
    terminology: Terminology,
    kind: Kind,
    packing: Packing,
    at: datetime,
) -> Dataset:
    facts = (*_facts(layer, origin, terminology, kind), moment(at))
    made = Made(
        sop_class=SOP_CLASSES[kind],
        sop_uid=made_uid("segmentation", number, *facts),
        series_uid=made_uid("segmentation series", *facts),
        series_number=SERIES_NUMBER,
        series_description=f"Tomodex segmentation ({kind.lower()})",
        modality="SEG",
        at=at,
    )
    ds = begin_object(origin.subject, made, _SYNTAXES[packing])
    ds.InstanceNumber = number + 1
    frames = _Frames(origin, made_uid("frame of reference", origin.series_uid))
    _describe_image(ds, origin.geometry, kind)
    put_lossy(ds, origin.lossy)
    ds.SegmentSequence = list(_segments(layer, origin, terminology, kind))
    frames.describe(ds, kind)
    if kind == "LABELMAP":
        _put_label_map(ds, layer, frames, packing)
    else:
        _put_binary(ds, layer, frames)
    return ds


def _facts(
    layer: _Layer, origin: Origin, terminology: Terminology, kind: Kind
) -> tuple[object, ...]:
    """All that tells one segmentation of a series from another."""
    algorithm = layer.algorithm
    return (
        origin.series_uid,
        kind,
        tuple(layer.names),
        terminology.version,
        algorithm.name,
        algorithm.version,
        algorithm.model,
        algorithm.weights_sha256,
        tuple(sorted(algorithm.options.items())),
        algorithm.segmentation_uids,
        tuple(origin.instances[i].sop_uid for i, _ in origin.geometry.slices),
    )


def _describe_image(ds: Dataset, geometry: Geometry, kind: Kind) -> None:
    """Segmentation Image and Image Pixel modules (PS3.3 C.8.20.2)."""
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel, ds.ContentDescription = "TOMODEX", "Anatomical structures"
    ds.ContentCreatorName = ""
    ds.SegmentationType, ds.SegmentsOverlap = kind, "NO"
    _, ds.Rows, ds.Columns = geometry.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 1 if kind == "BINARY" else 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "NO"
    if kind == "LABELMAP":
        ds.PixelPaddingValue = 0


# --- segments -------------------------------------------------------------------------------------


def _segments(
    layer: _Layer, origin: Origin, terminology: Terminology, kind: Kind
) -> Iterator[Dataset]:
    if kind == "LABELMAP":
        yield _background(layer.algorithm)
    for number, (_, name) in enumerate(layer.names, start=1):
        yield _segment(number, name, origin, terminology, layer.algorithm)


def _background(algorithm: Algorithm) -> Dataset:
    """What value 0 of a label map means (PS3.3 C.8.20.2.3.3)."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 0, "Background"
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = _means(algorithm)
    item.SegmentedPropertyCategoryCodeSequence = [code_item(*_BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(*_BACKGROUND)]
    return item


def _segment(
    number: int, name: str, origin: Origin, terminology: Terminology, algorithm: Algorithm
) -> Dataset:
    structure = terminology.structures[name]
    codes = coded(structure)
    kind = code_item(*codes.kind)
    if codes.kind_side:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(*codes.kind_side)]
    if codes.equivalent and not structure.laterality:
        # RadLex has the sides in its codes, and the type alone has none.
        kind.EquivalentCodeSequence = [code_item(*codes.equivalent)]
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = number, structure.display[:_LONG_STRING]
    item.SegmentDescription = name
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = _means(algorithm)
    item.SegmentationAlgorithmIdentificationSequence = [_identification(algorithm)]
    item.SegmentedPropertyCategoryCodeSequence = [code_item(*codes.category)]
    item.SegmentedPropertyTypeCodeSequence = [kind]
    if codes.site:
        site = code_item(*codes.site)
        if codes.site_side:
            site.AnatomicRegionModifierSequence = [code_item(*codes.site_side)]
        item.AnatomicRegionSequence = [site]
    item.TrackingID = tracking_id(name)
    item.TrackingUID = tracking_uid(origin.series_uid, name)
    return item


def tracking_id(name: str) -> str:
    """What a structure is followed by through segmentations and measurements."""
    return f"tomodex {name}"


def tracking_uid(series_uid: str, name: str) -> str:
    """The same for a program: one for each structure of each series."""
    return made_uid("tracking", series_uid, name)


def _means(algorithm: Algorithm) -> tuple[str, str]:
    """Segment Algorithm Type and Name. Nobody says of all stored segmentations who drew them."""
    kind = "SEMIAUTOMATIC" if algorithm.segmentation_uids else "AUTOMATIC"
    return kind, _long_string(algorithm.name)


def _identification(algorithm: Algorithm) -> Dataset:
    """Algorithm Identification Macro (PS3.3 10.16)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [code_item(*_AI)]
    item.AlgorithmName = _long_string(algorithm.name)
    item.AlgorithmVersion = _long_string(algorithm.version or algorithm.model or "not known")
    item.AlgorithmParameters = parameters(algorithm)
    return item


def parameters(algorithm: Algorithm) -> str:
    """All that changes the labels, as a text; it has room for 10,240 characters."""
    facts = {"model": algorithm.model, "weights_sha256": algorithm.weights_sha256}
    said = {**facts, **algorithm.options}
    return "; ".join(f"{name}={value}" for name, value in said.items() if value)[:10_240]


def _long_string(text: str) -> str:
    return text.replace("\\", "/")[:_LONG_STRING]


# --- frames ---------------------------------------------------------------------------------------


class _Frames:
    """Where the slices of a series lie, as functional groups say it (PS3.3 C.7.6.16)."""

    def __init__(self, origin: Origin, made_frame_of_reference: str) -> None:
        self._origin = origin
        self._geometry = origin.geometry
        known = [origin.instances[i].frame_of_reference_uid for i, _ in origin.geometry.slices]
        # All instances of a series share it (PS3.3 C.7.4.1); some have none.
        self._frame_of_reference = next(filter(None, known), made_frame_of_reference)
        self._positions = [self._position(k) for k in range(len(origin.geometry.slices))]
        self._sources = [self._source(k) for k in range(len(origin.geometry.slices))]

    def describe(self, ds: Dataset, kind: Kind) -> None:
        """Frame of reference, references, and what all frames share."""
        origin = self._origin
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = self._frame_of_reference, ""
        used = dict.fromkeys(i for i, _ in self._geometry.slices)
        images = [(origin.instances[i].sop_class, origin.instances[i].sop_uid) for i in used]
        ds.ReferencedSeriesSequence = [referenced_series(origin.series_uid, images)]
        ds.SharedFunctionalGroupsSequence = [self._shared()]
        _describe_dimensions(ds, kind)

    def _shared(self) -> Dataset:
        columns = self._geometry.affine[:3, :3]
        lengths = np.linalg.norm(columns, axis=0)
        down, along = columns[:, 1] / lengths[1], columns[:, 2] / lengths[2]
        normal = np.cross(along, down)
        between_mm = abs(float(columns[:, 0] @ normal))
        orientation, measures, groups = Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = [_decimal(c) for c in (*along, *down)]
        measures.PixelSpacing = [_decimal(lengths[1]), _decimal(lengths[2])]
        measures.SliceThickness = _decimal(between_mm)
        measures.SpacingBetweenSlices = _decimal(between_mm)
        groups.PlaneOrientationSequence = [orientation]
        groups.PixelMeasuresSequence = [measures]
        return groups

    def item(self, k: int, segment: int | None) -> Dataset:
        """The functional groups of a frame on slice k; of a label map it has no segment."""
        place, groups = Dataset(), Dataset()
        place.DimensionIndexValues = [k + 1] if segment is None else [segment, k + 1]
        groups.FrameContentSequence = [place]
        groups.PlanePositionSequence = [self._positions[k]]
        groups.DerivationImageSequence = [self._sources[k]]
        if segment is not None:
            identified = Dataset()
            identified.ReferencedSegmentNumber = segment
            groups.SegmentIdentificationSequence = [identified]
        return groups

    def _position(self, k: int) -> Dataset:
        """Where its own header says that the frame lies, not where an even grid would put it."""
        i, frame = self._geometry.slices[k]
        position = self._origin.instances[i].frames[frame].position_mm
        item = Dataset()
        item.ImagePositionPatient = [_decimal(c) for c in position or ()]
        return item

    def _source(self, k: int) -> Dataset:
        i, frame = self._geometry.slices[k]
        instance = self._origin.instances[i]
        source = Dataset()
        source.ReferencedSOPClassUID = instance.sop_class
        source.ReferencedSOPInstanceUID = instance.sop_uid
        if instance.number_of_frames > 1:
            source.ReferencedFrameNumber = frame + 1
        source.SpatialLocationsPreserved = "YES"
        source.PurposeOfReferenceCodeSequence = [code_item(*_SOURCE_IMAGE)]
        item = Dataset()
        item.SourceImageSequence = [source]
        item.DerivationCodeSequence = [code_item(*_SEGMENTATION)]
        return item


def _describe_dimensions(ds: Dataset, kind: Kind) -> None:
    """Frames go by segment, then along the slices (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = made_uid("dimensions", ds.SOPInstanceUID)
    ds.DimensionOrganizationSequence = [organization]
    pointers = [("ImagePositionPatient", "PlanePositionSequence")]
    if kind == "BINARY":
        pointers.insert(0, ("ReferencedSegmentNumber", "SegmentIdentificationSequence"))
    ds.DimensionIndexSequence = [
        _pointer(organization.DimensionOrganizationUID, *names) for names in pointers
    ]


def _pointer(organization_uid: str, keyword: str, group: str) -> Dataset:
    from pydicom.datadict import tag_for_keyword

    item = Dataset()
    item.DimensionOrganizationUID = organization_uid
    item.DimensionIndexPointer = tag_for_keyword(keyword)
    item.FunctionalGroupPointer = tag_for_keyword(group)
    item.DimensionDescriptionLabel = keyword
    return item


def _decimal(value: float) -> str:
    """A Decimal String of up to 16 characters, as exact as they allow."""
    return format_number_as_ds(float(value) + 0.0)


# --- pixels ---------------------------------------------------------------------------------------


def _put_label_map(ds: Dataset, layer: _Layer, frames: _Frames, packing: Packing) -> None:
    segments = layer.segments
    ds.PerFrameFunctionalGroupsSequence = [frames.item(k, None) for k in range(len(layer.labels))]
    ds.NumberOfFrames = len(layer.labels)
    values = (segments[of_slice] for of_slice in layer.labels)
    if packing == "rle":
        ds.PixelData = encapsulate([_rle(one) for one in values])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    else:
        _put_bytes(ds, b"".join(one.tobytes() for one in values))


def _rle(frame: npt.NDArray[np.uint8]) -> bytes:
    """A frame as DICOM's RLE (PS3.5 G): one segment, each of its rows packed on its own."""
    packed = bytes(imagecodecs.packbits_encode(np.ascontiguousarray(frame), axis=-1))
    header = np.zeros(16, "<u4")
    header[:2] = 1, 64
    return header.tobytes() + packed + b"\0" * (len(packed) % 2)


def _put_binary(ds: Dataset, layer: _Layer, frames: _Frames) -> None:
    items: list[Dataset] = []
    pieces: list[bytes] = []
    present = _present(layer.labels)
    pending: list[npt.NDArray[np.bool_]] = []
    for number, (label, _) in enumerate(layer.names, start=1):
        for k in np.flatnonzero(present[:, label]).tolist():
            items.append(frames.item(k, number))
            pending.append(layer.labels[k] == label)
            if len(pending) == _WHOLE_BYTES:
                pieces.append(_bits(pending))
                pending = []
    pieces.append(_bits(pending))
    ds.PerFrameFunctionalGroupsSequence = items
    ds.NumberOfFrames = len(items)
    _put_bytes(ds, b"".join(pieces))


def _present(labels: Labels) -> npt.NDArray[np.bool_]:
    """(slices, 256): which label is on which slice."""
    return np.array([np.bincount(one.ravel(), minlength=256) > 0 for one in labels])


def _bits(frames: Sequence[npt.NDArray[np.bool_]]) -> bytes:
    """Pixels packed without gaps between frames, the first in the lowest bit (PS3.5 8.1.1)."""
    return np.packbits(np.array(frames, np.bool_).ravel(), bitorder="little").tobytes()


def _put_bytes(ds: Dataset, pixels: bytes) -> None:
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = "OB"
