"""Lists what came into the archives since they were listed last: what `tomodex discover` does.

Nothing is worked on here. What is found waits in the queue, in the lane `daily`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from tomodex.discovery import MAY_VANISH_PERCENT, Discovery, discover, lists_by_day
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.queues import Lane, Queue
from tomodex.selection import Rules, load_rules
from tomodex.settings import Settings
from tomodex.sources import Progress, Source, Window
from tomodex.wiring import lasting_url, logbook_of, queue_of, source_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look through one archive."""

    source: str  #: URL without options; what was given, if that means none
    window: Window | None  #: None: all of it
    discovery: Discovery | None  #: None: it could not be listed whole
    error: TomodexError | None = None  #: why not

    @property
    def facts(self) -> dict[str, object]:
        """The same for a program."""
        window, found = self.window, self.discovery
        return {
            "source": self.source,
            "first": window.first.isoformat() if window else None,
            "last": window.last.isoformat() if window else None,
            "found": found.found if found else None,
            "new": found.new if found else None,
            "rejected": dict(found.rejected) if found else None,
            "withdrawn": found.withdrawn if found else None,
            "error": str(self.error) if self.error else "",
        }


def discover_daily(
    settings: Settings,
    names: Sequence[str],
    *,
    since: date | None = None,
    may_vanish_percent: float = MAY_VANISH_PERCENT,
    progress: Progress | None = None,
) -> Iterator[Look]:
    """Look for what is new in each archive; one that does not answer holds up no other.

    From `since`, else from the last day that was listed, and so many days more as the settings say
    (studies come late), to yesterday; the first look is at yesterday alone. An archive whose days
    cannot be listed one by one is listed whole.
    """
    logbook = logbook_of(settings)
    day = today()

    def window_of(url: str) -> Window:
        return daily_window(logbook.last_day(url), day, since, settings.daily_look_back)

    for name in names or _all(settings):
        look = _look(settings, name, "daily", window_of, may_vanish_percent, progress)
        if look.discovery is not None and _follows(look.window, logbook.last_day(look.source)):
            logbook.remember_day(look.source, day - timedelta(days=1))
        yield look


def _follows(window: Window | None, last_day: date | None) -> bool:
    """Whether no day lies between what was listed before and a look from a later day on."""
    return window is None or last_day is None or window.first <= last_day + timedelta(days=1)


def discover_all(
    settings: Settings,
    names: Sequence[str],
    *,
    since: date | None = None,
    may_vanish_percent: float = MAY_VANISH_PERCENT,
    progress: Progress | None = None,
) -> Iterator[Look]:
    """List all that each archive holds, or all since a day, today included."""
    window = Window(first=since, last=max(since, today())) if since else None
    for name in names or _all(settings):
        yield _look(settings, name, "on-demand", lambda url: window, may_vanish_percent, progress)


def daily_window(
    last_day: date | None, today: date, since: date | None, look_back: int = 1
) -> Window:
    """The days of a daily look: those up to yesterday, as today's studies still come in.

    After the first look, `look_back` days at least: images of a day come in on later ones too.
    """
    yesterday = today - timedelta(days=1)
    if since is None and last_day is not None:
        since = min(last_day, today - timedelta(days=look_back))
    return Window(first=min(since or yesterday, yesterday), last=yesterday)


def today() -> date:
    """The day here, where the archive's studies get their dates."""
    return datetime.now().astimezone().date()


@dataclass(frozen=True, slots=True)
class Desk:
    """Where what is listed is judged and put."""

    queue: Queue
    rules: Rules
    configuration: str


def desk_of(settings: Settings) -> Desk:
    """One that a long listing opens once."""
    return Desk(queue_of(settings), load_rules(settings.rules), settings.configuration)


def list_window(
    desk: Desk,
    source: Source,
    lane: Lane,
    window: Window | None,
    may_vanish_percent: float,
    progress: Progress | None = None,
) -> Discovery:
    """Put what a source lists into the queue; raises as `discover`."""
    return discover(
        source,
        desk.rules,
        desk.queue,
        lane=lane,
        configuration=desk.configuration,
        progress=progress,
        window=window,
        may_vanish_percent=may_vanish_percent,
    )


def _look(
    settings: Settings,
    name: str,
    lane: Lane,
    window_of: Callable[[str], Window | None],
    may_vanish_percent: float,
    progress: Progress | None,
) -> Look:
    """List one archive; what hinders that is said, and hinders no other."""
    url, window = name, None
    try:
        url = lasting_url(settings, name)
        source = source_of(settings, name)
        window = window_of(url) if lists_by_day(source) else None
        found = list_window(desk_of(settings), source, lane, window, may_vanish_percent, progress)
    except (Unavailable, Misconfigured) as error:
        return Look(source=url, window=window, discovery=None, error=error)
    return Look(source=url, window=window, discovery=found)


def _all(settings: Settings) -> list[str]:
    if not settings.sources:
        raise Misconfigured(
            "no source is configured: name one, or give them names under [sources] in the settings"
        )
    return sorted(settings.sources)
