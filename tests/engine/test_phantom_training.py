"""The phantom model's training, in the environment that has torch."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tools.phantom_scans import TRAINING_SEEDS, write_examples

from tomodex.phantom import DEMO
from tomodex.phantom.scan import scan_body
from tomodex.segmenters.totalsegmentator import NnUNet
from tomodex.volume import Volume

PYTHON = os.environ.get("TOMODEX_ENGINE_PYTHON")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not PYTHON, reason="TOMODEX_ENGINE_PYTHON is not set")


def test_two_steps_of_training_leave_a_model_that_the_product_runs(tmp_path):
    scans, model = tmp_path / "scans", tmp_path / "model"
    write_examples(scans, range(TRAINING_SEEDS.start, TRAINING_SEEDS.start + 2), processes=2)
    subprocess.run(
        [PYTHON, ROOT / "tools/train_phantom_network.py", scans, model, "--steps", "2"],
        check=True,
        timeout=300,
    )
    assert json.loads((model / "training.json").read_text())["steps"] == 2
    scan = scan_body(DEMO[0], 57)
    found = NnUNet(f"nnunet:{model}?cache={tmp_path}").segment(Volume(scan.hu, scan.affine), ())
    assert found is not None
    assert found.layers[0].shape == found.volume.shape
    assert not found.unmapped
    assert np.isin(found.layers[0], range(118)).all()
