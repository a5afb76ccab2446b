"""`tomodex cohort`: save what a search finds, compare it with today, write it as a list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Json, indexed_settings, print_json, print_out
from tomodex.errors import BadQuery, NotThere

if TYPE_CHECKING:
    from tomodex.library import Library
    from tomodex.saved import SavedCohort

app = typer.Typer(help="Saved cohorts: frozen lists of series.", no_args_is_help=True)

CohortId = Annotated[str, typer.Argument(metavar="ID", help="As `tomodex cohort list` shows it.")]


@app.callback()
def group() -> None: ...


@app.command()
def save(
    query: Annotated[str, typer.Argument(help="As `tomodex search` takes it.")],
    name: Annotated[str, typer.Option(help="For people; the ID tells cohorts apart.")] = "",
    as_json: Json = False,
) -> None:
    """Freeze what a search finds now: series, counts, versions and date."""
    from tomodex.access import OWNER

    with _library() as library:
        cohort = library.save(OWNER, name or query or "all", query)
    print_json(cohort) if as_json else _print_cohort(cohort)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """Show all saved cohorts, newest first."""
    from tomodex import tables
    from tomodex.access import OWNER

    with _library() as library:
        cohorts = library.all(OWNER)
    if as_json:
        print_json(cohorts)
        return
    headings = ("ID", "name", "saved", "by", "patients", "series", "query")
    rows = ((c.id, c.name, c.saved, c.who, c.patients, c.series, c.query) for c in cohorts)
    print_out(tables.rows_table(headings, rows))


@app.command()
def show(cohort_id: CohortId, as_json: Json = False) -> None:
    """Show what was saved, when, by whom and with which versions."""
    from tomodex.access import OWNER

    with _library() as library:
        cohort = library.get(OWNER, cohort_id)
    print_json(cohort) if as_json else _print_cohort(cohort)


@app.command()
def diff(
    cohort_id: CohortId,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Name so many of a kind.")] = 10,
    as_json: Json = False,
) -> None:
    """Show what the same search finds today: series that are new, gone, changed."""
    from tomodex import tables
    from tomodex.access import OWNER

    with _library() as library:
        difference = library.diff(OWNER, cohort_id, limit)
    if as_json:
        print_json(difference)
        return
    kinds = {"new": difference.new, "gone": difference.gone, "changed": difference.changed}
    counted = ", ".join(f"{some.count:,} {kind}" for kind, some in kinds.items())
    print_out(f"{difference.same:,} as they were, {counted}")
    named = [(kind, uid) for kind, some in kinds.items() for uid in some.series_uids]
    if named:
        print_out("", tables.rows_table(("", "SeriesInstanceUID"), named))


@app.command()
def export(
    cohort_id: CohortId,
    file: Annotated[Path, typer.Argument(help="Ends with .csv, .json, .parquet or .txt.")],
) -> None:
    """Write the frozen list as a file, to retrieve the series by."""
    from tomodex.access import OWNER
    from tomodex.manifests import format_of, keep

    kind = format_of(file)
    with _library() as library:
        keep(library.manifest_of(OWNER, kind, cohort_id).content, file)


@app.command()
def delete(cohort_id: CohortId) -> None:
    """Forget a saved cohort."""
    from tomodex.access import OWNER

    with _library() as library:
        library.delete(OWNER, cohort_id)


@contextmanager
def _library() -> Iterator[Library]:
    """What is saved in the data folder; an ID that is not there is a mistake of the command."""
    from tomodex import wiring

    settings = indexed_settings()
    try:
        yield wiring.library_of(settings, wiring.cohorts_of(settings))
    except NotThere as wrong:
        raise BadQuery(f"{wrong}; `tomodex cohort list` shows them") from wrong


def _print_cohort(cohort: SavedCohort) -> None:
    from tomodex import tables

    rows: dict[str, object] = {
        "ID": cohort.id,
        "name": cohort.name,
        "query": cohort.query,
        "saved": f"{cohort.saved} by {cohort.who}",
        "found": f"{cohort.patients:,} patients, {cohort.studies:,} studies, "
        f"{cohort.series:,} series",
        "removed since": f"{cohort.removed:,} series of patients who were erased or opted out",
        "versions": ", ".join(f"{name} {version}" for name, version in cohort.versions.items()),
    }
    print_out(tables.rows_table(("", ""), rows.items()))
