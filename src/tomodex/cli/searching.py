"""Commands that ask the index, and the vocabulary that it is asked in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Json, Limit, indexed_settings, print_json, print_out
from tomodex.errors import BadQuery

if TYPE_CHECKING:
    from tomodex.queues import Audited


def search(
    query: Annotated[str, typer.Argument(help="Such as 'liver complete and PatientSex = F'.")],
    limit: Limit = 20,
    offset: Annotated[int, typer.Option(min=0, help="Skip this many.")] = 0,
    facet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Count the values of a DICOM keyword, or of `structure`, `complete`.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find series by the anatomy they show: counts first, then the newest of them."""
    from tomodex import tables, wiring
    from tomodex.search import parse
    from tomodex.terminology import load_terminology

    asked = parse(query, load_terminology())
    store = wiring.index_of(indexed_settings())
    page = store.search(asked, limit=limit, offset=offset)
    facets = store.facets(asked, facet) if facet else {}
    if as_json:
        print_json({"query": query, "page": page, "facets": facets})
        return
    print_out(tables.counts_line(page))
    if page.hits:
        print_out(tables.hits_table(page.hits))
    for name, counts in facets.items():
        print_out("", tables.counted_table(name, counts))


def show(
    series: Annotated[str, typer.Argument(help="A SeriesInstanceUID.")],
    as_json: Json = False,
) -> None:
    """Show one series: its structures, geometry and provenance."""
    from tomodex import tables, wiring

    queue = wiring.queue_of(indexed_settings())
    result, states = queue.result(series), queue.states(series)
    if not states and (audited := queue.audit(series)):
        _show_gone(audited, as_json)
        return
    if not states:
        raise BadQuery(f"no series {series} is known; `tomodex search` finds those that are")
    annotated = result.annotated if result else None
    if as_json:
        print_json({"tasks": states, "annotated": annotated})
    elif annotated:
        print_out(
            tables.facts_table(annotated), "", tables.annotations_table(annotated.annotations)
        )
    else:
        print_out(tables.states_table(states))


def _show_gone(audited: Sequence[Audited], as_json: bool) -> None:
    """What the audit has of a series that left the index."""
    from tomodex import tables

    if as_json:
        print_json({"tasks": [], "annotated": None, "audit": audited})
        return
    rows = ((one.at, one.event, one.source, one.sentence) for one in audited)
    print_out(tables.rows_table(("when", "what", "source", "because"), rows))


def structures(
    text: Annotated[
        str, typer.Argument(help="A name, synonym, group or code; empty: everything.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show the vocabulary: what can be searched, by which names and codes."""
    from tomodex import tables
    from tomodex.terminology import load_terminology

    terms = load_terminology()
    names = terms.resolve(text) if text else tuple(terms.structures)
    if not names:
        meant = ", ".join(terms.suggest(text))
        raise BadQuery(f"{text!r} is not a structure or group; did you mean {meant}?")
    found = [terms.structures[name] for name in names]
    if as_json:
        print_json(found)
        return
    headings = ("name", "meaning", "German", "SNOMED CT", "RadLex")
    rows = ((s.name, s.display, s.display_de, s.snomed, s.radlex) for s in found)
    print_out(tables.rows_table(headings, rows))
