"""How many files a second a folder is listed with, for the first time and again.

Prints one line of JSON. The files have as many header elements as a CT scanner writes (about 130)
and small pixels: listing does not read pixels. They have just been written, so they are in memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tomodex.sources import open_source

SLICES = 100  #: in each series

#: UIDs that every slice has its own of, as long as they will be, to be replaced in the bytes.
_SOP_UID = "1.2.826.0.1.3680043.8.498.10000000000"
_PLACE = "-1000.000"


def main() -> None:
    """Write files, list them twice, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=64, help="rows and columns of a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tomodex-bench-") as scratch:
        root, state = Path(scratch, "archive"), Path(scratch, "state")
        elements = write_series(root, options.files, options.pixels)
        before_s = cpu_s()
        first_s, series = listing_s(root, state)
        first_cpu_s = cpu_s() - before_s
        again_s, _ = listing_s(root, state)
        again_cpu_s = cpu_s() - before_s - first_cpu_s
        catalogue = sum(file.stat().st_size for file in state.iterdir())
    print(
        json.dumps(
            {
                "bench": "listing",
                "files": options.files,
                "series": series,
                "elements_per_file": elements,
                "cores": len(os.sched_getaffinity(0)),
                "first_files_per_s": round(options.files / first_s),
                "again_files_per_s": round(options.files / again_s),
                # Processor time of all processes: the same also where others keep the cores busy.
                "first_cpu_ms_per_file": round(1000 * first_cpu_s / options.files, 3),
                "again_cpu_ms_per_file": round(1000 * again_cpu_s / options.files, 3),
                "catalogue_bytes_per_file": round(catalogue / options.files),
            }
        )
    )


def listing_s(root: Path, state: Path) -> tuple[float, int]:
    """Seconds that one listing takes, from opening to the last series; and how many there are."""
    begin = time.perf_counter()
    source = open_source(f"folder://{root}", pseudonymize=hash_of, state=state)
    series = sum(1 for _ in source.find())
    return time.perf_counter() - begin, series


def cpu_s() -> float:
    """Processor time of this process and those it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def hash_of(identifier: str) -> str:
    """A pseudonym for files that belong to nobody."""
    return str(len(identifier))


def write_series(root: Path, files: int, pixels: int) -> int:
    """Write CT slices, `SLICES` to a folder; return how many elements each has."""
    elements = 0
    for number in range(0, files, SLICES):
        folder = root / f"study-{number // SLICES:05d}"
        folder.mkdir(parents=True)
        slice_ = ct_slice(pixels)
        elements = len(slice_)
        written = io.BytesIO()
        slice_.save_as(written, enforce_file_format=True)
        template = written.getvalue()
        for k in range(min(SLICES, files - number)):
            uid = f"{_SOP_UID[:-10]}{number + k:010d}"
            place = f"{-500 + 1.25 * k:9.3f}"
            data = template.replace(_SOP_UID.encode(), uid.encode())
            data = data.replace(_PLACE.encode(), place.encode())
            (folder / f"{uid}.dcm").write_bytes(data)
    return elements


def ct_slice(pixels: int) -> Dataset:
    """One slice with a header as long as scanners write it: a third of it private."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = _SOP_UID
    ds.SeriesInstanceUID, ds.StudyInstanceUID = generate_uid(), generate_uid()
    ds.FrameOfReferenceUID = generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SpecificCharacterSet = "ISO_IR 100"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, "20240131")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, keyword, "101112.123000")
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "Bench", "Scanner"
    ds.InstitutionName, ds.StationName, ds.AccessionNumber = "Hospital", "CT1", "1"
    ds.StudyDescription, ds.SeriesDescription = "Abdomen", "Abdomen 1.25 Br40"
    ds.PatientName, ds.PatientID, ds.PatientSex, ds.PatientAge = "A^B", "1", "F", "045Y"
    ds.PatientBirthDate, ds.BodyPartExamined, ds.PatientPosition = "19790101", "ABDOMEN", "HFS"
    ds.ScanOptions, ds.ProtocolName, ds.ConvolutionKernel = "SPI", "Abdomen", "Br40"
    ds.SliceThickness, ds.KVP, ds.DataCollectionDiameter = 1.25, 120, 500
    ds.ReconstructionDiameter, ds.GantryDetectorTilt, ds.TableHeight = 350, 0, 120
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure, ds.FilterType = 500, 210, 105, "0"
    ds.GeneratorPower, ds.FocalSpots, ds.SoftwareVersions = 25, 1.2, "1.0"
    ds.SpiralPitchFactor, ds.CTDIvol, ds.SingleCollimationWidth = 0.8, 8.4, 0.6
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 3, 1, 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-175, -175, _PLACE], [1, 0, 0, 0, 1, 0]
    ds.SliceLocation, ds.PixelSpacing = 0, [0.68, 0.68]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = pixels
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.WindowCenter, ds.WindowWidth = [40, 60], [400, 350]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, generate_uid()
    ds.ReferencedImageSequence = [item]
    ds.SourceImageSequence = [item, item]
    for group in (0x0019, 0x0029):
        block = ds.private_block(group, "BENCH CT", create=True)
        for element in range(24):
            block.add_new(element, "LO", f"value {element} of a private group")
    ds.PixelData = bytes(2 * pixels * pixels)
    return ds


if __name__ == "__main__":
    main()
