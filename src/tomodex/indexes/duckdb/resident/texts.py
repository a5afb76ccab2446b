"""Many short texts in one piece of memory: a string of Python's takes twice as much as a UID."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts by their places."""

    octets: bytes  #: UTF-8, one text after the other
    starts: npt.NDArray[np.int64]  #: (texts + 1,) where each begins; the last is the end

    def __len__(self) -> int:
        return len(self.starts) - 1

    def octets_at(self, place: int) -> bytes:
        """UTF-8, which sorts as the engine sorts texts."""
        return self.octets[int(self.starts[place]) : int(self.starts[place + 1])]

    def at(self, place: int) -> str:
        return self.octets_at(place).decode()

    def equal(self, text: str) -> npt.NDArray[np.intp]:
        """Where this text is."""
        wanted = text.encode(errors="replace")
        places = np.flatnonzero(np.diff(self.starts) == len(wanted))
        return self._with(places, self.starts[places], wanted)

    def beginning(self, text: str) -> npt.NDArray[np.intp]:
        """Where texts begin so."""
        wanted = text.encode(errors="replace")
        places = np.flatnonzero(np.diff(self.starts) >= len(wanted))
        return self._with(places, self.starts[places], wanted)

    def ending(self, text: str) -> npt.NDArray[np.intp]:
        """Where texts end so."""
        wanted = text.encode(errors="replace")
        places = np.flatnonzero(np.diff(self.starts) >= len(wanted))
        return self._with(places, self.starts[places + 1] - len(wanted), wanted)

    def _with(
        self, places: npt.NDArray[np.intp], at: npt.NDArray[np.int64], wanted: bytes
    ) -> npt.NDArray[np.intp]:
        """Those of the places that have these octets, which are looked for from there on."""
        octets = np.frombuffer(self.octets, np.uint8)
        # From the end, where UIDs differ most.
        for index in reversed(range(len(wanted))):
            same = octets[at + index] == wanted[index]
            places, at = places[same], at[same]
        return places

    @property
    def nbytes(self) -> int:
        return len(self.octets) + self.starts.nbytes


def texts_of(parts: Iterable[Sequence[str]]) -> Texts:
    """Texts that come some at a time."""
    octets, lengths = [], [np.zeros(1, np.int64)]
    for some in parts:
        octets.append("".join(some).encode())
        # UIDs are ASCII, of which a character is an octet.
        plain = some if octets[-1].isascii() else [text.encode() for text in some]
        lengths.append(np.fromiter(map(len, plain), np.int64, len(some)))
    return Texts(b"".join(octets), np.cumsum(np.concatenate(lengths)))


def chosen(one: Texts, other: Texts, order: npt.NDArray[np.integer]) -> Texts:
    """Texts of both in this order, where those of the other count on from those of the one.

    Neighbours that stay neighbours are copied at once.
    """
    if not len(order):
        return Texts(b"", np.zeros(1, np.int64))
    breaks = np.flatnonzero((np.diff(order) != 1) | (order[1:] == len(one))) + 1
    firsts = order[np.concatenate([[0], breaks])].tolist()
    lasts = order[np.concatenate([breaks, [len(order)]]) - 1].tolist()
    parts = [_run(one, other, *ends) for ends in zip(firsts, lasts, strict=True)]
    lengths = np.concatenate([np.diff(one.starts), np.diff(other.starts)])[order]
    return Texts(b"".join(parts), np.concatenate([[0], np.cumsum(lengths)]))


def _run(one: Texts, other: Texts, first: int, last: int) -> bytes:
    if first < len(one):
        return one.octets[int(one.starts[first]) : int(one.starts[last + 1])]
    start, end = other.starts[first - len(one)], other.starts[last - len(one) + 1]
    return other.octets[int(start) : int(end)]
