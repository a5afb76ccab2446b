"""`tomodex discover`: put what is new in the archives into the queue."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import (
    Day,
    Json,
    MayVanish,
    print_json,
    print_out,
    progress_bars,
    settings_of_run,
)

if TYPE_CHECKING:
    from tomodex.daily import Look


def discover(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Names of configured sources, folders or URLs; all if none is given."),
    ] = None,
    daily: Annotated[
        bool,
        typer.Option("--daily", help="What came since the last look, up to yesterday."),
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(metavar="DAY", formats=Day, help="Studies since this day.")
    ] = None,
    may_vanish: MayVanish = 20.0,
    as_json: Json = False,
) -> None:
    """List what the archives hold, or what is new, for the workers of `index` and `run`."""
    from tomodex import tables
    from tomodex.daily import discover_all, discover_daily
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = settings_of_run()
    first = since.date() if since else None
    with progress_bars() as progress:
        look_for = discover_daily if daily else discover_all
        looks = list(
            look_for(
                settings,
                sources or [],
                since=first,
                may_vanish_percent=may_vanish,
                progress=progress("listing"),
            )
        )
    if as_json:
        print_json([look.facts for look in looks])
    else:
        print_out(tables.looks_table(looks))
    _end(looks)


def _end(looks: list[Look]) -> None:
    """Say what went wrong of any archive by the exit code: the operator's part first."""
    from tomodex.errors import Misconfigured

    wrong = [look.error for look in looks if look.error]
    if wrong:
        typer.echo("\n".join(f"tomodex: {error}" for error in wrong), err=True)
        raise typer.Exit(2 if any(isinstance(error, Misconfigured) for error in wrong) else 3)
