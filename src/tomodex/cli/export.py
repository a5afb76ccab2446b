"""`tomodex export`: everything that is known, as files of other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomodex.cli.shared import Json, indexed_settings, print_json, print_out, progress_bars

app = typer.Typer(help="All results as files of other formats.", no_args_is_help=True)


@app.callback()
def group() -> None: ...


@app.command()
def fhir(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    base: Annotated[
        str, typer.Option(metavar="URL", help="Canonical base of profiles and identifiers.")
    ] = "",
    patient_system: Annotated[
        str, typer.Option(metavar="URL", help="System of the patient pseudonyms.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write FHIR R5 resources for a bulk load: NDJSON by type and shard, with a manifest."""
    from tomodex import tables, wiring
    from tomodex.exporting import export_fhir
    from tomodex.formats.fhir import Naming

    queue = wiring.queue_of(indexed_settings())
    naming = Naming(base=(base or Naming().base).rstrip("/"), patient_system=patient_system)
    with progress_bars() as progress:
        manifest = export_fhir(queue, folder, naming, progress("series"))
    if as_json:
        print_json(manifest.document())
        return
    kinds = dict.fromkeys(str(one["type"]) for one in manifest.output)
    rows = ((kind, f"{manifest.count(kind):,}") for kind in kinds)
    print_out(tables.rows_table(("type", "resources"), rows))
    if manifest.left_out:
        print_out("", tables.counted_table("left out", manifest.left_out))


@app.command()
def parquet(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    as_json: Json = False,
) -> None:
    """Write series, annotations and structures as Parquet, for DuckDB, pandas, polars or R."""
    from tomodex import tables, wiring
    from tomodex.tabulating import export_parquet
    from tomodex.terminology import load_terminology

    queue = wiring.queue_of(indexed_settings())
    with progress_bars() as progress:
        written = export_parquet(queue, folder, load_terminology(), progress("series"))
    if as_json:
        print_json(written.document())
        return
    rows = ((f"{t.name}.parquet", f"{t.rows:,}", f"{t.bytes:,}") for t in written.tables)
    print_out(tables.rows_table(("file", "rows", "bytes"), rows))
