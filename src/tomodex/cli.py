"""`tomodex`: index an archive, search it, and see what became of every series.

Data goes to stdout and everything else to stderr. Exit codes: 0 done, 1 done but something failed,
2 the command or a setting is wrong, 3 something outside did not answer, 130 or 143 stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomodex.errors import BadQuery, Misconfigured, TomodexError, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

    from tomodex.settings import Settings
    from tomodex.sources import Progress as Report

app = typer.Typer(
    name="tomodex",
    help="Make a hospital's image archive findable by what is in the images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config = typer.Typer(help="What is set, and where.", no_args_is_help=True)
app.add_typer(config, name="config")
weights = typer.Typer(
    help="Weights of models: what is there, and how to get it.", no_args_is_help=True
)
app.add_typer(weights, name="weights")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Show this many at most.")]


class LaneName(StrEnum):
    """The lanes of `queues.Lane`, as typer wants them."""

    on_demand = "on-demand"
    daily = "daily"
    reindex = "reindex"
    backfill = "backfill"


#: Exit codes of a command that Ctrl-C or SIGTERM has ended.
STOPPED = (130, 143)

#: What the options before the command set; filled by `common`.
given: dict[str, Any] = {}


@app.callback()
def common(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for the queue and the index; tomodex-data if not given."
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error; JSON lines on stderr."),
    ] = None,
) -> None:
    given.clear()
    given.update(data=data, log_level=log_level)


@app.command()
def index(
    source: Annotated[str, typer.Argument(help="A folder, or a URL such as folder:///data.")],
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
    as_json: Json = False,
) -> None:
    """Index everything a source holds, then say what became of it."""
    from tomodex.indexing import index_source
    from tomodex.tables import summary_lines
    from tomodex.wiring import source_url
    from tomodex.worker import leave_on_sigterm

    leave_on_sigterm()
    settings = _settings(workers=workers, segmenters=segmenter, rules=rules)
    with _progress() as progress:
        summary = index_source(settings, source_url(source), lane.value, progress)
    if as_json:
        _print_json(summary)
    else:
        _print(*summary_lines(summary))
    if summary.failed or summary.waiting:
        raise typer.Exit(1)


@app.command()
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
    store = wiring.index_of(_indexed())
    page = store.search(asked, limit=limit, offset=offset)
    facets = store.facets(asked, facet) if facet else {}
    if as_json:
        _print_json({"query": query, "page": page, "facets": facets})
        return
    _print(tables.counts_line(page))
    if page.hits:
        _print(tables.hits_table(page.hits))
    for name, counts in facets.items():
        _print("", tables.counted_table(name, counts))


@app.command()
def show(
    series: Annotated[str, typer.Argument(help="A SeriesInstanceUID.")],
    as_json: Json = False,
) -> None:
    """Show one series: its structures, geometry and provenance."""
    from tomodex import tables, wiring

    queue = wiring.queue_of(_indexed())
    result, states = queue.result(series), queue.states(series)
    if not states:
        raise BadQuery(f"no series {series} is known; `tomodex search` finds those that are")
    annotated = result.annotated if result else None
    if as_json:
        _print_json({"tasks": states, "annotated": annotated})
    elif annotated:
        _print(tables.facts_table(annotated), "", tables.annotations_table(annotated.annotations))
    else:
        _print(tables.states_table(states))


@app.command()
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

    explanations = judge(_settings(rules=rules), series)
    if as_json:
        _print_json([explanation.summary for explanation in explanations])
        return
    for explanation in explanations:
        _print(explanation.headline, tables.checks_table(explanation.selection.checks), "")


@app.command()
def status(as_json: Json = False) -> None:
    """Show how many series wait, were indexed, rejected (and why) or failed."""
    from tomodex import tables, wiring

    settings = _indexed()
    queue = wiring.queue_of(settings)
    counts, reasons = queue.count(), queue.reasons()
    refused = [aside for name in wiring.consumer_names(settings) for aside in queue.asides(name)]
    if as_json:
        lanes, why = _nested(counts), _nested(reasons)
        _print_json({"lanes": lanes, "reasons": why, "set_aside": refused})
        return
    _print(tables.lanes_table(counts))
    for state in ("rejected", "failed"):
        if found := {why: n for (s, why), n in reasons.items() if s == state}:
            _print("", tables.counted_table(state, found))
    if refused:
        _print("", tables.asides_table(refused))


@app.command()
def retry(
    reason: Annotated[str, typer.Option(help="Only those with this reason.")] = "",
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Rejected series instead of failed ones.")
    ] = False,
) -> None:
    """Make failed (or rejected) series ready to be indexed again."""
    from tomodex import wiring

    again = wiring.queue_of(_indexed()).retry("rejected" if rejected else "failed", reason)
    print(f"{again:,} series are ready again; `tomodex index SOURCE` takes them")


@app.command()
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
        _print_json(found)
        return
    headings = ("name", "meaning", "German", "SNOMED CT", "RadLex")
    rows = ((s.name, s.display, s.display_de, s.snomed, s.radlex) for s in found)
    _print(tables.rows_table(headings, rows))


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    seed: Annotated[int, typer.Option(help="Another seed draws other bodies.")] = 0,
    as_json: Json = False,
) -> None:
    """Write synthetic CT series as DICOM, with their known answers."""
    from tomodex import tables
    from tomodex.phantom import write_phantoms

    with _progress() as progress:
        truths = write_phantoms(folder, seed=seed, progress=progress("phantoms"))
    if as_json:
        _print_json(truths)
        return
    rows = ((t.name, t.verdict, len(t.structures)) for t in truths)
    _print(tables.rows_table(("series", "expected", "structures"), rows))


@app.command()
def rebuild() -> None:
    """Make the index anew from the results in the queue."""
    from tomodex.indexing import rebuild_index

    print(f"{rebuild_index(_indexed()):,} results are in the index")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where to work.")] = Path("demo-data"),
) -> None:
    """Make phantom series, index them and search them."""
    from tomodex.demo import run_demo

    settings = _settings(data=folder / "tomodex-data")
    with _progress() as progress:
        report = run_demo(folder, settings, progress)
    _print(*report.lines)
    if not report.right:
        raise typer.Exit(1)


@config.command("show")
def config_show(as_json: Json = False) -> None:
    """Show every setting, its value, and where the value comes from."""
    from tomodex import tables
    from tomodex.settings import in_force, origins

    settings = _settings()
    values = settings.model_dump(mode="json") | in_force(settings)
    where = origins(settings, given)
    if as_json:
        _print_json({name: {"value": values[name], "origin": where[name]} for name in values})
        return
    rows = ((name, values[name], where[name]) for name in values)
    _print(tables.rows_table(("setting", "value", "from"), rows))


@weights.command("list")
def weights_list(as_json: Json = False) -> None:
    """Show the models that lie on this machine."""
    from tomodex import tables
    from tomodex.weights import list_weights

    folder = _results()
    found = list_weights(folder)
    if as_json:
        _print_json([{**asdict(one), "folder": str(one.folder)} for one in found])
        return
    rows = ((one.number, one.name, f"{one.size_bytes / 1e6:,.0f} MB") for one in found)
    _print(f"models in {folder}", tables.rows_table(("number", "name", "size"), rows))


@weights.command("verify")
def weights_verify(as_json: Json = False) -> None:
    """Read every model that is there, and compare it with the published ones."""
    from tomodex import tables
    from tomodex.weights import verify_weights

    found = list(verify_weights(_results()))
    if as_json:
        _print_json([{**asdict(one), "installed": one.installed.name} for one in found])
    else:
        rows = ((o.installed.name, o.verdict, o.weights_sha256, o.sentence) for o in found)
        _print(tables.rows_table(("name", "verdict", "SHA-256", ""), rows))
    if any(one.verdict in ("broken", "different") for one in found):
        raise typer.Exit(1)


@weights.command("import")
def weights_import(
    given: Annotated[Path, typer.Argument(help="A folder or archive that holds models.")],
) -> None:
    """Bring models from a folder or archive, on a machine without internet."""
    from tomodex.weights import import_weights

    for name in import_weights(given, _results()):
        print(name)


@weights.command("fetch")
def weights_fetch(
    which: Annotated[str, typer.Argument(help="A task such as total or total/1.5, or a number.")],
) -> None:
    """Download published models; an interrupted download goes on where it stopped."""
    from tomodex.weights import fetch_weights, models_named

    folder = _results()
    with _progress() as progress:
        for model in models_named(which):
            fetch_weights(model, folder, progress(model.name))
            print(model.name)


def _results() -> Path:
    """The folder that models lie in."""
    from tomodex.wiring import weights_folder

    return weights_folder(_settings())


def main() -> None:
    """Run a command; say what went wrong in one line, and by the exit code."""
    try:
        app()
    except (Misconfigured, BadQuery) as wrong:
        _complain(str(wrong))
        sys.exit(2)
    except Unavailable as unavailable:
        _complain(str(unavailable))
        sys.exit(3)
    except TomodexError as unsuitable:
        _complain(str(unsuitable))
        sys.exit(1)
    except SystemExit as end:
        if end.code in STOPPED:
            _complain("stopped; what was settled is kept, the rest waits in the queue")
        raise


def _settings(**options: Any) -> Settings:
    """Settings of this run, with logging set up as they say."""
    from tomodex.logs import log_to_stderr
    from tomodex.settings import load_settings

    settings = load_settings(**given | options)
    log_to_stderr(settings.log_level)
    return settings


def _indexed() -> Settings:
    """Settings of a command that asks for what was indexed before."""
    from tomodex.wiring import require_data

    settings = _settings()
    require_data(settings)
    return settings


@contextmanager
def _progress() -> Iterator[Callable[[str], Report]]:
    """Progress bars on stderr, where somebody looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bars:

        def add(title: str) -> Report:
            bar = bars.add_task(title, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield add


def _print(*parts: str | Table) -> None:
    """Lines and tables to stdout; tables as wide as they need to be where nobody looks."""
    from rich.console import Console

    # Brackets and colons in a header or a path are text, no markup.
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 400
    for part in parts:
        print(part) if isinstance(part, str) else console.print(part)


def _print_json(answer: object) -> None:
    import orjson

    print(orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


def _nested(counts: Mapping[tuple[Any, Any], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in counts.items():
        nested.setdefault(outer, {})[inner] = count
    return nested


def _complain(sentence: str) -> None:
    print(f"tomodex: {sentence}", file=sys.stderr)
