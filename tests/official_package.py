"""A stand-in for the official TotalSegmentator: its modules and calls, and no network in it.

It knows each structure by its HU. A voxel of one of the densities in `TRICKS` makes it behave as
the real one does on a bad day.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.nnunet_models import DATASET, old_plans, write_model
from tomodex.segmenters.totalsegmentator.models import MODELS

#: So dense is each structure, exactly.
DENSITY = {"spleen": 60, "kidney_right": 90, "kidney_left": 120, "not_in_our_books": 150}

TRICKS = {
    "chatter": 2001,
    "error": 2002,
    "exit": 2003,
    "killed": 2004,
    "hang": 2005,
    "connect": 2006,
    "other grid": 2007,
}

PYTHON_API = """
import totalsegmentator.nnunet as runner

def totalsegmentator(image, output, ml, quiet, nr_thr_saving, task, device, fast=False,
                     fastest=False):
    mm = 3.0 if fast else 6.0 if fastest else 1.5
    models = {3.0: [297], 6.0: [298], 1.5: [291, 292, 293, 294, 295]}[mm]
    return runner.nnUNet_predict_image(image, output, models, resample=mm, save_lowres=False)
"""

RUNNER = """
import json, os, signal, socket, sys, time
from pathlib import Path
import nibabel, numpy
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

DENSITY, TRICKS = DENSITY_HERE, TRICKS_HERE
HOME = Path(os.environ["TOTALSEG_HOME_DIR"])

def nnUNet_predict_image(image, output, models, resample=None, OPTION_HERE=False):
    hu = numpy.asarray(image.dataobj)
    asked = {trick for trick, density in TRICKS.items() if (hu == density).any()}
    behave(asked)
    for model in models:
        folder = next((HOME / "nnunet/results").glob(f"Dataset{model}_*"))
        predictor = nnUNetPredictor()
        predictor.initialize_from_trained_model_folder(str(folder), [0], checkpoint_name="final")
        predictor.predict_from_files("images", "results", save_probabilities=False,
                                     overwrite=True, num_processes_preprocessing=1, part_id=0)
    upright = nibabel.as_closest_canonical(image)
    directions = upright.affine[:3, :3] / numpy.linalg.norm(upright.affine[:3, :3], axis=0)
    if numpy.abs(directions - numpy.eye(3)).max() > 0.2:
        raise RuntimeError("takes it for upright, which it is not")
    hu, zooms = numpy.asarray(upright.dataobj), numpy.array(upright.header.get_zooms())
    shape = numpy.maximum(1, numpy.round(hu.shape * (zooms / resample)).astype(int))
    if "other grid" in asked:
        shape = shape + 1
    if not OPTION_HERE:
        shape = numpy.array(hu.shape)
    places = [numpy.rint(numpy.linspace(0, n - 1, m)).astype(int) for n, m in zip(hu.shape, shape)]
    hu = hu[numpy.ix_(*places)]
    labels = numpy.zeros(hu.shape, numpy.uint8)
    for number, density in enumerate(DENSITY.values(), start=1):
        labels[hu == density] = number
    affine = upright.affine @ numpy.diag([*((numpy.array(upright.shape)) / shape), 1])
    found = nibabel.Nifti1Image(labels, affine)
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.io_orientation(image.affine))
    return found.as_reoriented(back)

def behave(asked):
    if "chatter" in asked:
        print("If you use this tool please cite it" * 1000)
        os.write(1, b"and so do libraries written in C")
    if "error" in asked:
        raise ValueError("Doe^John is no image")
    if "exit" in asked:
        sys.exit(1)
    if "killed" in asked:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in asked:
        time.sleep(60)
    if "connect" in asked:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
"""

CONFIG = """
import os

def setup_nnunet():
    os.environ["nnUNet_results"] = os.environ["TOTALSEG_HOME_DIR"] + "/nnunet/results"
"""

PREDICTOR = """
import os

RESULTS = os.environ["nnUNet_results"]

class nnUNetPredictor:
    loaded = []

    def __init__(self):
        self.network = self.plans = None

    def initialize_from_trained_model_folder(self, folder, use_folds, checkpoint_name):
        self.loaded.append(folder)
        if len(self.loaded) != len(set(self.loaded)):
            raise RuntimeError("loaded twice")
        self.network, self.plans = folder, use_folds

    def predict_from_files(self, *files, **options):
        raise RuntimeError("starts more processes")

    def predict_from_files_sequential(self, images, results, save_probabilities=False,
                                      overwrite=True):
        if self.network is None:
            raise RuntimeError("not loaded")
"""

TORCH = """
class cuda:
    def is_available():
        return False
"""


def write_package(folder: Path, *, option: str = "save_lowres", without: str = "") -> Path:
    """A program that starts Python with the package; `without` is a module that it lacks."""
    site = folder / "site"
    classes = {"total": dict(enumerate(DENSITY, start=1))}
    runner = RUNNER.replace("DENSITY_HERE", repr(DENSITY)).replace("TRICKS_HERE", repr(TRICKS))
    modules = {
        "totalsegmentator/__init__.py": "",
        "totalsegmentator/config.py": CONFIG,
        "totalsegmentator/python_api.py": PYTHON_API,
        "totalsegmentator/nnunet.py": runner.replace("OPTION_HERE", option),
        "totalsegmentator/map_to_binary.py": f"class_map = {classes}",
        "nnunetv2/__init__.py": "",
        "nnunetv2/inference/__init__.py": "",
        "nnunetv2/inference/predict_from_raw_data.py": PREDICTOR,
        "torch.py": TORCH,
        "TotalSegmentator-2.18.0.dist-info/METADATA": "Name: TotalSegmentator\nVersion: 2.18.0\n",
        "nnunetv2-2.8.1.dist-info/METADATA": "Name: nnunetv2\nVersion: 2.8.1\n",
        "torch-2.15.0.dist-info/METADATA": "Name: torch\nVersion: 2.15.0\n",
    }
    if without:
        modules[f"{without}/__init__.py"] = f"raise ModuleNotFoundError('gone', name='{without}')"
    for name, text in modules.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return program


def write_weights(folder: Path, numbers: tuple[int, ...] = (297,)) -> Path:
    """A folder of results that has these models of TotalSegmentator, small and random."""
    for number in numbers:
        spacing = [1.5] * 3 if number < 297 else [3.0 * (number - 296)] * 3
        made = write_model(folder / str(number), old_plans(spacing=spacing), DATASET)
        made.parent.rename(folder / MODELS[number].name)
    return folder
