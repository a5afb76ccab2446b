"""`tomodex queue`: the queue as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import Json, indexed_settings, print_json, print_out, progress_bars

app = typer.Typer(help="The queue as a whole, with all that came of it.", no_args_is_help=True)

#: What the parts of a queue are to a person.
SHOWN = {
    "task": "series",
    "elsewhere": "other sources of series",
    "held": "pauses",
    "newest_first": "orders of back-fills",
    "result": "results",
    "aside": "results set aside",
    "audit": "withdrawals on record",
    "barred": "erased and opted out",
    "erasure": "erasures under way",
}


@app.command()
def copy(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="An empty queue; its topics are made.")
    ],
    as_json: Json = False,
) -> None:
    """Copy everything into another queue, while nothing uses either; repeated, it goes on."""
    from contextlib import closing

    from tomodex.copying import copy_queue
    from tomodex.locks import locked
    from tomodex.queues import create_queue
    from tomodex.running import LOCK
    from tomodex.wiring import consumer_names, copied_queue_of, queue_of

    settings = indexed_settings()
    there = settings.model_copy(update={"queue": to})
    in_use = f"`tomodex run` works on {settings.data}: stop it, and whatever else uses the queue"
    with (
        locked(settings.data, LOCK, in_use),
        closing(queue_of(settings)) as source,
        progress_bars() as progress,
    ):
        for made in create_queue(to):
            typer.echo(f"made {made}", err=True)
        with closing(copied_queue_of(there)) as target:
            sizes = copy_queue(
                source,
                target,
                settings.queue_url,
                consumer_names(settings),
                lambda part: progress(SHOWN[part]),
            )
    if as_json:
        print_json(sizes)
        return
    print_out(", ".join(f"{size:,} {SHOWN[part]}" for part, size in sizes.items() if size))
    print_out("name it as `queue` in the settings to use it; the old one is as it was")


@app.callback()
def queue_group() -> None: ...
