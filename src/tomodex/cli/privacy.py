"""Commands for the privacy of patients: who asked, whose a pseudonym is, who is taken out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomodex.cli.shared import Json, Limit, indexed_settings, print_json, print_out, settings_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tomodex.access import Asker
    from tomodex.auditlog import Entry
    from tomodex.settings import Settings

audit = typer.Typer(help="Who asked what, and what became known to them.", no_args_is_help=True)
optout = typer.Typer(
    help="Patients who do not want to be in an index, nor in any count.", no_args_is_help=True
)

Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="Why; it is kept in the audit log, without names.")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="One a line; - is stdin.")]
AsIds = Annotated[
    bool,
    typer.Option(
        "--patient-ids",
        help="The lines are patient IDs, with ^^^ISSUER where there is one, and no pseudonyms.",
    ),
]


@audit.command()
def verify(
    head: Annotated[
        str,
        typer.Option(metavar="HASH", help="A head that was kept elsewhere has to be there."),
    ] = "",
) -> None:
    """Follow the chain of hashes; exit code 1 if somebody tampered with the log."""
    from tomodex.wiring import audit_of

    found = audit_of(indexed_settings()).verify(head)
    print_out(f"{found.entries:,} entries are as they were written; head {found.head}")
    if found.broken:
        print_out(f"BROKEN: {found.broken}")
    if not found.head_found:
        print_out("BROKEN: the head that was kept is not there: the end was cut off, or all is new")
    if found.broken or not found.head_found:
        raise typer.Exit(1)


@audit.command("head")
def show_head() -> None:
    """Print the newest hash, to be kept where whoever can write the log cannot."""
    from tomodex.wiring import audit_of

    print_out(audit_of(indexed_settings()).verify().head)


@audit.command("show")
def show_audit(
    who: Annotated[str, typer.Option(metavar="NAME", help="Only what this asker did.")] = "",
    act: Annotated[str, typer.Option(help="Only this, such as export or identify.")] = "",
    series: Annotated[
        str, typer.Option(metavar="UID", help="Only what names this series or study.")
    ] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show the newest entries, the last one last."""
    from collections import deque
    from dataclasses import asdict

    from tomodex.tables import rows_table
    from tomodex.wiring import audit_of

    log = audit_of(indexed_settings())
    about = log.marked(series)
    fitting = (
        entry
        for entry in log.entries()
        if who in ("", entry.who)
        and act in ("", entry.act)
        and any(about in str(said) for said in (entry.text, *entry.facts.values()))
    )
    newest = deque(fitting, maxlen=limit)
    if as_json:
        print_json([asdict(entry) for entry in newest])
        return
    columns = ("", "at", "who", "did", "how much", "query or reason")
    print_out(rows_table(columns, map(_row, newest)))


def _row(entry: Entry) -> tuple[str, ...]:
    facts = (f"{name}={value}" for name, value in entry.facts.items() if value is not None)
    said = (entry.who, entry.act, " ".join(facts), entry.text)
    return (str(entry.number), entry.at, *said)


def identify(
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Say whose pseudonyms are, where the site keeps it; each time is kept in the audit log."""
    from dataclasses import asdict

    from tomodex.identifying import identify as find
    from tomodex.tables import rows_table

    found = find(indexed_settings(), person(), pseudonyms, reason)
    if as_json:
        print_json({pseudonym: asdict(identity) for pseudonym, identity in found.items()})
        return
    rows = [(p, one.patient_id, one.issuer) for p, one in found.items()]
    print_out(rows_table(("pseudonym", "patient ID", "issuer"), rows))
    unknown = [pseudonym for pseudonym in pseudonyms if pseudonym not in found]
    if unknown:
        typer.echo(f"nobody knows whose these are: {', '.join(unknown)}", err=True)
        raise typer.Exit(1)


def erase(
    patients: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATIENT]...", help="Patient IDs, with ^^^ISSUER if there is one."),
    ] = None,
    pseudonym: Annotated[
        list[str] | None, typer.Option(metavar="P", help="The same by pseudonym; may be repeated.")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="A single series; may be repeated.")
    ] = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it is kept in the audit log, without names.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on with what was begun before.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
) -> None:
    """Erase patients, or single series, from everything, for good."""
    from tomodex import erasing

    settings = indexed_settings()
    if resume:
        taken = erasing.resume(settings)
    else:
        pseudonyms = [*(pseudonym or ()), *map(_pseudonymizer(settings), patients or ())]
        if not pseudonyms and not series:
            raise typer.BadParameter("say whom: a patient ID, --pseudonym or --series")
        if not reason:
            raise typer.BadParameter("say why, with --reason")
        if not yes:
            what = f"{len(pseudonyms)} patients and {len(series or ())} single series"
            typer.confirm(f"Erase {what} for good?", abort=True, err=True)
        taken = erasing.erase(
            settings, person(), pseudonyms=pseudonyms, series_uids=series or (), reason=reason
        )
    print_out(f"erased {taken.patients:,} patients, {taken.series:,} series")
    if taken.patients and not taken.series:
        # A number that was mistyped erases nobody, and must not look as if it had.
        typer.echo("no series of them was here; if there should be, look at the spelling", err=True)


@optout.command()
def add(file: File, reason: Reason, patient_ids: AsIds = False) -> None:
    """Take patients out of the index and every count, and keep them out."""
    from tomodex import erasing

    settings = settings_of_run()
    taken = erasing.opt_out(settings, person(), _read(settings, file, patient_ids), reason)
    print_out(f"{taken.patients:,} patients opted out; {taken.series:,} series were taken out")


@optout.command()
def remove(file: File, reason: Reason, patient_ids: AsIds = False) -> None:
    """Let patients be indexed again; their series wait in the queue."""
    from tomodex import erasing

    settings = settings_of_run()
    back = erasing.opt_in(settings, person(), _read(settings, file, patient_ids), reason)
    print_out(f"{back:,} patients are indexed again")


@optout.command("list")
def list_optouts(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Say it of these.")] = None,
    patient_ids: AsIds = False,
) -> None:
    """Say how many opted out, and which of those in a file: only hashes of them are kept."""
    from tomodex.wiring import exclusions_of, queue_of

    settings = settings_of_run()
    exclusions = exclusions_of(settings, queue_of(settings))
    if file is None:
        print_out(f"{exclusions.count('opted_out'):,} opted out")
        return
    for pseudonym in _read(settings, file, patient_ids):
        print_out(f"{pseudonym} {exclusions.excludes(pseudonym) or 'indexed'}")


@audit.callback()
def audit_group() -> None: ...


@optout.callback()
def optout_group() -> None: ...


def person() -> Asker:
    """Who runs the command, as the audit log names them: their account on this machine."""
    import getpass

    from tomodex.access import OWNER, Asker

    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        account = "unknown"
    return Asker(name=f"os:{account}", roles=OWNER.roles)


def _read(settings: Settings, file: Path, patient_ids: bool) -> Sequence[str]:
    """The pseudonyms that a file has or means."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, ValueError) as unreadable:
        raise typer.BadParameter(f"{file} cannot be read as text") from unreadable
    named = [line.strip() for line in text.splitlines() if line.strip()]
    return list(map(_pseudonymizer(settings), named)) if patient_ids else named


def _pseudonymizer(settings: Settings) -> Callable[[str], str]:
    from tomodex.pseudonym import load_key, pseudonymizer

    return pseudonymizer(load_key(settings.key_file))
