"""`tomodex receive`: take series that others push."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli.shared import Json, LaneName, print_json, print_out, settings_of_run


def receive(
    port: Annotated[
        int | None, typer.Option(metavar="N", help="Where to listen; 11112 if not set.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="0.0.0.0: from other machines too.")
    ] = None,
    aet: Annotated[str | None, typer.Option(metavar="AET", help="Our AE title.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="AET", help="An AE title that may push; may be given more than once."),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where series lie until indexed.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Asked how many instances a series has."),
    ] = None,
    quiet_s: Annotated[
        float | None, typer.Option(metavar="S", help="Nothing new for so long: it is whole.")
    ] = None,
    keep_s: Annotated[
        float | None, typer.Option(metavar="S", help="Kept so long after it was indexed.")
    ] = None,
    lane: Annotated[LaneName | None, typer.Option(help="How urgent it is.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM; listen with TLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM; its key.")] = None,
    peers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM; who signs certificates of others.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take series that others push (C-STORE), and put them into the queue once they are whole."""
    from tomodex.receiving import receive as receive_until
    from tomodex.receiving import summary_lines

    options = {
        "port": port,
        "host": host,
        "aet": aet,
        "allow": allow,
        "spool": spool,
        "archive": archive,
        "quiet_s": quiet_s,
        "keep_s": keep_s,
        "lane": lane.value if lane else None,
        "certificate": certificate,
        "key": key,
        "peers": peers,
    }
    given = {name: value for name, value in options.items() if value is not None}
    settings = settings_of_run(receive=given or None)
    door = settings.receive
    summary = receive_until(
        settings,
        _stop_on_signal(),
        lambda port: typer.echo(f"{door.aet} listens on {door.host}:{port}", err=True),
    )
    if as_json:
        print_json(summary)
    else:
        print_out(*summary_lines(summary))


def _stop_on_signal() -> threading.Event:
    """Is set when Ctrl-C or systemd asks us to end."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
