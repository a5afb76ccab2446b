"""`tomodex verify`: do archives, results and index agree?"""

from __future__ import annotations

from typing import Annotated

import typer

from tomodex.cli.shared import Json, indexed_settings, print_json, print_out, progress_bars


def verify(
    sample: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000_000, help="Look at so many series.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Another one draws another lot.")] = 0,
    archives: Annotated[
        bool, typer.Option("--archives/--no-archives", help="Ask the archives too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Look by a sample whether archives, results and index agree; exit code 1 if they do not."""
    from functools import lru_cache, partial

    from tomodex import tables, wiring
    from tomodex.search import Sample
    from tomodex.verifying import Archives, verify

    settings = indexed_settings()
    queue = wiring.queue_of(settings)
    opened = lru_cache(wiring.OPEN_SOURCES)(partial(wiring.source_of, settings))
    with progress_bars() as progress:
        verified = verify(
            queue,
            wiring.index_of(settings),
            settings.index_url,
            Archives(queue, opened if archives else None),
            Sample(size=sample, seed=seed),
            progress("series"),
        )
    if as_json:
        print_json(verified)
    else:
        print_out(tables.verified_line(verified))
        if verified.silent:
            print_out("", tables.counted_table("did not answer", verified.silent))
        if verified.disagreements:
            rows = ((d.series_uid, d.place, d.sentence) for d in verified.disagreements)
            print_out("", tables.rows_table(("series", "where", "what"), rows))
    if verified.disagreements:
        raise typer.Exit(1)
