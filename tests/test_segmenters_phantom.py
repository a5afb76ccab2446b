from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import integers
from tools.evaluate_phantom_network import evaluate, mean_by_structure, summary
from tools.phantom_scans import TRAINING_SEEDS, draw_example

from tests.phantoms import write_ball_series
from tomodex.errors import Misconfigured, Unsuitable
from tomodex.geometry import find_geometry
from tomodex.indexing import index_source
from tomodex.instance import read_instance
from tomodex.nnunet.model import read_model
from tomodex.phantom import DEMO
from tomodex.phantom.dicom import MARKER
from tomodex.phantom.forms import make_series
from tomodex.phantom.names import STRUCTURES
from tomodex.phantom.scan import scan_body
from tomodex.segmenters.phantom import MODEL, PhantomSegmenter
from tomodex.segmenters.phantom.pieces import find_pieces, keep_large_pieces
from tomodex.settings import Settings
from tomodex.volume import Volume, open_volume
from tomodex.wiring import queue_of, source_url

CASES = {case.name: case for case in DEMO}
#: No archive of another test or of the demo.
SEED = 57


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> PhantomSegmenter:
    return PhantomSegmenter(f"phantom:?cache={tmp_path_factory.mktemp('models')}")


def test_phantoms_that_it_has_not_seen_are_segmented_as_the_docs_say(segmenter):
    """Two cases that have 105 of the structures between them, one of them tilted or not axial."""
    scans = [evaluate(CASES[name], SEED, segmenter) for name in ("thorax-abdomen", "head-tilted")]
    found = summary(scans)
    assert found["mean_dice_over_5_ml"] >= 0.8
    assert found["structures_over_5_ml"] > 80
    assert found["missed_over_5_ml"] == 0
    assert len(mean_by_structure(scans, 0.0)) > 100


def test_what_it_was_trained_on_is_in_no_archive_of_the_demo():
    told = json.loads((MODEL / "training.json").read_text())
    assert set(told["body_seeds"]) <= set(TRAINING_SEEDS)
    largest = max(case.patient.seed for case in DEMO)
    assert 1000 * 999 + largest < TRAINING_SEEDS.start


def test_a_series_that_is_no_phantom_is_refused(segmenter):
    """Even if its voxels are those of a phantom."""
    scan = scan_body(CASES["head-tilted"], SEED)
    with pytest.raises(Unsuitable, match="no phantom of tomodex") as refused:
        segmenter.segment(Volume(scan.hu, scan.affine), ())
    assert refused.value.reason == "not_a_phantom"


def test_a_volume_larger_than_any_phantom_is_refused_before_it_is_looked_at(segmenter):
    hall = Volume(np.broadcast_to(np.int16(0), (100, 100, 100)), np.diag([80, 80, 80, 1.0]),
                  is_phantom=True)  # fmt: skip
    with pytest.raises(Unsuitable, match="512000 l") as refused:
        segmenter.segment(hall, ())
    assert refused.value.reason == "too_large"


def test_a_series_that_is_no_phantom_ends_as_rejected_and_not_in_the_index(tmp_path):
    (tmp_path / "archive").mkdir()
    uid = write_ball_series(tmp_path / "archive")
    phantom = f"phantom:?cache={tmp_path / 'models'}"
    settings = Settings(data=tmp_path / "data", segmenters=(phantom,))
    url = source_url(str(tmp_path / "archive"))
    summed = index_source(settings, url, "on-demand", lambda title: lambda done, total: None)
    assert (summed.indexed, summed.rejected) == (0, {"not_a_phantom": 1})
    (state,) = queue_of(settings).states(uid)
    assert "no phantom of tomodex" in state.sentence
    assert queue_of(settings).result(uid) is None


@pytest.mark.parametrize(
    ("versions", "is_phantom"),
    [
        ([MARKER, "drawn"], True),
        (MARKER, True),
        (["syngo CT VB20A", MARKER], False),
        (f"{MARKER}0", False),
        ("", False),
    ],
)
def test_a_phantom_is_told_by_the_first_of_its_software_versions(tmp_path, versions, is_phantom):
    assert open_series(tmp_path, [versions] * 4).is_phantom == is_phantom


def test_one_image_without_the_mark_makes_a_series_no_phantom(tmp_path):
    assert not open_series(tmp_path, [MARKER, MARKER, "syngo CT VB20A", MARKER]).is_phantom


def open_series(folder: Path, versions: list) -> Volume:
    """Four slices of a phantom that say of themselves what is asked for."""
    case = CASES["head-tilted"]
    scan = scan_body(case, SEED)
    images = make_series(case, scan, SEED)[: len(versions)]
    for number, (ds, said) in enumerate(zip(images, versions, strict=True)):
        ds.SoftwareVersions = said
        pydicom.dcmwrite(folder / f"{number}", ds, implicit_vr=False, little_endian=True)
    instances = [read_instance(path, lambda patient: "") for path in sorted(folder.iterdir())]
    return open_volume(instances, find_geometry(instances))


def test_provenance_says_that_it_is_not_for_patients(segmenter):
    scan = scan_body(CASES["head-tilted"], SEED)
    algorithm = segmenter.segment(Volume(scan.hu, scan.affine, is_phantom=True), ()).algorithm
    assert algorithm.name == "Tomodex phantom model"
    assert "not for patients" in algorithm.options["made_for"]
    assert "steps" in algorithm.options["trained_on"]
    assert len(algorithm.weights_sha256) == 64


small_maps = arrays(
    np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=4), elements=integers(0, 2)
)


@settings(max_examples=40)
@given(small_maps)
def test_voxels_of_one_piece_are_those_that_neighbours_of_the_same_label_lead_to(labels):
    pieces = find_pieces(labels).reshape(labels.shape)
    for start in zip(*np.nonzero(labels), strict=True):
        reached, edge = {start}, [start]
        while edge:
            around = product(*((k - 1, k, k + 1) for k in edge.pop()))
            new = {at for at in around if inside(at, labels) and labels[at] == labels[start]}
            edge += new - reached
            reached |= new
        assert {tuple(at) for at in np.argwhere(pieces == pieces[start])} == reached


def inside(at, labels):
    return all(0 <= k < n for k, n in zip(at, labels.shape, strict=True))


def test_pieces_that_are_small_by_themselves_or_beside_the_largest_are_left_out():
    labels = np.zeros((4, 6, 40), np.uint8)
    labels[:, :, :10], labels[0, :3, 12:16], labels[0, 0, 20:25] = 1, 1, 1  # 240, 12, 5 voxels
    labels[2, 2, 30:36], labels[3, 5, 38] = 2, 2  # 6 voxels, 1 voxel
    kept = keep_large_pieces(labels, share=0.05, least=6)
    assert np.bincount(kept.ravel()).tolist() == [960 - 258, 252, 6]
    kept = keep_large_pieces(labels, share=0.06, least=6)
    assert np.bincount(kept.ravel()).tolist() == [960 - 246, 240, 6]


def test_an_empty_label_map_has_no_pieces():
    assert not keep_large_pieces(np.zeros((2, 3, 4), np.uint8), 0.2, 6).any()


def test_its_labels_are_the_structures_that_phantoms_have():
    assert tuple(read_model(MODEL).labels.values()) == STRUCTURES


def test_an_option_that_it_does_not_have_is_refused():
    with pytest.raises(Misconfigured, match=r"^phantom: axes: Extra inputs"):
        PhantomSegmenter("phantom:?axes=LPS")


def test_the_model_is_small_enough_to_be_shipped():
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 8e6


def test_an_example_for_training_has_the_labels_that_its_voxels_show():
    example = draw_example(TRAINING_SEEDS.start)
    assert example.hu.shape == example.labels.shape
    brain, skull = (example.labels == STRUCTURES.index(name) + 1 for name in ("brain", "skull"))
    assert np.median(example.hu[brain]) == pytest.approx(35, abs=15)
    assert np.median(example.hu[skull]) > 400
