"""What every command shares: its options, its settings, and how it prints.

Data goes to stdout and everything else to stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tomodex.settings import Settings
    from tomodex.sources import Progress as Report

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Show this many at most.")]


MayVanish = Annotated[
    float,
    typer.Option(
        "--may-vanish",
        metavar="PERCENT",
        min=0,
        max=100,
        help="How much of what is known may be gone from the archive at once.",
    ),
]

#: How a day is written.
Day = ["%Y-%m-%d"]


class LaneName(StrEnum):
    """The lanes of `queues.Lane`, as typer wants them."""

    on_demand = "on-demand"
    daily = "daily"
    reindex = "reindex"
    backfill = "backfill"


#: What the options before the command set.
given: dict[str, Any] = {}


def settings_of_run(**options: Any) -> Settings:
    """Settings of this run, with logging set up as they say."""
    from tomodex.logs import log_to_stderr
    from tomodex.settings import load_settings

    settings = load_settings(**given | options)
    log_to_stderr(settings.log_level, settings.log_format)
    return settings


def indexed_settings() -> Settings:
    """Settings of a command that asks for what was indexed before."""
    from tomodex.wiring import require_data

    settings = settings_of_run()
    require_data(settings)
    return settings


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Report]]:
    """Progress bars on stderr, where somebody looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bars:

        def add(title: str) -> Report:
            bar = bars.add_task(title, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield add


def print_out(*parts: str | Table) -> None:
    """Lines and tables to stdout; tables as wide as they need to be where nobody looks."""
    from rich.console import Console

    # Brackets and colons in a header or a path are text, no markup.
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 400
    for part in parts:
        print(part) if isinstance(part, str) else console.print(part)


def print_json(answer: object) -> None:
    import orjson

    print(orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
