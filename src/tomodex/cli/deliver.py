"""Commands that bring results to the index and the sinks, and say how far each of them is."""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import Json, indexed_settings, print_json, print_out, settings_of_run

Consumers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONSUMER]...",
        help="URLs of sinks, without options if you like, or `index`; all if none is given.",
    ),
]


def deliver(
    consumers: Consumers = None,
    once: Annotated[
        bool, typer.Option("--once", help="Deliver what is there now, and end.")
    ] = False,
) -> None:
    """Bring results to the index and the sinks, each in a process of its own, until SIGTERM."""
    from tomodex.delivering import deliver_once, deliver_until_told, named_consumers
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = settings_of_run()
    names = named_consumers(settings, consumers or [])
    if not once:
        deliver_until_told(settings, names)
        return
    for name, count in deliver_once(settings, names).items():
        print(f"{count:,} results delivered to {name}")


def lag(as_json: Json = False) -> None:
    """Show how far the index and each sink are behind, and what they could not take."""
    from tomodex import tables
    from tomodex.delivering import lags_of

    lags = lags_of(indexed_settings())
    if as_json:
        print_json(lags)
        return
    print_out(tables.lags_table(lags))
    if refused := [aside for one in lags for aside in one.asides]:
        print_out("", tables.asides_table(refused))


def redeliver(
    consumer: Annotated[
        str, typer.Argument(help="URL of a sink, without options if you like, or `index`.")
    ],
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Only what it could not take; here and now.")
    ] = False,
) -> None:
    """Bring an index or a sink all results again, or those that it could not take."""
    from tomodex import tables
    from tomodex.delivering import named_consumers, redeliver, redeliver_set_aside

    settings = indexed_settings()
    (name,) = named_consumers(settings, [consumer])
    if not set_aside:
        print(f"up to {redeliver(settings, name):,} results will be delivered again")
        return
    taken, refused = redeliver_set_aside(settings, name)
    print(f"{taken:,} results that were set aside are taken now")
    if refused:
        print_out("", tables.asides_table(refused))
        raise typer.Exit(1)
