"""`tomodex backfill`: bring in what an archive already holds, for months if need be."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import (
    Day,
    Json,
    MayVanish,
    indexed_settings,
    print_json,
    print_out,
    progress_bars,
    settings_of_run,
)

if TYPE_CHECKING:
    from tomodex.logbook import Plan
    from tomodex.queues import Order
    from tomodex.settings import Settings

app = typer.Typer(
    help="Bring in what an archive already holds: its listing first, then its pixels.",
    no_args_is_help=True,
)

Of = Annotated[
    str | None, typer.Argument(metavar="[SOURCE]", help="A planned source; all if none is given.")
]


@app.command("plan")
def make_plan(
    source: Annotated[str, typer.Argument(help="The name of a configured source, or its URL.")],
    first: Annotated[
        datetime, typer.Option("--from", metavar="DAY", formats=Day, help="The first day.")
    ],
    last: Annotated[
        datetime, typer.Option("--to", metavar="DAY", formats=Day, help="The last day.")
    ],
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="From the last day backwards.")
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=3660, metavar="N", help="Days that are listed at a time.")
    ] = 1,
    may_vanish: MayVanish = 20.0,
) -> None:
    """Plan to bring in the studies from one day to another."""
    from tomodex.backfill import plan_backfill

    order: Order = "newest first" if newest_first else "oldest first"
    url, new = plan_backfill(
        settings_of_run(),
        source,
        first.date(),
        last.date(),
        order=order,
        days=days,
        may_vanish_percent=may_vanish,
    )
    print(f"{new:,} windows of {url} are planned; `tomodex backfill start` lets it run")


@app.command()
def start(
    source: Of = None,
    here: Annotated[
        bool,
        typer.Option("--here", help="List now, in this process, instead of by `tomodex run`."),
    ] = False,
) -> None:
    """Let a planned back-fill run; `tomodex run` lists it and works on it."""
    from tomodex import backfill

    settings = settings_of_run()
    plans = backfill.start(settings, source)
    for plan in plans:
        print(f"the back-fill of {plan.source} runs")
    if here:
        _list_here(settings, plans)
    else:
        _say_if_nobody_runs(settings)


@app.command()
def pause(source: Of = None) -> None:
    """Stop listing, and stop handing out its series; what is in hand is finished."""
    from tomodex import backfill

    for plan in backfill.pause(indexed_settings(), source):
        print(f"the back-fill of {plan.source} is paused; `tomodex backfill resume` goes on")


@app.command()
def resume(source: Of = None) -> None:
    """Go on with what was paused."""
    from tomodex import backfill

    settings = indexed_settings()
    for plan in backfill.start(settings, source):
        print(f"the back-fill of {plan.source} goes on")
    _say_if_nobody_runs(settings)


@app.command()
def status(source: Of = None, as_json: Json = False) -> None:
    """Show how far it is, how fast it goes, and until when the rest will take."""
    from tomodex import backfill, tables

    settings = indexed_settings()
    found = [backfill.status_of(settings, plan) for plan in backfill.plans_of(settings, source)]
    if as_json:
        print_json([one.facts for one in found])
        return
    for one in found:
        print_out(tables.backfill_table(one), "")


def _list_here(settings: Settings, plans: list[Plan]) -> None:
    from tomodex.backfill import list_plan
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    with progress_bars() as progress:
        for plan in plans:
            list_plan(settings, plan, _never, progress(plan.source))


def _never() -> bool:
    return False


def _say_if_nobody_runs(settings: Settings) -> None:
    from tomodex.locks import is_locked
    from tomodex.running import LOCK

    if not is_locked(settings.data, LOCK):
        typer.echo("tomodex: `tomodex run` does the work, and none runs on this data", err=True)
