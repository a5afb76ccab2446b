"""The segmenter `reference:` against a plain call of the official package: `make test-engine`.

What is changed around the official code must not change a label; see `test_parity.py` for what
has to be set.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.engine.test_parity import (
    PYTHON,
    QUIET,
    REAL,
    VOLUMES,
    WEIGHTS,
    run_official,
    write_nifti,
)
from tomodex.comparison import compare
from tomodex.segmenters import open_segmenter

pytestmark = pytest.mark.skipif(
    not (PYTHON and WEIGHTS and REAL),
    reason="TOMODEX_ENGINE_PYTHON, TOMODEX_TEST_WEIGHTS or TOMODEX_REAL_DATA is not set",
)

#: An axial CT, and one of other axes.
CASES = ("kits", "coronal")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A TOTALSEG_HOME_DIR with the small stand-in weights."""
    home = tmp_path_factory.mktemp("plain") / "home"
    shutil.copytree(Path(WEIGHTS) / "tiny", home)
    home.chmod(0o755)
    (home / "config.json").write_text(json.dumps(QUIET))
    return home


@pytest.fixture(scope="module")
def plain(home):
    """Labels (z, y, x) of each case, by a process that calls the package as anybody would."""
    jobs = []
    for name in CASES:
        stem, volume = str(home / name.replace(" ", "_")), VOLUMES[name]()
        write_nifti(volume, volume.voxels, Path(f"{stem}.nii.gz"))
        jobs.append({"kind": "half", "image": f"{stem}.nii.gz", "labels": f"{stem}_seg.nii.gz"})
    run_official(jobs, home)
    images = (nibabel.as_closest_canonical(nibabel.load(job["labels"])) for job in jobs)
    return {name: np.asarray(i.dataobj).T for name, i in zip(CASES, images, strict=True)}


@pytest.fixture(scope="module")
def reference():
    return open_segmenter(f"reference:?weights={WEIGHTS}/tiny&python={PYTHON}")


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_a_plain_call_to_the_last_voxel(plain, reference, name):
    labels = reference.segment(VOLUMES[name](), ()).layers[0]
    assert len(np.unique(labels)) > 3
    assert (labels == plain[name]).all()


def test_a_second_series_is_labelled_as_if_it_were_the_first(plain, reference):
    """Whatever a model that stays loaded may keep of the one before."""
    for name in reversed(CASES):
        assert (reference.segment(VOLUMES[name](), ()).layers[0] == plain[name]).all()


def test_provenance_has_the_versions_that_are_installed(reference):
    algorithm = reference.segment(VOLUMES["kits"](), ()).algorithm
    assert algorithm.version.startswith("2.")
    assert set(algorithm.options) >= {"nnunetv2", "torch", "device"}


def test_our_engine_agrees_with_the_reference(reference, tmp_path):
    """The small stand-in is random: its margins are below what half precision rounds away."""
    volume = VOLUMES["kits"]()
    ours = open_segmenter(f"totalsegmentator:?weights={WEIGHTS}/tiny&cache={tmp_path}")
    found = compare(
        ours.segment(volume, ()),
        reference.segment(volume, ()),
        series_uid="1.2",
        seconds=1.0,
        reference_seconds=1.0,
    )
    assert not found.carried
    assert found.agreement > 0.99
    assert found.swapped == ()
