"""How many answers an archive gives to one question at most: found out, and remembered.

Most archives have such a limit, and many just stop there. So an ever longer time is asked about,
and what it brought is asked for again in halves: where these bring more, the answer was as long as
the limit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path

from tomodex.sources.dimse.queries import Question
from tomodex.sources.dimse.splitting import MOST, Ask, Limit, Reply

#: How long what was found out is believed: somebody may set another limit.
BELIEVED_S = 86_400.0

#: Days that are asked about at most.
LONGEST_DAYS = 2**16

DAY = timedelta(days=1)


def find_limit(ask: Ask, today: date) -> Limit:
    """Ask about longer and longer times before today, until it shows, or there is no more to ask.

    Raises:
        Unavailable: the archive did not answer.
    """
    end = today - DAY
    days, before = 1, ask(_days(end, 1))
    if before.cut:
        return _as_said(before, 0)
    longest, most = 1, len(before.rows)
    while days < LONGEST_DAYS and len(before.rows) < MOST:
        longer = ask(_days(end, 2 * days))
        if longer.cut:
            return _as_said(longer, most)
        if 1 < len(longer.rows) <= 2 * len(before.rows):
            earlier = ask(_days(end - days * DAY, days))
            if len(longer.rows) < len(before.rows) + len(earlier.rows):
                return Limit(rows=len(longer.rows), seen=len(longer.rows))
        days, before = 2 * days, longer
        if len(before.rows) > most:
            longest, most = days, len(before.rows)
    return _in_halves(ask, _days(end, longest), most)


def _as_said(reply: Reply, seen: int) -> Limit:
    """The limit of an archive that says when it has more, unless it is we who stopped."""
    rows = len(reply.rows) if 1 < len(reply.rows) <= MOST else None
    return Limit(rows=rows, seen=seen)


def _in_halves(ask: Ask, question: Question, rows: int) -> Limit:
    """Look for days within which an answer is shorter than its two halves."""
    first, last = question.first, question.last
    while first and last and first < last and 1 < rows < MOST:
        middle = first + (last - first) // 2
        early, late = Question(first=first, last=middle), Question(first=middle + DAY, last=last)
        before, after = len(ask(early).rows), len(ask(late).rows)
        if before + after > rows:
            return Limit(rows=rows, seen=rows)
        if max(before, after) < rows:
            # Each half has some of them, and together they have all: so nothing was cut.
            return Limit(rows=None, seen=rows)
        first, last = (first, middle) if before else (middle + DAY, last)
    # A single day has them all, so that nobody knows whether it has more.
    return Limit(rows=None, seen=rows if rows >= MOST else 0)


def _days(end: date, days: int) -> Question:
    return Question(first=max(end - (days - 1) * DAY, date(1800, 1, 1)), last=end)


def remembered(folder: Path, url: str, level: str, find: Callable[[], Limit]) -> Limit:
    """What was found out within the last day, else what is found out now."""
    name = sha256(f"{url} {level}".encode()).hexdigest()[:16]
    file = folder / "limits" / f"{name}.json"
    try:
        known = json.loads(file.read_text())
        if time.time() - float(known["found"]) < BELIEVED_S:
            return Limit(rows=known["rows"], seen=known["seen"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    limit = find()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps({"found": time.time(), "rows": limit.rows, "seen": limit.seen})
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)
    return limit
