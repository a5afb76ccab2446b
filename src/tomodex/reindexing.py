"""Brings results up to date: indexed again where a better model is there, or coded anew without.

A result says what made it. `makers` counts who did; `reindex` has series of an old maker done
again, in the lane `reindex`; `recode_results` gives measurements the codes of today's tables, with
no pixel read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from tomodex.annotation import AnnotatedSeries, recode
from tomodex.queues import Queue, Result
from tomodex.segmentation import Algorithm
from tomodex.sources import Progress
from tomodex.terminology import Terminology

#: Results read from the feed at a time, some 10 MB of them, and tasks changed in one transaction.
BATCH = 500

#: What a result's maker is called that was no algorithm: the series is findable by its tags.
NOBODY = "no segmentation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which results are to be made again; all of what is given must hold."""

    made_by: str = ""  #: the name of a maker, see `maker_of`, or its beginning
    before: date | None = None  #: results that were finished on an earlier day, UTC
    series_uids: Collection[str] | None = None  #: None: any

    def wants(self, annotated: AnnotatedSeries) -> bool:
        """Whether this one is to be made again."""
        return (
            maker_of(annotated.provenance.algorithm).startswith(self.made_by)
            and (self.before is None or annotated.provenance.finished[:10] < str(self.before))
            and (self.series_uids is None or annotated.series.series_uid in self.series_uids)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """What made the results that stand."""

    models: Mapping[str, int]  #: series by what segmented them, see `maker_of`
    terminologies: Mapping[str, int]  #: series by the version of the tables that coded them
    software: Mapping[str, int]  #: series by the version of Tomodex that measured them


@dataclass(slots=True, kw_only=True)
class Recoded:
    """What became of the results that were held against today's tables."""

    changed: int = 0  #: have other codes now
    same: int = 0  #: had the same codes
    overtaken: int = 0  #: were replaced by a worker meanwhile
    unknown: Counter[str] = field(default_factory=Counter)  #: names the tables do not have, series


def maker_of(algorithm: Algorithm | None) -> str:
    """What segmented a series: name, version, model and all that changes labels, in one line."""
    if algorithm is None:
        return NOBODY
    options = ", ".join(f"{name}={value}" for name, value in sorted(algorithm.options.items()))
    named = " ".join(part for part in (algorithm.name, algorithm.version) if part)
    return "; ".join(part for part in (named, algorithm.model, options) if part)


def makers(queue: Queue, progress: Progress) -> Makers:
    """Count who made the results that stand.

    Raises:
        Unavailable: the queue does not answer.
    """
    models, terminologies, software = Counter[str](), Counter[str](), Counter[str]()
    for _, annotated in _standing(queue, progress):
        made = annotated.provenance
        models[maker_of(made.algorithm)] += 1
        terminologies[made.terminology] += 1
        software[made.software.get("tomodex", "")] += 1
    return Makers(models=models, terminologies=terminologies, software=software)


def reindex(queue: Queue, wanted: Wanted, progress: Progress) -> int:
    """Have what is wanted indexed again, after all that is more urgent; return how many series.

    Results stand until the next ones are there. A series that waits already is left as it is, so
    the same can be asked for again after a crash.

    Raises:
        Unavailable: the queue does not answer.
    """
    return sum(queue.renew(uids) for uids in _found(queue, wanted, progress))


def count_wanted(queue: Queue, wanted: Wanted, progress: Progress) -> int:
    """How many results `reindex` would have made again, if none of them waits already."""
    return sum(map(len, _found(queue, wanted, progress)))


def recode_results(
    queue: Queue,
    terminology: Terminology,
    progress: Progress,
    amend: Callable[[Result, AnnotatedSeries], bool],
) -> Recoded:
    """Give the structures of every result the codes that today's tables have for them.

    `amend` puts a changed result into the feed, as `Queue.amend` does, from where it reaches the
    index and every sink; one that counts only stands in for a trial.

    Raises:
        Unavailable: the queue does not answer; what was done stays, and need not be done again.
    """
    came = Recoded()
    for result, annotated in _standing(queue, progress):
        names = {one.structure for one in annotated.annotations}
        came.unknown.update(names - set(terminology.structures))
        coded = recode(annotated, terminology)
        if coded.annotations == annotated.annotations:
            came.same += 1
        elif amend(result, coded):
            came.changed += 1
        else:
            came.overtaken += 1
    return came


def _found(queue: Queue, wanted: Wanted, progress: Progress) -> Iterator[Sequence[str]]:
    """Series UIDs of what is wanted, some at a time."""
    batch: list[str] = []
    for result, annotated in _standing(queue, progress):
        if wanted.wants(annotated):
            batch.append(result.series_uid)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    yield batch


def _standing(queue: Queue, progress: Progress) -> Iterator[tuple[Result, AnnotatedSeries]]:
    """Every result that somebody worked for, as the feed has them now; none that come meanwhile."""
    end, after = queue.newest(), 0
    while after < end and (batch := queue.results(after, BATCH)):
        after = batch[-1].sequence
        for result in batch:
            # Of a listing that nobody has read yet there is nothing to be made again.
            if result.annotated is not None and result.annotated.image is not None:
                yield result, result.annotated
        progress(min(after, end), end)
