"""Days of the archives, year by year: which are listed, how full they are, which failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from tomodex.logbook import Stretch

#: Size of a day in the picture, and from one to the next.
CELL = 9
STEP = 11

#: Years that are drawn, the newest ones.
MOST_YEARS = 40

#: Days of one stretch that are drawn: a plan may be of centuries.
MOST_DAYS = 366 * MOST_YEARS

#: Shades of a day that is listed, by the share of the fullest day that it has.
SHADES = (0.0, 0.25, 0.5, 0.75)

BAD = "bad"
PLANNED = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """All days of a year that look the same, as one path."""

    kind: str  #: "0": not listed yet, "1" to "4": the fuller the higher, "bad": could not be listed
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Year:
    """One year of the picture."""

    year: int
    cells: Sequence[Cells]
    found: int  #: series
    listed: int  #: days
    failed: int
    planned: int


@dataclass(slots=True)
class _Day:
    found: float = 0.0
    failed: bool = False
    planned: bool = False


def years_of(stretches: Iterable[Stretch]) -> tuple[Year, ...]:
    """Newest first."""
    days = _days(stretches)
    fullest = max((day.found for day in days.values()), default=0.0)
    years = sorted({day.year for day in days}, reverse=True)[:MOST_YEARS]
    return tuple(_year(year, days, fullest) for year in years)


def _days(stretches: Iterable[Stretch]) -> Mapping[date, _Day]:
    """What a stretch has is spread over its days."""
    days: dict[date, _Day] = {}
    for stretch in stretches:
        many = (stretch.last - stretch.first).days + 1
        for ago in range(min(many, MOST_DAYS)):
            day = days.setdefault(stretch.last - timedelta(days=ago), _Day())
            day.found += stretch.found / many
            day.failed = day.failed or stretch.status == "failed"
            day.planned = day.planned or stretch.status == "planned"
    return days


def _year(year: int, days: Mapping[date, _Day], fullest: float) -> Year:
    inside = {at: day for at, day in days.items() if at.year == year}
    paths: dict[str, list[str]] = {}
    for at in sorted(inside):
        paths.setdefault(_kind(inside[at], fullest), []).append(_cell(at))
    failed = sum(day.failed for day in inside.values())
    planned = sum(day.planned and not day.failed for day in inside.values())
    return Year(
        year=year,
        cells=tuple(Cells(kind=kind, path="".join(path)) for kind, path in sorted(paths.items())),
        found=round(sum(day.found for day in inside.values())),
        listed=len(inside) - failed - planned,
        failed=failed,
        planned=planned,
    )


def _kind(day: _Day, fullest: float) -> str:
    if day.failed:
        return BAD
    if day.planned:
        return PLANNED
    share = day.found / fullest if fullest else 0.0
    return str(max(1, sum(share > shade for shade in SHADES)))


def _cell(at: date) -> str:
    """A square in the column of its week, in the row of its weekday."""
    first = date(at.year, 1, 1)
    week = ((at - first).days + first.weekday()) // 7
    return f"M{week * STEP} {at.weekday() * STEP}h{CELL}v{CELL}h-{CELL}z"
