"""In the place of the IMPETUS CT Indexer, between a real Kafka and a real object store."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.servers.s3 import KEY, SECRET, Store
from tomodex.phantom.cases import DEMO
from tomodex.phantom.truth import Truth
from tomodex.phantom.writing import write_phantoms

pytestmark = pytest.mark.server

Json = dict[str, Any]

SEGMENTED = [case for case in DEMO if case.seg and not case.reason]
LEFT_OUT = next(case for case in DEMO if case.reason)


@contextmanager
def bridge(folder: Path, segmenter: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tomodex bridge`, as a site starts it."""
    environment = {
        **os.environ,
        "TOMODEX_DATA": str(folder / "data"),
        "TOMODEX_SEGMENTERS": json.dumps([segmenter]),
    }
    start = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", start, "bridge", "--env", str(folder / ".env")]
    with (folder / "bridge.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def topics(broker: str, folder: Path, store: Store) -> Mapping[str, str]:
    """New topics, and the predecessor's `.env` that names them."""
    names = {name: f"{name}-{uuid4().hex[:8]}" for name in ("tasks", "results", "errors")}
    admin = AdminClient({"bootstrap.servers": broker})
    made = admin.create_topics([NewTopic(name, num_partitions=2) for name in names.values()])
    for done in made.values():
        done.result(60)
    (folder / ".env").write_text(f"""
MODUS = "index"
BOOTSTRAP_SERVER={broker}
INCOMING_INDEX_TOPIC_NAME="{names["tasks"]}"
OUTGOING_INDEX_TOPIC_NAME="{names["results"]}"
ERROR_TOPIC_NAME="{names["errors"]}"
INDEX_CONSUMER_GROUP="group-{names["tasks"]}"
S3_ENDPOINT="127.0.0.1:{store.port}"
S3_ACCESS_KEY="{KEY}"
S3_SECRET_KEY="{SECRET}"
SSL_ON = False
""")
    return names


def store_tar(store: Store, folder: Path, key: str) -> None:
    """All files of a folder as the tar of a series."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(folder, arcname="series")
    store.put(key, data.getvalue())


def order(broker: str, topic: str, tasks: list[Json | str]) -> None:
    producer = Producer({"bootstrap.servers": broker})
    for task in tasks:
        producer.produce(topic, task if isinstance(task, str) else json.dumps(task))
    assert producer.flush(60) == 0


def read(broker: str, names: Mapping[str, str], many: int, seconds: float) -> dict[str, list[Json]]:
    """What has come on each topic of answers, as soon as there is so much of it."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([names["results"], names["errors"]])
    found: dict[str, list[Json]] = {names["results"]: [], names["errors"]: []}
    end = time.monotonic() + seconds
    while sum(map(len, found.values())) < many and time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found[message.topic()].append(json.loads(message.value()))
    consumer.close()
    return found


def task_of(truth: Truth, key: str) -> Json:
    identification = {"mpi": "4711", "series": truth.series_uid, "study": truth.study_uid}
    return {
        "identification": identification,
        "s3-input": {"s3-bucket": "scans", "s3-path": key},
    }


def test_tasks_of_the_predecessor_are_answered_in_its_words(
    broker: str, store: Store, tmp_path: Path
) -> None:
    *seen, left_out = write_phantoms(tmp_path / "phantoms", [*SEGMENTED[:2], LEFT_OUT])
    names = topics(broker, tmp_path, store)
    tasks: list[Json | str] = []
    for truth in (*seen, left_out):
        store_tar(store, tmp_path / "phantoms" / truth.name, f"{truth.name}.tar")
        tasks.append(task_of(truth, f"{truth.name}.tar"))
    order(broker, names["tasks"], [*tasks, "no JSON at all"])
    with bridge(tmp_path, "phantom:"):
        found = read(broker, names, 4, 240)
    results = {one["identification"]["series"]: one for one in found[names["results"]]}
    assert set(results) == {truth.series_uid for truth in seen}
    for truth, task in zip(seen, tasks, strict=False):
        answer = results[truth.series_uid]
        assert list(answer) == [
            "labels",
            "identification",
            "s3-input",
            "provenance",
            "duration",
            "dateCreated",
        ]
        assert isinstance(task, dict)
        assert answer["identification"] == task["identification"]
        assert answer["s3-input"] == task["s3-input"]
        assert answer["labels"]
        for label in answer["labels"].values():
            assert set(label) == {"volume", "intensity", "coding"}
    wrong = [ast.literal_eval(one["error"]) for one in found[names["errors"]]]
    assert {one["type"] for one in wrong} == {left_out.verdict, "Validation"}


def test_nothing_is_lost_when_the_bridge_is_killed(
    broker: str, store: Store, tmp_path: Path
) -> None:
    truths = write_phantoms(tmp_path / "phantoms", SEGMENTED[:3])
    names = topics(broker, tmp_path, store)
    for truth in truths:
        store_tar(store, tmp_path / "phantoms" / truth.name, f"{truth.name}.tar")
    order(broker, names["tasks"], [task_of(t, f"{t.name}.tar") for t in truths])
    with bridge(tmp_path, "none:") as first:
        time.sleep(6)
        first.kill()
    with bridge(tmp_path, "none:"):
        found = read(broker, names, len(truths), 120)
    answered = [one["identification"]["series"] for one in found[names["results"]]]
    assert sorted(answered) == sorted(truth.series_uid for truth in truths)
    assert not found[names["errors"]]
