"""In the place of the IMPETUS CT Indexer, between a real Kafka and a real object store."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal
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
    """`tomodex bridge`, as a site starts it, with its processes in a group of their own."""
    environment = {
        **os.environ,
        "TOMODEX_DATA": str(folder / "data"),
        "TOMODEX_SEGMENTERS": json.dumps([segmenter]),
    }
    start = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", start, "bridge", "--env", str(folder / ".env")]
    with (folder / "bridge.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def killed_when(folder: Path, segmenter: str, happened: Callable[[], bool]) -> None:
    """Run the bridge until something has happened, and kill all of its processes that moment."""
    with bridge(folder, segmenter) as process:
        end = time.monotonic() + 120
        while not happened():
            assert time.monotonic() < end, (folder / "bridge.log").read_text()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def counted(file: Path, select: str) -> int:
    """What a file of the data folder says, as soon as it is there."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute(select).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def topics(
    broker: str, folder: Path, store: Store, mode: Literal["index", "segmentation"]
) -> Mapping[str, str]:
    """New topics, and the predecessor's `.env` that names them."""
    names = {name: f"{name}-{uuid4().hex[:8]}" for name in ("tasks", "results", "errors")}
    admin = AdminClient({"bootstrap.servers": broker})
    made = admin.create_topics([NewTopic(name, num_partitions=2) for name in names.values()])
    for done in made.values():
        done.result(60)
    (folder / ".env").write_text(f"""
MODUS = "{mode}"
BOOTSTRAP_SERVER={broker}
INCOMING_{mode.upper()}_TOPIC_NAME="{names["tasks"]}"
OUTGOING_{mode.upper()}_TOPIC_NAME="{names["results"]}"
ERROR_TOPIC_NAME="{names["errors"]}"
{mode.upper()}_CONSUMER_GROUP="group-{names["tasks"]}"
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
    """What has come on each topic of answers: so much, and what comes in some seconds after it."""
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
    while time.monotonic() < end:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            found[message.topic()].append(json.loads(message.value()))
            if sum(map(len, found.values())) == many:
                end = min(end, time.monotonic() + 5)
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
    names = topics(broker, tmp_path, store, "index")
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


def test_every_task_is_answered_once_whenever_the_bridge_is_killed(
    broker: str, store: Store, tmp_path: Path
) -> None:
    truths = write_phantoms(tmp_path / "phantoms", SEGMENTED[:3])
    names = topics(broker, tmp_path, store, "index")
    for truth in truths:
        store_tar(store, tmp_path / "phantoms" / truth.name, f"{truth.name}.tar")
    order(broker, names["tasks"], [task_of(t, f"{t.name}.tar") for t in truths])
    remembered = tmp_path / "data" / "bridge.db"
    # While answers are given, which is when one could get lost or come twice.
    given = partial(counted, remembered, "select max(batch) from bridge")
    killed_when(tmp_path, "none:", given)
    with bridge(tmp_path, "none:"):
        found = read(broker, names, len(truths), 120)
    answered = [one["identification"]["series"] for one in found[names["results"]]]
    assert sorted(answered) == sorted(truth.series_uid for truth in truths)
    assert not found[names["errors"]]


def test_masks_lie_where_the_predecessor_laid_them_whenever_the_bridge_is_killed(
    broker: str, store: Store, tmp_path: Path
) -> None:
    *seen, left_out = write_phantoms(tmp_path / "phantoms", [*SEGMENTED[:2], LEFT_OUT])
    names = topics(broker, tmp_path, store, "segmentation")
    store.client.create_bucket(Bucket="masks")
    tasks: list[Json | str] = []
    for truth in (*seen, left_out):
        store_tar(store, tmp_path / "phantoms" / truth.name, f"{truth.name}.tar")
        output = {"s3-bucket": "masks", "s3-path": f"of/{truth.name}"}
        tasks.append({**task_of(truth, f"{truth.name}.tar"), "s3-output": output})
    order(broker, names["tasks"], [*tasks, {"identification": {}}])
    ordered = tmp_path / "data" / "operations.db"
    begun = "select count(*) from operation where status = 'in-progress'"
    killed_when(tmp_path, "phantom:", partial(counted, ordered, begun))
    with bridge(tmp_path, "phantom:"):
        found = read(broker, names, 4, 240)
    results = {one["identification"]["series"]: one for one in found[names["results"]]}
    assert len(results) == len(found[names["results"]]) == len(seen)
    for truth, task in zip(seen, tasks, strict=False):
        answer = results[truth.series_uid]
        assert list(answer) == [
            "files",
            "identification",
            "s3-input",
            "s3-output",
            "provenance",
            "duration",
            "dateCreated",
        ]
        assert isinstance(task, dict)
        assert {key: answer[key] for key in task} == task
        listed = store.client.list_objects_v2(Bucket="masks", Prefix=f"of/{truth.name}/")
        stored = [one["Key"].rpartition("/")[2] for one in listed["Contents"]]
        assert sorted(stored) == answer["files"]
        said = store.client.get_object(Bucket="masks", Key=f"of/{truth.name}/statistics.json")
        structures = json.loads(said["Body"].read())
        masks = {f"{name}.nii.gz" for name in structures}
        assert set(stored) == masks | {"statistics.json", "labels.json"}
    wrong = [ast.literal_eval(one["error"]) for one in found[names["errors"]]]
    assert sorted(one["type"] for one in wrong) == ["Segmentation", "Validation"]
