"""`tomodex bridge`: in the place of the IMPETUS CT Indexer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli.shared import settings_of_run


def bridge(
    env: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The old indexer's .env; else the setting [bridge] counts."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes; 1 if not set.")
    ] = None,
) -> None:
    """Take tasks of the IMPETUS CT Indexer from Kafka, do them, and answer in its words."""
    from functools import partial

    from tomodex.bridging import be_bridge
    from tomodex.bridging.env import read_env
    from tomodex.errors import Misconfigured
    from tomodex.running import run
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = settings_of_run(workers=workers, **(read_env(env) if env else {}))
    if not settings.bridge.servers:
        raise Misconfigured("no broker is named: set `servers` in [bridge], or give --env FILE")
    run(settings, beside=[partial(be_bridge, settings)])
