"""Whole answers from an archive that gives only so many at once.

    days            as many at a time as the archive answers wholly
    hours           of a day that has more, halved until each part is whole
    modalities      of what hours cannot part: archives that do not match times, studies without

An answer is whole unless the archive says it is not, or it is as long as the longest the archive
gives. How long that is, is found out beforehand, see `limits.py`; where that met no limit, a longer
answer than any before is not believed either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from tomodex.errors import Unavailable
from tomodex.sources.dimse.queries import Question, Row, days_between

log = logging.getLogger(__name__)

#: Rows that are listened to, of an archive that would give any number: they are held in memory.
MOST = 4_000

#: An answer shorter than this is whole where no limit was met: no archive has such a small one.
SMALLEST_LIMIT = 100

#: Days asked about at first; more where there is little, fewer where there is much.
FIRST_DAYS = 8

#: When studies may be that a scanner with a wrong clock has made.
EARLIEST, LATEST = date(1800, 1, 1), date(2999, 12, 31)
USUAL = date(1980, 1, 1)

#: Seconds that a study may lie beside the hours asked for: archives may ignore parts of a time.
SLACK_S = 61

#: What a day is parted by besides what is seen in it (PS3.3 C.7.3.1.1.1): those that can be many.
MODALITIES = (
    *("AU", "BMD", "CR", "CT", "DOC", "DX", "ECG", "EPS", "ES", "GM", "HD", "IO", "IVOCT", "IVUS"),
    *("KO", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPT", "OPV", "OT", "PR", "PT", "PX"),
    *("REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG"),
    *("SM", "SMR", "SR", "STAIN", "TG", "US", "VA", "XA", "XC"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The rows of one question."""

    rows: Sequence[Row]
    cut: bool  #: the archive says that there are more, or we did not listen to all
    why: str = ""  #: what the archive says instead of success


Ask = Callable[[Question], Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What is known of an archive's longest answer."""

    rows: int | None  #: it gives no more; None: no limit was met
    seen: int  #: the longest answer that was whole

    def allows(self, rows: int) -> bool:
        """Whether so many can be all that there are."""
        if self.rows is not None:
            return rows < self.rows
        return rows <= self.seen or rows < SMALLEST_LIMIT


class Splitter:
    """Asks one archive, over and over, until every answer is whole."""

    def __init__(self, ask: Ask, limit: Limit, window_days: int, name: str) -> None:
        self._ask = ask
        self._limit = limit
        self._window_days = window_days
        self._name = name
        self._times_match = True
        self._modalities_match = True

    def everything(self, today: date) -> Iterator[Sequence[Row]]:
        """All rows of the archive, those without a date first, as far as they are seen."""
        question = Question(first=None, last=None)
        reply = self._ask(question)
        if self._is_whole(reply):
            yield reply.rows
            return
        undated = [row for row in reply.rows if row.day is None]
        if undated:
            # They are in no window, so that nobody can tell whether these are all.
            log.warning("studies without a date", extra={"source": self._name, "n": len(undated)})
            yield undated
        listed = {row.uid for row in undated}
        for rows in self._dated(today):
            yield [row for row in rows if row.uid not in listed]

    def _dated(self, today: date) -> Iterator[Sequence[Row]]:
        yield from self._outside(None, USUAL - timedelta(days=1))
        yield from self.between(USUAL, today)
        yield from self._outside(today + timedelta(days=1), None)

    def between(self, first: date, last: date) -> Iterator[Sequence[Row]]:
        """All rows of some days, both included, in the order of their days.

        Raises:
            Unavailable: the archive does not give all of a day, whatever it is asked.
        """
        day, days = first, min(FIRST_DAYS, self._window_days)
        while day <= last:
            end = min(day + timedelta(days=days - 1), last)
            question = Question(first=day, last=end)
            reply = self._reply(question)
            if self._is_whole(reply):
                yield reply.rows
                days = self._next_days(days, len(reply.rows))
                day = end + timedelta(days=1)
            elif end > day:
                days = max(1, days_between(day, end) // 2)
            else:
                yield self._whole_day(question, reply)
                day += timedelta(days=1)

    def _next_days(self, days: int, rows: int) -> int:
        most = min(self._limit.rows or MOST, MOST)
        return min(2 * days, self._window_days) if rows <= most // 3 else days

    def _outside(self, first: date | None, last: date | None) -> Iterator[Sequence[Row]]:
        """Rows of days that no study should have, of which there are few."""
        reply = self._reply(Question(first=first, last=last))
        if self._is_whole(reply):
            yield reply.rows
        else:
            yield from self.between(first or EARLIEST, last or LATEST)

    # --- one day --------------------------------------------------------------------------------

    def _whole_day(self, question: Question, reply: Reply) -> Sequence[Row]:
        """All rows of a day that has more of them than the archive gives at once."""
        found = _by_uid(reply.rows)
        timed = self._by_time(question)
        found |= timed or {}
        # A study without a time is in no hours; what modality it is of, is always known.
        others = () if timed is not None else MODALITIES
        parts = self._by_modality(question, {"CT"} | _modalities(found.values()), others)
        for part in parts or []:
            found |= _by_uid(part.rows)
        if any(self._misses(timed, part) for part in parts or [reply]):
            raise Unavailable(self._too_many(question, reply))
        self._learn(reply, len(found))
        return list(found.values())

    def _learn(self, reply: Reply, rows: int) -> None:
        """Remember what an answer shows that was longer than any before."""
        if self._limit.rows is None and not reply.cut:
            met = len(reply.rows) if rows > len(reply.rows) else None
            self._limit = Limit(rows=met, seen=max(self._limit.seen, len(reply.rows)))

    def _misses(self, timed: dict[str, Row] | None, part: Reply) -> bool:
        """Whether a part is not whole, and shows that the hours did not bring all of it."""
        if self._is_whole(part):
            return False
        return timed is None or any(row.uid not in timed for row in part.rows)

    def _by_time(self, question: Question) -> dict[str, Row] | None:
        """The rows of each half, halved again where needed; None if times are not matched."""
        found: dict[str, Row] = {}
        for half in question.halves_of_time() or ():
            if not self._times_match:
                return None
            reply = self._reply(half)
            if not all(_is_within(row, half) for row in reply.rows):
                log.warning("times are not matched", extra={"source": self._name})
                self._times_match = False
                return None
            found |= _by_uid(reply.rows)
            if not self._is_whole(reply):
                more = self._halved(half, reply)
                if more is None:
                    return None
                found |= more
        return found

    def _halved(self, question: Question, reply: Reply) -> dict[str, Row] | None:
        if question.halves_of_time():
            return self._by_time(question)
        return self._one_second(question, reply)

    def _one_second(self, question: Question, reply: Reply) -> dict[str, Row]:
        """Many studies have one time, as after a migration that made it up."""
        if not reply.rows:
            raise Unavailable(self._too_many(question, reply))
        found = _by_uid(reply.rows)
        parts = self._by_modality(question, _modalities(found.values()), MODALITIES)
        if parts is None or not all(map(self._is_whole, parts)):
            raise Unavailable(self._too_many(question, reply))
        for part in parts:
            found |= _by_uid(part.rows)
        return found

    def _by_modality(
        self, question: Question, seen: Iterable[str], others: Iterable[str]
    ) -> list[Reply] | None:
        """A part for each modality; None if they are not matched."""
        parts = []
        for modality in dict.fromkeys((*sorted(seen), *others)):
            if not self._modalities_match:
                return None
            part = self._reply(question.of_modality(modality))
            if not all(modality in row.modalities for row in part.rows):
                log.warning("modalities are not matched", extra={"source": self._name})
                self._modalities_match = False
                return None
            parts.append(part)
        return parts

    # --- one question ---------------------------------------------------------------------------

    def _reply(self, question: Question) -> Reply:
        reply = self._ask(question)
        if any(_is_outside(row.day, question) for row in reply.rows):
            raise Unavailable(f"{self._name} answers with studies of other days than it was asked")
        return reply

    def _is_whole(self, reply: Reply) -> bool:
        rows = len(reply.rows)
        return not reply.cut and rows < MOST and self._limit.allows(rows)

    def _too_many(self, question: Question, reply: Reply) -> str:
        if reply.why and not reply.rows:
            return f"{self._name} does not list {question.first}, nor parts of it: {reply.why}"
        rows = self._limit.rows
        limit = f"the {rows} that it gives at once" if rows else "it gives at once"
        return (
            f"{self._name} has more studies of {question.first} than {limit}, and cannot be asked "
            "in parts small enough; let it give more answers to our AE title"
        )


def _by_uid(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.uid: row for row in rows}


def _modalities(rows: Iterable[Row]) -> set[str]:
    return {modality for row in rows for modality in row.modalities}


def _is_within(row: Row, question: Question) -> bool:
    """Whether a row can be an answer; one without a time always can."""
    second = row.second
    return second is None or question.begin_s - SLACK_S <= second < question.end_s + SLACK_S


def _is_outside(day: date | None, question: Question) -> bool:
    if day is None:
        return False
    return bool(
        (question.first and day < question.first) or (question.last and day > question.last)
    )
