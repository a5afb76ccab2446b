"""What the header of one DICOM instance says, without its pixels.

An `Instance` is what `Source.find` and `Source.retrieve` read; geometry and selection are judged
from it alone. A multi-frame instance has one `Frame` for each of its frames, a classic one has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    modality: str  #: (0008,0060)
    transfer_syntax: str  #: (0002,0010), else Implicit VR Little Endian
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
    has_pixels: bool = False  #: Pixel Data (7FE0,0010) is there, and not empty
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    description: str = ""  #: Series Description: to judge by (spectral, ...); never logged or kept
    private: Mapping[str, str] = field(default_factory=dict)  #: few, for selection; see the reader
    frames: tuple[Frame, ...] = ()
    attributes: Mapping[str, str | float] = field(default_factory=dict)  #: by DICOM keyword
    references: tuple[str, ...] = ()  #: series that a SEG, RTSTRUCT or the like speaks of
