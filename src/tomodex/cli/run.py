"""`tomodex run`: everything, unattended."""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import settings_of_run


def run(
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes; 1 if not set.")
    ] = None,
) -> None:
    """Work, deliver, look for new series at their times, and go on with back-fills."""
    from tomodex.running import run as run_on
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    run_on(settings_of_run(workers=workers))
