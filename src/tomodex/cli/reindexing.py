"""`tomodex reindex`: results of an older model made again, or coded anew."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Day, Json, indexed_settings, print_json, print_out, progress_bars
from tomodex.errors import Misconfigured

if TYPE_CHECKING:
    from tomodex.settings import Settings

app = typer.Typer(help="Results of older models and tables, brought up to date.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]


@app.callback()
def group() -> None: ...


@app.command()
def plan(as_json: Json = False) -> None:
    """Say which models, tables and versions the results were made with."""
    from tomodex import tables, wiring
    from tomodex.reindexing import makers
    from tomodex.terminology import load_terminology

    queue = wiring.queue_of(indexed_settings())
    with progress_bars() as progress:
        made = makers(queue, progress("results"))
    today = load_terminology().version
    if as_json:
        print_json({"made": made, "terminology_today": today})
        return
    print_out(tables.counted_table("made by", made.models))
    print_out("", tables.counted_table("measured by tomodex", made.software))
    print_out("", tables.counted_table("coded with the tables of", made.terminologies))
    print_out("", f"today's tables are {today}; `tomodex reindex codes` brings codes up to date")


@app.command()
def start(
    made_by: Annotated[
        str,
        typer.Option(metavar="MAKER", help="As `plan` names it, or the beginning of that."),
    ] = "",
    before: Annotated[
        datetime | None,
        typer.Option(metavar="DAY", formats=Day, help="Results finished on an earlier day (UTC)."),
    ] = None,
    query: Annotated[
        str, typer.Option(metavar="QUERY", help="Only series that a search for this finds.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="All results there are.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Have series indexed again, after all that is more urgent; results stand until then."""
    from tomodex import wiring
    from tomodex.reindexing import Wanted, count_wanted, reindex

    if not (made_by or before or query or every):
        raise Misconfigured("say which: --made-by, --before, --query, or --all")
    settings = indexed_settings()
    queue = wiring.queue_of(settings)
    wanted = Wanted(
        made_by=made_by,
        before=before.date() if before else None,
        series_uids=_uids(settings, query) if query else None,
    )
    with progress_bars() as progress:
        work = count_wanted if dry_run else reindex
        series = work(queue, wanted, progress("results"))
    if as_json:
        print_json({"series": series, "dry_run": dry_run})
    elif dry_run:
        print_out(f"{series:,} series would be indexed again")
    else:
        print_out(f"{series:,} series wait to be indexed again; `tomodex run` or `index` does it")


@app.command()
def codes(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Give all results the codes of today's tables; no image is read."""
    from tomodex import tables, wiring
    from tomodex.reindexing import recode_results
    from tomodex.terminology import load_terminology

    queue = wiring.queue_of(indexed_settings())
    with progress_bars() as progress:
        came = recode_results(
            queue,
            load_terminology(),
            progress("results"),
            (lambda result, coded: True) if dry_run else queue.amend,
        )
    if as_json:
        print_json({"dry_run": dry_run, "recoded": came})
        return
    would = "would get" if dry_run else "got"
    print_out(f"{came.changed:,} results {would} other codes, {came.same:,} had today's already")
    if came.unknown:
        print_out("", tables.counted_table("not in today's tables", came.unknown))
    if came.changed and not dry_run:
        print_out("the index and all sinks take them from the feed, as they take new results")


def _uids(settings: Settings, query: str) -> Collection[str]:
    """All series that a search finds."""
    from tomodex import wiring
    from tomodex.access import OWNER

    rows = wiring.cohorts_of(settings).rows(OWNER, query, keywords=())
    return {hit.series_uid for hits in rows for hit in hits}
