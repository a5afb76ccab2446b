"""The torch runtime. Here on CPU tensors, as no GPU is at hand: `make test-engine` has torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.nnunet_models import old_plans, random_weights, write_model
from tests.test_nnunet_engine import stand_in
from tests.test_nnunet_network import NETWORKS
from tomodex.errors import Misconfigured, Unavailable
from tomodex.nnunet import devices
from tomodex.nnunet.devices import find_device
from tomodex.nnunet.engine import load_engine
from tomodex.nnunet.inference import predict
from tomodex.nnunet.model import read_model
from tomodex.nnunet.normalisation import Normalisation
from tomodex.nnunet.openvino import OpenVinoRuntime
from tomodex.segmenters.totalsegmentator.options import TaskOptions

HERE = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HERE, reason="torch is not installed; see make test-engine")

if HERE:
    import torch

    from tomodex.nnunet import torch_memory, torch_merging, torch_runtime
    from tomodex.nnunet.torch_runtime import TorchRuntime

    # Two threads wait for each other more than they compute, on networks so small.
    torch.set_num_threads(1)


def body(*shape: int, seed: int = 0) -> np.ndarray:
    """HU with edges and soft slopes, so that tiles overlap where something is."""
    random = np.random.default_rng(seed)
    walk = random.normal(0, 1, (1, *shape)).cumsum(1).cumsum(2).cumsum(3)
    rough = random.normal(0, 60, (1, *shape))
    return (900 * walk / np.abs(walk).max() + rough).astype(np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small model with random weights, and what torch and OpenVINO say of an image."""
    model = read_model(write_model(tmp_path_factory.mktemp("model")))
    weights = random_weights(model.architecture, seed=6)
    return SimpleNamespace(model=model, weights=weights)


def on_torch(small, **options) -> object:
    return TorchRuntime(small.model, small.weights, "f32", device="cpu", **options)


# --- the same labels ----------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_finds_the_labels_that_openvino_finds(tmp_path, name):
    plans, dataset = NETWORKS[name]
    model = read_model(write_model(tmp_path, plans, dataset))
    weights = random_weights(model.architecture, seed=4)
    image = np.concatenate([body(20, 27, 30, seed=k) for k in range(len(model.channels))])
    expected = predict(OpenVinoRuntime(model, weights, "f32", 2), model, image, step=0.5)
    runtime = TorchRuntime(model, weights, "f32", device="cpu", batch=4)
    found = predict(runtime, model, image, step=0.5)
    assert np.bincount(expected.ravel()).max() < 0.9 * expected.size
    assert (found == expected).mean() > 0.9999


@needs_torch
@pytest.mark.parametrize("shape", [(3, 5, 9), (1, 1, 1), (8, 12, 16), (9, 40, 3), (50, 13, 17)])
@pytest.mark.parametrize("batch", [1, 3])
def test_images_of_any_size_are_tiled_as_on_the_cpu(small, shape, batch):
    image = body(*shape)
    exact = OpenVinoRuntime(small.model, small.weights, "f32", 2)
    expected = predict(exact, small.model, image, step=0.8)
    found = predict(on_torch(small, batch=batch), small.model, image, step=0.8)
    assert found.shape == shape
    assert (found == expected).mean() > 0.999


@needs_torch
@pytest.mark.parametrize(("name", "step"), [("tiny", 0.5), ("tiny", 0.8), ("standin_297", 0.8)])
def test_a_real_architecture_has_the_same_labels_in_single_precision(tmp_path, name, step):
    folder = stand_in(name)
    cache = tmp_path / "cache"
    image = body(60, 60, 100) if name == "tiny" else body(56, 64, 64)
    expected = load_engine(folder, cache=cache, step=step).segment(image)
    engine = load_engine(folder, cache=cache, step=step, device="torch-cpu", batch=2)
    found = engine.segment(image)
    assert len(np.unique(expected)) > 5
    assert (found == expected).mean() >= 0.9999
    assert np.array_equal(found, engine.segment(image))


@needs_torch
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.97), ("f16", 0.995)])
def test_half_precision_gives_nearly_the_same_labels(tmp_path, precision, least):
    folder, cache = stand_in("tiny"), tmp_path / "cache"
    image = body(48, 60, 70)
    expected = load_engine(folder, cache=cache).segment(image)
    engine = load_engine(folder, cache=cache, device="torch-cpu", precision=precision)
    assert least < (engine.segment(image) == expected).mean() < 1


@needs_torch
def test_masks_and_several_channels_are_normalised_as_on_the_cpu(tmp_path):
    plans, dataset = NETWORKS["two channels"]
    model = read_model(write_model(tmp_path, plans, dataset))
    schemes = (
        Normalisation(scheme="ZScoreNormalization", masked=True),
        Normalisation(scheme="RescaleTo01Normalization"),
    )
    model = replace(model, normalisations=schemes)
    weights = random_weights(model.architecture, seed=4)
    image = np.concatenate([body(12, 20, 24, seed=k) for k in range(2)])
    image[:, :, :7, :9] = 0
    expected = predict(OpenVinoRuntime(model, weights, "f32", 2), model, image, step=0.5)
    found = predict(TorchRuntime(model, weights, "f32", device="cpu"), model, image, step=0.5)
    assert (found == expected).mean() > 0.9999


@needs_torch
def test_an_image_is_scaled_bit_by_bit_as_on_the_cpu(small):
    from tomodex.nnunet.inference import _scale

    scaled = _scale(small.model, body(11, 13, 17))
    expected = scaled.cut((0, 0, 0), (11, 13, 17))
    with torch.inference_mode():
        found = torch_merging.bring(scaled, torch.device("cpu")).numpy()
    assert np.array_equal(found, expected)


@needs_torch
def test_an_image_is_brought_in_pieces_whichever_way_it_lies(monkeypatch):
    monkeypatch.setattr(torch_merging, "_PIECE_BYTES", 3 * 5 * 7 * 4)
    image = body(10, 5, 7)[:, ::-1, :, ::-1]
    found = torch_merging.send(image, torch.float32, torch.device("cpu"))
    assert np.array_equal(found.numpy(), image)


@needs_torch
def test_numbers_too_large_for_half_precision_are_an_error_not_a_label(small):
    weights = dict(small.weights)
    name = "decoder.stages.1.convs.1.norm.weight"
    weights[name] = weights[name] * np.float32(1e6)
    runtime = TorchRuntime(small.model, weights, "f16", device="cpu")
    with pytest.raises(FloatingPointError, match="float16 is too small"):
        predict(runtime, small.model, body(10, 14, 20), step=0.8)


@needs_torch
def test_weights_of_another_network_are_refused_when_loaded(small):
    weights = dict(small.weights)
    del weights["encoder.stages.1.0.convs.1.norm.bias"]
    with pytest.raises(Misconfigured, match=r"no encoder\.stages\.1\.0\.convs\.1\.norm\.bias"):
        TorchRuntime(small.model, weights, "f32", device="cpu")


@needs_torch
def test_weights_that_were_just_converted_are_taken_as_those_that_were_kept(tmp_path):
    folder, cache = write_model(tmp_path), tmp_path / "cache"
    image = body(8, 12, 16)
    first = load_engine(folder, cache=cache, device="torch-cpu").segment(image)
    assert np.array_equal(
        first, load_engine(folder, cache=cache, device="torch-cpu").segment(image)
    )


@needs_torch
def test_provenance_says_what_may_change_labels(small):
    assert on_torch(small).description == {
        "runtime": "torch",
        "runtime_version": torch.__version__,
        "device": "CPU",
        "precision": "f32",
        "tf32": "off",
        "kernels": "eager",
    }


@needs_torch
def test_tensorfloat_is_off_while_an_image_is_labelled_and_as_it_was_after(small, monkeypatch):
    seen = []
    runtime = on_torch(small)
    features = runtime._network.features
    cudnn = torch.backends.cudnn

    def look(images):
        seen.append((cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic))
        return features(images)

    runtime._network.features = look
    before = (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    predict(runtime, small.model, body(8, 8, 8), step=0.8)
    assert seen == [(False, False, True)]
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == before


# --- memory -------------------------------------------------------------------------------------


class Narrow:
    """Has no memory for more than so many tiles, and says so at a step of the work."""

    def __init__(self, runtime, tiles: int, error: type[Exception] | str = "") -> None:
        self._features, self.tiles, self.seen = runtime._network.features, tiles, []
        self.error = error
        runtime._network.features = self

    def __call__(self, images):
        self.seen.append(len(images))
        if len(images) > self.tiles:
            if self.error:
                raise RuntimeError(self.error)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._features(images)


@needs_torch
@pytest.mark.parametrize("said", ["", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_a_gpu_that_runs_full_goes_on_with_half_as_many_tiles(small, said, caplog):
    image = body(20, 30, 40)
    expected = predict(on_torch(small), small.model, image, step=0.5)
    runtime = on_torch(small, batch=8)
    narrow = Narrow(runtime, 2, said)
    found = predict(runtime, small.model, image, step=0.5)
    assert np.array_equal(found, expected)
    assert narrow.seen[:3] == [8, 4, 2]
    assert max(narrow.seen[2:]) == 2
    assert [r.tiles_at_once for r in caplog.records if r.message == "gpu memory short"] == [4, 2]
    # It stays so for the images that follow.
    before = len(narrow.seen)
    predict(runtime, small.model, image, step=0.5)
    assert max(narrow.seen[before:]) == 2


@needs_torch
def test_memory_that_runs_out_while_sums_are_made_adds_nothing_twice(small, monkeypatch):
    image = body(20, 30, 40)
    expected = predict(on_torch(small), small.model, image, step=0.5)
    runtime, failed = on_torch(small, batch=4), []
    features = runtime._network.features

    class Refusing:
        """Features that cannot be made wide: the last step that takes memory."""

        def __init__(self, found):
            self.found = found

        def float(self):
            if len(self.found) > 1:
                failed.append(len(self.found))
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.found.float()

    runtime._network.features = lambda images: Refusing(features(images))
    assert np.array_equal(predict(runtime, small.model, image, step=0.5), expected)
    assert failed == [4, 2]


@needs_torch
def test_a_gpu_without_memory_for_one_tile_keeps_the_series_for_later(small):
    runtime = on_torch(small, batch=4)
    Narrow(runtime, 0)
    with pytest.raises(Unavailable, match="no memory is left for one tile"):
        predict(runtime, small.model, body(20, 30, 40), step=0.5)


@needs_torch
def test_an_engine_that_ran_full_labels_the_next_image(small):
    image = body(20, 30, 40)
    runtime = on_torch(small, batch=4)
    expected = predict(runtime, small.model, image, step=0.5)
    narrow = Narrow(runtime, 0)
    with pytest.raises(Unavailable):
        predict(runtime, small.model, image, step=0.5)
    narrow.tiles = 8
    assert np.array_equal(predict(runtime, small.model, image, step=0.5), expected)


@needs_torch
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("AcceleratorError", "an illegal memory access was encountered"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_gpu_that_fails_stops_the_worker_and_not_the_series(small, kind, said):
    runtime = on_torch(small)

    def fail(images):
        raise {"RuntimeError": RuntimeError, "AcceleratorError": torch.AcceleratorError}[kind](
            f"{said}\nand more"
        )

    runtime._network.features = fail
    with pytest.raises(Misconfigured, match=f"the GPU failed .*{said}") as stopped:
        predict(runtime, small.model, body(8, 8, 8), step=0.8)
    assert "more" not in str(stopped.value)


@needs_torch
def test_a_bug_is_left_to_be_one(small):
    runtime = on_torch(small)

    def fail(images):
        raise RuntimeError("shapes do not match")

    runtime._network.features = fail
    with pytest.raises(RuntimeError, match="shapes"):
        predict(runtime, small.model, body(8, 8, 8), step=0.8)


GIB = 2**30


@pytest.fixture
def gpu(monkeypatch):
    """What a GPU says of its memory, in bytes."""
    memory = SimpleNamespace(free=8 * GIB, total=16 * GIB, reserved=3 * GIB, allocated=1 * GIB)
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda device: (memory.free, memory.total))
    monkeypatch.setattr(cuda, "memory_reserved", lambda device: memory.reserved)
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: memory.allocated)
    return memory


@needs_torch
@pytest.mark.parametrize(
    ("tile_gib", "tiles"), [(0.1, 4), (2, 4), (2.1, 3), (3, 2), (5, 1), (20, 1)]
)
def test_as_many_tiles_are_taken_as_fit_with_a_fifth_to_spare(gpu, tile_gib, tiles):
    # 8 GiB are free, and 2 that torch holds without using them.
    assert torch_memory.count_fitting(int(tile_gib * GIB), torch.device("cuda")) == tiles


@needs_torch
@pytest.mark.parametrize(
    ("free", "reserved", "kind"), [(1, 3, Unavailable), (12, 3, Misconfigured)]
)
def test_a_gpu_is_too_small_only_if_nobody_else_uses_it(gpu, free, reserved, kind):
    gpu.free, gpu.reserved = free * GIB, reserved * GIB
    with (
        pytest.raises(kind, match=f"{free}.0 of 16.0 GiB of the GPU are free") as said,
        torch_memory.naming_trouble(torch.device("cuda")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "device=cpu" in str(said.value)


@needs_torch
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_on_a_gpu_everything_but_the_image_and_the_labels_stays_there(
    small, gpu, monkeypatch, precision
):
    """Tensors without numbers, on a GPU that is not there: torch refuses to mix devices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    went, came = [], []

    def send(values, kind, device):
        went.append(values.nbytes)
        return torch.empty(values.shape, dtype=kind, device=device)

    def take_back(values):
        came.append((values.device.type, values.nbytes))
        return np.zeros(values.shape, np.uint8)

    monkeypatch.setattr(torch_merging, "send", send)
    monkeypatch.setattr(torch_merging, "take_back", take_back)
    monkeypatch.setattr(torch_merging, "require_finite", lambda finite, kind: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GIB)
    image = body(20, 30, 40)
    with FakeTensorMode(allow_non_fake_inputs=True):
        runtime = TorchRuntime(small.model, small.weights, precision, device="cuda")
        features, kept = runtime._network.features, []
        runtime._network.features = lambda images: kept.append(features(images)) or kept[-1]
        labels = predict(runtime, small.model, image, step=0.5)
    assert labels.shape == image.shape[1:]
    assert runtime.description["device"] == "a GPU"
    # The channels of a voxel lie side by side to the end: nothing was turned round on the way.
    assert kept
    assert all(found.is_contiguous() for found in kept)
    assert went == [image.nbytes]
    assert {device for device, _ in came} == {"cuda"}
    assert sum(size for _, size in came) == labels.size


@needs_torch
def test_fast_is_half_precision_of_the_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees(True))
    assert TaskOptions(mode="fast").chosen_precision == "bf16"
    assert TaskOptions(mode="fast", device="auto").chosen_precision == "f16"
    assert TaskOptions(mode="exact", device="cuda").chosen_precision == "f32"
    assert TaskOptions(mode="exact", precision="bf16", device="cuda").chosen_precision == "bf16"


# --- devices ------------------------------------------------------------------------------------


def torch_that_sees(gpu: bool) -> SimpleNamespace:
    cuda = SimpleNamespace(is_available=lambda: gpu)
    return SimpleNamespace(cuda=cuda, __version__="2.15.0")


@pytest.mark.parametrize(
    ("wish", "seen", "device"),
    [("cpu", True, "cpu"), ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_the_gpu_that_torch_sees(monkeypatch, wish, seen, device):
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees(seen))
    assert find_device(wish) == device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_that_sees(False))
    with pytest.raises(Misconfigured, match=r"device=cuda: torch 2\.15\.0 sees no GPU"):
        find_device("cuda")


def test_torch_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find_device("auto") == "cpu"
    with pytest.raises(Misconfigured, match=r"pip install 'tomodex\[gpu\]'"):
        find_device("cuda")


def test_the_cpu_asks_nothing_of_torch(monkeypatch):
    monkeypatch.setattr(devices, "_what_a_gpu_lacks", None)
    assert find_device("cpu") == "cpu"


def test_f16_is_for_gpus(tmp_path):
    with pytest.raises(Misconfigured, match="f16 is for GPUs"):
        load_engine(write_model(tmp_path), cache=tmp_path / "cache", precision="f16")


@needs_torch
def test_an_engine_for_the_cpu_never_imports_torch(tmp_path):
    code = """
    import sys
    from pathlib import Path
    import numpy as np
    from tomodex.nnunet.engine import load_engine
    from tomodex.segmenters.totalsegmentator import options
    assert options.FolderOptions().chosen_device == "cpu"
    load_engine(Path(sys.argv[1]), cache=Path(sys.argv[2])).segment(np.ones((1, 9, 9, 9), "f4"))
    assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(code), write_model(tmp_path), tmp_path / "c"]
    subprocess.run(list(map(str, command)), check=True)


# --- compiled -----------------------------------------------------------------------------------


@needs_torch
def test_where_there_is_no_compiler_layers_run_one_by_one(small, monkeypatch, caplog):
    monkeypatch.setattr(torch_runtime, "can_compile", lambda device: False)
    runtime = on_torch(small, kernels="compiled")
    assert runtime.description["kernels"] == "eager"
    assert [r.message for r in caplog.records] == ["not compiled"]


@needs_torch
@pytest.mark.filterwarnings("default")  # torch's compiler uses what Python and itself deprecate
def test_compiled_layers_find_the_same_labels(tmp_path):
    if not torch_runtime.can_compile("cpu"):
        pytest.skip("no C++ compiler")
    plans = old_plans((3, 6), n_conv_per_stage_encoder=[1, 1], n_conv_per_stage_decoder=[1])
    model = read_model(write_model(tmp_path, plans))
    few = SimpleNamespace(model=model, weights=random_weights(model.architecture, seed=2))
    image = body(8, 12, 27)
    expected = predict(on_torch(few), model, image, step=0.5)
    assert np.bincount(expected.ravel()).max() < 0.95 * expected.size
    runtime = on_torch(few, kernels="compiled")
    assert runtime.description["kernels"] == "compiled"
    assert (predict(runtime, model, image, step=0.5) == expected).mean() > 0.999
