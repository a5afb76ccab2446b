"""`tomodex`: index an archive, search it, and see what became of every series.

Data goes to stdout and everything else to stderr. Exit codes: 0 done, 1 done but something failed,
2 the command or a setting is wrong, 3 something outside did not answer, 130 or 143 stopped.

Each module here holds the commands of one purpose; what they need is imported when they run, as
a start of the program may take 0.3 s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli import (
    backfill,
    bridge,
    cohorts,
    compare,
    config,
    deliver,
    discovering,
    doctor,
    export,
    health,
    indexing,
    privacy,
    queues,
    receive,
    reindexing,
    run,
    searching,
    segment,
    serve,
    trying,
    verifying,
    weights,
)
from tomodex.cli.shared import given
from tomodex.errors import BadQuery, Forbidden, Misconfigured, TomodexError, Unavailable

app = typer.Typer(
    name="tomodex",
    help="Make a hospital's image archive findable by what is in the images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

#: In the order of `tomodex --help`.
COMMANDS = (
    indexing.index,
    searching.search,
    searching.show,
    indexing.explain,
    indexing.status,
    indexing.retry,
    discovering.discover,
    run.run,
    deliver.deliver,
    deliver.lag,
    deliver.redeliver,
    doctor.doctor,
    verifying.verify,
    health.health,
    searching.structures,
    trying.phantom,
    indexing.rebuild,
    trying.demo,
    receive.receive,
    serve.serve,
    bridge.bridge,
    segment.segment,
    privacy.identify,
    privacy.erase,
    compare.compare_engine,
)
GROUPS = {
    "audit": privacy.audit,
    "optout": privacy.optout,
    "backfill": backfill.app,
    "cohort": cohorts.app,
    "config": config.app,
    "export": export.app,
    "queue": queues.app,
    "reindex": reindexing.app,
    "weights": weights.app,
}

#: Exit codes of a command that Ctrl-C or SIGTERM has ended.
STOPPED = (130, 143)


def _say_version(wanted: bool) -> None:
    if wanted:
        # A third of the start of every command otherwise.
        from importlib.metadata import version

        print(version("tomodex"))
        raise typer.Exit


@app.callback()
def common(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for the queue and the index; tomodex-data if not given."
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error; JSON lines on stderr."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", is_eager=True, callback=_say_version
        ),
    ] = False,
) -> None:
    given.clear()
    given.update(data=data, log_level=log_level)


for command in COMMANDS:
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main() -> None:
    """Run a command; say what went wrong in one line, and by the exit code."""
    try:
        app()
    except (Misconfigured, BadQuery, Forbidden) as wrong:
        _complain(str(wrong))
        sys.exit(2)
    except Unavailable as unavailable:
        _complain(str(unavailable))
        sys.exit(3)
    except TomodexError as unsuitable:
        _complain(str(unsuitable))
        sys.exit(1)
    except SystemExit as end:
        if end.code in STOPPED:
            _complain("stopped; what was settled is kept, the rest waits in the queue")
        raise


def _complain(sentence: str) -> None:
    print(f"tomodex: {sentence}", file=sys.stderr)
