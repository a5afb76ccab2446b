"""Tells the log what was decided: results and tickets first, then the records that name them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import orjson

from tomodex.queues.kafka.changes import Changes, Said, Strange
from tomodex.queues.kafka.outbox import Letter, Transaction
from tomodex.queues.kafka.records import (
    Nothing,
    Record,
    Standing,
    Wanted,
    key_of,
    share_of,
    value_of,
)
from tomodex.queues.kafka.topics import LANES, Names


class Press:
    """Writes what goes into the topics.

    Args:
        partitions: how many each of `Names.tickets` has, in their order.
        document: the JSON of a result by its sequence.
    """

    def __init__(
        self, names: Names, partitions: Sequence[int], document: Callable[[int], bytes]
    ) -> None:
        self._names = names
        self._partitions = partitions
        self._document = document

    def publish(self, transaction: Transaction, changes: Changes) -> None:
        """Send all of it."""
        tickets = {n: self.ticket(w, LANES[w.lane], w.lane, among=changes.towards)
                   for n, w in _waiting(changes)}  # fmt: skip
        unsaid = [Letter(topic=self._names.results, key=result_key(*pair), value=None)
                  for pair in changes.unsaid]  # fmt: skip
        said = [self._result(one) for one in changes.said]
        dead = [self.dead_letter(w) for n, w in enumerate(changes.wanted) if _has_died(changes, n)]
        dead += [self.strange_letter(one) for one in changes.strange]
        dead += [replace(self.dead_letter(changes.wanted[n]), value=None) for n in changes.risen]
        forgotten = [Letter(topic=topic, partition=partition, key=key, value=None)
                     for topic, partition, key in changes.forgotten]  # fmt: skip
        offsets = transaction.send([*tickets.values(), *unsaid, *said, *dead, *forgotten])
        places = dict(zip(tickets, offsets, strict=False))
        after = offsets[len(tickets) :]
        ends = dict(zip(changes.unsaid, after, strict=False))
        # Of several the first: a document that comes between them is after it.
        firsts = {uid: ends[uid, name] for uid, name in reversed(changes.unsaid)}
        wanted = [self._placed(n, w, tickets, places) for n, w in enumerate(changes.wanted)]
        standing = [
            _standing(one, offset if one.configuration else firsts.get(one.series_uid, offset))
            for one, offset in zip(changes.said, after[len(unsaid) :], strict=False)
        ]
        gone = [_unsaid(pair, offset) for pair, offset in ends.items()]
        transaction.send(self.letters([*wanted, *gone, *standing, *changes.others]))

    def letters(self, records: Sequence[Record | Nothing]) -> Sequence[Letter]:
        """These as messages of the log."""
        return [
            Letter(topic=self._names.states, key=one.key, value=None)
            if isinstance(one, Nothing)
            else Letter(topic=self._names.states, key=key_of(one), value=value_of(one))
            for one in records
        ]

    def ticket(
        self,
        wanted: Wanted,
        lane: str,
        place: int,
        headers: tuple[tuple[str, str], ...] = (),
        among: Sequence[int] = (),
    ) -> Letter:
        """What says whose a version of a task is, by the partition that it lies in.

        Args:
            among: partitions that it may lie in; none named: any.
        """
        key = task_key(wanted.series_uid, wanted.configuration)
        # Each version in another one: what a dead worker held is not to wait until the group knows.
        allowed = among or range(self._partitions[place])
        partition = allowed[zlib.crc32(b"%s%d" % (key, wanted.version)) % len(allowed)]
        value = orjson.dumps({"version": wanted.version, "lane": lane, "source": wanted.source})
        topic = self._names.tickets[place]
        return Letter(topic=topic, partition=partition, key=key, value=value, headers=headers)

    def dead_letter(self, wanted: Wanted) -> Letter:
        """What failed, for those who watch Kafka and not us."""
        return Letter(
            topic=self._names.dead,
            key=task_key(wanted.series_uid, wanted.configuration),
            value=orjson.dumps({"version": wanted.version, "source": wanted.source}),
            headers=(("reason", wanted.reason), ("sentence", wanted.sentence)),
        )

    def strange_letter(self, strange: Strange) -> Letter:
        """What somebody put into the log and nobody understands."""
        place = {"topic": self._names.states, "offset": strange.at}
        return Letter(
            topic=self._names.dead,
            key=orjson.dumps([self._names.states, str(strange.at)]),
            value=orjson.dumps({**place, "key": strange.key.decode(errors="replace")}),
            headers=(("reason", "not_understood"), ("sentence", strange.reason)),
        )

    def _placed(
        self, number: int, wanted: Wanted, tickets: Mapping[int, Letter], places: Mapping[int, int]
    ) -> Wanted:
        if number not in tickets:
            return wanted
        share = share_of(wanted.lane, tickets[number].partition)
        return replace(wanted, share=share, at=places[number])

    def _result(self, said: Said) -> Letter:
        document = said.document
        if document is not None:
            copied = document.startswith(b"@")
            document = self._document(int(document[1:])) if copied else zlib.decompress(document)
        key = result_key(said.series_uid, said.configuration)
        return Letter(topic=self._names.results, key=key, value=document)


def _waiting(changes: Changes) -> Sequence[tuple[int, Wanted]]:
    """What is to be done anew, with its place among the changes."""
    return [
        (n, one)
        for n, one in enumerate(changes.wanted)
        if n in changes.renewed and one.status == "ready"
    ]


def _has_died(changes: Changes, number: int) -> bool:
    return number in changes.renewed and changes.wanted[number].status == "failed"


def _unsaid(pair: tuple[str, str], offset: int) -> Standing:
    """Says that a key has a tombstone, and nothing in the feed."""
    series_uid, configuration = pair
    return Standing(
        series_uid=series_uid, configuration=configuration, version=0, sequence=offset + 1,
        document=False, listed=False, settled_ms=0, said=False,
    )  # fmt: skip


def _standing(said: Said, offset: int) -> Standing:
    return Standing(
        series_uid=said.series_uid,
        configuration=said.configuration,
        version=said.version,
        sequence=offset + 1,
        document=said.document is not None,
        listed=said.listed,
        settled_ms=said.settled_ms,
    )


def task_key(series_uid: str, configuration: str) -> bytes:
    """Key of tickets and dead letters."""
    return orjson.dumps([series_uid, configuration])


#: Results have the same; a reader that knows nothing of us finds the newest of each series by it.
result_key = task_key
