"""Repairs what the topics should not have, and what others put there.

A worker may settle a task while it is decided that nobody wants it: both are whole transactions, so
that the topic of results may end with a document that does not stand. Who reads the queue knows
better by the log; who reads the topic alone is told by a tombstone that is sent after it. Whoever
decides next does that, once, as decisions are made one at a time.
"""

from __future__ import annotations

import logging
from typing import cast

from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.press import result_key
from tomodex.queues.kafka.records import Kind, Nothing, Told
from tomodex.queues.kafka.topics import Names
from tomodex.queues.kafka.view import View

log = logging.getLogger(__name__)

#: Of each kind in one decision.
MOST = 1_000


def mend(view: View, changes: Changes, names: Names) -> None:
    """Add to a decision, within `View.trying`, what has to be said besides."""
    for series_uid, configuration in view.strays(MOST):
        view.say_anew(series_uid, configuration)
    for kind, series_uid, configuration in view.late(MOST):
        pair = (series_uid, configuration)
        changes.others.append(Nothing(cast(Kind, kind), pair))
        if kind == "result":
            changes.forgotten.append((names.results, 0, result_key(*pair)))
    if strange := view.strange(MOST):
        changes.strange += strange
        changes.others.append(Told(before=strange[-1].at + 1))
        log.error("not understood", extra={"topic": names.states, "messages": len(strange)})
