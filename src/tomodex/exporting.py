"""Writes all results, as the feed has them now, into files of another format."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tomodex.annotation import AnnotatedSeries
from tomodex.formats.fhir import Naming
from tomodex.formats.fhir.bulk import Manifest, write_bulk
from tomodex.queues import Queue
from tomodex.sources import Progress

#: Results read from the feed at a time.
BATCH = 500

#: Series to a shard: a server takes a file of so many BodyStructures in one go.
SHARD = 20_000


def export_fhir(queue: Queue, folder: Path, naming: Naming, progress: Progress) -> Manifest:
    """Write every result of the feed as FHIR R5 for a bulk load.

    Raises:
        Unavailable: the queue does not answer, or the folder cannot be written.
    """
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    total = sum(n for (_, status), n in queue.count().items() if status == "completed")
    return write_bulk(
        all_results(queue, progress, total),
        folder,
        naming,
        shards=-(-total // SHARD),
        transaction_time=moment,
    )


def all_results(queue: Queue, progress: Progress, total: int) -> Iterator[AnnotatedSeries]:
    """Every result that stands, a batch in memory at a time."""
    after, done = 0, 0
    while batch := queue.results(after, BATCH):
        after = batch[-1].sequence
        for result in batch:
            if result.annotated is not None:
                done += 1
                yield result.annotated
        progress(done, max(total, done))
