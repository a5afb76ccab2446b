"""`tomodex config`: what is set, and where."""

from __future__ import annotations

import typer

from tomodex.cli.shared import Json, given, print_json, print_out, settings_of_run

app = typer.Typer(help="What is set, and where.", no_args_is_help=True)


@app.command()
def show(as_json: Json = False) -> None:
    """Show every setting, its value, and where the value comes from."""
    from tomodex import tables
    from tomodex.settings import in_force, origins

    settings = settings_of_run()
    values = settings.model_dump(mode="json") | in_force(settings)
    where = origins(settings, given)
    if as_json:
        print_json({name: {"value": values[name], "origin": where[name]} for name in values})
        return
    rows = ((name, values[name], where[name]) for name in values)
    print_out(tables.rows_table(("setting", "value", "from"), rows))


@app.command()
def example() -> None:
    """Print a settings file to begin with: every setting, what it is for, and what to write."""
    from importlib.resources import files

    print(files("tomodex").joinpath("example.toml").read_text(), end="")


@app.callback()
def group() -> None: ...
