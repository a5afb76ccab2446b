from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from tests.nnunet_models import (
    Tensor,
    logits,
    random_weights,
    training_state,
    weight_shapes,
    write_model,
    write_torch,
)
from tomodex.errors import Misconfigured
from tomodex.nnunet import weights as weights_module
from tomodex.nnunet.engine import load_engine
from tomodex.nnunet.model import read_model
from tomodex.nnunet.openvino import capabilities
from tomodex.nnunet.silent_openvino import ov
from tomodex.nnunet.weights import load_weights

IMAGE = np.random.default_rng(0).normal(20, 300, (1, 10, 14, 20)).astype(np.float32)


def test_a_folder_becomes_labels(tmp_path):
    folder = write_model(tmp_path)
    engine = load_engine(folder, cache=tmp_path / "cache", threads=2)
    labels = engine.segment(IMAGE)
    assert (labels.dtype, labels.shape) == (np.uint8, (10, 14, 20))
    assert {0} < set(np.unique(labels)) <= {0, *engine.model.labels}
    assert engine.runtime.description["precision"] == "f32"
    assert engine.runtime.description["runtime"] == "OpenVINO"
    assert np.array_equal(labels, engine.segment(IMAGE))


@pytest.mark.skipif("BF16" not in capabilities(ov.Core()), reason="this CPU has no bf16")
def test_bf16_gives_nearly_the_same_labels(tmp_path):
    folder = write_model(tmp_path)
    exact = load_engine(folder, cache=tmp_path / "cache", threads=2).segment(IMAGE)
    fast = load_engine(folder, cache=tmp_path / "cache", threads=2, precision="bf16")
    assert fast.runtime.description["precision"] == "bf16"
    assert 0.95 < (fast.segment(IMAGE) == exact).mean() < 1


@pytest.mark.parametrize("step", [0, -0.5, 1.01, float("nan")])
def test_a_step_that_leaves_gaps_or_never_ends_is_refused(tmp_path, step):
    with pytest.raises(Misconfigured, match="tiles lie more than 0"):
        load_engine(write_model(tmp_path), cache=tmp_path, step=step)


def test_weights_of_another_network_are_refused(tmp_path):
    folder = write_model(tmp_path, weights={"w": np.zeros(3, np.float32)})
    with pytest.raises(Misconfigured, match=r"no encoder\.stages\.0"):
        load_engine(folder, cache=tmp_path / "cache")


# --- kept weights -------------------------------------------------------------------------------


def test_weights_are_converted_once(tmp_path, monkeypatch):
    model = read_model(write_model(tmp_path))
    first = load_weights(model, tmp_path / "cache")
    monkeypatch.setattr(weights_module, "read_checkpoint", None)
    again = load_weights(model, tmp_path / "cache")
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    (kept,) = (tmp_path / "cache").iterdir()
    assert model.weights_sha256 in kept.name


def test_other_weights_are_kept_apart(tmp_path):
    folder = write_model(tmp_path)
    before = load_weights(read_model(folder), tmp_path / "cache")
    other = random_weights(read_model(folder).architecture, seed=9)
    content = training_state({name: Tensor(values) for name, values in other.items()})
    write_torch(folder / "fold_0/checkpoint_final.pth", content)
    after = load_weights(read_model(folder), tmp_path / "cache")
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert not np.array_equal(before[name], after[name])
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_kept_weights_that_are_not_whole_are_made_anew(tmp_path, share):
    model = read_model(write_model(tmp_path))
    right = load_weights(model, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    data = kept.read_bytes()
    kept.write_bytes(data[: int(len(data) * share)])
    found = load_weights(model, tmp_path / "cache")
    assert all(np.array_equal(right[name], found[name]) for name in right)
    assert kept.stat().st_size == len(data)


def test_kept_weights_in_which_a_bit_fell_over_are_made_anew(tmp_path):
    model = read_model(write_model(tmp_path))
    right = load_weights(model, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    found = load_weights(model, tmp_path / "cache")
    assert all(np.array_equal(right[name], found[name]) for name in right)


def test_several_workers_may_convert_at_once(tmp_path):
    model = read_model(write_model(tmp_path))
    found: list[bool] = []

    def load() -> None:
        found.append(bool(load_weights(model, tmp_path / "cache")))

    workers = [threading.Thread(target=load) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 8
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npz"]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    folder = write_model(tmp_path)
    content = training_state({"w": Tensor(np.zeros(3, np.float32))})
    content["init_args"]["configuration"] = "3d_lowres"
    write_torch(folder / "fold_0/checkpoint_final.pth", content)
    with pytest.raises(Misconfigured, match="trained as 3d_lowres, but its folder says 3d_full"):
        load_weights(read_model(folder), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(Misconfigured, match="cache: cannot be written"):
        load_weights(read_model(write_model(tmp_path)), tmp_path / "cache")


def test_a_disk_that_fills_up_meanwhile_leaves_no_piece_behind(tmp_path, monkeypatch):
    def full(file: BinaryIO, **weights: np.ndarray) -> None:
        file.write(b"a piece")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(Misconfigured, match="cache: cannot be written: No space left"):
        load_weights(read_model(write_model(tmp_path)), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- nothing goes out ---------------------------------------------------------------------------


WATCHED = """
import sys
def watch(event, args):
    if event.startswith("socket.") or event in ("urllib.Request", "subprocess.Popen", "os.system"):
        print("WENT OUT", event, args, flush=True)
        raise RuntimeError("stopped")
sys.addaudithook(watch)
"""
ENGINE = """
from pathlib import Path
import numpy as np
from tomodex.nnunet.engine import load_engine
engine = load_engine(Path(sys.argv[1]), cache=Path(sys.argv[2]))
engine.segment(np.ones((1, 10, 10, 10), np.float32))
import openvino
"""
# It waits for what OpenVINO sends from another thread.
OPENVINO = "import openvino, time\ntime.sleep(1)\n"


def outgoing(code: str, home: Path, *arguments: object) -> tuple[str, list[Path]]:
    """What a fresh process tries to send, and the files that it leaves in its home.

    Whatever it tries is stopped: the tests send nothing, either.
    """
    home.mkdir()
    # OpenVINO's telemetry is silent where it sees a CI.
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED + code), *map(str, arguments)],
        env=kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, list(home.rglob("*"))


def test_an_engine_sends_nothing_to_anybody(tmp_path):
    folder = write_model(tmp_path)
    assert outgoing(ENGINE, tmp_path / "home", folder, tmp_path / "cache") == ("", [])


def test_openvino_imported_any_other_way_would_send(tmp_path):
    """If this fails, OpenVINO has changed and the test above shows nothing any more."""
    said, _ = outgoing(OPENVINO, tmp_path / "home")
    assert "WENT OUT" in said


def test_nothing_imports_openvino_past_the_module_that_silences_it():
    source = Path(weights_module.__file__).parents[1]
    pattern = re.compile(r"^\s*(import|from) openvino", re.MULTILINE)
    found = [path.name for path in source.rglob("*.py") if pattern.search(path.read_text())]
    assert found == ["silent_openvino.py"]


# --- the real file format -----------------------------------------------------------------------


def stand_in(name: str) -> Path:
    """`TOMODEX_TEST_WEIGHTS` is a folder with folders that TOTALSEG_HOME_DIR could name."""
    root = os.environ.get("TOMODEX_TEST_WEIGHTS")
    found = sorted(Path(root).glob(f"{name}/nnunet/results/Dataset297*/*__*")) if root else []
    if len(found) != 1:
        pytest.skip("no weights: TOMODEX_TEST_WEIGHTS is not set, or has none of this name")
    return found[0]


@pytest.mark.parametrize("name", ["tiny", "standin_297"])
def test_a_checkpoint_that_torch_wrote_is_read(tmp_path, name):
    model = read_model(stand_in(name))
    found = load_weights(model, tmp_path / "cache")
    expected = weight_shapes(model.architecture)
    assert {key: values.shape for key, values in found.items()} == expected
    assert len(model.labels) == 117


def test_a_model_that_torch_wrote_computes_what_it_does_in_numpy(tmp_path):
    engine = load_engine(stand_in("tiny"), cache=tmp_path / "cache", threads=2)
    found = load_weights(engine.model, tmp_path / "cache")
    patch = np.random.default_rng(1).standard_normal((1, *engine.model.patch)).astype(np.float32)
    expected = logits(engine.model.architecture, found, patch)
    features = engine.runtime.features(patch).reshape(-1, 4)
    labels = engine.runtime.labels(features, np.ones(len(features), np.float32))
    assert len(np.unique(labels)) > 5
    assert (labels == expected.argmax(axis=0).ravel()).mean() > 0.9999
