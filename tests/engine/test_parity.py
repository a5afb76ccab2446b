"""Our labels against those of the official package, on the same weights: `make test-engine`.

TOMODEX_ENGINE_PYTHON is the Python of an environment with requirements/engine-parity.txt;
TOMODEX_TEST_WEIGHTS has `tiny` and `standin_297`, each a TOTALSEG_HOME_DIR. What was found is
printed (pytest -s), a line of JSON for each volume.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import nibabel
import numpy as np
import pytest

from tomodex.geometry import find_geometry
from tomodex.instance import read_instance
from tomodex.measurement import measure
from tomodex.phantom.cases import DEMO
from tomodex.phantom.scan import scan_body
from tomodex.segmentation import Segmentation
from tomodex.segmenters.totalsegmentator import TotalSegmentator
from tomodex.volume import Volume, load_volume

PYTHON = os.environ.get("TOMODEX_ENGINE_PYTHON", "")
WEIGHTS = os.environ.get("TOMODEX_TEST_WEIGHTS", "")
REAL = os.environ.get("TOMODEX_REAL_DATA", "")

pytestmark = pytest.mark.skipif(
    not (PYTHON and WEIGHTS and REAL),
    reason="TOMODEX_ENGINE_PYTHON, TOMODEX_TEST_WEIGHTS or TOMODEX_REAL_DATA is not set",
)

#: LPS <-> RAS, and our axes (slice, row, column) <-> NIfTI's.
TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
BACKWARDS = [2, 1, 0, 3]
QUIET = {
    "totalseg_id": "totalseg_PARITY00",
    "send_usage_stats": False,
    "prediction_counter": 0,
    "statistics_disclaimer_shown": True,
}


def dicom(folder: str) -> Volume:
    files = sorted(f for f in (Path(REAL) / folder).rglob("*") if f.is_file())
    found = (read_instance(f, lambda name: "nobody") for f in files)
    instances = [i for i in found if i is not None and i.has_pixels and i.modality == "CT"]
    return load_volume(instances, find_geometry(instances))


def nifti(path: str) -> Volume:
    image = nibabel.load(Path(REAL) / path)
    voxels = np.asarray(image.dataobj).T.astype(np.int16)
    return Volume(np.ascontiguousarray(voxels), (TURN @ image.affine)[:, BACKWARDS])


def phantom(name: str) -> Volume:
    scan = scan_body(next(case for case in DEMO if case.name == name), seed=0)
    return Volume(scan.hu.astype(np.int16), scan.affine)


#: Which weights, how the official package adds up logits, and what it labels. `tiny` has
#: random weights, whose margins its sums in half precision round away: with them the official
#: package has 0.994 to 0.997 of the labels that it has with sums in single precision (measured).
RUNS = (
    ("standin_297", "half", ("lidc", "kits", "example_ct", "phantom pelvis")),
    ("tiny", "single", ("lidc", "kits", "coronal", "phantom chest")),
)
CASES = [(weights, sums, name) for weights, sums, names in RUNS for name in names]
#: Voxels that have the same label.
AGREEMENT = 0.999

VOLUMES = {
    "lidc": lambda: dicom("ct_body/lidc-0314-thin-axial"),
    "kits": lambda: dicom("ct_body/kits-00072-arterial-overlap"),
    "example_ct": lambda: nifti("nifti_ref/ts-nifti-multiorgan/example_ct.nii.gz"),
    "coronal": lambda: dicom("nonaxial/acrin-flt-coronal"),
    "phantom chest": lambda: phantom("chest"),
    "phantom pelvis": lambda: phantom("pelvis"),
}


def write_nifti(volume: Volume, voxels: np.ndarray, path: Path, mm: float | None = None) -> Path:
    """The voxels on the volume's grid; upstream calls the grid of its models 3 mm, whatever."""
    affine = TURN @ volume.affine[:, BACKWARDS]
    image = nibabel.Nifti1Image(voxels.T, affine)
    if mm:
        image.header.set_zooms((mm, mm, mm))
    nibabel.save(image, path)
    return path


def run_official(jobs: list[dict[str, str]], home: Path) -> list[float]:
    """Seconds that each job took."""
    (home / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("official.py"), home / "jobs.json"],
        env={**os.environ, "TOTALSEG_HOME_DIR": str(home), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [seconds for seconds, _ in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """For each case: our segmentation, their labels (z, y, x), their statistics of ours.

    The official package runs once for all volumes of a run.
    """
    done = {}

    def compare(weights, sums, name):
        if (weights, sums) not in done:
            home = tmp_path_factory.mktemp(weights) / "home"
            (names,) = (run[2] for run in RUNS if run[:2] == (weights, sums))
            done[weights, sums] = compare_all(weights, sums, names, home)
        return done[weights, sums][name]

    return compare


def compare_all(weights: str, sums: str, names: Sequence[str], home: Path) -> dict[str, tuple]:
    shutil.copytree(Path(WEIGHTS) / weights, home)
    home.chmod(0o755)
    (home / "config.json").write_text(json.dumps(QUIET))
    ours = TotalSegmentator(f"totalsegmentator:?weights={home}&cache={home / 'cache'}")
    found, jobs = {}, []
    for name in names:
        volume, stem = VOLUMES[name](), str(home / name.replace(" ", "_"))
        begin = perf_counter()
        segmentation = ours.segment(volume, ())
        found[name] = (segmentation, perf_counter() - begin, stem)
        jobs += jobs_of(volume, segmentation, stem, sums)
    seconds = run_official(jobs, home)
    compared = {}
    for (name, (segmentation, took, stem)), theirs in zip(found.items(), seconds[::2], strict=True):
        image = nibabel.as_closest_canonical(nibabel.load(f"{stem}_theirs.nii.gz"))
        labels = np.asarray(image.dataobj).T
        compared[name] = (segmentation, labels, json.loads(Path(f"{stem}.json").read_text()))
        facts = {"weights": weights, "sums": sums, "volume": name, "seconds": [took, theirs]}
        facts |= summary(segmentation.layers[0], labels)
        sys.stdout.write(json.dumps(facts) + "\n")
    return compared


def jobs_of(volume: Volume, ours: Segmentation, stem: str, sums: str) -> list[dict[str, str]]:
    """Write what the official package is given, and say what is wanted of it."""
    grid, (labels,) = ours.volume, ours.layers
    write_nifti(volume, volume.voxels, Path(f"{stem}.nii.gz"))
    write_nifti(grid, grid.voxels, Path(f"{stem}_grid.nii.gz"), mm=3.0)
    write_nifti(grid, labels, Path(f"{stem}_ours.nii.gz"))
    segment = {"kind": sums, "image": f"{stem}.nii.gz"}
    statistics = {"kind": "statistics", "image": f"{stem}_grid.nii.gz"}
    return [
        segment | {"labels": f"{stem}_theirs.nii.gz"},
        statistics | {"labels": f"{stem}_ours.nii.gz", "statistics": f"{stem}.json"},
    ]


def summary(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    either = (ours > 0) | (theirs > 0)
    dices = [
        2 * ((ours == k) & (theirs == k)).sum() / ((ours == k).sum() + (theirs == k).sum())
        for k in np.unique(theirs[theirs > 0])
    ]
    return {
        "voxels": round(float((ours == theirs).mean()), 6),
        "foreground": round(float((ours == theirs)[either].mean()), 6),
        "mean_dice": round(float(np.mean(dices)), 5),
        "labels": len(dices),
    }


@pytest.mark.parametrize(("weights", "sums", "name"), CASES)
def test_labels_are_those_of_the_official_package(compared, weights, sums, name):
    segmentation, theirs, _ = compared(weights, sums, name)
    ours = segmentation.layers[0]
    assert ours.shape == theirs.shape
    assert len(np.unique(theirs)) > 3
    assert (ours == theirs).mean() >= AGREEMENT


@pytest.mark.parametrize(("weights", "sums", "name"), CASES)
def test_measurements_of_equal_labels_are_equal(compared, weights, sums, name):
    segmentation, _, theirs = compared(weights, sums, name)
    ours = measure(segmentation)
    assert {n for n, s in theirs.items() if s["volume"] > 0} == set(ours)
    for structure, found in ours.items():
        # Upstream takes every voxel for 27 mm3.
        assert found.voxel_count * 27 == pytest.approx(theirs[structure]["volume"], rel=1e-6)
        assert found.mean_hu == pytest.approx(theirs[structure]["intensity"], abs=0.01)
