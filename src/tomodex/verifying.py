"""Holds the index against the results, and the results against the archives, by a sample.

Two lots are drawn: results, which must be in the index as they are, and series of the index, which
must have a result. What the index has not been delivered yet is not held against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from random import Random
from typing import Literal

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import NotThere, Unavailable
from tomodex.indexes import Index
from tomodex.queues import Queue, Result
from tomodex.search import Query, Sample, Seen
from tomodex.sources import Progress, Source

#: Numbers of an index are in single precision.
RELATIVE, ABSOLUTE = 1e-4, 0.01

#: All series there are.
EVERYTHING = Query(text="", term=None)

#: The source of a URL, as the settings have it.
OpenSource = Callable[[str], Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Something that is said of a series in one place and not in the other."""

    series_uid: str
    place: Literal["index", "archive"]  #: which does not have it as the result does
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was looked at, and what was wrong."""

    results: int  #: drawn from the feed
    waiting: int  #: of them, not delivered to the index yet
    indexed: int  #: drawn from the index
    archived: int  #: of the results, asked for in their archives
    silent: Mapping[str, int]  #: archives that did not answer, and for how many
    disagreements: tuple[Disagreement, ...]


class Archives:
    """Asks the archives of results whether they still have the series as they did.

    Args:
        queue: knows where a series came from.
        open_source: None: no archive is asked.
    """

    def __init__(self, queue: Queue, open_source: OpenSource | None) -> None:
        self._queue = queue
        self._open = open_source
        self.asked = 0
        self.silent = Counter[str]()

    def compare(self, result: Result) -> Iterator[Disagreement]:
        """What an archive says otherwise of a series than when it was listed."""
        states = self._queue.states(result.series_uid)
        if self._open is None or result.annotated is None or not states:
            return
        known, url = states[0].series, states[0].source
        self.asked += 1
        try:
            now = self._open(url).describe(result.series_uid).series
        except NotThere as gone:
            yield _archive(result, str(gone))
        except Unavailable:
            self.silent[url] += 1
        else:
            counts = known.instance_count, now.instance_count
            if all(counts) and counts[0] != counts[1]:
                yield _archive(result, f"{counts[0]} instances were indexed; it has {counts[1]}")


def verify(
    queue: Queue,
    index: Index,
    consumer: str,
    archives: Archives,
    lot: Sample,
    progress: Progress,
) -> Verified:
    """Compare results with the index and their archives, and series of the index with results.

    Args:
        consumer: the name that the index has at the queue.
        lot: how many of each; the same ones for the same seed, while nothing else changes.

    Raises:
        Unavailable: the queue or the index does not answer.
    """
    results = list(_drawn(queue, lot))
    delivered = queue.cursor(consumer)
    standing = [result for result in results if result.sequence <= delivered]
    found = [*_compare_with_index(standing, index)]
    hits = [hit.series_uid for some in index.rows(EVERYTHING, (), lot) for hit in some]
    found += [_index(uid, "has no result") for uid in hits if _is_stray(queue, uid, delivered)]
    for done, result in enumerate(results, 1):
        found += archives.compare(result)
        progress(done, len(results))
    return Verified(
        results=len(results),
        waiting=len(results) - len(standing),
        indexed=len(hits),
        archived=archives.asked,
        silent=dict(archives.silent),
        disagreements=tuple(found),
    )


def _drawn(queue: Queue, lot: Sample) -> Iterator[Result]:
    """The last words on some series, drawn along the feed; a long gap favours what follows it."""
    random, newest, drawn = Random(lot.seed), queue.newest(), set[str]()
    for _ in range(lot.size):
        for result in queue.results(random.randrange(newest) if newest else 0, 1):
            last = queue.result(result.series_uid)
            if last is not None and result.series_uid not in drawn:
                drawn.add(result.series_uid)
                yield last


def _compare_with_index(results: Sequence[Result], index: Index) -> Iterator[Disagreement]:
    seen = index.seen([result.series_uid for result in results])
    for result in results:
        there = seen.get(result.series_uid)
        if result.annotated is None:
            if there is not None:
                yield _index(result.series_uid, "is there, but was withdrawn or rejected")
        elif there is None:
            yield _index(result.series_uid, "is not there")
        elif wrong := _unlike(result.annotated, there):
            yield _index(result.series_uid, f"other numbers for {', '.join(wrong)}")


def _unlike(annotated: AnnotatedSeries, there: Sequence[Seen]) -> list[str]:
    """Structures that are in one of both alone, or with other numbers."""
    # An index has the largest, should a series have two of one structure.
    ours = {one.structure: one.measurement for one in reversed(annotated.annotations)}
    theirs = {one.structure: one for one in there}
    both = set(ours) & set(theirs)
    wrong = set(ours) ^ set(theirs)
    for name in both:
        measured, one = ours[name], theirs[name]
        pairs = (
            (measured.volume_ml, one.volume_ml),
            (measured.mean_hu, one.mean_hu),
            (measured.box_min_mm[2], one.bottom_mm),
            (measured.box_max_mm[2], one.top_mm),
        )
        if measured.complete != one.complete or not all(_close(*pair) for pair in pairs):
            wrong.add(name)
    return sorted(wrong)


def _close(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _is_stray(queue: Queue, series_uid: str, delivered: int) -> bool:
    """Whether the index has a series that it was told not to have, or never to have."""
    last = queue.result(series_uid)
    return last is None or (last.annotated is None and last.sequence <= delivered)


def _index(series_uid: str, sentence: str) -> Disagreement:
    return Disagreement(series_uid=series_uid, place="index", sentence=sentence)


def _archive(result: Result, sentence: str) -> Disagreement:
    return Disagreement(series_uid=result.series_uid, place="archive", sentence=sentence)
