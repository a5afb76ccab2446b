from __future__ import annotations

import errno
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, fragment_frame, itemize_fragment
from pydicom.sequence import Sequence as Items

from tests.phantoms import (
    ENCODERS,
    NATIVE,
    ct_dataset,
    encoded,
    enhanced_ct_dataset,
    write_dataset,
)
from tomodex.errors import Unavailable, Unsuitable
from tomodex.instance import Instance, read_instance
from tomodex.pixels import TRANSFER_SYNTAXES, Pixels, decode_frame, find_pixels

RLE, JPEG8, JPEG12 = (f"1.2.840.10008.1.2.{n}" for n in ("5", "4.50", "4.51"))
JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K = (f"1.2.840.10008.1.2.4.{n}" for n in ("70", "80", "90", "201"))
EXPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2.{n}" for n in ("1", "2", "1.99"))
LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203)}
LOSSLESS = [uid for uid in (*NATIVE, *ENCODERS) if uid not in LOSSY]


def soft_tissue(rows: int = 40, columns: int = 50) -> np.ndarray:
    """Smooth values of 12 bits with the noise of a scanner."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(0).normal(0, 5, (rows, columns))
    return (1000 + 300 * np.sin(x / 9) * np.cos(y / 7) + noise).astype("<u2")


def plain(syntax: str) -> tuple[np.ndarray, int]:
    """Values that any transfer syntax can hold, and their Bits Stored."""
    return ((soft_tissue() // 16).astype("u1"), 8) if syntax == JPEG8 else (soft_tissue(), 12)


VALUES = {
    "12 bits in 16": (soft_tissue(), 12),
    "signed 12 bits in 16": (soft_tissue().astype("<i2") - 1024, 12),
    "signed 16 bits": (soft_tissue().astype("<i2") * 20 - 20_000, 16),
    "unsigned 16 bits": (soft_tissue() * 40, 16),
}


def written(folder: Path, ds: Dataset) -> Instance:
    instance = read_instance(write_dataset(folder / "one.dcm", ds), lambda name: "nobody")
    assert instance is not None
    return instance


def values(pixels: Pixels, frame: int = 0) -> np.ndarray:
    """Numbers of a frame, by a road of our own: shift up, then down with the sign."""
    kind = np.int16 if pixels.signed else np.uint16
    up = 16 - pixels.bits_stored
    down = decode_frame(pixels, frame) >> pixels.shift
    return (down << up).astype(np.uint16).view(kind) >> up


def refusal(instance: Instance, frame: int = 0) -> Unsuitable:
    with pytest.raises(Unsuitable) as caught:
        decode_frame(find_pixels(instance), frame)
    return caught.value


# --- every transfer syntax --------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_pixels_come_back_as_they_were(tmp_path, syntax, name):
    stored, bits = VALUES[name]
    pixels = find_pixels(written(tmp_path, ct_dataset(stored, transfer_syntax=syntax, bits=bits)))
    assert np.array_equal(values(pixels), stored)


@pytest.mark.parametrize(
    ("syntax", "stored", "bits", "near"),
    [
        (JPEG8, (soft_tissue() // 8).astype("u1"), 8, 4),
        (JPEG12, soft_tissue(), 12, 10),
        ("1.2.840.10008.1.2.4.81", soft_tissue(), 12, 2),
        ("1.2.840.10008.1.2.4.91", soft_tissue(), 12, 10),
        ("1.2.840.10008.1.2.4.91", soft_tissue().astype("<i2") - 1024, 12, 10),
        ("1.2.840.10008.1.2.4.203", soft_tissue(), 12, 40),
    ],
)
def test_lossy_pixels_come_back_nearly(tmp_path, syntax, stored, bits, near):
    pixels = find_pixels(written(tmp_path, ct_dataset(stored, transfer_syntax=syntax, bits=bits)))
    assert 0 < np.abs(values(pixels).astype(int) - stored).max() <= near


def test_what_is_tested_here_is_all_that_is_claimed():
    retired = {"1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}  # only real files: test_volume
    assert {*NATIVE, *ENCODERS} == TRANSFER_SYNTAXES - retired


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, J2K, JPEG_LS])
def test_each_frame_of_many_is_found(tmp_path, syntax):
    stored = np.stack([soft_tissue() + 10 * k for k in range(4)])
    ds = enhanced_ct_dataset(
        stored,
        transfer_syntax=syntax,
        positions_mm=[(0, 0, k) for k in range(4)],
        rescales=[(1, -1024)] * 4,
    )
    pixels = find_pixels(written(tmp_path, ds))
    for k in (3, 0, 2):
        assert np.array_equal(values(pixels, k), stored[k])


# --- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [J2K, JPEG_LS, JPEG_LOSSLESS])
def test_a_codec_that_lost_the_sign_gets_it_back_from_the_header(tmp_path, syntax):
    """pydicom's J2K_pixelrep_mismatch.dcm: signed by its header, unsigned in its codestream."""
    signed = soft_tissue().astype("<i2") - 1024
    ds = ct_dataset(signed, transfer_syntax=syntax, bits=13)
    unsigned = signed.view("<u2") & 0x1FFF
    ds.PixelData = encoded(unsigned[None], syntax, 13)
    assert np.array_equal(values(find_pixels(written(tmp_path, ds))), signed)


def test_pixels_at_the_top_of_their_words_are_shifted_down(tmp_path):
    ds = ct_dataset(soft_tissue() << 4)
    ds.HighBit = 15
    pixels = find_pixels(written(tmp_path, ds))
    assert pixels.shift == 4
    assert np.array_equal(values(pixels), soft_tissue())


def test_a_high_bit_that_cannot_be_is_refused(tmp_path):
    ds = ct_dataset(soft_tissue())
    ds.HighBit = 5
    assert refusal(written(tmp_path, ds)).reason == "unreadable"


@pytest.mark.parametrize("stored", [soft_tissue(), soft_tissue().astype("<i2") - 1024])
def test_a_high_bit_that_is_not_that_of_the_values_is_refused(tmp_path, stored):
    ds = ct_dataset(stored)
    ds.HighBit = 15
    assert refusal(written(tmp_path, ds)).reason == "unreadable"


# --- fragments --------------------------------------------------------------------------------


def frames_in_pieces(pieces: int) -> tuple[np.ndarray, list[bytes]]:
    stored = np.stack([soft_tissue() + 10 * k for k in range(3)])
    return stored, [bytes(ENCODERS[J2K](frame, 12)) for frame in stored]


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, J2K, RLE])
@pytest.mark.parametrize("bits", [8, 16])
def test_raw_pixels_that_are_said_to_be_compressed_are_read_as_they_are(tmp_path, syntax, bits):
    stored = soft_tissue(39, 49) if bits == 16 else (soft_tissue(39, 49) // 16).astype("u1")
    instance = written(tmp_path, ct_dataset(stored, bits=min(bits, 12)))
    lied = replace(instance, transfer_syntax=syntax)
    np.testing.assert_array_equal(values(find_pixels(lied)), stored)


def test_compressed_pixels_that_are_said_to_be_raw_are_unreadable(tmp_path):
    instance = written(tmp_path, ct_dataset(soft_tissue(), transfer_syntax=J2K))
    assert refusal(replace(instance, transfer_syntax=EXPLICIT)).reason == "unreadable"


@pytest.mark.parametrize("has_table", [True, False])
def test_frames_in_several_fragments_are_put_together(tmp_path, has_table):
    stored, frames = frames_in_pieces(4)
    ds = enhanced_ct_dataset(
        stored,
        transfer_syntax=J2K,
        positions_mm=[(0, 0, k) for k in range(3)],
        rescales=[(1, 0)] * 3,
    )
    ds.PixelData = encapsulate(frames, fragments_per_frame=4, has_bot=has_table)
    pixels = find_pixels(written(tmp_path, ds))
    assert [len(pieces) for pieces in pixels.frames] == [4, 4, 4]
    for k in range(3):
        assert np.array_equal(values(pixels, k), stored[k])


def test_all_fragments_of_a_single_frame_belong_to_it(tmp_path):
    ds = ct_dataset(soft_tissue(), transfer_syntax=J2K)
    frame = bytes(ENCODERS[J2K](soft_tissue(), 12))
    ds.PixelData = encapsulate([frame], fragments_per_frame=5, has_bot=False)
    assert np.array_equal(values(find_pixels(written(tmp_path, ds))), soft_tissue())


def test_frames_that_cannot_be_told_apart_are_refused(tmp_path):
    stored, frames = frames_in_pieces(2)
    ds = enhanced_ct_dataset(
        stored,
        transfer_syntax=J2K,
        positions_mm=[(0, 0, k) for k in range(3)],
        rescales=[(1, 0)] * 3,
    )
    pieces = [piece for frame in frames for piece in fragment_frame(frame, 2)]
    # A table that points between two fragments.
    table = itemize_fragment(np.array([0, 4, 8], "<u4").tobytes())
    ds.PixelData = table + b"".join(map(itemize_fragment, pieces))
    assert refusal(written(tmp_path, ds)).reason == "unreadable"


def test_fewer_fragments_than_frames_are_truncated(tmp_path):
    stored, frames = frames_in_pieces(1)
    ds = enhanced_ct_dataset(
        stored,
        transfer_syntax=J2K,
        positions_mm=[(0, 0, k) for k in range(3)],
        rescales=[(1, 0)] * 3,
    )
    ds.PixelData = encapsulate(frames[:2])
    assert refusal(written(tmp_path, ds)).reason == "truncated"


# --- truncated, lying, hostile ----------------------------------------------------------------


@pytest.mark.parametrize("lost", [4, 40, 400])
@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODERS])
def test_a_file_that_ends_early_is_refused(tmp_path, syntax, lost):
    stored, bits = plain(syntax)
    instance = written(tmp_path, ct_dataset(stored, transfer_syntax=syntax, bits=bits))
    path = Path(instance.path)
    whole = path.read_bytes()
    # A delimiter of 8 bytes ends encapsulated pixels, and may be padded.
    path.write_bytes(whole[: -lost - (10 if syntax in ENCODERS else 0)])
    assert refusal(instance).reason in {"truncated", "unreadable", "no_pixels"}


def test_a_fragment_longer_than_its_file_is_truncated(tmp_path):
    instance = written(tmp_path, ct_dataset(soft_tissue(), transfer_syntax=RLE))
    path = Path(instance.path)
    path.write_bytes(path.read_bytes()[:-300])
    refused = refusal(instance)
    assert (refused.reason, refused.sentence) == (
        "truncated",
        "the file ends 292 bytes too early",  # 8 of the 300 were the delimiter behind it
    )


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG12, JPEG_LS, J2K, HTJ2K])
def test_a_compressed_frame_that_ends_early_is_refused(tmp_path, syntax):
    """Codecs fill up with grey, or with what was in memory."""
    ds = ct_dataset(soft_tissue(), transfer_syntax=syntax)
    frame = bytes(ENCODERS[syntax](soft_tissue(), 12))
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    assert refusal(written(tmp_path, ds)).reason in {"truncated", "unreadable"}


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODERS])
def test_a_header_that_claims_more_pixels_is_refused(tmp_path, syntax):
    stored, bits = plain(syntax)
    instance = written(tmp_path, ct_dataset(stored, transfer_syntax=syntax, bits=bits))
    assert refusal(replace(instance, rows=65_535, columns=65_535)).reason in {
        "truncated",
        "unreadable",
    }
    assert refusal(replace(instance, rows=41)).reason in {"truncated", "unreadable"}


@pytest.mark.parametrize(
    ("syntax", "claim"),
    [
        # Size marker of JPEG 2000, and Start of Frame of JPEG and JPEG-LS.
        (J2K, (b"\0\0\0\x32\0\0\0\x28", b"\0\0\xff\xff\0\0\xff\xff")),
        (HTJ2K, (b"\0\0\0\x32\0\0\0\x28", b"\0\0\xff\xff\0\0\xff\xff")),
        (JPEG_LOSSLESS, (b"\x0c\0\x28\0\x32\x01", b"\x0c\xff\xff\xff\xff\x01")),
        (JPEG_LS, (b"\x10\0\x28\0\x32\x01", b"\x10\xff\xff\xff\xff\x01")),
        (JPEG12, (b"\x0c\0\x28\0\x32\x01", b"\x0c\xff\xff\xff\xff\x01")),
    ],
)
def test_a_frame_that_claims_more_than_its_header_never_reaches_the_codec(
    tmp_path, monkeypatch, syntax, claim
):
    ds = ct_dataset(soft_tissue(), transfer_syntax=syntax)
    frame = bytes(ENCODERS[syntax](soft_tissue(), 12))
    assert claim[0] in frame
    ds.PixelData = encapsulate([frame.replace(*claim)])
    instance = written(tmp_path, ds)
    for codec in ("jpeg2k_decode", "jpeg8_decode", "jpegls_decode"):
        monkeypatch.setattr(imagecodecs, codec, lambda *_: pytest.fail("the codec was called"))
    assert "its header says 40 x 50" in refusal(instance).sentence


def test_a_frame_cut_into_a_million_tiles_never_reaches_the_codec(tmp_path):
    ds = ct_dataset(soft_tissue(100, 110), transfer_syntax=J2K)
    frame = bytearray(ENCODERS[J2K](soft_tissue(100, 110), 12))
    frame[24:32] = b"\0\0\0\1\0\0\0\1"
    ds.PixelData = encapsulate([bytes(frame)])
    assert "tiles of 1 x 1" in refusal(written(tmp_path, ds)).sentence


def test_a_compressed_frame_larger_than_its_pixels_is_not_even_read(tmp_path):
    ds = ct_dataset(soft_tissue(), transfer_syntax=RLE)
    ds.PixelData = encapsulate([bytes(2 * 2**20)])
    assert "larger than its pixels" in refusal(written(tmp_path, ds)).sentence


def test_run_lengths_that_unpack_to_more_than_the_pixels_are_refused(tmp_path):
    ds = ct_dataset(soft_tissue(), transfer_syntax=RLE)
    header = np.array([2, 64, 8064, *[0] * 13], "<u4").tobytes()
    ds.PixelData = encapsulate([header + b"\x81\x05" * 8000])
    assert refusal(written(tmp_path, ds)).reason == "unreadable"


def test_a_deflated_file_may_not_grow_without_end(tmp_path):
    ds = ct_dataset(soft_tissue(), transfer_syntax=DEFLATED)
    ds.add_new(0x00091001, "OB", bytes(70 * 2**20))
    path = write_dataset(tmp_path / "bomb.dcm", ds)
    assert path.stat().st_size < 2**20
    honest = written(tmp_path, ct_dataset(soft_tissue(), transfer_syntax=DEFLATED))
    assert "grows beyond" in refusal(replace(honest, path=str(path))).sentence


@pytest.mark.parametrize("start", [0, 2**40])
def test_memory_is_not_asked_for_what_an_element_claims(tmp_path, start):
    ds = enhanced_ct_dataset(
        np.stack([soft_tissue()] * 2),
        positions_mm=[(0, 0, 0), (0, 0, 1)],
        rescales=[(1, 0)] * 2,
    )
    instance = written(tmp_path, ds)
    claimed = replace(instance, rows=32_000, columns=32_000, pixel_data=(start, 0xFFFFFFFE))
    tracemalloc.start()
    try:
        refused = refusal(claimed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.reason == "truncated"
    assert peak < 2**20


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODERS])
def test_damage_anywhere_gives_pixels_or_a_reason(tmp_path, syntax):
    stored, bits = plain(syntax)
    instance = written(tmp_path, ct_dataset(stored, transfer_syntax=syntax, bits=bits))
    path, dice = Path(instance.path), random.Random(0)
    whole, reasons = path.read_bytes(), set[str]()
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 4, 16])):
            damaged[dice.randrange(132, len(whole))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            shape = decode_frame(find_pixels(instance), 0).shape
        except Unsuitable as refused:
            reasons.add(refused.reason)
        else:
            assert shape == (40, 50)
    assert reasons <= {"unreadable", "truncated", "no_pixels", "no_rescale"}


# --- what CT pixels are not -------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_per_pixel": 3},
        {"photometric": "PALETTE COLOR"},
        {"bits_allocated": 32, "bits_stored": 32},
        {"bits_allocated": 1, "bits_stored": 1},
        {"bits_stored": 0},
        {"bits_stored": 17},
        {"rows": 0},
        {"number_of_frames": 0},
        {"transfer_syntax": "1.2.840.10008.1.2.4.102"},  # MPEG-4
        {"transfer_syntax": RLE, "rows": 39},  # neither in fragments nor as long as its pixels
    ],
)
def test_pixels_that_no_ct_has_are_refused(tmp_path, changes):
    instance = written(tmp_path, ct_dataset(soft_tissue()))
    assert refusal(replace(instance, **changes)).reason == "unreadable"


def test_a_header_without_pixels_is_refused(tmp_path):
    ds = ct_dataset(soft_tissue())
    del ds.PixelData
    instance = written(tmp_path, ds)
    assert refusal(instance).reason == "no_pixels"
    assert refusal(replace(instance, has_pixels=True)).reason == "no_pixels"


def test_pixels_of_floating_point_are_none(tmp_path):
    ds = ct_dataset(soft_tissue())
    del ds.PixelData
    ds.FloatPixelData = soft_tissue().astype("<f4").tobytes()
    instance = written(tmp_path, ds)
    assert refusal(replace(instance, has_pixels=True)).reason == "no_pixels"


def test_bytes_in_big_endian_are_ambiguous(tmp_path):
    """Two to a word, swapped or not depending on who wrote them."""
    stored = (soft_tissue() // 16).astype("u1")
    ds = ct_dataset(stored, transfer_syntax=BIG_ENDIAN, bits=8)
    assert refusal(written(tmp_path, ds)).reason == "unreadable"


def test_pixels_in_an_icon_are_not_the_image(tmp_path):
    ds = ct_dataset(soft_tissue())
    ds.IconImageSequence = Items([ct_dataset(soft_tissue(8, 9))])
    assert np.array_equal(values(find_pixels(written(tmp_path, ds))), soft_tissue())


def test_values_that_become_hu_by_a_table_are_refused(tmp_path):
    ds = ct_dataset(soft_tissue(), rescale=None)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "HU"
    ds.ModalityLUTSequence = Items([table])
    assert refusal(written(tmp_path, ds)).reason == "no_rescale"


def test_a_file_that_is_gone_may_come_back(tmp_path):
    instance = written(tmp_path, ct_dataset(soft_tissue()))
    pixels = find_pixels(instance)
    Path(instance.path).unlink()
    with pytest.raises(Unavailable):
        find_pixels(instance)
    assert np.array_equal(values(pixels), soft_tissue())


def test_every_transfer_syntax_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "reference" / "volumes.md").read_text()
    assert [uid for uid in sorted(TRANSFER_SYNTAXES) if f"`{uid}`" not in page] == []


def test_a_disk_that_fails_may_work_again(tmp_path, monkeypatch):
    instance = written(tmp_path, ct_dataset(soft_tissue()))

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        find_pixels(instance)
