"""`tomodex health`: do the processes of this data folder go on?"""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import Json, print_json, settings_of_run


def health(
    processes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROCESS]...", help="Such as run or serve; all if not given."),
    ] = None,
    within: Annotated[
        float, typer.Option(min=1, metavar="S", help="Seconds that one may give no sign of life.")
    ] = 600.0,
    ready: Annotated[
        bool, typer.Option("--ready", help="One that is still starting is not well either.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether run, serve, receive and deliver give signs of life; exit code 1 if one does not.

    For health checks of containers: it asks nobody, and reads some small files.
    """
    from tomodex import heartbeat

    settings, wanted = settings_of_run(), processes or []
    signs = heartbeat.signs_of(settings.data, wanted)
    missing = sorted(set(wanted) - {sign.process for sign in signs})
    if as_json:
        facts = [heartbeat.facts_of(sign, within) for sign in signs]
        print_json({"signs": facts, "missing": missing})
    else:
        for sign in signs:
            print(f"{sign.process} is {sign.state}; its last sign is {sign.age_s:,.0f} s old")
        for name in missing:
            print(f"{name} does not run")
        if not signs:
            print(f"nothing runs on {settings.data}")
    unwell = [sign for sign in signs if not sign.is_well(within)]
    waits = [sign for sign in signs if ready and sign.state != "working"]
    if not signs or missing or unwell or waits:
        raise typer.Exit(1)
