from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.nnunet_models import Call, write_torch
from tests.official_package import DENSITY, TRICKS, write_package, write_weights
from tests.test_resampling import axial, tilted, turned
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.measurement import measure
from tomodex.segmenters import Costly, open_segmenter
from tomodex.segmenters.reference import Reference, process
from tomodex.volume import Volume

AIR = -1000
BALLS = {"kidney_left": ((45, 20, 10), 20.0), "kidney_right": ((-45, -10, -12), 15.0)}


def upright():
    """84 x 200 x 180 mm around (0, 0, 0)."""
    return axial(np.zeros((42, 133, 100)), (2.0, 1.5, 1.8), (90, 100, -42))


def scene(volume, balls):
    """The grid with air, and in it a ball (LPS mm, radius) for each name."""
    indices = np.indices(volume.voxels.shape).reshape(3, -1)
    places = volume.affine[:3, :3] @ indices + volume.affine[:3, 3:]
    hu = np.full(places.shape[1], AIR)
    for name, (at, radius) in balls.items():
        hu[np.linalg.norm(places - np.array(at)[:, None], axis=0) <= radius] = DENSITY[name]
    return Volume(hu.reshape(volume.voxels.shape).astype(np.int16), volume.affine)


def with_trick(trick):
    volume = scene(upright(), BALLS)
    volume.voxels[0, 0, 0] = TRICKS[trick]
    return volume


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Python with the stand-in for the official package, and weights."""
    folder = tmp_path_factory.mktemp("official")
    return write_package(folder), write_weights(folder / "weights", (291, 292, 293, 294, 295, 297))


@pytest.fixture(scope="module")
def open_reference(places):
    python, weights = places
    return lambda options="": open_segmenter(
        f"reference:?python={python}&weights={weights}{options}"
    )


@pytest.fixture(scope="module")
def reference(open_reference):
    return open_reference()


def folder_of(reference):
    """The private folder that its process works in."""
    return Path(f"/proc/{reference._official._process.pid}/cwd").readlink()


def is_running(pid):
    """Zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


GRIDS = {
    "axial": lambda v: v,
    "prone": lambda v: turned(v, 180, around=2),
    "coronal": lambda v: turned(v, 90, around=0),
    "oblique": lambda v: turned(v, 35, around=2),
    "gantry forward": lambda v: tilted(v, 18),
}


@pytest.mark.parametrize("change", GRIDS.values(), ids=GRIDS)
def test_structures_are_found_where_they_are_on_any_grid(reference, change):
    found = measure(reference.segment(scene(change(upright()), BALLS), ()))
    assert set(found) >= set(BALLS)
    for name, (at, radius) in BALLS.items():
        assert found[name].centroid_mm == pytest.approx(at, abs=1.5)
        # On an oblique grid, what lies between densities is neither: a rim is missing.
        assert radius - 6 < (found[name].volume_ml * 1000 / 4.19) ** (1 / 3) < radius + 1


def test_a_name_that_is_none_of_ours_is_told_where_it_is_found(reference):
    without = reference.segment(scene(upright(), BALLS), ())
    balls = {**BALLS, "not_in_our_books": ((0, 0, 20), 15.0)}
    found = reference.segment(scene(upright(), balls), ())
    assert (without.unmapped, found.unmapped) == ((), ("not_in_our_books",))
    assert set(measure(found)) == set(BALLS)


def test_provenance_names_the_package_and_all_that_changes_labels(reference):
    algorithm = reference.segment(scene(upright(), BALLS), ()).algorithm
    assert (algorithm.name, algorithm.version) == ("TotalSegmentator", "2.18.0")
    assert algorithm.model == "total 3 mm (Dataset297)"
    assert len(algorithm.weights_sha256) == 64
    assert algorithm.options == {
        "runtime": "official package",
        "nnunetv2": "2.8.1",
        "torch": "2.15.0",
        "device": "cpu",
        "resampling": "linear",
        "spacing_mm": "3 x 3 x 3",
    }


def test_five_models_label_their_own_grid_and_are_loaded_once(open_reference):
    reference = open_reference("&resolution=1.5")
    for _ in range(2):
        found = reference.segment(scene(upright(), BALLS), ())
        assert found.volume.voxels.shape == (56, 133, 120)
        assert set(measure(found)) == set(BALLS)
    assert found.algorithm.model == "total 1.5 mm (Dataset291-295)"


def test_a_model_stays_loaded_and_no_more_processes_are_started(reference):
    """The stand-in refuses to load a model twice, and to do what the default loop does."""
    pid = reference._official._process.pid
    for _ in range(3):
        assert reference.segment(scene(upright(), BALLS), ()) is not None
    assert reference._official._process.pid == pid


def test_an_mr_series_is_left_to_others(reference):
    volume = scene(upright(), BALLS)
    assert reference.segment(Volume(volume.voxels, volume.affine, "MR"), ()) is None


# --- a bad day ----------------------------------------------------------------------------------


def test_what_the_package_prints_is_no_answer(reference):
    assert set(measure(reference.segment(with_trick("chatter"), ()))) == set(BALLS)


@pytest.mark.parametrize(
    ("trick", "kind"), [("error", "ValueError"), ("exit", "SystemExit"), ("connect", "Permission")]
)
def test_an_error_in_the_package_fails_one_series_and_quotes_nothing(reference, trick, kind):
    pid = reference._official._process.pid
    with pytest.raises(TomodexError, match=f"failed: {kind}") as failed:
        reference.segment(with_trick(trick), ())
    assert "Doe" not in str(failed.value)
    assert not isinstance(failed.value, Unavailable)
    assert reference.segment(scene(upright(), BALLS), ()) is not None
    assert reference._official._process.pid == pid


def test_a_process_that_dies_is_started_again(reference):
    folder = folder_of(reference)
    with pytest.raises(Unavailable, match="SIGKILL"):
        reference.segment(with_trick("killed"), ())
    assert not folder.exists()
    assert set(measure(reference.segment(scene(upright(), BALLS), ()))) == set(BALLS)


def test_an_answer_that_takes_too_long_is_not_waited_for(open_reference):
    reference = open_reference("&deadline_s=0.3")
    pid, begin = reference._official._process.pid, time.monotonic()
    with pytest.raises(Unavailable, match="took more than 0 s"):
        reference.segment(with_trick("hang"), ())
    assert time.monotonic() - begin < 5
    assert not is_running(pid)


def test_larger_grids_are_expected_to_take_longer(reference, open_reference):
    small, large = (axial(np.zeros((n, 100, 100)), (3, 3, 3)) for n in (1, 100))
    assert reference.seconds(small) == pytest.approx(10, abs=0.5)
    assert reference.seconds(large) == pytest.approx(10 + 15)
    assert open_reference("&resolution=1.5").seconds(large) == pytest.approx(10 + 15 * 8 * 5)
    assert isinstance(reference, Costly)


def test_another_grid_than_expected_is_refused(reference):
    with pytest.raises(Misconfigured, match="29 x 67 x 61 voxels, where 28 x 66 x 60"):
        reference.segment(with_trick("other grid"), ())


def test_whoever_stops_waiting_gets_no_answer_of_somebody_else(open_reference, monkeypatch):
    reference = open_reference()
    first = reference._official

    def interrupt(stream):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(process.official, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reference.segment(scene(upright(), BALLS), ())
    assert not first.is_alive
    assert set(measure(reference.segment(scene(upright(), BALLS), ()))) == set(BALLS)


# --- its process --------------------------------------------------------------------------------


def test_the_process_ends_when_nobody_holds_it(open_reference):
    reference = open_reference()
    pid, folder = reference._official._process.pid, folder_of(reference)
    assert is_running(pid)
    del reference
    assert wait_until(lambda: not is_running(pid))
    assert not folder.exists()


@pytest.mark.parametrize("trick", [None, "hang"])
def test_the_process_ends_with_a_parent_that_is_killed(places, tmp_path, trick):
    python, weights = places
    program = f"""
import os, time
import numpy as np
from tomodex.segmenters.reference import Reference
from tomodex.volume import Volume
reference = Reference("reference:?python={python}&weights={weights}")
pid = reference._official._process.pid
print(pid, os.readlink(f"/proc/{{pid}}/cwd"), flush=True)
if {trick!r}:
    reference.segment(Volume(np.full((9, 9, 9), {TRICKS.get(trick)}, np.int16), np.eye(4)), ())
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with parent:
        pid, folder = parent.stdout.readline().split()
        if trick:
            time.sleep(0.5)
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not is_running(pid))
    assert wait_until(lambda: not Path(folder).exists())


def test_the_package_gets_a_home_that_sends_no_statistics(reference):
    home = folder_of(reference) / "home"
    assert home.stat().st_mode & 0o077 == 0 or home.parent.stat().st_mode & 0o077 == 0
    assert '"send_usage_stats": false' in (home / "config.json").read_text()
    (model,) = (home / "nnunet/results").iterdir()
    assert model.is_symlink()


def test_the_package_gets_no_secret_of_ours(open_reference, monkeypatch):
    monkeypatch.setenv("TOMODEX_PASSWORD", "correct horse")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", "/elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    reference = open_reference()
    given = Path(f"/proc/{reference._official._process.pid}/environ").read_bytes()
    assert b"correct horse" not in given
    assert b"OMP_NUM_THREADS=3" in given
    assert b"/elsewhere" not in given


# --- what is refused ----------------------------------------------------------------------------


def test_a_missing_package_is_told_with_both_ways_to_get_it(places, tmp_path):
    python = write_package(tmp_path, without="totalsegmentator")
    with pytest.raises(Misconfigured) as refused:
        Reference(f"reference:?python={python}&weights={places[1]}")
    said = str(refused.value)
    assert "(totalsegmentator)" in said
    assert "pip install 'tomodex[reference]'" in said
    assert "reference:?python=" in said


def test_an_old_package_is_refused(places, tmp_path):
    python = write_package(tmp_path, option="save_all")
    with pytest.raises(Misconfigured, match=r"newer TotalSegmentator, from 2\.18 on"):
        Reference(f"reference:?python={python}&weights={places[1]}")


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false", "/bin/echo"])
def test_what_is_no_python_is_refused(places, program):
    with pytest.raises(Misconfigured, match=program):
        Reference(f"reference:?python={program}&weights={places[1]}")


def test_a_gpu_that_is_not_there_is_refused(open_reference):
    with pytest.raises(Misconfigured, match="sees no GPU"):
        open_reference("&device=gpu")


def test_weights_that_could_run_something_are_never_given_to_the_package(places, tmp_path):
    weights = write_weights(tmp_path)
    (checkpoint,) = weights.rglob("checkpoint_final.pth")
    write_torch(checkpoint, {"network_weights": Call("os", "system", ("true",))})
    with pytest.raises(Misconfigured, match=r"os.system"):
        Reference(f"reference:?python={places[0]}&weights={weights}")


@pytest.mark.parametrize(
    ("options", "said"),
    [("&mode=fast", "options are task"), ("&device=tpu", "device"), ("&task=liver", "no task")],
)
def test_an_option_that_does_not_exist_is_refused(open_reference, options, said):
    with pytest.raises(Misconfigured, match=said):
        open_reference(options)


def test_missing_weights_are_told_before_anything_is_started(places, tmp_path):
    with pytest.raises(Misconfigured, match="tomodex weights import"):
        Reference(f"reference:?python=/nowhere&weights={tmp_path}")
