"""The command that compares our engine with the official package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Json, print_json, print_out, progress_bars, settings_of_run

if TYPE_CHECKING:
    from tomodex.comparison import Comparison

#: So many structures and complaints are printed; --json and --out have all.
SHOWN = 15


def compare_engine(
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="So many series.")],
    source: Annotated[
        str, typer.Argument(help="A folder, a URL, or the name of a configured source.")
    ],
    segmenter: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="What is tested; our engine as it is set up if not given."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="What it is held against; the official package if not given."
        ),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of equal voxels that each series needs.")
    ] = 0.999,
    max_volume_difference: Annotated[
        float, typer.Option(min=0, help="Percent by which a volume may differ.")
    ] = 1.0,
    over_ml: Annotated[
        float, typer.Option(min=0, help="Smaller structures may differ by more.")
    ] = 5.0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write CSV files there too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold our engine against the official package on series of your own."""
    from tomodex import comparing
    from tomodex.comparison import Limits
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = settings_of_run()
    ours = segmenter or comparing.engine_url(settings)
    pair = (ours, reference or comparing.reference_url(ours))
    limits = Limits(agreement=min_agreement, volume_percent=max_volume_difference, over_ml=over_ml)
    with progress_bars() as progress:
        found = comparing.compare_engines(
            settings.model_copy(update={"segmenters": pair}), source, count, limits, progress
        )
    if out:
        comparing.write_csv(found, out)
    if as_json:
        print_json(comparing.document(found))
    else:
        _print_comparison(found)
    if not found.accepted:
        raise typer.Exit(1)


def _print_comparison(found: Comparison) -> None:
    from tomodex.tables import rows_table

    series = [
        (
            one.series_uid,
            " x ".join(map(str, one.shape)) + (" *" if one.carried else ""),
            f"{one.agreement:.5f}",
            f"{one.foreground_agreement:.4f}",
            f"{one.seconds:.1f}",
            f"{one.reference_seconds:.1f}",
        )
        for one in found.series
    ]
    columns = ("SeriesInstanceUID", "grid", "equal", "of what is labelled", "s", "reference s")
    print_out(rows_table(columns, series), "")
    if any(one.carried for one in found.series):
        print_out("* the labels of the reference were brought onto this grid", "")
    _print_structures(found)
    if found.left_out:
        rows = ((one.series_uid, one.sentence) for one in found.left_out)
        print_out(rows_table(("not compared", "why"), rows), "")
    if found.failures:
        print_out(rows_table(("beyond the limits", ""), found.failures[:SHOWN]))
        _print_more(len(found.failures))
    print_out(*_verdict(found))


def _print_structures(found: Comparison) -> None:
    """The structures that agree least."""
    from tomodex.tables import rows_table

    rows = [
        (
            one.structure,
            str(one.series),
            f"{one.dice_median:.4f}",
            f"{one.dice_worst:.4f}",
            f"{one.volume_percent_worst:+.2f} %",
            f"{one.difference_ml_worst:+.2f}",
            "" if one.difference_hu_worst is None else f"{one.difference_hu_worst:+.2f}",
            str(one.cut_differs),
        )
        for one in found.structures
    ]
    columns = (
        "structure",
        "series",
        "Dice: median",
        "worst",
        "volume",
        "ml",
        "HU",
        "cut elsewhere",
    )
    print_out(rows_table(columns, rows[:SHOWN]))
    _print_more(len(rows))


def _print_more(count: int) -> None:
    if count > SHOWN:
        print_out(f"and {count - SHOWN:,} more: --json or --out DIR has all")
    print_out("")


def _verdict(found: Comparison) -> list[str]:
    limits = found.limits
    asked = (
        f"{limits.agreement} of the voxels of each series equal, volumes of structures over "
        f"{limits.over_ml:g} ml within {limits.volume_percent:g} %"
    )
    if not found.series:
        return ["nothing was compared"]
    first = found.series[0]
    lines = [
        f"{one.name} {one.version}, {one.model}, weights {one.weights_sha256[:16]}: "
        + ", ".join(f"{name} {value}" for name, value in one.options.items())
        for one in (first.algorithm, first.reference_algorithm)
    ]
    if first.algorithm.weights_sha256 != first.reference_algorithm.weights_sha256:
        lines.append("the two have different weights")
    return [
        *lines,
        f"{len(found.series)} series: {found.agreement:.5f} of all voxels are equal, "
        f"{found.foreground_agreement or 1:.4f} of those with a label; "
        f"{found.speed:.1f} times as fast as the reference",
        f"{'accepted' if found.accepted else 'NOT accepted'}: asked for were {asked}",
    ]
