from __future__ import annotations

import hashlib
import json
import os
import random
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, active_count
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

import tomodex.volume
from tests.phantoms import (
    ENCODERS,
    NATIVE,
    ct_dataset,
    enhanced_ct_dataset,
    write_ball_series,
    write_dataset,
)
from tomodex.errors import Unavailable, Unsuitable
from tomodex.geometry import find_geometry
from tomodex.instance import Instance, read_instance
from tomodex.pixels import decode_frame
from tomodex.volume import Volume, decode_slices, load_volume, open_volume

RLE, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"


def read(path: Path) -> Instance | None:
    return read_instance(path, lambda name: "nobody")


def read_all(paths: Sequence[Path]) -> list[Instance]:
    return [found for found in map(read, paths) if found is not None]


def written(folder: Path, datasets: Sequence[Dataset]) -> list[Instance]:
    """The series that the datasets make, in files named at random."""
    names = random.Random(0).sample(range(10_000), len(datasets))
    return read_all(
        [
            write_dataset(folder / f"{name:04}.dcm", ds)
            for name, ds in zip(names, datasets, strict=True)
        ]
    )


def load(instances: Sequence[Instance]) -> Volume:
    return load_volume(instances, find_geometry(instances))


def refusal(instances: Sequence[Instance]) -> Unsuitable:
    with pytest.raises(Unsuitable) as caught:
        load(instances)
    return caught.value


def stored_values(count: int = 6, rows: int = 40, columns: int = 50) -> np.ndarray:
    """(count, rows, columns) of 12 bits, no two slices alike."""
    dice = np.random.default_rng(0)
    return dice.integers(0, 4096, (count, rows, columns)).astype("<u2")


def classic(stored: np.ndarray, depths: Sequence[float] | None = None, **how) -> list[Dataset]:
    where = [2.5 * k for k in range(len(stored))] if depths is None else depths
    return [
        ct_dataset(values, position_mm=(-9, -8, z), **how)
        for values, z in zip(stored, where, strict=True)
    ]


# --- what a volume is -------------------------------------------------------------------------


def test_the_order_and_names_of_files_do_not_matter(tmp_path):
    write_ball_series(tmp_path)
    instances = read_all(sorted(tmp_path.iterdir()))
    shuffled = random.Random(1).sample(instances, len(instances))
    assert np.array_equal(load(instances).voxels, load(shuffled).voxels)


def test_slices_stack_from_foot_to_head_in_hu(tmp_path):
    stored = stored_values()
    volume = load(written(tmp_path, classic(stored)))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, stored.astype(int) - 1024)
    assert volume.affine @ [3, 0, 0, 1] == pytest.approx([-9, -8, 7.5, 1])
    assert volume.affine @ [0, 3, 0, 1] == pytest.approx([-9, -8 + 2.7, 0, 1])
    assert volume.affine @ [0, 0, 3, 1] == pytest.approx([-9 + 2.1, -8, 0, 1])


def test_a_voxel_has_the_volume_of_its_box_also_where_it_leans():
    affine = np.diag([2.0, 0.9, 0.7, 1.0])
    affine[1, 0] = 5.0
    volume = Volume(np.zeros((1, 1, 1), np.int16), affine)
    assert volume.voxel_volume_ml == pytest.approx(2.0 * 0.9 * 0.7 / 1000)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE])
def test_classic_and_enhanced_instances_give_the_same_volume(tmp_path, syntax):
    stored = stored_values()
    rescales = [(1 + k % 2, -1024 + k) for k in range(6)]
    datasets = classic(stored)
    for ds, rescale in zip(datasets, rescales, strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = rescale
    (tmp_path / "classic").mkdir()
    one = load(written(tmp_path / "classic", datasets))

    mixed = [4, 0, 5, 2, 1, 3]
    enhanced = enhanced_ct_dataset(
        stored[mixed],
        transfer_syntax=syntax,
        positions_mm=[(-9, -8, 2.5 * k) for k in mixed],
        rescales=[rescales[k] for k in mixed],
    )
    other = load(written(tmp_path, [enhanced]))
    assert np.array_equal(one.voxels, other.voxels)
    assert np.array_equal(one.affine, other.affine)


def test_a_series_in_several_enhanced_instances_is_one_volume(tmp_path):
    stored = stored_values()
    parts = [
        enhanced_ct_dataset(
            stored[part], positions_mm=[(0, 0, k) for k in part], rescales=[(1, -1024)] * 3
        )
        for part in ([0, 2, 4], [5, 3, 1])
    ]
    assert np.array_equal(load(written(tmp_path, parts)).voxels, stored.astype(int) - 1024)


def test_an_instance_that_is_there_twice_counts_once(tmp_path):
    datasets = classic(stored_values())
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.mkdir(), twice.mkdir()
    again = [*written(once, datasets), *written(twice, datasets[2:4])]
    assert np.array_equal(load(again).voxels, load(again[:6]).voxels)


# --- HU ---------------------------------------------------------------------------------------


def hu_of(tmp_path: Path, values: Sequence[int], dtype: str = "<u2", **how) -> list[int]:
    """HU that stored values become, each in a voxel of its own."""
    stored = np.resize(np.array(values, dtype), (2, 3, len(values)))
    voxels = load(written(tmp_path, classic(stored, **how))).voxels
    assert (voxels == voxels[0, 0]).all()
    return voxels[0, 0].tolist()


def test_hu_are_rounded_to_the_nearest(tmp_path):
    found = hu_of(tmp_path, [0, 499, 501, 1499, 1501, 4095], rescale=(0.001, 0))
    assert found == [0, 0, 1, 1, 2, 4]


def test_a_slope_of_many_digits_is_exact(tmp_path):
    assert hu_of(tmp_path, [0, 1000, 4095], rescale=(2.0002442, -4047)) == [-4047, -2047, 4144]


def test_hu_beyond_16_bits_are_cut_off_not_wrapped(tmp_path):
    assert hu_of(tmp_path, [0, 4095], rescale=(100, -40_000)) == [-32_768, 32_767]


def test_negative_stored_values_are_negative(tmp_path):
    assert hu_of(tmp_path, [-1000, 0, 2000], "<i2", bits=12, rescale=(1, 24)) == [-976, 24, 2024]


def test_bits_above_the_stored_ones_are_overlays_not_hu(tmp_path):
    assert hu_of(tmp_path, [0xF000, 0x8400, 0x0400], bits=12) == [-1024, 0, 0]


def test_bits_at_the_top_of_their_words_are_the_stored_ones(tmp_path):
    datasets = classic(stored_values() << 4)
    for ds in datasets:
        ds.HighBit = 15
    assert np.array_equal(
        load(written(tmp_path, datasets)).voxels, stored_values().astype(int) - 1024
    )


def test_padding_is_rescaled_like_everything_else(tmp_path):
    datasets = classic(np.full((2, 3, 4), -2000, "<i2"), bits=16)
    for ds in datasets:
        ds.PixelPaddingValue = -2000
    assert (load(written(tmp_path, datasets)).voxels == -3024).all()


def test_monochrome1_shows_the_same_hu_in_other_grey(tmp_path):
    datasets = classic(stored_values())
    for ds in datasets:
        ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(
        load(written(tmp_path, datasets)).voxels, stored_values().astype(int) - 1024
    )


def test_signed_values_without_a_rescale_are_hu(tmp_path):
    assert hu_of(tmp_path, [-1000, 60], "<i2", bits=16, rescale=None) == [-1000, 60]


def test_unsigned_values_without_a_rescale_are_refused(tmp_path):
    assert refusal(written(tmp_path, classic(stored_values(), rescale=None))).reason == "no_rescale"


@pytest.mark.parametrize("rescale", [(0.0, -1024.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_rescale_that_makes_no_hu_is_refused(tmp_path, rescale):
    slope, intercept = rescale
    instances = [
        replace(i, frames=(replace(i.frames[0], rescale_slope=slope, rescale_intercept=intercept),))
        for i in written(tmp_path, classic(stored_values()))
    ]
    assert refusal(instances).reason == "no_rescale"


# --- resampling -------------------------------------------------------------------------------


def test_a_slightly_uneven_stack_is_resampled_where_its_slices_lie(tmp_path):
    """What is linear from foot to head stays so, on even slices."""
    depths = np.array([0, 5, 10.5, 15, 20, 25.4, 30])
    ramp = np.broadcast_to((10 * depths).round()[:, None, None], (7, 4, 5)).astype("<u2")
    instances = written(tmp_path, classic(ramp, depths.tolist(), rescale=(1, 0)))
    geometry = find_geometry(instances)
    assert geometry.places is not None
    volume = load_volume(instances, geometry)
    z = (volume.affine @ np.array([[k, 0, 0, 1] for k in range(7)]).T)[2]
    assert z == pytest.approx(np.arange(7) * 5)
    assert np.abs(volume.voxels[:, 1, 2] - 10 * z).max() <= 0.5


def test_a_leaning_uneven_stack_is_resampled_along_its_lean(tmp_path):
    """A line that runs through the same row and column of all slices stays there."""
    depths = np.array([0, 5, 10.5, 15, 20, 25.4, 30])
    stored = np.zeros((7, 6, 5), "<u2")
    stored[:, 4, 2] = 1000
    datasets = [
        ct_dataset(values, position_mm=(0, 0.4 * z, z), rescale=(1, 0))
        for values, z in zip(stored, depths, strict=True)
    ]
    voxels = load(written(tmp_path, datasets)).voxels
    assert (voxels[:, 4, 2] == 1000).all()
    assert voxels.sum() == 7000


# --- streaming and bounds ---------------------------------------------------------------------


def test_slices_stream_in_the_order_of_the_volume(tmp_path):
    instances = written(tmp_path, classic(stored_values(), transfer_syntax=JPEG_LS))
    geometry = find_geometry(instances)
    streamed = np.stack(list(decode_slices(instances, geometry)))
    assert np.array_equal(streamed, load_volume(instances, geometry).voxels)


def test_a_volume_in_files_is_the_volume_they_make(tmp_path):
    instances = written(tmp_path, classic(stored_values()))
    geometry = find_geometry(instances)
    filed, loaded = open_volume(instances, geometry), load_volume(instances, geometry)
    assert filed.shape == loaded.shape == (6, 40, 50)
    assert np.array_equal(np.stack(list(filed.slices())), loaded.voxels)
    assert np.array_equal(filed.voxels, loaded.voxels)
    assert filed.voxels is filed.voxels
    assert np.array_equal(filed.affine, loaded.affine)
    assert filed.modality == loaded.modality == "CT"


def test_slices_of_a_volume_in_files_come_as_often_as_they_are_asked_for(tmp_path):
    instances = written(tmp_path, classic(stored_values()))
    filed = open_volume(instances, find_geometry(instances))
    once, again = list(filed.slices()), list(filed.slices())
    assert np.array_equal(once, again)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(Unsuitable):
        list(filed.slices())


def test_voxels_that_were_decoded_are_decoded_no_more(tmp_path):
    instances = written(tmp_path, classic(stored_values()))
    filed = open_volume(instances, find_geometry(instances))
    voxels = filed.voxels
    for path in tmp_path.iterdir():
        path.unlink()
    assert np.array_equal(np.stack(list(filed.slices())), voxels)
    filed.require_pixels()


@pytest.mark.parametrize("looked_at", [0, 3])
def test_a_broken_slice_is_told_also_where_nobody_looked(tmp_path, looked_at):
    instances = written(tmp_path, classic(stored_values(), transfer_syntax=JPEG_LS))
    geometry = find_geometry(instances)
    last = Path(instances[geometry.slices[-1][0]].path)
    last.write_bytes(last.read_bytes().replace(b"\xff\xd8", b"\x00\x00"))
    filed = open_volume(instances, geometry)
    slices = filed.slices()
    for _ in range(looked_at):
        next(slices)
    with pytest.raises(Unsuitable, match="slice 6 of 6"):
        filed.require_pixels()


def test_pixels_that_were_looked_at_are_not_decoded_again_to_be_sure(tmp_path):
    instances = written(tmp_path, classic(stored_values()))
    filed = open_volume(instances, find_geometry(instances))
    list(filed.slices())
    for path in tmp_path.iterdir():
        path.unlink()
    filed.require_pixels()


def test_a_volume_that_could_not_be_decoded_once_is_not_believed_later(tmp_path):
    instances = written(tmp_path, classic(stored_values(), transfer_syntax=JPEG_LS))
    broken = Path(instances[3].path)
    broken.write_bytes(broken.read_bytes().replace(b"\xff\xd8", b"\x00\x00"))
    filed = open_volume(instances, find_geometry(instances))
    for _ in range(2):
        with pytest.raises(Unsuitable):
            _ = filed.voxels


def test_slices_are_decoded_side_by_side(tmp_path, monkeypatch):
    instances = written(tmp_path, classic(stored_values()))
    others = Barrier(3, timeout=10)

    def together(*known):
        others.wait()
        return decode_frame(*known)

    monkeypatch.setattr(tomodex.volume, "_usable_cores", lambda: 3)
    monkeypatch.setattr(tomodex.volume, "decode_frame", together)
    assert np.array_equal(load(instances).voxels, stored_values().astype(int) - 1024)


def test_a_stream_that_nobody_wants_any_more_ends_its_threads(tmp_path):
    instances = written(tmp_path, classic(stored_values(30)))
    before = active_count()
    slices = decode_slices(instances, find_geometry(instances))
    assert isinstance(slices, Iterator)
    next(slices)
    assert active_count() > before
    del slices
    assert active_count() == before


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE])
def test_loading_holds_little_more_than_the_volume(tmp_path, syntax):
    stored = np.resize(stored_values(1, 120, 130), (150, 120, 130))
    ds = enhanced_ct_dataset(
        stored,
        transfer_syntax=syntax,
        positions_mm=[(0, 0, k) for k in range(150)],
        rescales=[(1, -1024)] * 150,
    )
    instances = written(tmp_path, [ds])
    geometry = find_geometry(instances)
    del ds, stored
    list(decode_slices(instances, geometry))  # what is made once and kept: tables, codecs
    tracemalloc.start()
    try:
        volume = load_volume(instances, geometry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    a_slice = volume.voxels.nbytes / 150
    assert peak - volume.voxels.nbytes < (10 + 6 * len(os.sched_getaffinity(0))) * a_slice


def test_more_voxels_than_allowed_are_refused_before_any_file_is_read(tmp_path):
    instances = [replace(i, path="gone") for i in written(tmp_path, classic(stored_values()))]
    with pytest.raises(Unsuitable) as caught:
        load_volume(instances, find_geometry(instances), max_voxels=6 * 40 * 50 - 1)
    assert (caught.value.reason, caught.value.sentence) == (
        "too_large",
        "6 x 40 x 50 voxels are more than 11999",
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE])
def test_memory_is_not_asked_for_what_no_file_can_hold(tmp_path, monkeypatch, syntax):
    lying = [
        replace(i, rows=12_000, columns=20_000)
        for i in written(tmp_path, classic(stored_values(), transfer_syntax=syntax))
    ]
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("memory was asked for"))
    assert refusal(lying).reason == "truncated"


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODERS])
def test_a_uniform_series_is_believed_however_small_its_files(tmp_path, syntax):
    """The tightest that each codec packs pixels, with many frames to one header."""
    kind, bits = ("<u1", 8) if syntax.endswith("4.50") else ("<u2", 12)
    ds = enhanced_ct_dataset(
        np.full((4, 512, 512), 100, kind),
        transfer_syntax=syntax,
        bits=bits,
        positions_mm=[(0, 0, k) for k in range(4)],
        rescales=[(1, 0)] * 4,
    )
    assert np.abs(load(written(tmp_path, [ds])).voxels - 100).max() <= 1


@pytest.mark.parametrize("frames", [1, 6])
def test_an_error_says_which_slice_it_is_and_no_more(tmp_path, frames):
    stored = stored_values()
    if frames == 1:
        instances = written(tmp_path, classic(stored))
        third = sorted(instances, key=lambda i: i.frames[0].position_mm[2])[2]
        Path(third.path).write_bytes(Path(third.path).read_bytes()[:-100])
        name = "slice 3 of 6: "
    else:
        where = [(0, 0, k) for k in range(6)]
        ds = enhanced_ct_dataset(stored, positions_mm=where, rescales=[(1, 0)] * 6)
        (third,) = instances = written(tmp_path, [ds])
        Path(third.path).write_bytes(Path(third.path).read_bytes()[:-100])
        name = "slice 1 of 6: "
    error = refusal(instances)
    assert error.reason == "truncated"
    assert error.sentence.startswith(name)
    assert str(tmp_path) not in error.sentence


def test_a_file_that_is_gone_is_unavailable(tmp_path):
    instances = written(tmp_path, classic(stored_values()))
    Path(instances[3].path).unlink()
    with pytest.raises(Unavailable):
        load(instances)


# --- real series, with the answers that others gave -------------------------------------------

REAL = os.environ.get("TOMODEX_REAL_DATA")
ANSWERS = Path(
    os.environ.get(
        "TOMODEX_REAL_REFERENCE", Path(__file__).parents[2] / "shared" / "data" / "_reference"
    )
)


def answers() -> Iterator[pytest.param]:
    """Every CT series whose geometry somebody else has recorded; none without the real data."""
    for path in sorted(ANSWERS.glob("*.json")) if REAL else ():
        for series in json.loads(path.read_text())["series"]:
            known = series.get("reference", {})
            even = "affine_lps_ijk_colrowslice" in known or known.get("multiframe")
            if series["tags"].get("Modality") == "CT" and even:
                name = f"{path.stem}/{series['subdir']}/{series['series_uid']}"
                yield pytest.param(path.stem, series, id=name)


def real_series(item: str, series: Mapping[str, Any]) -> list[Instance]:
    """The instances of a series; an item whose headers name no series is one."""
    (folder,) = Path(REAL or "").glob(f"*/{item}")
    files = sorted(f for f in (folder / series["subdir"]).rglob("*") if f.is_file())
    return [i for i in read_all(files) if i.series_uid == (series["series_uid"] or "")]


def sha256(voxels: np.ndarray) -> str:
    return hashlib.sha256(voxels.astype("<i2").tobytes()).hexdigest()


def corners(shape: Sequence[int]) -> np.ndarray:
    """(4, 8): the outermost voxel centres of a grid."""
    ends = np.meshgrid(*[(0, n - 1) for n in shape], [1])
    return np.reshape(ends, (4, 8))


@pytest.mark.parametrize(("item", "series"), list(answers()))
def test_a_real_series_gives_the_volume_that_others_recorded(item, series):
    volume, known = load(real_series(item, series)), series["reference"]
    if known.get("multiframe"):
        assert sha256(volume.voxels) == known["sha256_int16le_sorted_along_normal"]
        depths = sorted(known["frame_positions"], key=lambda p: np.dot(p, volume.affine[:3, 0]))
        assert volume.affine[:3, 3] == pytest.approx(depths[0], abs=0.1)
        return
    assert list(volume.voxels.shape) == known["hu"]["shape_zyx"]
    assert sha256(volume.voxels) == known["hu"]["sha256_int16le_zyx"]
    theirs = np.array(known["affine_lps_ijk_colrowslice"])[:, [2, 1, 0, 3]]
    apart = (volume.affine - theirs) @ corners(volume.voxels.shape)
    assert np.abs(apart).max() < 0.1
    for probe in known["probes"]:
        at = probe["slice"], probe["row"], probe["col"]
        # They recorded HU before rounding.
        assert volume.voxels[at] == round(probe["hu"])
        assert volume.affine @ [*at, 1] == pytest.approx([*probe["lps_mm"], 1], abs=0.1)


def real_codecs() -> list[pytest.param]:
    """One CT image, written by one program in every transfer syntax it knows."""
    folder = Path(REAL or "") / "transfer_syntax" / "cornerstone-ctimage-transfer-syntaxes"
    files = sorted(folder.iterdir()) if REAL else []
    return [pytest.param(path, id=path.stem.removeprefix("CTImage.dcm_")) for path in files]


#: Mean absolute difference in HU that each lossy syntax is allowed; its rescale is coarser, too.
LOSSY_HU = {"50": 25.0, "51": 5.0, "53": 5.0, "55": 5.0, "81": 1.0, "91": 1.0}


@pytest.mark.parametrize("path", real_codecs())
def test_a_real_image_is_the_same_in_every_transfer_syntax(path):
    # Two positions, as one slice makes no volume.
    instances = [
        replace(i, sop_uid=name, frames=(replace(i.frames[0], position_mm=(0.0, 0.0, z)),))
        for i in read_all([path])
        for name, z in (("1", 0.0), ("2", 5.0))
    ]
    found = load(instances).voxels[1]
    (plain,) = read_all([path.parent / "CTImage.dcm"])
    stored = np.frombuffer(Path(plain.path).read_bytes()[-524_288:], "<i2").reshape(512, 512)
    near = LOSSY_HU.get(instances[0].transfer_syntax.rpartition(".")[2], 0)
    assert np.abs(found.astype(int) - (stored.astype(int) - 1024)).mean() <= near
    if not near:
        known = json.loads((ANSWERS / f"{path.parent.name}.json").read_text())["files"]
        assert sha256(found) in {f["hu_sha256_int16le"] for f in known if f["file"] == path.name}
