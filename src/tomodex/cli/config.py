"""`tomodex config`: what is set, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    rows = (
        (".".join(names), value, where[names[0]] if _is_set(settings, names) else "default")
        for name in values
        for names, value in _leaves((name,), values[name])
    )
    print_out(tables.rows_table(("setting", "value", "from"), rows))


def _is_set(table: object, names: Sequence[str]) -> bool:
    """Whether anybody has said so, where the first of these names is one that somebody has set."""
    first, *rest = names
    inner: Any = getattr(table, first, None)
    if not rest or not hasattr(inner, "model_fields_set"):
        return True
    return rest[0] in inner.model_fields_set and _is_set(inner, rest)


def _leaves(names: tuple[str, ...], value: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """What stands in a table of settings, each with its names from the outside in."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves((*names, str(name)), inner)
    else:
        yield names, value


@app.command()
def example() -> None:
    """Print a settings file to begin with: every setting, what it is for, and what to write."""
    from importlib.resources import files

    print(files("tomodex").joinpath("example.toml").read_text(), end="")


@app.callback()
def group() -> None: ...
