"""Commands that index an archive, and say what became of every series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tomodex.cli.shared import (
    Json,
    LaneName,
    MayVanish,
    indexed_settings,
    print_json,
    print_out,
    progress_bars,
    settings_of_run,
)


def index(
    source: Annotated[
        str, typer.Argument(help="A folder, a URL, or the name of a configured source.")
    ],
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes; 1 if not set.")
    ] = None,
    segmenter: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A segmenter; may be given more than once."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Overlay of the selection rules.")
    ] = None,
    lane: Annotated[LaneName, typer.Option(help="How urgent it is.")] = LaneName.on_demand,
    may_vanish: MayVanish = 20.0,
    as_json: Json = False,
) -> None:
    """Index everything a source holds, then say what became of it."""
    from tomodex.indexing import index_source
    from tomodex.tables import summary_lines
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = settings_of_run(workers=workers, segmenters=segmenter, rules=rules)
    with progress_bars() as progress:
        summary = index_source(settings, source, lane.value, progress, may_vanish)
    if as_json:
        print_json(summary)
    else:
        print_out(*summary_lines(summary))
    if summary.failed or summary.waiting:
        raise typer.Exit(1)


def explain(
    series: Annotated[
        str, typer.Argument(help="A SeriesInstanceUID that is known, or a folder or file.")
    ],
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Try this overlay of the rules.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every selection rule, what it found in a series, and the verdict."""
    from tomodex import tables
    from tomodex.explaining import explain as judge

    explanations = judge(settings_of_run(rules=rules), series)
    if as_json:
        print_json([explanation.summary for explanation in explanations])
        return
    for explanation in explanations:
        print_out(explanation.headline, tables.checks_table(explanation.selection.checks), "")


def status(as_json: Json = False) -> None:
    """Show how many series wait, were indexed, rejected (and why) or failed."""
    from tomodex import tables, wiring

    settings = indexed_settings()
    queue = wiring.queue_of(settings)
    counts, reasons = queue.count(), queue.reasons()
    refused = [aside for name in wiring.consumer_names(settings) for aside in queue.asides(name)]
    suspended, held = wiring.left_alone(settings), queue.held()
    if as_json:
        lanes, why = _nested(counts), _nested(reasons)
        paused = [{"lane": lane, "source": source} for lane, source in held]
        answer = {"lanes": lanes, "reasons": why, "set_aside": refused}
        print_json({**answer, "suspended": suspended, "held": paused})
        return
    print_out(tables.lanes_table(counts))
    if suspended:
        print_out("", tables.suspensions_table(suspended))
    if held:
        print_out("", tables.rows_table(("paused lane", "of"), held))
    for state in ("rejected", "failed"):
        if found := {why: n for (s, why), n in reasons.items() if s == state}:
            print_out("", tables.counted_table(state, found))
    if refused:
        print_out("", tables.asides_table(refused))


def retry(
    reason: Annotated[str, typer.Option(help="Only those with this reason.")] = "",
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Rejected series instead of failed ones.")
    ] = False,
) -> None:
    """Make failed (or rejected) series ready to be indexed again."""
    from tomodex import wiring

    again = wiring.queue_of(indexed_settings()).retry("rejected" if rejected else "failed", reason)
    print(f"{again:,} series are ready again; `tomodex run` or `tomodex index SOURCE` takes them")


def rebuild() -> None:
    """Make the index anew from the results in the queue."""
    from tomodex.indexing import rebuild_index

    print(f"{rebuild_index(indexed_settings()):,} results are in the index")


def _nested(counts: Mapping[tuple[Any, Any], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in counts.items():
        nested.setdefault(outer, {})[inner] = count
    return nested
