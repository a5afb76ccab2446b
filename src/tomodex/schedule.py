"""When something is to be done again: at times of the day, or every so often."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
EVERY = re.compile(r"every (\d{1,4}) ?(min|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Local times of the day, or an interval; neither: never."""

    clocks: tuple[time, ...] = ()
    every: timedelta | None = None

    def is_due(self, last: datetime | None, now: datetime) -> bool:
        """Whether it is time, if it was done `last`; None: never. What was missed is made up for.

        Both with offset; `now` in the local time that the clocks are read in.
        """
        if last is None:
            return bool(self.clocks or self.every)
        if self.every is not None:
            return now - last >= self.every
        return any(last < moment <= now for moment in self._moments(now))

    def _moments(self, now: datetime) -> list[datetime]:
        """The times of today and yesterday, as the clocks on the wall show them."""
        days = (now.date(), now.date() - timedelta(days=1))
        return [datetime.combine(day, clock).astimezone() for day in days for clock in self.clocks]


def read_schedule(text: str) -> Schedule:
    """A schedule as settings write it: "05:30", "05:30, 12:00", "every 4h", "every 30min", "".

    Raises:
        ValueError: it is none of these.
    """
    if not text.strip():
        return Schedule()
    if interval := EVERY.fullmatch(text.strip()):
        number, unit = int(interval[1]), interval[2]
        every = timedelta(hours=number) if unit == "h" else timedelta(minutes=number)
        if every:
            return Schedule(every=every)
    found = [CLOCK.fullmatch(part.strip()) for part in text.split(",")]
    if None in found:
        raise ValueError('a schedule is "05:30", "05:30, 12:00", "every 4h" or "every 30min"')
    return Schedule(clocks=tuple(time(int(one[1]), int(one[2])) for one in found if one))
