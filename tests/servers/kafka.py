"""Apache Kafka with one broker in KRaft mode, from Maven Central, put together by install.sh."""

from __future__ import annotations

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.ports import free_port, wait_until_listening

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
JARS = SERVERS / "kafka-4.1.0"


def settings(folder: Path, port: int, controller: int) -> Mapping[str, str]:
    """One node that is both broker and controller, with one copy of everything."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "num.partitions": "2",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # What a process that was killed has begun is ended when its time is over, and not later.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    }


@contextmanager
def running_kafka(folder: Path, port: int) -> Iterator[str]:
    """Address of a broker that keeps its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "server.properties"
    if not file.exists():
        lines = (f"{name}={value}\n" for name, value in settings(folder, port, free_port()).items())
        file.write_text("".join(lines))
        name = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        _java(
            folder, "kafka.tools.StorageTool", "format", f"--cluster-id={name}", "-c", str(file)
        ).wait(120)
    process = _java(folder, "kafka.Kafka", str(file))
    try:
        wait_until_listening(port, process, 120)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _java(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["java", "-Xmx512m", "-cp", f"{JARS}/*", *command], stdout=log, stderr=log
        )


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker that all tests share; topics are made when they are named."""
    with running_kafka(tmp_path_factory.mktemp("kafka"), free_port()) as address:
        yield address
