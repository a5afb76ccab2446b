"""Commands that ask the index, and the vocabulary that it is asked in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Json, Limit, indexed_settings, print_json, print_out
from tomodex.errors import BadQuery, NotThere

if TYPE_CHECKING:
    from tomodex.anatomy import Named
    from tomodex.cohorts import Cohorts, OneSeries
    from tomodex.settings import Settings


def search(
    query: Annotated[str, typer.Argument(help="Such as 'liver complete and PatientSex = F'.")],
    limit: Limit = 20,
    offset: Annotated[int, typer.Option(min=0, help="Skip this many.")] = 0,
    sort: Annotated[
        str,
        typer.Option(
            metavar="ORDER",
            help="newest, oldest, thinnest, youngest, -KEYWORD, 'largest spleen', ...",
        ),
    ] = "newest",
    facet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Count the values of a DICOM keyword, or of `structure`, `complete`.",
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Only say how many.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write all series that fit to a file: .csv, .json, .parquet or .txt (UIDs).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find series by the anatomy they show: counts first, then some of them in an order."""
    from tomodex import tables, wiring
    from tomodex.access import OWNER
    from tomodex.cohorts import MOST_STRIPS
    from tomodex.search import Measured

    settings = indexed_settings()
    cohorts = wiring.cohorts_of(settings)
    if manifest is not None:
        _write(settings, cohorts, query, sort, manifest)
    order = cohorts.order(sort)
    # A table that is not too long shows how large the largest are.
    sized = isinstance(order.by, Measured) and not as_json and limit <= MOST_STRIPS
    find = cohorts.strips if sized else cohorts.series
    found = find(OWNER, query, 0 if count or manifest else limit, offset, sort)
    facets = cohorts.facets(OWNER, query, facet) if facet else {}
    if as_json:
        print_json({"query": query, "found": found, "facets": facets})
        return
    print_out(tables.counts_line(found.counts))
    if found.hits:
        print_out(tables.hits_table(found.hits, order, found.seen))
    for name, cells in facets.items():
        known = {cell.value: cell.count or 0 for cell in cells}
        print_out("", tables.counted_table(name, known))


def _write(settings: Settings, cohorts: Cohorts, query: str, sort: str, file: Path) -> None:
    from tomodex import wiring
    from tomodex.access import OWNER
    from tomodex.manifests import format_of, keep

    kind = format_of(file)
    library = wiring.library_of(settings, cohorts)
    keep(library.manifest(OWNER, kind, query, sort=sort).content, file)


def show(
    series: Annotated[str, typer.Argument(help="A SeriesInstanceUID.")],
    as_json: Json = False,
) -> None:
    """Show one series: its structures, geometry and provenance."""
    from tomodex import wiring
    from tomodex.access import OWNER

    try:
        one = wiring.cohorts_of(indexed_settings()).one(OWNER, series)
    except NotThere:
        raise BadQuery(
            f"no series {series} is known; `tomodex search` finds those that are"
        ) from None
    print_json(one) if as_json else _print_series(one)


def _print_series(one: OneSeries) -> None:
    from tomodex import tables

    if one.annotated and one.tasks:
        facts, found = tables.facts_table(one.annotated), one.annotated.annotations
        print_out(facts, "", tables.annotations_table(found))
    elif one.tasks:
        print_out(tables.states_table(one.tasks))
    else:
        # What the audit has of a series that left the index.
        rows = ((entry.at, entry.event, entry.source, entry.sentence) for entry in one.audit)
        print_out(tables.rows_table(("when", "what", "source", "because"), rows))


def structures(
    text: Annotated[
        str, typer.Argument(help="A name, synonym, group or code; empty: everything.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show the vocabulary: what can be searched, by which names and codes."""
    from tomodex import tables
    from tomodex.anatomy import found_by
    from tomodex.terminology import load_terminology

    terms = load_terminology()
    found = found_by(text, terms)
    if not found:
        meant = ", ".join(terms.suggest(text))
        raise BadQuery(f"{text!r} is not a structure or group; did you mean {meant}?")
    if as_json:
        print_json(found)
        return
    headings = ("name", "meaning", "German", "SNOMED CT", "RadLex", "also called", "means")
    print_out(tables.rows_table(headings, map(_row, found)))


def _row(named: Named) -> tuple[str, ...]:
    codes, members = named.codes, named.members
    return (
        named.name,
        named.display,
        named.display_de,
        codes.get("SCT", ""),
        codes.get("RADLEX", ""),
        ", ".join(named.synonyms),
        "itself" if members == (named.name,) else f"any of {len(members)}",
    )
