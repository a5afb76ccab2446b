"""`tomodex doctor`: is everything that the settings name as it should be?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tomodex.cli.shared import Json, print_json, print_out, settings_of_run


def doctor(
    patience: Annotated[
        float, typer.Option(min=1, max=3600, metavar="S", help="Seconds for each part to answer.")
    ] = 60.0,
    create: Annotated[
        bool, typer.Option("--create", help="Make the topics of a queue in Kafka first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at every source, the queue, the index, sinks and models; say what to do about faults."""
    from tomodex import tables
    from tomodex.doctor import examine, is_well
    from tomodex.errors import Misconfigured
    from tomodex.queues import create_queue

    settings = settings_of_run()
    if create:
        try:
            for name in create_queue(settings.queue_url):
                print(f"made {name}", file=sys.stderr)
        except Misconfigured as refused:  # what is missing is a finding, with what helps
            print(refused, file=sys.stderr)
    findings = list(examine(settings, patience))
    if as_json:
        print_json([finding.facts for finding in findings])
    else:
        print_out(tables.findings_table(findings))
        for command in [one for finding in findings for one in finding.probe.commands]:
            print(command)
    if not is_well(findings):
        raise typer.Exit(1)
