from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.test_resampling import axial, tilted, turned
from tomodex.errors import Misconfigured, Unsuitable
from tomodex.measurement import measure
from tomodex.nnunet.tiling import plan_starts
from tomodex.segmenters import Costly, open_segmenter
from tomodex.segmenters.totalsegmentator import NnUNet, TotalSegmentator, networks
from tomodex.segmenters.totalsegmentator.body import fill_tiles, find_body
from tomodex.segmenters.totalsegmentator.merging import merge_labels, number_labels
from tomodex.segmenters.totalsegmentator.models import MODELS, TASKS, find_model, find_results
from tomodex.volume import Volume

REAL = os.environ.get("TOMODEX_REAL_DATA")

#: What the stand-in for a network goes by: so dense is it, exactly.
DENSITY = {"kidney_left": 60, "kidney_right": 90, "spleen": 120, "not_in_our_books": 150}
AIR, FAT = -1000, -100


class ByDensity:
    """In an engine's place: knows each structure by its HU, and keeps what it was shown."""

    runtime = SimpleNamespace(description={"runtime": "a test", "precision": "f32"})

    def __init__(self, model):
        self.model = model
        self.seen = []

    def segment(self, image):
        self.seen.append(image)
        labels = np.zeros(image.shape[1:], np.uint8)
        for label, name in self.model.labels.items():
            labels[inside(image[0], DENSITY[name])] = label
        return labels


def inside(image, density):
    """Where it is so dense, with most of what is around: at a rim, densities mix to any other."""
    alike = np.pad(np.abs(image - density) < 2, 1, mode="edge")
    around = sum(
        np.roll(alike, way, axis)[1:-1, 1:-1, 1:-1].astype(int)
        for axis in range(3)
        for way in (-1, 1)
    )
    return alike[1:-1, 1:-1, 1:-1] & (around >= 4)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Folders of models that are nothing but their names, and the engines made of them."""
    made = []

    def put(number, labels, spacing_mm=(3.0, 3.0, 3.0), channels=("CT",), reader=""):
        name = MODELS[number].name
        folder = tmp_path / name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text("{}")
        (folder / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
        models[folder] = SimpleNamespace(
            name=name,
            configuration="3d_fullres",
            labels=dict(enumerate(labels, start=1)),
            spacing_mm=spacing_mm,
            channels=channels,
            patch=(24, 60, 40),
            transpose=(0, 1, 2),
            weights_sha256=f"{number:064x}",
        )
        return folder

    def load(folder, **options):
        made.append(SimpleNamespace(engine=ByDensity(models[folder]), folder=folder, **options))
        return made[-1].engine

    models = {}
    monkeypatch.setattr(networks, "read_model", models.__getitem__)
    monkeypatch.setattr(networks, "load_engine", load)
    monkeypatch.setenv("TOMODEX_WEIGHTS", str(tmp_path))
    networks._kept.clear()
    yield SimpleNamespace(put=put, made=made, folder=tmp_path)
    networks._kept.clear()


@pytest.fixture
def total(shelf):
    shelf.put(297, DENSITY)
    return lambda options="": TotalSegmentator(f"totalsegmentator:{options}")


def scene(volume, balls):
    """The grid with a body of fat in air, and in it a ball (LPS mm, radius) for each name."""
    indices = np.indices(volume.voxels.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ indices + volume.affine[:3, 3:]
    middle = volume.affine[:3, :3] @ (np.array(volume.voxels.shape) / 2) + volume.affine[:3, 3]
    hu = np.full(places.shape[1], AIR)
    hu[np.linalg.norm((places - middle[:, None])[:2], axis=0) < 75] = FAT
    for name, (at, radius) in balls.items():
        hu[np.linalg.norm(places - np.array(at)[:, None], axis=0) <= radius] = DENSITY[name]
    return Volume(hu.reshape(volume.voxels.shape).astype(np.int16), volume.affine)


def upright():
    """84 x 200 x 180 mm around (0, 0, 0)."""
    return axial(np.zeros((42, 133, 100)), (2.0, 1.5, 1.8), (90, 100, -42))


BALLS = {"kidney_left": ((45, 20, 10), 20.0), "kidney_right": ((-45, -10, -12), 15.0)}

GRIDS = {
    "axial": lambda v: v,
    "prone": lambda v: turned(v, 180, around=2),
    "coronal": lambda v: turned(v, 90, around=0),
    "a little oblique": lambda v: turned(v, 10, around=1),
    "oblique": lambda v: turned(v, 35, around=2),
    "gantry forward": lambda v: tilted(v, 18),
    "gantry back": lambda v: tilted(v, -18),
}


@pytest.mark.parametrize("change", GRIDS.values(), ids=GRIDS)
def test_structures_are_found_where_they_are_on_any_grid(total, change):
    volume = scene(change(upright()), BALLS)
    found = measure(total().segment(volume, ()))
    assert set(found) == set(BALLS)
    for name, (at, radius) in BALLS.items():
        assert found[name].centroid_mm == pytest.approx(at, abs=1.5)
        # Without its rim, two voxels deep.
        assert radius - 6 < (found[name].volume_ml * 1000 / 4.19) ** (1 / 3) < radius


@pytest.mark.parametrize(
    "change", [GRIDS["gantry forward"], GRIDS["oblique"]], ids=["tilt", "turn"]
)
def test_a_model_sees_the_patient_upright(total, shelf, change):
    ball = {"spleen": ((0, 0, 0), 25.0)}
    total().segment(scene(change(upright()), ball), ())
    ((image,),) = shelf.made[0].engine.seen
    found = np.argwhere(inside(image, DENSITY["spleen"]))
    # As far in z, whatever y: it leans on the scan's own grid.
    lean = np.corrcoef(found[:, 0], found[:, 1])[0, 1], np.corrcoef(found[:, 1], found[:, 2])[0, 1]
    assert np.abs(lean).max() < 0.1
    assert np.ptp(found, axis=0).max() - np.ptp(found, axis=0).min() <= 1


def test_what_a_leaning_scan_cuts_is_cut(total):
    grid = tilted(upright(), 18)
    ends = grid.affine[:3, :3] @ np.array([[20, 41, 41], [66, 66, 20], [50, 50, 50]])
    middle, above, high = (ends + grid.affine[:3, 3:]).T
    balls = {
        "spleen": (middle, 15.0),
        "kidney_left": (above, 15.0),
        "kidney_right": (high - np.array([0, 0, 25]), 10.0),
    }
    found = measure(total().segment(scene(grid, balls), ()))
    assert {name: m.cut for name, m in found.items()} == {
        "spleen": (),
        "kidney_left": ("superior",),
        "kidney_right": (),
    }


def test_a_mirrored_image_swaps_places_and_no_names(total):
    volume = scene(upright(), BALLS)
    mirrored = Volume(volume.voxels[:, :, ::-1], volume.affine)
    one = measure(total().segment(volume, ()))
    other = measure(total().segment(mirrored, ()))
    for name in BALLS:
        (x, *rest), (mirrored_x, *mirrored_rest) = one[name].centroid_mm, other[name].centroid_mm
        middle = (volume.affine @ (0, 0, 99 / 2, 1))[0]
        assert mirrored_x - middle == pytest.approx(middle - x, abs=0.1)
        assert mirrored_rest == pytest.approx(rest, abs=1e-6)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_the_shortest_series_are_segmented(total, slices):
    grid = axial(np.zeros((slices, 90, 80)), (5.0, 2.0, 2.0), (80, 90, 0))
    found = measure(total().segment(scene(grid, {"spleen": ((0, 0, 0), 30.0)}), ()))
    assert {"inferior", "superior"} <= set(found["spleen"].cut)


def test_a_series_beyond_the_budget_is_refused_before_anything_is_made(total, monkeypatch):
    huge = np.broadcast_to(np.int16(-1000), (6000, 512, 512))
    volume = Volume(huge, axial(np.zeros((1, 1, 1)), (20, 20, 20)).affine)
    with pytest.raises(Unsuitable) as refused:
        total().segment(volume, ())
    assert refused.value.reason == "too_large"


def test_padding_that_is_denser_than_nothing_changes_no_place(total):
    volume = scene(upright(), BALLS)
    padded = volume.voxels.copy()
    padded[:, :20], padded[:, :, -10:] = -3024, -3024
    one = measure(total().segment(volume, ()))
    assert measure(total().segment(Volume(padded, volume.affine), ())) == one


# --- modes --------------------------------------------------------------------------------------


def test_crop_shows_the_body_alone_and_keeps_every_place(total, shelf):
    volume = scene(upright(), BALLS)
    whole, cropped = total().segment(volume, ()), total("?mode=crop").segment(volume, ())
    assert (whole.layers[0] == cropped.layers[0]).all()
    shapes = [made.engine.seen[0].shape for made in shelf.made]
    assert shapes[0] == (1, *whole.volume.voxels.shape)
    # The body is 150 mm wide, and 6 mm more are kept: one tile of 60 rows and two of 40 columns,
    # 0.8 of a tile apart, so nothing is cut off the width of 180 mm.
    assert shapes[1] == (1, 28, 60, 60)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ("", "f32"),
        ("?mode=fast", "bf16"),
        ("?mode=crop", "bf16"),
        ("?mode=crop&precision=f32", "f32"),
    ],
)
def test_a_mode_has_its_precision(total, shelf, options, precision):
    total(options)
    assert shelf.made[0].precision == precision
    assert shelf.made[0].step == 0.8


def test_a_table_below_the_patient_is_no_body():
    hu = np.full((30, 100, 100), AIR, np.int16)
    hu[5:25, 40:80, 30:70] = 0
    hu[:, 20:23, :] = 200  # 9 mm thick
    assert find_body(hu, (3.0, 3.0, 3.0)) == (slice(3, 27), slice(38, 82), slice(28, 72))


def test_a_table_is_no_body_however_thick_it_is():
    hu = np.full((30, 130, 160), AIR, np.int16)
    hu[5:25, 40:120, 25:135] = 0
    hu[:, 15:27, :] = 200  # 36 mm thick, as wide and as long as the image
    assert find_body(hu, (3.0, 3.0, 3.0)) == (slice(3, 27), slice(38, 122), slice(23, 137))


def test_two_legs_are_both_body():
    hu = np.full((30, 100, 100), AIR, np.int16)
    hu[:, 60:90, 5:35] = 0
    hu[:, 20:45, 65:95] = 0  # bent: apart in front and behind, too
    assert find_body(hu, (3.0, 3.0, 3.0))[1:] == (slice(18, 92), slice(3, 97))


@pytest.mark.parametrize(
    ("box", "found"),
    [
        # Smaller than a tile: the tile is filled, as far as there is image.
        ((slice(3, 9), slice(50, 80), slice(2, 30)), (slice(0, 20), slice(45, 85), slice(0, 40))),
        # A little larger: two tiles, 0.8 of a tile apart, are filled.
        (
            (slice(0, 20), slice(30, 71), slice(0, 100)),
            (slice(0, 20), slice(15, 87), slice(0, 100)),
        ),
        # All of it.
        ((slice(None), slice(None), slice(None)), (slice(0, 20), slice(0, 100), slice(0, 100))),
    ],
    ids=["one tile", "two tiles", "whole"],
)
def test_a_box_is_enlarged_as_far_as_that_costs_no_tile(box, found):
    shape, tile = (20, 100, 100), (24, 40, 40)
    assert fill_tiles(box, shape, tile, 0.8) == found
    for before, after, size, length in zip(box, found, shape, tile, strict=True):
        lengths = [len(range(*span.indices(size))) for span in (before, after)]
        one, other = (len(plan_starts(n, length, 0.8)) for n in lengths)
        assert one == other


def test_an_image_without_a_body_stays_whole():
    hu = np.full((5, 9, 9), AIR, np.int16)
    hu[2, 4, 4] = 300
    assert hu[find_body(hu, (3.0, 3.0, 3.0))].shape == hu.shape


def test_a_body_that_fills_the_image_stays_whole():
    hu = np.zeros((5, 9, 12), np.int16)
    assert hu[find_body(hu, (3.0, 3.0, 3.0))].shape == hu.shape


def test_what_a_series_takes_grows_with_its_tiles(total, shelf):
    """84 x 200 x 180 mm are 28 x 67 x 60 voxels: 2 x 2 x 2 tiles of 24 x 60 x 40."""
    tiles = 8 * 24 * 60 * 40
    assert total().seconds(upright()) == pytest.approx(2.6e-6 * tiles)
    assert isinstance(total(), Costly)
    assert shelf.made[0].engine.seen == []


def test_five_models_take_five_times_as_long(shelf):
    for number in range(291, 296):
        shelf.put(number, [], spacing_mm=(1.5, 1.5, 1.5))
    segmenter = open_segmenter("totalsegmentator:?resolution=1.5")
    tiles = 3 * 3 * 4 * 24 * 60 * 40
    assert segmenter.seconds(upright()) == pytest.approx(5 * 2.6e-6 * tiles)


# --- labels -------------------------------------------------------------------------------------


def test_a_label_that_is_none_of_our_names_is_told_where_it_is_found(total):
    without = total().segment(scene(upright(), BALLS), ())
    volume = scene(upright(), {**BALLS, "not_in_our_books": ((0, 0, 20), 15.0)})
    found = total().segment(volume, ())
    assert (without.unmapped, found.unmapped) == ((), ("not_in_our_books",))
    assert set(measure(found)) == set(BALLS)


def test_of_several_models_the_later_one_counts():
    names, tables = number_labels([{1: "liver", 2: "spleen"}, {1: "aorta"}, {1: "spleen"}])
    merged = np.zeros((1, 1, 4), np.uint8)
    for found, table in zip(([1, 2, 2, 0], [0, 1, 0, 0], [0, 0, 0, 1]), tables, strict=True):
        merge_labels(merged, np.array(found, np.uint8).reshape(1, 1, 4), table)
    assert [names[n] for n in merged.ravel()] == ["liver", "aorta", "spleen", "spleen"]


def test_more_names_than_a_label_map_holds_are_refused():
    models = [{k: f"{m} {k}" for k in range(1, 200)} for m in range(2)]
    with pytest.raises(Misconfigured, match="398 structures"):
        number_labels(models)


def test_the_five_models_of_1_5_mm_make_one_segmentation(shelf):
    parts = zip(
        range(291, 296), [["spleen"], ["kidney_left"], [], [], ["kidney_right"]], strict=True
    )
    for number, labels in parts:
        shelf.put(number, labels, spacing_mm=(1.5, 1.5, 1.5))
    segmenter = open_segmenter("totalsegmentator:?resolution=1.5")
    found = segmenter.segment(scene(upright(), BALLS), ())
    assert set(measure(found)) == set(BALLS)
    assert found.algorithm.model == "total 1.5 mm (Dataset291-295)"
    assert found.algorithm.options[MODELS[293].name] == f"{293:064x}"
    # One after the other, as all at once would take 6 GB.
    assert len(networks._kept) == 1


@pytest.mark.parametrize(("keep", "loaded"), [(1, 15), (3, 11), (5, 5)])
def test_as_many_models_stay_loaded_as_may_be_kept(shelf, keep, loaded):
    for number in range(291, 296):
        shelf.put(number, ["spleen"], spacing_mm=(1.5, 1.5, 1.5))
    segmenter = open_segmenter(f"totalsegmentator:?resolution=1.5&keep={keep}")
    for _ in range(3):
        segmenter.segment(scene(upright(), BALLS), ())
        assert len(networks._kept) == keep
    assert len(shelf.made) in (loaded, loaded + 1)  # the first is opened for its provenance


def test_every_model_of_every_task_is_known():
    assert {number for task in TASKS for number in task.models} == set(MODELS)
    assert all(model.name.startswith(f"Dataset{number}_") for number, model in MODELS.items())


# --- what it is for -----------------------------------------------------------------------------


def test_a_model_sees_only_the_modality_it_was_trained_on(shelf):
    """By what DICOM says, not by the values: a CT may have been cut off at zero."""
    shelf.put(297, DENSITY)
    shelf.put(852, DENSITY, channels=("MR",))
    of_ct = open_segmenter("totalsegmentator:")
    of_mr = open_segmenter("totalsegmentator:?task=total_mr")
    ct = scene(upright(), BALLS)
    mr = Volume(ct.voxels, ct.affine, "MR")
    cut_off = Volume(np.maximum(ct.voxels, 0), ct.affine)
    assert of_ct.segment(mr, ()) is None
    assert of_mr.segment(ct, ()) is None
    assert of_mr.segment(cut_off, ()) is None
    assert of_ct.segment(cut_off, ()) is not None
    assert set(measure(of_mr.segment(mr, ()))) == set(measure(of_ct.segment(ct, ()))) == set(BALLS)


def test_any_model_of_nnunet_can_be_named(shelf):
    folder = shelf.put(298, ["spleen", "kidney_left"], spacing_mm=(4.0, 2.0, 3.0))
    segmenter = open_segmenter(f"nnunet://{folder}?threads=3")
    found = segmenter.segment(scene(upright(), BALLS), ())
    assert found.volume.voxels.shape == (21, 100, 60)
    assert set(measure(found)) == {"kidney_left"}
    assert (found.algorithm.name, found.algorithm.version) == ("nnU-Net", "")
    assert found.algorithm.model == f"{MODELS[298].name} 3d_fullres"
    assert (shelf.made[0].step, shelf.made[0].threads) == (0.5, 3)


@pytest.mark.parametrize(
    ("reader", "options", "turns"),
    [
        ("NibabelIOWithReorient", "", False),
        ("SimpleITKIO", "", True),
        ("SimpleITKIO", "?axes=RAS", False),
        ("NibabelIOWithReorient", "?axes=LPS", True),
    ],
)
def test_a_model_sees_images_as_its_reader_gave_them(shelf, reader, options, turns):
    folder = shelf.put(298, ["kidney_left", "kidney_right"], reader=reader)
    found = NnUNet(f"nnunet://{folder}{options}").segment(scene(upright(), BALLS), ())
    ((image,),) = shelf.made[0].engine.seen
    seen = image[:, ::-1, ::-1] if turns else image
    assert (seen == found.volume.voxels).all()
    assert measure(found)["kidney_left"].centroid_mm == pytest.approx(
        BALLS["kidney_left"][0], abs=1
    )


def test_provenance_says_all_that_changes_labels(total):
    algorithm = total("?mode=crop").segment(scene(upright(), BALLS), ()).algorithm
    assert (algorithm.name, algorithm.model) == ("TotalSegmentator", "total 3 mm (Dataset297)")
    assert algorithm.weights_sha256 == f"{297:064x}"
    assert algorithm.version == ""  # these weights are of no release
    assert algorithm.options == {
        "mode": "crop",
        "step": "0.8",
        "resampling": "linear",
        "spacing_mm": "3 x 3 x 3",
        "runtime": "a test",
        "precision": "f32",
    }


def test_weights_of_a_release_are_recognised(shelf, total):
    networks.read_model(next(shelf.folder.glob("*/*"))).weights_sha256 = MODELS[
        297
    ].checkpoint_sha256
    assert total().segment(scene(upright(), BALLS), ()).algorithm.version == "v2.0.0-weights"


def test_a_model_is_loaded_once_for_all_segmenters_of_a_process(total, shelf):
    for segmenter in (total(), total(), total("?mode=exact")):
        segmenter.segment(scene(upright(), BALLS), ())
    assert len(shelf.made) == 1


# --- what is refused ----------------------------------------------------------------------------


def test_missing_weights_are_told_with_both_ways_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMODEX_WEIGHTS", str(tmp_path))
    with pytest.raises(Misconfigured) as refused:
        TotalSegmentator("totalsegmentator:")
    said = str(refused.value)
    assert "tomodex weights fetch 297" in said
    assert "tomodex weights import" in said
    assert f"{MODELS[297].name}.zip" in said


def test_two_models_of_one_number_are_refused(shelf):
    folder = shelf.put(297, DENSITY)
    other = folder.with_name("nnUNetTrainer_4000epochs__nnUNetPlans__3d_fullres")
    other.mkdir()
    (other / "plans.json").write_text("{}")
    with pytest.raises(Misconfigured, match="there 2 times"):
        find_model(297, shelf.folder)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("totalsegmentator:?mode=quick", "mode"),
        ("totalsegmentator:?mode=fast&mode=exact", "twice"),
        ("totalsegmentator:?fast=1", "options are mode"),
        ("totalsegmentator:?step=0", "step"),
        ("totalsegmentator:?threads=0", "threads"),
        ("totalsegmentator:?task=liver", "no task 'liver'"),
        ("totalsegmentator:?resolution=2", "total at 1.5"),
        ("nnunet:/there?task=total", "options are mode"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(total, url, said):
    with pytest.raises(Misconfigured, match=said):
        open_segmenter(url)


def test_a_model_of_another_grid_than_its_task_is_refused(shelf):
    shelf.put(297, DENSITY, spacing_mm=(1.5, 1.5, 1.5))
    with pytest.raises(Misconfigured, match=r"made for 1\.5 x 1\.5 x 1\.5 mm, not 3"):
        TotalSegmentator("totalsegmentator:")


def test_a_model_of_several_channels_is_refused(shelf):
    folder = shelf.put(298, DENSITY, channels=("CT", "PET"))
    with pytest.raises(Misconfigured, match="2 channels"):
        NnUNet(f"nnunet://{folder}")


# --- where weights lie --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "made", "found"),
    [
        ({}, (), "home/.totalsegmentator/nnunet/results"),
        ({"TOTALSEG_HOME_DIR": "ts"}, (), "ts/nnunet/results"),
        ({"TOTALSEG_HOME_DIR": "ts", "TOTALSEG_WEIGHTS_PATH": "w"}, (), "w"),
        ({"TOMODEX_WEIGHTS": "t", "TOTALSEG_WEIGHTS_PATH": "w"}, (), "t"),
        ({"TOMODEX_WEIGHTS": "t"}, ("t/nnunet/results",), "t/nnunet/results"),
        ({"TOMODEX_WEIGHTS": ""}, (), "home/.totalsegmentator/nnunet/results"),
    ],
    ids=["nothing", "home", "path", "ours", "ours is a home", "ours is empty"],
)
def test_weights_are_where_the_environment_says(tmp_path, monkeypatch, environment, made, found):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("TOMODEX_WEIGHTS", "TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in environment.items():
        monkeypatch.setenv(name, str(tmp_path / folder) if folder else "")
    for folder in made:
        (tmp_path / folder).mkdir(parents=True)
    assert find_results() == tmp_path / found
    assert find_results(tmp_path / "said") == tmp_path / "said"


# --- a real model -------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL, reason="TOMODEX_REAL_DATA is not set")
@pytest.mark.parametrize("mode", ["exact", "crop&precision=f32"])
def test_a_model_in_totalsegmentators_format_runs(tmp_path, mode):
    weights = Path(str(REAL)) / "weights/tiny"
    segmenter = open_segmenter(
        f"totalsegmentator:?weights={weights}&cache={tmp_path}&mode={mode}&threads=2"
    )
    found = segmenter.segment(scene(upright(), BALLS), ())
    assert found.algorithm.options["runtime"] == "OpenVINO"
    assert found.unmapped == ()
    assert len(measure(found)) > 3
