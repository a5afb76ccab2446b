"""A scan as classic CT instances, and what every instance of a phantom says of itself."""

from __future__ import annotations

import uuid
from datetime import date

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage

from tomodex.instance import PHANTOM_MARKER
from tomodex.phantom.cases import Case
from tomodex.phantom.scan import Scan

#: First value of Software Versions (0018,1020) in every image that this package draws. What must
#: refuse real patients, such as the phantom model, looks for this; a person sees Image Comments.
MARKER = PHANTOM_MARKER
COMMENT = "Synthetic phantom drawn by Tomodex. Not a patient, not for diagnosis."

#: Private group of the phantom's own elements, and who claims it there.
PRIVATE_GROUP, PRIVATE_CREATOR = 0x5445, "TOMODEX PHANTOM"

#: Intercept of each way to store HU.
_INTERCEPT = {"unsigned": -1024, "signed": 0}


def make_uid(*facts: object) -> str:
    """A UID that is always the same for the same facts (PS3.5 B.2)."""
    text = "/".join(["tomodex-phantom", *map(str, facts)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def series_header(case: Case, seed: int) -> Dataset:
    """Everything that the instances of a series share: patient, study, series, equipment."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _describe_patient(ds, case)
    _describe_study(ds, case, seed)
    ds.Modality = "CT"
    ds.SeriesInstanceUID = make_uid(seed, case.name, "series")
    ds.SeriesNumber, ds.SeriesDescription = case.series_number, case.description
    ds.PatientPosition = "HFP" if case.position == "prone" else "HFS"
    ds.FrameOfReferenceUID = make_uid(seed, case.patient.id, case.study, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer, ds.ManufacturerModelName = case.manufacturer, case.model
    ds.InstitutionName, ds.StationName = "Tomodex phantom", "PHANTOM"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "PHANTOM", [MARKER, "drawn"]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.ImageComments = COMMENT
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", MARKER)
    block.add_new(0x02, "LO", case.name)
    block.add_new(0x03, "IS", seed)
    return ds


def _describe_patient(ds: Dataset, case: Case) -> None:
    ds.PatientName, ds.PatientID = case.patient.name, f"{case.patient.id}"
    ds.IssuerOfPatientID = "TOMODEX"
    ds.PatientBirthDate, ds.PatientSex = case.patient.birth_date, case.patient.sex
    ds.PatientAge = f"{case.age:03d}Y"


def _describe_study(ds: Dataset, case: Case, seed: int) -> None:
    ds.StudyInstanceUID = make_uid(seed, case.patient.id, case.study, "study")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = case.study_date
    hour = 8 + date.fromisoformat(case.study_date).toordinal() % 9
    ds.StudyTime = f"{hour:02d}1500"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = (
        f"{hour:02d}{20 + case.series_number % 30}00"
    )
    ds.StudyID, ds.AccessionNumber = "1", ""
    ds.ReferringPhysicianName, ds.StudyDescription = "", f"PHANTOM {case.study.upper()}"


def describe_scan(ds: Dataset, case: Case) -> None:
    """How the images were acquired and reconstructed."""
    ds.KVP, ds.XRayTubeCurrent, ds.Exposure = case.kvp, 180, 90
    ds.ConvolutionKernel, ds.GantryDetectorTilt = case.kernel, case.tilt_deg
    ds.SliceThickness, ds.SpacingBetweenSlices = case.thickness_mm, case.spacing_mm[0]
    ds.ReconstructionDiameter = max(case.field_mm)
    ds.BodyPartExamined = "PHANTOM"
    if case.enhancement_hu:
        ds.ContrastBolusAgent = "PHANTOM CONTRAST"


def describe_pixels(ds: Dataset, case: Case) -> None:
    """How HU are stored."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    signed = case.stored == "signed"
    bits = 16 if signed else 12
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(signed)


def slices(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """One CT image for each slice, along the normal; Instance Number runs as the case says."""
    header = series_header(case, seed)
    count = len(scan.hu)
    numbers = np.arange(count, 0, -1)
    if case.numbered == "shuffled":
        numbers = np.random.default_rng(seed).permutation(numbers)
    return [slice_image(case, scan, header, k, int(numbers[k]), seed) for k in range(count)]


def slice_image(case: Case, scan: Scan, header: Dataset, k: int, number: int, seed: int) -> Dataset:
    """The CT image of slice k."""
    ds = Dataset()
    ds.update(header)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, make_uid(seed, case.name, "image", k)
    ds.InstanceNumber, ds.AcquisitionNumber = number, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    describe_scan(ds, case)
    place_slice(ds, scan, k)
    store(ds, case, scan.hu[k])
    return ds


def place_slice(ds: Dataset, scan: Scan, k: int) -> None:
    """Where slice k lies."""
    spacing = np.linalg.norm(scan.affine[:3, 1:3], axis=0)
    ds.ImageOrientationPatient = orientation(scan)
    ds.ImagePositionPatient = position(scan, k)
    ds.PixelSpacing = [decimal(s) for s in spacing]
    ds.SliceLocation = decimal(float(scan.affine[2, 3] + k * scan.affine[2, 0]))


def orientation(scan: Scan) -> list[str]:
    """Image Orientation (Patient): along the rows, then along the columns."""
    down, right = (scan.affine[:3, m] / np.linalg.norm(scan.affine[:3, m]) for m in (1, 2))
    return [decimal(c) for c in (*right, *down)]


def position(scan: Scan, k: int) -> list[str]:
    """Image Position (Patient) of slice k."""
    return [decimal(c) for c in scan.affine[:3, 3] + k * scan.affine[:3, 0]]


def decimal(value: float) -> str:
    """As a Decimal String, which has room for 16 characters."""
    return f"{value + 0.0:.9f}".rstrip("0").rstrip(".")[:16]


def store(ds: Dataset, case: Case, hu: npt.NDArray[np.int16]) -> None:
    """Put the pixels of one image in, as HU."""
    describe_pixels(ds, case)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = intercept(case), 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    put_pixels(ds, hu - np.int16(intercept(case)))


def intercept(case: Case) -> int:
    """HU of a stored value of 0."""
    return _INTERCEPT[case.stored]


def put_pixels(ds: Dataset, stored: npt.NDArray[np.integer]) -> None:
    """Put stored values in, of one frame or of many."""
    ds.Rows, ds.Columns = stored.shape[-2:]
    kind = "<i2" if ds.PixelRepresentation else "<u2"
    ds.PixelData = np.ascontiguousarray(stored).astype(kind).tobytes()


def file_meta(ds: Dataset, syntax: UID) -> FileMetaDataset:
    """The header of a file that holds this instance."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    return meta
