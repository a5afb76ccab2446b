"""Every study of a DICOMweb server by QIDO-RS, a few days at a time.

The days are walked from the oldest to the newest, as many at once as one answer holds: what is
stored or deleted meanwhile then shifts the pages of its own day only. A server that gives fewer
answers than it is asked for is asked on until it gives no more. Some count what they give over all
pages, and end without a word: so that many answers are whole only if others come after them when
nothing limits the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from tomodex.errors import Unavailable
from tomodex.sources import Window
from tomodex.sources.dicomweb.connection import Connection, Params, Refused
from tomodex.sources.dicomweb.json_model import Json, text

#: Where the walk begins and ends if nobody says: before the first CT, and after every typing error.
EVER = Window(first=date(1900, 1, 1), last=date.max)

#: So many answers may be all that a server is willing to give; nobody caps at fewer.
MANY = 100

Answers = dict[str, Json]  #: by UID


class Stuck(Unavailable):
    """Whether these answers are all that there are, nobody knows."""


class Searches:
    """QIDO-RS on one server, with all its pages."""

    def __init__(self, connection: Connection, page: int, answer_limit: int | None) -> None:
        self._connection = connection
        self.page = page  #: answers that are asked for at once
        self._limit = answer_limit  #: answers that there are at most; 0: any number; None: unknown
        self._proven = 0  #: so many answers have been had, or could be

    def pages(self, path: str, params: Params, key: str) -> Iterator[Answers]:
        """All answers, a page at a time, each once, by the UID that `key` names.

        It ends with a page that brings nothing new: a server that ignores `offset` gives one for
        ever, and a little more of it while studies arrive.

        Raises:
            Stuck: the server gives the same page over and over.
            Refused, Unavailable: as `Connection.json`.
        """
        seen: set[str] = set()
        offset = 0
        while page := self._page(path, params, offset):
            new = {uid: one for one in page if (uid := text(one, key)) and uid not in seen}
            if not new:
                self._require_few(len(page))
                return
            yield new
            seen.update(new)
            offset += len(page)

    def everything(self, path: str, params: Params, key: str) -> Answers:
        """All answers; raises as `pages` and `require_whole` do."""
        found = {uid: one for page in self.pages(path, params, key) for uid, one in page.items()}
        self.require_whole(path, len(found))
        return found

    def _page(self, path: str, params: Params, offset: int) -> list[Json]:
        paging = {"limit": str(self.page), "offset": str(offset)}
        return self._connection.json(path, {**params, **paging})

    def _require_few(self, answers: int) -> None:
        if answers >= MANY:
            raise Stuck(
                f"{self._connection.url} gives the same {answers} answers again when it is asked "
                "for the next ones, so nobody knows whether these are all"
            )

    def require_whole(self, path: str, answers: int) -> None:
        """Let so many answers be all only if the server could have given more.

        Raises:
            Stuck: it gives as many as that, and never more.
        """
        if self._limit is None:
            is_whole = answers < MANY or answers < self._proven or self._prove(path, answers)
        else:
            is_whole = self._limit == 0 or answers < self._limit
        if not is_whole:
            raise Stuck(
                f"{self._connection.url} gives {answers} answers on all pages together, and may "
                "be capped there; raise its limit, or say answer_limit=0 if it has none"
            )

    def _prove(self, path: str, answers: int) -> bool:
        """Whether the server gives another answer after so many, if nothing limits the search."""
        for everything in dict.fromkeys((path, "studies", "series")):
            try:
                more = self._connection.json(everything, {"limit": "1", "offset": str(answers)})
            except Refused:
                continue
            if more:
                self._proven = answers + 1
                return True
        return False


def by_days(searches: Searches, window: Window, params: Params) -> Iterator[tuple[Window, Answers]]:
    """All studies of a window, in order of their days.

    Raises:
        Unavailable: the studies of one day cannot be had completely.
    """
    first, days, room = window.first, 1, searches.page
    while True:
        some = Window(first=first, last=_later(first, days - 1, window.last))
        studies, is_all = _studies(searches, some, params)
        if not is_all:
            days, room = max(days // 2, 1), min(room, len(studies))
            continue
        if studies:
            yield some, studies
        if some.last == window.last:
            return
        first = some.last + timedelta(days=1)
        if 2 * len(studies) < room:
            days *= 2


def without_day(searches: Searches, params: Params, dated: int) -> Iterator[Answers]:
    """The studies that have no date, so that no window has them; looks at all there are.

    Raises:
        Unavailable: they cannot be had completely, as the `dated` ones show that are there too.
    """
    looked = missing = 0
    try:
        for page in searches.pages("studies", params, "StudyInstanceUID"):
            looked += len(page)
            if undated := {uid: one for uid, one in page.items() if not text(one, "StudyDate")}:
                missing += len(undated)
                yield undated
    except Stuck as stuck:
        raise Unavailable(f"studies without a date: {stuck}; name days to list") from stuck
    # Some may have been deleted meanwhile.
    if looked < 0.99 * (dated + missing):
        raise Unavailable(
            f"the server gives {looked} studies if no day is named, and {dated} day by day, so "
            "that those without a date cannot be found; name days to list"
        )


def of_days(window: Window) -> Params:
    """A window as QIDO-RS asks for it."""
    return {"StudyDate": f"{window.first:%Y%m%d}-{window.last:%Y%m%d}"}


def _studies(searches: Searches, window: Window, params: Params) -> tuple[Answers, bool]:
    """The studies of a window, and whether these are all; of one day, they are."""
    found: Answers = {}
    is_day = window.first == window.last
    try:
        for page in searches.pages("studies", {**params, **of_days(window)}, "StudyInstanceUID"):
            if found and not is_day:
                return found, False
            found.update(page)
        searches.require_whole("studies", len(found))
    except Stuck as stuck:
        if is_day:
            raise Unavailable(f"{window.first:%Y-%m-%d}: {stuck}") from stuck
        return found, False
    return found, True


def _later(day: date, days: int, last: date) -> date:
    return last if (last - day).days <= days else day + timedelta(days=days)
