"""The index as of one generation: a large block, a small one, and what of them is gone.

An image never changes; a newer one shares the large block with it. So a search has one image from
its beginning to its end, whatever is written meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.indexes.duckdb.resident.bits import Bits, Rows, bits_at, everything, rows_in
from tomodex.indexes.duckdb.resident.block import Block, Measures, merged, places_among
from tomodex.indexes.duckdb.resident.reading import (
    Head,
    changes,
    head_of,
    patient_keys_of,
)
from tomodex.indexes.duckdb.schema import KEPT
from tomodex.search import Term

#: Series that the small block may have, or this part of the large one if that is more; then the
#: two become one.
LATE = 20_000
LATE_PART = 1 / 32

#: The same, where it is better to read everything anew.
MANY = 100_000
MANY_PART = 1 / 4


#: Terms whose sets are kept: at 1.7 million series a set takes 0.2 MB.
RECENT = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A block, and which of its series are still what the index has."""

    block: Block
    living: Bits


class Recent:
    """What the last terms found, for as long as nothing changes."""

    def __init__(self) -> None:
        self._sets: OrderedDict[Term | None, tuple[Bits, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, term: Term | None) -> tuple[Bits, ...] | None:
        with self._lock:
            if term in self._sets:
                self._sets.move_to_end(term)
            return self._sets.get(term)

    def put(self, term: Term | None, sets: tuple[Bits, ...]) -> None:
        with self._lock:
            self._sets[term] = sets
            while len(self._sets) > RECENT:
                self._sets.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Everything that the index holds."""

    head: Head
    base: Part
    late: Part  #: what was written since the base was made
    late_places: Rows  #: before which series of the base those of the small block come
    patient_keys: npt.NDArray[np.uint64]  #: by the number of the patient; 0 for nobody
    recent: Recent = field(default_factory=Recent)

    @property
    def parts(self) -> tuple[Part, Part]:
        return self.base, self.late

    @property
    def labels(self) -> Mapping[str, int]:
        return self.head.labels

    @property
    def measured(self) -> bool:
        """Whether it knows volumes, densities and places."""
        return self.base.block.measures is not None

    @property
    def nbytes(self) -> int:
        return self.base.block.nbytes + self.late.block.nbytes + self.patient_keys.nbytes


class Lost(Exception):
    """The file is not that of the image any more, or too much of it is new: read it anew."""


def image_of(db: duckdb.DuckDBPyConnection, head: Head, base: Block) -> Image:
    """The image of a block that was read since that head.

    Raises:
        Lost: as `renewed`.
    """
    nobody = Part(changes(db, _NEVER, 0), everything(0))
    image = Image(
        head=head,
        base=Part(base, everything(len(base))),
        late=nobody,
        late_places=np.zeros(0, np.intp),
        patient_keys=_with_keys(np.zeros(1, np.uint64), db, _EVER),
    )
    return renewed(image, db)


#: Generations before the first, and after the last that an index reaches.
_EVER, _NEVER = -1, 2**32 - 1


def renewed(image: Image, db: duckdb.DuckDBPyConnection) -> Image:
    """The image as of now; the same one if nothing was written.

    Raises:
        Lost: it is to be read anew.
    """
    head = head_of(db)
    since = image.head.generation
    if head.epoch != image.head.epoch or head.generation > since + KEPT:
        raise Lost
    if head.generation == since:
        return image
    _require_few(image, db)
    new = changes(db, since, len(head.labels))
    gone = db.execute("select number from gone where generation > ?", [since]).fetchnumpy()
    numbers = np.union1d(gone["number"], new.number)
    base, late = without(image.base, numbers), without(image.late, numbers)
    block = merged(late.block, late.living, new, everything(len(new)))
    return Image(
        head=head,
        base=base,
        late=Part(block, everything(len(block))),
        late_places=places_among(base.block, block),
        patient_keys=_with_keys(image.patient_keys, db, since),
    )


def _require_few(image: Image, db: duckdb.DuckDBPyConnection) -> None:
    select = "select count(*) from series where generation > ?"
    ((many,),) = db.execute(select, [image.head.generation]).fetchall()
    if int(many) > max(MANY, MANY_PART * len(image.base.block)):
        raise Lost


def without(part: Part, numbers: npt.NDArray[np.integer]) -> Part:
    """The part without the series of these numbers."""
    rows = part.block.numbered(numbers)
    return Part(part.block, part.living & ~bits_at(rows, len(part.block)))


def is_late(image: Image) -> bool:
    """Whether the blocks are to become one."""
    return len(image.late.block) > max(LATE, LATE_PART * len(image.base.block))


def in_one(image: Image) -> Block:
    """Both blocks of an image as one."""
    return merged(image.base.block, image.base.living, image.late.block, image.late.living)


def rebased(now: Image, then: Image, block: Block) -> Image:
    """The image of now on the block that was made of an earlier one."""
    gone = np.setdiff1d(_living_numbers(then), _living_numbers(now))
    late = now.late.block
    newer = bits_at(np.flatnonzero(late.generation > then.head.generation), len(late))
    written = late.number[rows_in(newer & now.late.living, len(late))]
    base = without(Part(block, everything(len(block))), np.union1d(gone, written))
    rest = merged(late, newer & now.late.living, late, bits_at(np.zeros(0, np.intp), len(late)))
    return replace(
        now,
        base=base,
        late=Part(rest, everything(len(rest))),
        late_places=places_among(block, rest),
        recent=Recent(),
    )


def measured(image: Image, measures: Measures) -> Image:
    """The image with what is measured in the series of its base."""
    base = replace(image.base.block, measures=measures)
    return replace(image, base=Part(base, image.base.living), recent=Recent())


def _living_numbers(image: Image) -> npt.NDArray[np.uint32]:
    living = [part.block.number[rows_in(part.living, len(part.block))] for part in image.parts]
    return np.concatenate(living)


def _with_keys(
    keys: npt.NDArray[np.uint64], db: duckdb.DuckDBPyConnection, since: int
) -> npt.NDArray[np.uint64]:
    found = patient_keys_of(db, since)
    size = max(len(keys), int(found["patient"].max(initial=0)) + 1)
    more = np.zeros(size, np.uint64)
    more[: len(keys)] = keys
    more[found["patient"]] = found["patient_key"]
    return more
