"""How fast a CT series on disk becomes a volume, against pydicom alone and SimpleITK.

Writes a synthetic series (smooth anatomy with the noise of a scanner, so that it compresses as CT
does) once in each transfer syntax, reads it in all three ways, and prints one line of JSON:
decoded MB/s, the best of some rounds, files in the page cache.

    .venv/bin/python bench/decode.py --slices 200 --size 512
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import imagecodecs
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, generate_uid

from tomodex.geometry import find_geometry
from tomodex.instance import read_instance
from tomodex.volume import load_volume

SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg_lossless": "1.2.840.10008.1.2.4.70",
    "jpeg_ls": "1.2.840.10008.1.2.4.80",
    "jpeg_2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}


def body_slice(k: int, size: int) -> np.ndarray:
    """(size, size) stored values of 12 bits: a body in air, with noise."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = x**2 + (1.4 * y) ** 2 < 0.6
    organs = 1060 + 60 * np.sin(7 * x + k / 20) * np.cos(5 * y - k / 30)
    noise = np.random.default_rng(k).normal(0, 12, (size, size))
    return np.clip(np.where(inside, organs, 24) + noise, 0, 4095).astype("<u2")


def rle(frame: np.ndarray) -> bytes:
    """PS3.5 Annex G: PackBits of every row, high bytes before low ones."""
    rows = [
        b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane)
        for plane in ((frame >> 8).astype("u1"), frame.astype("u1"))
    ]
    high, low = (row + b"\0" * (len(row) % 2) for row in rows)
    return np.array([2, 64, 64 + len(high), *[0] * 13], "<u4").tobytes() + high + low


def encoded(frame: np.ndarray, name: str) -> bytes:
    """Pixel Data of one slice."""
    if name == "uncompressed":
        return frame.tobytes()
    encode: dict[str, Callable[[np.ndarray], bytes]] = {
        "rle": rle,
        "jpeg_lossless": lambda f: imagecodecs.ljpeg_encode(f, bitspersample=12),
        "jpeg_ls": imagecodecs.jpegls_encode,
        "jpeg_2000": lambda f: imagecodecs.jpeg2k_encode(
            f, codecformat="j2k", reversible=True, bitspersample=12
        ),
        "htj2k": lambda f: imagecodecs.htj2k_encode(f, reversible=True),
    }
    return encapsulate([bytes(encode[name](frame))])


def write_series(folder: Path, frames: Sequence[np.ndarray], name: str) -> list[Path]:
    """One file for each slice, in an order that is not that of the slices."""
    series_uid, study_uid = generate_uid(), generate_uid()
    paths = []
    for k, frame in enumerate(frames):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = SYNTAXES[name]
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = series_uid, study_uid, "CT"
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 1.5 * k]
        ds.PixelSpacing = [0.7, 0.8]
        ds.Rows, ds.Columns = frame.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = encoded(frame, name)
        paths.append(folder / f"{k * 7919 % len(frames):05}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def with_tomodex(paths: Sequence[Path]) -> np.ndarray:
    instances = [i for i in (read_instance(p, lambda name: name) for p in paths) if i]
    return load_volume(instances, find_geometry(instances)).voxels


def with_pydicom(paths: Sequence[Path]) -> np.ndarray:
    """As in its documentation: read, sort by position, decode, rescale."""
    slices = [pydicom.dcmread(path) for path in paths]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = [
        (ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)).astype(np.int16)
        for ds in slices
    ]
    return np.stack(hu)


def with_simpleitk(paths: Sequence[Path]) -> np.ndarray:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


READERS = {"tomodex": with_tomodex, "pydicom": with_pydicom, "simpleitk": with_simpleitk}


def seconds(
    read: Callable[[Sequence[Path]], np.ndarray], paths: Sequence[Path], truth: np.ndarray
) -> float | None:
    """How long one reading takes; None if it cannot, or reads something else."""
    begin = perf_counter()
    try:
        voxels = read(paths)
    except (RuntimeError, NotImplementedError, AttributeError):
        return None
    taken = perf_counter() - begin
    return taken if np.array_equal(voxels, truth) else None


def rates(paths: Sequence[Path], truth: np.ndarray, rounds: int) -> dict[str, float | None]:
    """Decoded MB/s of each reader, the best of some rounds; they take turns, to share the noise."""
    taken = [{name: seconds(r, paths, truth) for name, r in READERS.items()} for _ in range(rounds)]
    found: dict[str, float | None] = {}
    for name in READERS:
        times = [one for turn in taken if (one := turn[name]) is not None]
        found[name] = round(truth.nbytes / 1e6 / min(times), 1) if times else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=[*SYNTAXES], action="append")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    frames = [body_slice(k, options.size) for k in range(options.slices)]
    truth = np.stack(frames).astype(np.int16) - 1024
    found: dict[str, dict[str, float | None]] = {}
    for name in options.only or SYNTAXES:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_series(Path(folder), frames, name)
            written = sum(path.stat().st_size for path in paths)
            found[name] = rates(paths, truth, options.rounds)
            found[name]["compression"] = round(truth.nbytes / written, 2)
    print(
        json.dumps(
            {
                "bench": "decode",
                "unit": "MB/s of int16 HU, headers included",
                "shape": truth.shape,
                "cores": len(os.sched_getaffinity(0)),
                "load_average": round(os.getloadavg()[0], 1),
                "rates": found,
            }
        )
    )


if __name__ == "__main__":
    main()
