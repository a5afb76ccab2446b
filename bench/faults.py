"""Kills workers and delivery at random, and restarts Kafka and OpenSearch, over many tasks.

    python bench/faults.py --past 20000 --today 2000 --tasks-per-kill 50

Ends with an error if anything was lost or doubled, or if index and topic are not what the results
feed says. Needs what tests/servers/install.sh installs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.faults import brave
from tests.servers.test_faults import site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--past", type=int, default=2000, help="series of the back-fill")
    parser.add_argument("--today", type=int, default=300, help="series of the daily lane")
    parser.add_argument("--tasks-per-kill", type=int, default=75)
    parser.add_argument("--queue", choices=("kafka", "sqlite"), default="kafka")
    given = parser.parse_args()
    with TemporaryDirectory() as folder, site(Path(folder), given.queue) as (place, servers):
        outcome = brave(
            place,
            servers,
            past=given.past,
            today=given.today,
            tasks_per_kill=given.tasks_per_kill,
        )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
