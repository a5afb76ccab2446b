"""How long `tomodex serve` takes to answer while another process writes to the embedded index.

    python bench/search_http.py [--series 100000] [--seconds 30] [--rate 100] [--keep FILE]

Prints one line of JSON: for each kind of question the 50th and 95th percentile of milliseconds
over HTTP, one question after another, and of the server's processor time for each; what the writer
wrote, in batches as far apart as `tomodex run` makes them; seconds to load the made-up archive and
to put it in order; memory of the server. It is asked when it has the index in memory, which takes
`resident_s`. `load` is that of the machine: above `cores`, other programs took part of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import numpy as np

from annotated_series import draw
from search import fill
from tomodex.annotation import AnnotatedSeries
from tomodex.delivering import PART as DELIVERY_PART
from tomodex.delivery import IDLE_S as DELIVERY_S
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.duckdb.store import FileStore
from tomodex.terminology import load_terminology

#: Structures of a series that is written.
STRUCTURES = 40

COHORT = "/v1/cohort"

#: Kinds of questions: how and where they are asked, the query, and what else is sent. Each is drawn
#: anew, as what was just asked is answered faster.
QUESTIONS: dict[str, tuple[str, str, str, dict[str, object]]] = {
    "structure": ("post", f"{COHORT}/series", "{one}", {}),
    "structures": ("post", f"{COHORT}/series", "{one} and {two} and not {three}", {}),
    "attributes": (
        "post",
        f"{COHORT}/series",
        "covers L1..L5 and PatientSex = F and PatientAge {age}..{older} and SliceThickness < 2",
        {},
    ),
    "group, complete": ("post", f"{COHORT}/series", "lumbar vertebra complete and not {one}", {}),
    "between": (
        "post",
        f"{COHORT}/series",
        "left autochthon volume > {few} ml between heart and L1",
        {},
    ),
    "between groups": (
        "post",
        f"{COHORT}/series",
        "kidney volume > {few} ml between thoracic vertebra and sacrum",
        {},
    ),
    "strips of a page": (
        "post",
        f"{COHORT}/series",
        "liver volume > 14{few} ml",
        {"structures": True},
    ),
    "largest first": ("post", f"{COHORT}/series", "{one}", {"sort": "largest {one}"}),
    "everything, thinnest first": (
        "post",
        f"{COHORT}/series",
        "segmented = yes and PatientAge > {age}",
        {"sort": "thinnest"},
    ),
    "facets": (
        "post",
        f"{COHORT}/facets",
        "liver and not {one}",
        {"fields": ["structure", "complete", "Manufacturer", "PatientSex", "StudyYear", "plane"]},
    ),
    "web page": ("get", "/", "{one} complete and women {age}-{older} and slices <= 1.5 mm", {}),
    "web page, spatial": (
        "get",
        "/",
        "left autochthonous muscle volume > {few} ml between heart and L1",
        {},
    ),
    "10,000 rows": ("post", f"{COHORT}/series", "liver and not {one}", {"limit": 10_000}),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--series", type=int, default=100_000)
    asked.add_argument("--seconds", type=float, default=30)
    asked.add_argument("--rate", type=float, default=100, help="series written per second")
    asked.add_argument("--keep", type=Path, help="use this file, and make it if it is not there")
    asked.add_argument("--resident", default="4GB", help="the server's memory for it, or no")
    asked.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.write:
        write(given.keep, given.rate)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = (given.keep or Path(folder) / "index.duckdb").absolute()
        load_s = 0.0 if path.exists() else _seconds(lambda: fill(path, given.series))
        print(json.dumps({"load_s": round(load_s, 1), **measure(path, Path(folder), given)}))


def measure(path: Path, folder: Path, given: argparse.Namespace) -> dict[str, object]:
    quiet_s = given.seconds / 2
    with serving(path, folder, given.resident) as (client, server):
        resident_s = 0.0 if given.resident == "no" else _await_memory(folder)
        asked = partial(ask, client, server.pid)
        asked(quiet_s / 10)
        alone = asked(quiet_s)
        command = [sys.executable, __file__, "--write", "--keep", str(path)]
        with subprocess.Popen(
            [*command, "--rate", str(given.rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            beside = asked(given.seconds)
            written = json.loads(writer.communicate("stop\n")[0])
        memory_mb = {name: _memory_mb(server.pid, name) for name in ("VmRSS", "VmHWM")}
        totals = client.get("/v1/stats").json()
    ordered_s = _seconds(FileStore(path, {"memory_limit": "2GB", "threads": "2"}, 60).tidy)
    return {
        "stats": totals,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "megabytes": round(path.stat().st_size / 1e6),
        "resident_s": resident_s,
        "server_rss_mb": memory_mb,
        "order_s": round(ordered_s, 1),
        "writer": written,
        "alone_ms": alone,
        "while_written_ms": beside,
    }


def ask(client: httpx.Client, server: int, seconds: float) -> dict[str, dict[str, float]]:
    """Ask one question after another, of each kind in turn."""
    taken: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    processor: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    end = time.monotonic() + seconds
    dice = random.Random(seconds)
    while time.monotonic() < end:
        for name, (method, route, template, more) in QUESTIONS.items():
            about = drawn(dice)
            query = template.format(**about)
            sent = {k: v.format(**about) if isinstance(v, str) else v for k, v in more.items()}
            before, begin = _processor_ms(server), time.perf_counter()
            if method == "get":
                answer = client.get(route, params={"q": query, **sent})
            else:
                answer = client.post(route, json={"query": query, **sent})
            answer.raise_for_status()
            taken[name].append((time.perf_counter() - begin) * 1000)
            processor[name].append(_processor_ms(server) - before)
    return {
        name: {**_percentiles(times), "cpu_p50": round(float(np.median(processor[name])), 1)}
        for name, times in taken.items()
    }


def drawn(dice: random.Random) -> dict[str, object]:
    """What a question is about."""
    names = [s.name for s in load_terminology().structures.values() if s.total_class is not None]
    one, two, three = dice.sample(names, 3)
    age, few = dice.randrange(20, 60), f"{dice.randrange(100):02d}"
    return {"one": one, "two": two, "three": three, "age": age, "older": age + 20, "few": few}


def _await_memory(folder: Path) -> float:
    """Wait until the server has the index in memory; return how many seconds that took it."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for line in (folder / "server.log").read_text().splitlines():
            if "index_in_memory" in line:
                return float(json.loads(line)["seconds"])
        time.sleep(0.2)
    raise SystemExit("the server does not say that the index is in memory")


@contextmanager
def serving(
    path: Path, folder: Path, resident: str
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """`tomodex serve` on this index, and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "TOMODEX_DATA": str(folder / "data"),
        "TOMODEX_INDEX": f"duckdb://{path}?wait=60&resident={resident}",
        "TOMODEX_LOG_LEVEL": "info",
        "TOMODEX_SERVE": json.dumps({"per_second": 1000}),
    }
    (folder / "data").mkdir()
    command = [str(Path(sys.executable).with_name("tomodex")), "serve", "--port", str(port)]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log) as server,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                _await(client, server)
                yield client, server
        finally:
            server.terminate()


def _await(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/v1/health").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("tomodex serve does not answer")


def write(path: Path, rate: float) -> None:
    """Write new series until told to stop, in batches as far apart as deliveries are."""
    index, numbers, took = DuckDBIndex(f"duckdb://{path}?wait=60"), count(), []
    names = [s.name for s in load_terminology().structures.values() if s.total_class is not None]
    drawn = draw(STRUCTURES)
    named = zip(drawn.annotations, names, strict=False)
    drawn = replace(drawn, annotations=tuple(replace(a, structure=name) for a, name in named))
    begin, written, pause_s = time.monotonic(), 0, DELIVERY_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        due = int((time.monotonic() - begin) * rate) - written
        batch = [_another(drawn, next(numbers)) for _ in range(due)]
        took.append(_seconds(partial(index.write, batch)))
        written += due
        pause_s = max(DELIVERY_S, took[-1] / DELIVERY_PART)
    facts = {"series": written, "per_s": round(written / (time.monotonic() - begin), 1)}
    print(json.dumps({**facts, "batches": len(took), "batch_ms": _percentiles_of(took)}))


def _another(drawn: AnnotatedSeries, number: int) -> AnnotatedSeries:
    uid = f"1.2.826.0.1.3680043.8.497.{time.time_ns()}.{number}"
    attributes = {"Modality": "CT", "StudyDate": "2026-06-01", "PatientSex": "F"}
    series = replace(
        drawn.series,
        series_uid=uid,
        study_uid=f"{uid}.1",
        patient=f"{number // 10:032x}",
        attributes=attributes,
    )
    return replace(drawn, series=series)


def _percentiles_of(seconds: list[float]) -> dict[str, float]:
    return _percentiles([one * 1000 for one in seconds])


def _percentiles(milliseconds: list[float]) -> dict[str, float]:
    if not milliseconds:
        return {}
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"n": len(milliseconds), "p50": round(p50, 1), "p95": round(p95, 1)}


def _memory_mb(process: int, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return next(
        int(line.split()[1]) // 1000 for line in status.splitlines() if line.startswith(name)
    )


def _processor_ms(process: int) -> float:
    """Processor time of all threads of a process that live."""
    stats = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e6


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
