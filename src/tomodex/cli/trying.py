"""Commands that need no archive: phantoms and the demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli.shared import Json, print_json, print_out, progress_bars, settings_of_run


def phantom(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    seed: Annotated[int, typer.Option(help="Another seed draws other bodies.")] = 0,
    as_json: Json = False,
) -> None:
    """Write synthetic CT series as DICOM, with their known answers."""
    from tomodex import tables
    from tomodex.phantom import write_phantoms

    with progress_bars() as progress:
        truths = write_phantoms(folder, seed=seed, progress=progress("phantoms"))
    if as_json:
        print_json(truths)
        return
    rows = ((t.name, t.verdict, len(t.structures)) for t in truths)
    print_out(tables.rows_table(("series", "expected", "structures"), rows))


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where to work.")] = Path("demo-data"),
) -> None:
    """Make phantom series, index them and search them."""
    from shutil import which

    from tomodex.demo import run_demo

    command = "tomodex" if which("tomodex") else sys.argv[0]
    settings = settings_of_run(data=folder / "tomodex-data")
    with progress_bars() as progress:
        report = run_demo(folder, settings, progress, command)
    print_out(*report.lines)
    if not report.right:
        raise typer.Exit(1)
