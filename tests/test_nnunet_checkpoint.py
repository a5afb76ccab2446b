from __future__ import annotations

import copyreg
import hashlib
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.nnunet_models import Call, Tensor, training_state, write_torch
from tomodex.errors import Misconfigured
from tomodex.nnunet import checkpoint
from tomodex.nnunet.checkpoint import Checkpoint, read_checkpoint

NUMBERS = np.arange(24, dtype="<f4").reshape(2, 3, 4)


def read(path: Path) -> Checkpoint:
    return read_checkpoint(path, hashlib.sha256(path.read_bytes()).hexdigest())


def written(folder: Path, **tensors: Tensor) -> Path:
    return write_torch(folder / "checkpoint_final.pth", training_state(tensors))


def test_weights_and_what_the_trainer_said_are_read(tmp_path):
    found = read(written(tmp_path, first=Tensor(NUMBERS), second=Tensor(NUMBERS[:, 0] + 1)))
    assert list(found.weights) == ["first", "second"]
    assert np.array_equal(found.weights["first"], NUMBERS)
    assert np.array_equal(found.weights["second"], NUMBERS[:, 0] + 1)
    assert (found.configuration, found.trainer) == ("3d_fullres", "nnUNetTrainer")
    assert found.mirroring == (0, 1, 2)


def test_a_view_of_a_storage_is_read_by_its_strides(tmp_path):
    turned = Tensor(NUMBERS.ravel(), size=(4, 2), stride=(1, 12), offset=4)
    assert np.array_equal(read(written(tmp_path, w=turned)).weights["w"], NUMBERS[:, 1].T)


def test_tensors_on_one_storage_are_both_read(tmp_path):
    flat = NUMBERS.ravel()
    low = Tensor(flat, size=(3,), stride=(1,), record="7")
    high = Tensor(flat, size=(3,), stride=(1,), offset=21, record="7")
    found = read(written(tmp_path, low=low, high=high)).weights
    assert [list(found[k]) for k in ("low", "high")] == [[0, 1, 2], [21, 22, 23]]


def test_half_precision_and_bfloat16_are_read(tmp_path):
    values = np.array([1.0, -2.5, 0.15625, 3e4], "<f4")
    bfloat = (values.view("<u4") >> 16).astype("<u2")
    found = read(
        written(tmp_path, half=Tensor(values.astype("<f2")), b=Tensor(bfloat, "BFloat16Storage"))
    ).weights
    assert found["half"].dtype == np.float16
    assert found["b"].dtype == np.float32
    np.testing.assert_allclose(found["half"], values, rtol=1e-3)
    np.testing.assert_allclose(found["b"], values, rtol=2**-7)


def test_what_training_wraps_round_a_network_is_taken_off_its_names(tmp_path):
    tensors = {"module.a": Tensor(NUMBERS), "_orig_mod.b": Tensor(NUMBERS)}
    assert list(read(written(tmp_path, **tensors)).weights) == ["a", "b"]


def test_weights_that_are_listed_twice_are_read_once(tmp_path):
    names = ["encoder.x.conv.weight", "encoder.x.all_modules.0.weight"]
    tensors = {name: Tensor(NUMBERS) for name in names}
    assert list(read(written(tmp_path, **tensors)).weights) == names[:1]


# --- hostile files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("collections", "OrderedDict.fromkeys"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(tmp_path, module, name):
    proof = tmp_path / "it-ran"
    content = training_state({"w": Tensor(NUMBERS)})
    content["logging"] = Call(module, name, (f"touch {proof}",))
    with pytest.raises(Misconfigured, match=f"it names {module}.{name}, which no weights need"):
        read(write_torch(tmp_path / "c.pth", content))
    assert not proof.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x82\x01",  # EXT1: a function registered elsewhere
        b"cbuiltins\neval\n",
        b"(S'touch x'\nios\nsystem\n",  # INST
        b"\x8c\x02os\x8c\x06system\x93",  # STACK_GLOBAL
        b"ccollections\nOrderedDict\n(](K\x01K\x02e]eR",  # OrderedDict of something
        b"X\xff\xff\xff\x7fabc",  # a string of 2 GiB
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x00abc",  # a string of 2**56 bytes
        b"h\xff",  # what was never kept
        b"0000",  # more taken than there is
        b"I" + b"9" * 10_000 + b"\n",  # a number of 10,000 digits
        b"P0\n",  # an old persistent id
        b"(X\x06\x00\x00\x00modulectorch\nFloatStorage\ntQ",  # a module kept outside
        b"\xff",  # no opcode
    ],
)
def test_a_pickle_with_anything_but_weights_in_it_is_refused(tmp_path, opcodes):
    content = {"network_weights": {}, "x": opcodes}
    with pytest.raises(Misconfigured, match="its pickle is refused"):
        read(write_torch(tmp_path / "c.pth", content))


@pytest.mark.parametrize("name", ["torch\nFloatStorage", "torch._utils\n_rebuild_tensor_v2"])
def test_a_pickle_changes_nothing_for_those_that_come_after_it(tmp_path, name):
    defaults = b"NX\x0c\x00\x00\x00__defaults__)s\x86"
    attributes = [b"}(X\x04\x00\x00\x00nameX\x01\x00\x00\x00xu", b"N}" + defaults[1:-2] + b"s\x86"]
    for k, state in enumerate(attributes):
        hostile = f"c{name}\n".encode() + state + b"b"
        read(write_torch(tmp_path / f"{k}.pth", {"network_weights": {}, "x": hostile}))
    assert not hasattr(checkpoint._rebuild_tensor, "name")
    assert checkpoint._rebuild_tensor.__defaults__ is None
    assert list(read(written(tmp_path, w=Tensor(NUMBERS))).weights) == ["w"]


def test_a_function_that_another_package_gave_a_number_cannot_be_called(tmp_path):
    copyreg.add_extension("os", "system", 200)
    try:
        # Python keeps what it found under a number once, for every pickle to come.
        assert pickle.loads(b"\x80\x02\x82\xc8.") is os.system
        call = b"\x82\xc8(X\x04\x00\x00\x00truetR"
        with pytest.raises(Misconfigured, match="by a number"):
            read(write_torch(tmp_path / "c.pth", {"network_weights": {}, "x": call}))
    finally:
        copyreg.remove_extension("os", "system", 200)


def test_a_place_in_the_memo_that_is_far_away_takes_no_memory(tmp_path):
    far = b"N" + b"r" + struct.pack("<I", 2**32 - 2)
    path = write_torch(tmp_path / "c.pth", {"network_weights": {}, "x": far})
    tracemalloc.start()
    try:
        assert read(path).weights == {}
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(NUMBERS, size=(2, 3, 5), stride=(12, 4, 1)),
        Tensor(NUMBERS, offset=1),
        Tensor(NUMBERS, offset=-1),
        Tensor(NUMBERS, size=(10**9, 10**9), stride=(0, 0)),
        Tensor(NUMBERS, size=(25,), stride=(0,)),
        Tensor(NUMBERS, size=(2,), stride=(-1,)),
        Tensor(NUMBERS, size=(-1,), stride=(1,)),
        Tensor(NUMBERS, size=(2**62, 2**62), stride=(2**62, 1)),
        Tensor(NUMBERS, size=(2, 2), stride=(1,)),
        Tensor(NUMBERS, size=(1,) * 9, stride=(1,) * 9),
        Tensor(NUMBERS, size=("2",), stride=(1,)),
    ],
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, tensor):
    tracemalloc.start()
    try:
        with pytest.raises(Misconfigured, match="reaches out of its storage"):
            read(written(tmp_path, w=tensor))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["DoubleStorage", "LongStorage", "BoolStorage"])
def test_weights_of_a_type_that_nobody_trains_are_refused(tmp_path, kind):
    with pytest.raises(Misconfigured, match=f"weights of type {kind}"):
        read(written(tmp_path, w=Tensor(NUMBERS.astype("<f8"), kind)))


def test_something_other_than_tensors_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="something other than tensors"):
        read(write_torch(tmp_path / "c.pth", {"network_weights": {"w": [1.0]}}))


@pytest.mark.parametrize("content", [{}, [], {"network_weights": 3}, {"state_dict": {}}])
def test_a_file_without_network_weights_is_refused(tmp_path, content):
    with pytest.raises(Misconfigured, match="no network_weights"):
        read(write_torch(tmp_path / "c.pth", content))


def test_a_file_of_a_big_endian_machine_is_refused(tmp_path):
    content = training_state({"w": Tensor(NUMBERS)})
    with pytest.raises(Misconfigured, match="big-endian"):
        read(write_torch(tmp_path / "c.pth", content, byteorder="big"))


def test_packed_members_are_refused_so_that_nothing_unpacks_to_gigabytes(tmp_path):
    content = training_state({"w": Tensor(np.zeros(10**6, "<f4"))})
    path = write_torch(tmp_path / "c.pth", content, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(Misconfigured, match="is packed"):
        read(path)


def test_a_storage_that_is_not_there_is_named(tmp_path):
    path = written(tmp_path, w=Tensor(NUMBERS, record="5"))
    with zipfile.ZipFile(path) as archive:
        kept = {n: archive.read(n) for n in archive.namelist() if not n.endswith("data/5")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    with pytest.raises(Misconfigured, match="no 'data/5' in it"):
        read(path)


def test_a_member_that_claims_more_than_the_file_has_is_refused(tmp_path):
    path = written(tmp_path, w=Tensor(NUMBERS))
    data = path.read_bytes()
    # Both sizes of data/0 in the directory at the end: 96 bytes become 2 GiB.
    place = data.rindex(b"checkpoint_final/data/0") - 26
    assert struct.unpack_from("<II", data, place) == (96, 96)
    path.write_bytes(data[:place] + struct.pack("<II", 2**31, 2**31) + data[place + 8 :])
    tracemalloc.start()
    try:
        with pytest.raises(Misconfigured, match="'data/0' claims more bytes than the file has"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_one_storage_under_many_names_does_not_fill_the_memory(tmp_path):
    large = Tensor(np.zeros(250_000, "<f4"), record="0")
    content = {"network_weights": {f"w{k}": large for k in range(200)}}
    tracemalloc.start()
    try:
        with pytest.raises(Misconfigured, match="more numbers than the file has"):
            read(write_torch(tmp_path / "c.pth", content))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, share):
    path = written(tmp_path, w=Tensor(NUMBERS))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Misconfigured, match=r"checkpoint_final\.pth: not a whole torch file"):
        read(path)


def test_a_file_whose_bits_fell_over_is_refused(tmp_path):
    path = written(tmp_path, w=Tensor(NUMBERS))
    data = path.read_bytes()
    place = data.index(NUMBERS.tobytes()[40:60])
    path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    with pytest.raises(Misconfigured, match="not a whole torch file"):
        read(path)


def test_a_file_that_was_exchanged_meanwhile_is_refused(tmp_path):
    path = written(tmp_path, w=Tensor(NUMBERS))
    with pytest.raises(Misconfigured, match="changed while it was read"):
        read_checkpoint(path, "0" * 64)


def test_two_pickles_in_one_file_are_refused(tmp_path):
    path = written(tmp_path, w=Tensor(NUMBERS))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    with pytest.raises(Misconfigured, match=r"2 data\.pkl in it"):
        read(path)
