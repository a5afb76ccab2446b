"""`tomodex weights`: weights of models on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli.shared import Json, print_json, print_out, progress_bars, settings_of_run

app = typer.Typer(help="Weights of models: what is there, and how to get it.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Show the models that lie on this machine."""
    from tomodex import tables
    from tomodex.weights import list_weights

    folder = _results()
    found = list_weights(folder)
    if as_json:
        print_json([{**asdict(one), "folder": str(one.folder)} for one in found])
        return
    rows = ((one.number, one.name, f"{one.size_bytes / 1e6:,.0f} MB") for one in found)
    print_out(f"models in {folder}", tables.rows_table(("number", "name", "size"), rows))


@app.command()
def verify(as_json: Json = False) -> None:
    """Read every model that is there, and compare it with the published ones."""
    from tomodex import tables
    from tomodex.weights import verify_weights

    found = list(verify_weights(_results()))
    if as_json:
        print_json([{**asdict(one), "installed": one.installed.name} for one in found])
    else:
        rows = ((o.installed.name, o.verdict, o.weights_sha256, o.sentence) for o in found)
        print_out(tables.rows_table(("name", "verdict", "SHA-256", ""), rows))
    if any(one.verdict in ("broken", "different") for one in found):
        raise typer.Exit(1)


@app.command("import")
def import_models(
    given: Annotated[Path, typer.Argument(help="A folder or archive that holds models.")],
) -> None:
    """Bring models from a folder or archive, on a machine without internet."""
    from tomodex.weights import import_weights

    for name in import_weights(given, _results()):
        print(name)


@app.command()
def fetch(
    which: Annotated[str, typer.Argument(help="A task such as total or total/1.5, or a number.")],
) -> None:
    """Download published models; an interrupted download goes on where it stopped."""
    from tomodex.weights import fetch_weights, models_named

    folder = _results()
    with progress_bars() as progress:
        for model in models_named(which):
            fetch_weights(model, folder, progress(model.name))
            print(model.name)


def _results() -> Path:
    """The folder that models lie in."""
    from tomodex.wiring import weights_folder

    return weights_folder(settings_of_run())
