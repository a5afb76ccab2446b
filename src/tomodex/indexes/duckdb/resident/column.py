"""An attribute of many series: each has the number of its value, in as few bytes as do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.resident.texts import Texts, chosen

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Column:
    """What series say of one attribute; code 0 is that of a series that says nothing."""

    codes: Codes  #: for each series
    #: By code: texts as objects, others as float64; dates are days, of which 1 is 0001-01-01.
    values: npt.NDArray[Any]
    lowered: npt.NDArray[np.object_] | None  #: texts as the engine lowers them; None: no text

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.values.nbytes * (1 if self.lowered is None else 8)


def narrow(codes: npt.NDArray[np.integer], largest: int) -> Codes:
    """The same numbers in as few bytes as the largest needs."""
    return codes.astype(np.min_scalar_type(largest))


def numbers_column(given: npt.NDArray[np.float64], distinct: npt.NDArray[np.float64]) -> Column:
    """Numbers as a column, where NaN is nothing and `distinct` has all others in order."""
    absent = np.isnan(given)
    codes = np.searchsorted(distinct, np.where(absent, np.inf, given)) + 1
    codes[absent] = 0
    values = np.concatenate([[np.nan], distinct])
    return Column(narrow(codes, len(distinct)), values, None)


def texts_column(
    given: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint32],
    values: list[str],
    lowered: list[str],
) -> Column:
    """Numbers of words as a column, where 0 is nothing and `words` has all others in order."""
    codes = np.searchsorted(words, given) + 1
    codes[given == 0] = 0
    return Column(narrow(codes, len(words)), _objects(["", *values]), _objects(["", *lowered]))


def joined(one: Column, other: Column, order: npt.NDArray[np.integer]) -> Column:
    """Both in this order, as `texts.chosen`; what no series says any more is left out."""
    codes = np.concatenate(
        [one.codes.astype(np.uint32), other.codes.astype(np.uint32) + np.uint32(len(one.values))]
    )[order]
    values = np.concatenate([one.values, other.values])
    # The other's code of nothing.
    codes[codes == len(one.values)] = 0
    used = np.zeros(len(values), np.bool_)
    used[codes] = True
    used[0] = False
    kept = np.flatnonzero(used)
    distinct, first, places = np.unique(values[kept], return_index=True, return_inverse=True)
    recoded = np.zeros(len(values), np.uint32)
    recoded[kept] = places + 1
    lowered = None
    if one.lowered is not None and other.lowered is not None:
        lowered = np.concatenate([one.lowered, other.lowered])[np.concatenate([[0], kept[first]])]
    return Column(
        narrow(recoded[codes], len(distinct)),
        np.concatenate([values[:1], distinct]),
        lowered,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """A text that many series share, such as the UID of a study."""

    codes: Codes  #: for each series, the place of its text
    texts: Texts

    def at(self, row: int) -> str:
        return self.texts.at(int(self.codes[row]))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.texts.nbytes


def joined_names(one: Named, other: Named, order: npt.NDArray[np.integer]) -> Named:
    """Both in this order; a text may then be there twice, and none is there that nobody has."""
    codes = np.concatenate(
        [one.codes.astype(np.int64), other.codes.astype(np.int64) + len(one.texts)]
    )[order]
    used = np.zeros(len(one.texts) + len(other.texts), np.bool_)
    used[codes] = True
    places = np.cumsum(used) - 1
    texts = chosen(one.texts, other.texts, np.flatnonzero(used))
    return Named(narrow(places[codes], max(0, len(texts) - 1)), texts)


def _objects(texts: list[str]) -> npt.NDArray[np.object_]:
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array
