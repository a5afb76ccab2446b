"""Sets of the series of a block: a bit for each, 64 in a word, the lowest first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]  #: (size / 64,), rounded up; bits beyond the size mean nothing
Mask = npt.NDArray[np.bool_]  #: (size,)
Rows = npt.NDArray[np.intp]  #: places in a block, in order


def words_for(size: int) -> int:
    """How many words have room for so many bits."""
    return -(-size // 64)


def nothing(size: int) -> Bits:
    return np.zeros(words_for(size), np.uint64)


def everything(size: int) -> Bits:
    """All that a block of this size has, and no bit beyond it."""
    return packed(np.ones(size, np.bool_))


def packed(mask: Mask) -> Bits:
    words = np.zeros(words_for(len(mask)), "<u8")
    octets = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: len(octets)] = octets
    return words


def unpacked(bits: Bits, size: int) -> Mask:
    return np.unpackbits(bits.view(np.uint8), count=size, bitorder="little").view(np.bool_)


def rows_in(bits: Bits, size: int) -> Rows:
    """The places that are in the set, in order."""
    return np.flatnonzero(unpacked(bits, size))


def bits_at(rows: npt.NDArray[np.integer], size: int) -> Bits:
    """The set of these places."""
    mask = np.zeros(size, np.bool_)
    mask[rows] = True
    return packed(mask)


def count(bits: Bits) -> int:
    """How many are in a set that has no bit beyond its size."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def has(bits: Bits, rows: Rows) -> Mask:
    """Which of these places are in the set."""
    found: Mask = (bits[rows >> 6] >> (rows & 63).astype(np.uint64) & np.uint64(1)).astype(np.bool_)
    return found


def ranks(bits: Bits, rows: Rows) -> npt.NDArray[np.int64]:
    """How many of the set come before each of these places."""
    words, first = rows >> 6, int(rows.max(initial=0)) >> 6
    before = np.concatenate([[0], np.cumsum(np.bitwise_count(bits[:first]), dtype=np.int64)])
    below = (np.uint64(1) << (rows & 63).astype(np.uint64)) - np.uint64(1)
    found: npt.NDArray[np.int64] = before[words] + np.bitwise_count(bits[words] & below)
    return found
