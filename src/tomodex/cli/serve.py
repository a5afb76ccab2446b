"""`tomodex serve`: answer over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import settings_of_run


def serve(
    port: Annotated[
        int | None, typer.Option(metavar="N", help="Where to listen; 8042 if not set.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="0.0.0.0: for other machines too, with a token."),
    ] = None,
) -> None:
    """Answer over HTTP: the page for a browser, searches, orders, and what became of them."""
    from tomodex.web.serving import serve as serve_until
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    given = {
        name: value for name, value in {"port": port, "host": host}.items() if value is not None
    }
    settings = settings_of_run(serve=given or None)
    scheme = "https" if settings.serve.certificate else "http"
    serve_until(
        settings,
        lambda port: typer.echo(f"{scheme}://{settings.serve.host}:{port}", err=True),
    )
