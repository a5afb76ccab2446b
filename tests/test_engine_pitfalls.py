"""What is known to go wrong in TotalSegmentator and nnU-Net: docs/reference/engine-pitfalls.md."""

from __future__ import annotations

import importlib
import re
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.nnunet_models import write_model
from tests.phantoms import ct_dataset, enhanced_ct_dataset, write_dataset
from tests.test_resampling import axial, tilted, turned
from tomodex.errors import Unsuitable
from tomodex.geometry import find_geometry
from tomodex.instance import read_instance
from tomodex.measurement import measure
from tomodex.pipeline import Tools, open_series
from tomodex.resampling import resample
from tomodex.segmenters import open_segmenter
from tomodex.selection import load_rules
from tomodex.series import Series
from tomodex.terminology import load_terminology
from tomodex.volume import Volume, load_volume, open_volume

DOCS = Path(__file__).parents[1] / "docs/reference/engine-pitfalls.md"
RULES = load_rules(None)

SERIES = Series(
    series_uid="1.2.3",
    study_uid="1.2",
    patient="p",
    modality="CT",
    sop_classes=("1.2.840.10008.5.1.4.1.1.2",),
    instance_count=12,
    fingerprint="f",
    attributes={},
)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A network of random weights, 3 x 2 x 1.5 mm, tiles of 8 x 12 x 16."""
    folder = tmp_path_factory.mktemp("model")
    return open_segmenter(f"nnunet://{write_model(folder)}?cache={folder}&threads=2&axes=RAS")


def noise(shape, spacing_mm=(3.0, 2.0, 1.5)):
    return axial(np.random.default_rng(0).integers(-1000, 1000, shape), spacing_mm)


# Every size and shape


@pytest.mark.parametrize("slices", [1, 2, 3, 19, 57, 58])
def test_short_series_are_segmented(segmenter, slices):
    """`force_split` raises ValueError up to 57 slices of 3 mm: most heads, hearts and joints."""
    found = segmenter.segment(noise((slices, 16, 20)), ())
    assert found.layers[0].shape == (slices, 16, 20)
    assert found.layers[0].any()


@pytest.mark.parametrize("shape", [(12, 1, 1), (12, 2, 40), (12, 3, 3), (2, 2, 2)], ids=str)
def test_the_tiniest_fields_of_view_are_segmented(segmenter, shape):
    assert segmenter.segment(noise(shape), ()).layers[0].shape == shape


@pytest.mark.parametrize("mm", [0.05, 0.3, 20.0])
def test_the_finest_and_the_coarsest_pixels_are_segmented(segmenter, mm):
    found = segmenter.segment(noise((6, 24, 20), (2.0, mm, mm)), ())
    assert found.layers[0].shape == found.volume.shape
    scanned = corners(noise((6, 24, 20), (2.0, mm, mm)))
    assert np.abs(corners(found.volume) - scanned).max() < 3


@pytest.mark.parametrize(
    "change",
    [
        lambda v: tilted(v, 25),
        lambda v: tilted(v, -25),
        lambda v: turned(v, 90, around=0),
        lambda v: turned(v, 90, around=1),
        lambda v: turned(v, 45, around=2),
        lambda v: turned(tilted(v, 20), 180, around=1),
    ],
    ids=["gantry", "gantry back", "coronal", "sagittal", "oblique", "feet first, gantry"],
)
def test_no_grid_is_refused_or_taken_for_another(segmenter, change):
    volume = change(noise((10, 20, 24)))
    found = segmenter.segment(volume, ())
    assert found.layers[0].any()
    # Its corners are those of the scan, to a voxel of the model.
    ends = [corners(grid) for grid in (volume, found.volume)]
    assert np.abs(ends[0] - ends[1]).max() < 6


def corners(volume):
    """(2, 3): lowest and highest LPS position of voxel centres."""
    at = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape])).reshape(3, 8)
    places = volume.affine[:3, :3] @ at + volume.affine[:3, 3:]
    return np.array([places.min(axis=1), places.max(axis=1)])


def test_padding_of_any_value_is_segmented(segmenter):
    for value in (-32768, -3024, -2048, 0, 32767):
        volume = noise((10, 30, 30))
        volume.voxels[:, :10] = value
        assert segmenter.segment(volume, ()).layers[0].shape == (10, 30, 30)


def test_an_image_of_nothing_is_segmented(segmenter):
    volume = axial(np.zeros((10, 30, 30)), (3.0, 2.0, 1.5))
    assert segmenter.segment(volume, ()).layers[0].shape == (10, 30, 30)


# What takes long elsewhere


def test_labels_stay_on_the_models_grid(segmenter):
    """Upstream brings the logits of all classes back to full resolution, for minutes."""
    found = segmenter.segment(noise((60, 40, 40), (0.5, 0.5, 0.5)), ())
    assert found.layers[0].shape == found.volume.shape == (10, 10, 13)


def test_the_volume_is_never_held_where_a_model_looks_at_it(tmp_path):
    ds = enhanced_ct_dataset(
        np.resize(np.arange(200 * 200, dtype="<u2").reshape(1, 200, 200) % 4096, (150, 200, 200)),
        positions_mm=[(0, 0, k) for k in range(150)],
        rescales=[(1, -1024)] * 150,
    )
    instance = read(write_dataset(tmp_path / "ct.dcm", ds))
    filed = open_volume([instance], find_geometry([instance]))
    list(filed.slices())  # what is made once and kept: tables
    tracemalloc.start()
    try:
        resample(filed, (6.0, 6.0, 6.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.25 * 2 * 150 * 200 * 200


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_gentle_attempt_decodes_the_same_voxels(tmp_path, threads):
    stored = np.random.default_rng(1).integers(0, 4096, (12, 20, 24)).astype("<u2")
    instances = [
        read(write_dataset(tmp_path / f"{k}", ct_dataset(plane, position_mm=(0, 0, 3 * k))))
        for k, plane in enumerate(stored)
    ]
    geometry = find_geometry(instances)
    gentle = open_volume(instances, geometry, threads=threads)
    assert np.array_equal(gentle.voxels, load_volume(instances, geometry).voxels)


# What headers claim


def read(path):
    return read_instance(path, lambda name: "nobody")


def claims(folder: Path, count: int = 12, gap_mm: float = 3.0, **elements) -> list[Path]:
    """Slices of 16 x 20 pixels whose headers say what is asked."""
    paths = []
    for k in range(count):
        plane = np.full((16, 20), 1000 + k, "<u2")
        ds: Dataset = ct_dataset(plane, position_mm=(0, 0, gap_mm * k))
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        paths.append(write_dataset(folder / f"{k:03}.dcm", ds))
    return paths


def opened(paths):
    tools = Tools(
        source=None,
        read=partial(read_instance, pseudonymize=lambda name: "nobody"),
        rules=RULES,
        segmenters=(),
        terminology=load_terminology(),
    )
    volume, _ = open_series(SERIES, [read(path) for path in paths], tools)
    return volume


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 60000, "Columns": 60000}, "too_large"),
        ({"Rows": 16, "Columns": 60000}, "truncated"),
        ({"Rows": 65535, "Columns": 1}, "truncated"),
        ({"NumberOfFrames": 1_000_000}, "no_geometry"),
        ({"NumberOfFrames": 2**31 - 1}, "no_geometry"),
        ({"PixelSpacing": [1e-9, 1e-9]}, "no_geometry"),
        ({"PixelSpacing": [1e3, 1e3]}, "no_geometry"),
        ({"PixelSpacing": [0, 0.7]}, "no_geometry"),
        ({"gap_mm": 1e-9}, "repeated_position"),
        ({"gap_mm": 1e3}, "no_geometry"),
        ({"gap_mm": 1e30}, "no_geometry"),
    ],
    ids=str,
)
def test_memory_is_not_asked_for_what_a_header_claims(tmp_path, elements, reason):
    paths = claims(tmp_path, **elements)
    tracemalloc.start()
    try:
        with pytest.raises(Unsuitable) as refused:
            list(opened(paths).slices())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == reason
    assert peak < 16 * 2**20


def test_the_largest_pixels_do_not_blow_up_the_models_grid(segmenter):
    """512 x 512 pixels of 20 mm would be 5120 x 6827 voxels in each of 500 slices."""
    huge = np.broadcast_to(np.int16(40), (300, 512, 512))
    volume = Volume(huge, axial(np.zeros((1, 1, 1)), (5.0, 20.0, 20.0)).affine)
    tracemalloc.start()
    try:
        with pytest.raises(Unsuitable, match="more than") as refused:
            segmenter.segment(volume, ())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "too_large"
    assert peak < 2**20


@pytest.mark.parametrize("change", [lambda v: v, lambda v: tilted(v, 20)], ids=["axial", "tilted"])
def test_what_is_refused_is_refused_before_a_slice_is_decoded(segmenter, change):
    class Untouched(Volume):
        shape = (300, 512, 512)

        def slices(self):
            raise AssertionError("a slice was decoded")

        voxels = property(slices)

    affine = change(axial(np.zeros((1, 1, 1)), (5.0, 20.0, 20.0))).affine
    with pytest.raises(Unsuitable, match="more than"):
        segmenter.segment(Untouched(np.zeros((1, 1, 1), np.int16), affine), ())


def test_how_long_it_may_take_is_known_for_any_claim(segmenter):
    huge = np.broadcast_to(np.int16(40), (65535, 65535, 65535))
    volume = Volume(huge, axial(np.zeros((1, 1, 1)), (20.0, 20.0, 20.0)).affine)
    assert segmenter.seconds(volume) > 1e6


def test_a_structure_that_is_cut_is_kept(segmenter):
    """Upstream's statistics set its volume to 0, and the predecessor then left it out."""
    found = segmenter.segment(noise((20, 30, 30)), ())
    cut = [m for m in measure(found).values() if m.cut]
    assert cut
    assert all(m.volume_ml > 0 for m in cut)


# The page


def test_every_test_that_the_page_names_is_there():
    named = [
        (module, test)
        for module, tests in re.findall(r"`(test_\w+)`: ((?:`test_\w+`(?:, )?)+)", DOCS.read_text())
        for test in re.findall(r"test_\w+", tests)
    ]
    assert len(named) == len(re.findall(r"`test_\w+`[,; |]", DOCS.read_text())) > 50
    for module, test in named:
        assert hasattr(importlib.import_module(f"tests.{module}"), test), f"{module}: {test}"
