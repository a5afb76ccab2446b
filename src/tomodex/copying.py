"""Copies a queue into another one, such as a file into Kafka: all that is known, and nothing new.

Nothing may use the two meanwhile. A copy that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tomodex.errors import Misconfigured
from tomodex.options import without_query
from tomodex.queues import PARTS, Copied, Movable, Part, Queue
from tomodex.sources import Progress

#: Rows that are taken in at once; of results, which are larger, fewer.
BATCH = 1_000
RESULTS = 200


def copy_queue(
    source: Queue,
    target: Queue,
    origin: str,
    consumers: Iterable[str],
    report: Callable[[Part], Progress],
) -> Mapping[Part, int]:
    """Copy everything, and each consumer's place in the feed; how many rows of each part it was.

    Args:
        origin: what the source is called, by which a copy that was begun is known again.
        consumers: whose places in the feed are copied.
        report: begins to report on a part.

    Raises:
        Misconfigured: something is in the target, or one of the two cannot be copied.
        Unavailable: one of them does not answer; called again, it goes on.
    """
    if not isinstance(source, Movable) or not isinstance(target, Movable):
        raise Misconfigured("a queue of this kind cannot be copied")
    begun = _begun(target, without_query(origin))
    sizes = source.sizes()
    for part in PARTS[PARTS.index(begun.part) :]:
        after = begun.after if part == begun.part else 0
        _copy_part(source, target, Copied(begun.origin, part, after), report(part), sizes[part])
    for name in consumers:
        if sequence := source.cursor(name):
            target.confirm(name, target.at_rank(source.rank(sequence)))
    target.end_copy()
    return sizes


def _begun(target: Movable, origin: str) -> Copied:
    """Where to begin."""
    begun = target.copied()
    if begun is None and any(target.sizes().values()):
        raise Misconfigured("there is something in that queue; a copy is made into an empty one")
    if begun is not None and begun.origin != origin:
        raise Misconfigured(
            f"a copy of {begun.origin} into that queue was begun: finish it, or make the queue anew"
        )
    return begun or Copied(origin, PARTS[0], 0)


def _copy_part(
    source: Movable, target: Movable, copied: Copied, progress: Progress, size: int
) -> None:
    limit = RESULTS if copied.part == "result" else BATCH
    done, after = target.sizes()[copied.part] if copied.after else 0, copied.after
    progress(done, size)
    while rows := source.portion(copied.part, after, limit):
        after = rows[-1][0]
        target.take_in(copied._replace(after=after), rows)
        done += len(rows)
        progress(done, size)
