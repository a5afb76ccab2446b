"""How long one CT series takes from DICOM files to measurements, by mode and stage.

Makes series of 336 and 672 slices of 512 x 512 from a CT in NIfTI (the one that TotalSegmentator
publishes as example_ct, which the stand-in weights know), indexes them in each mode, each in a
process of its own with the model loaded before, and prints one line of JSON: seconds, and peak
memory of the process with the model. Needs weights in TotalSegmentator's format.

    .venv/bin/python bench/engine.py --slices 336 672 --modes exact fast crop

The CT fills the image; with `--field 500` it lies at its true size, 366 x 303 mm, in an image of
500 mm, as most scans of a trunk do, and `crop` has something to leave out.

With `--official PYTHON`, of an environment with requirements/engine-parity.txt, the official
package labels the same files: as IMPETUS called it (`predecessor`) and as its own documentation
calls fastest (`fastest`). That takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("TOMODEX_REAL_DATA", ROOT / "../shared/data"))
OFFICIAL = ROOT / "tests/engine/official.py"
QUIET = '{"totalseg_id": "x", "send_usage_stats": false, "statistics_disclaimer_shown": true}'


# --- the series ---------------------------------------------------------------------------------


def write_series(ct: Path, slices: int, folder: Path, field_mm: float | None = None) -> None:
    """The CT, magnified to 512 x 512 pixels and so many slices, in uncompressed files.

    Pixels are called 0.75 mm and slices 1 mm, as they often are, so 3 mm are 128 x 128 pixels. With
    a field of view it has its true width and depth in it, and air around.
    """
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(ct))
    source = np.asarray(image.dataobj).T[:, ::-1, ::-1].astype(np.float32)
    shape = (slices, 512, 512)
    pixel = field_mm / 512 if field_mm else 0.75
    spacing = [1.0, pixel, pixel]
    places = [np.linspace(0, n - 1, m) for n, m in zip(source.shape, shape, strict=True)]
    if field_mm:
        true = np.array(image.header.get_zooms()[::-1])
        source = np.pad(source, ((0, 0), (1, 1), (1, 1)), constant_values=-1000)
        for axis in (1, 2):
            from_middle = (np.arange(512) - 255.5) * pixel / true[axis]
            middle = (source.shape[axis] - 1) / 2
            places[axis] = np.clip(middle + from_middle, 0, source.shape[axis] - 1)
    uids = generate_uid(), generate_uid()
    for k, z in enumerate(places[0]):
        low = int(z)
        plane = source[low] + (z - low) * (source[min(low + 1, len(source) - 1)] - source[low])
        plane = magnified(magnified(plane, places[1]).T, places[2]).T
        save_slice(folder / f"IM{k:05d}", plane, k * spacing[0], spacing[1:], uids)


def magnified(plane: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Linear along the first axis."""
    low = places.astype(int)
    high = np.minimum(low + 1, len(plane) - 1)
    share = (places - low)[:, np.newaxis].astype(np.float32)
    return plane[low] * (1 - share) + plane[high] * share


def save_slice(path: Path, hu: np.ndarray, z: float, spacing: list[float], uids: tuple) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID, ds.StudyInstanceUID = uids
    ds.Modality, ds.PatientID, ds.PatientName = "CT", "BENCH", "BENCH"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = round(z / 0.01)
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-180, -150, round(z, 6)]
    ds.PixelSpacing = [round(mm, 8) for mm in spacing]
    ds.Rows, ds.Columns = hu.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.PixelData = np.rint(hu).astype("<i2").tobytes()
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


# --- ours ---------------------------------------------------------------------------------------


def run_mode(mode: str, weights: Path, cache: Path, folder: Path, rounds: int) -> dict:
    """Seconds of each stage, the best of some rounds by their total.

    Slices are decoded while they are resampled, so that this is one stage.
    """
    from tomodex.segmenters.totalsegmentator import TotalSegmentator

    begin = perf_counter()
    url = f"totalsegmentator:?mode={mode}&weights={weights}&cache={cache}"
    segmenter = TotalSegmentator(url)
    loaded = perf_counter() - begin
    found = min((index(segmenter, folder) for _ in range(rounds)), key=lambda f: f["total"])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"load": round(loaded, 2), **found, "peak_mb": round(peak_mb)}


def index(segmenter: object, folder: Path) -> dict:
    from tomodex.geometry import find_geometry
    from tomodex.instance import read_instance
    from tomodex.measurement import measure
    from tomodex.segmenters.totalsegmentator import networks
    from tomodex.volume import open_volume

    stages = {"resample": 0.0, "body": 0.0}
    networks.resample = timed(stages, "resample", networks.resample)
    networks.find_body = timed(stages, "body", networks.find_body)
    begin = perf_counter()
    instances = [read_instance(path, lambda name: "x") for path in sorted(folder.iterdir())]
    geometry = find_geometry(instances)
    stages["headers"] = perf_counter() - begin
    volume = open_volume(instances, geometry)
    segmentation = timed(stages, "network", segmenter.segment)(volume, ())
    stages["network"] -= stages["resample"] + stages["body"]
    found = timed(stages, "measure", measure)(segmentation)
    total = perf_counter() - begin
    rounded = {name: round(seconds, 3) for name, seconds in stages.items()}
    return {"total": round(total, 2), **rounded, "structures": len(found)}


def timed(stages: dict, name: str, step):
    step = getattr(step, "untimed", step)

    def run(*args):
        begin = perf_counter()
        try:
            return step(*args)
        finally:
            stages[name] = stages.get(name, 0.0) + perf_counter() - begin

    run.untimed = step
    return run


# --- theirs -------------------------------------------------------------------------------------


def run_official(python: Path, weights: Path, body: Path | None, series: dict, scratch: Path):
    """Seconds and peak memory of each call; the predecessor's needs a model of the body too."""
    home = scratch / "home"
    shutil.copytree(weights, home)
    if body:
        shutil.copytree(body, home / "nnunet/results" / body.name)
    (home / "config.json").write_text(QUIET)
    found = {}
    for slices, folder in series.items():
        for kind in ("predecessor", "fastest") if body else ("fastest",):
            out = scratch / f"{kind}_{slices}"
            out.mkdir()
            job = {"kind": kind, "image": str(folder), "labels": str(out / "labels.nii.gz")}
            (home / "jobs.json").write_text(json.dumps([job]))
            done = subprocess.run(
                [python, OFFICIAL, home / "jobs.json"],
                env={**os.environ, "TOTALSEG_HOME_DIR": str(home)},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, peak_mb = json.loads(done.stdout.splitlines()[-1])[0]
            found[f"{kind}_{slices}"] = {"total": seconds, "peak_mb": peak_mb}
    return found


def main() -> None:
    example = REAL / "nifti_ref/ts-nifti-multiorgan/example_ct.nii.gz"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, default=example)
    parser.add_argument("--weights", type=Path, default=REAL / "weights/standin_297")
    parser.add_argument("--slices", type=int, nargs="+", default=[336])
    parser.add_argument("--field", type=float, help="field of view in mm")
    parser.add_argument("--modes", nargs="+", default=["exact", "fast", "crop"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--official", type=Path, help="Python of the official package")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        mode, weights, cache, folder, rounds = asked.one
        print(json.dumps(run_mode(mode, Path(weights), Path(cache), Path(folder), int(rounds))))
    elif not (asked.ct.is_file() and asked.weights.is_dir()):
        print(json.dumps({"bench": "engine", "left_out": f"no {asked.ct} or {asked.weights}"}))
    else:
        print(json.dumps(compare(asked)))


def compare(asked: argparse.Namespace) -> dict:
    results = {"bench": "engine", "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as scratch:
        series = {slices: Path(scratch, str(slices)) for slices in asked.slices}
        for slices, folder in series.items():
            folder.mkdir()
            write_series(asked.ct, slices, folder, asked.field)
        for slices, folder in series.items():
            for mode in asked.modes:
                one = [mode, asked.weights, Path(scratch, "cache"), folder, asked.rounds]
                command = [sys.executable, __file__, "--one", *map(str, one)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[f"{mode}_{slices}"] = json.loads(done.stdout)
        if asked.official:
            body = next(iter(asked.weights.parent.glob("*/nnunet/results/Dataset300_*")), None)
            theirs = (asked.official, asked.weights, body, series, Path(scratch))
            results |= run_official(*theirs)
            results["times_faster"] = ratios(results, asked)
    return results


def ratios(results: dict, asked: argparse.Namespace) -> dict:
    """How many times as long each official call takes as each of our modes."""
    return {
        f"{mode} than {kind}, {slices}": round(
            results[f"{kind}_{slices}"]["total"] / results[f"{mode}_{slices}"]["total"], 1
        )
        for slices in asked.slices
        for mode in asked.modes
        for kind in ("predecessor", "fastest")
        if f"{kind}_{slices}" in results
    }


if __name__ == "__main__":
    main()
