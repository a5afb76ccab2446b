"""Versity's S3 gateway, which keeps objects as files, built from source by install.sh.

It is an S3 server that hospitals run, small, and under the Apache licence.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.servers.ports import free_port, wait_until_listening

VERSION = "1.8.0"
SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
KEY, SECRET = "tomodex-test", "not-a-secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A running store with one bucket, and a client that may write to it."""

    folder: Path  #: the bucket's objects as files
    port: int
    client: Any
    process: subprocess.Popen[bytes]
    bucket: str = "scans"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def kill(self) -> None:
        """It is gone at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_store(folder: Path) -> Iterator[Store]:
    """A store with an empty bucket that keeps its objects in `folder`."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [str(SERVERS / f"versitygw-{VERSION}"), "--port", f"127.0.0.1:{port}", "--quiet"]
    environment = {**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    with (folder.parent / "versitygw.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "posix", str(folder)], stdout=log, stderr=log, env=environment
        )
        try:
            wait_until_listening(port, process)
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
            )
            client.create_bucket(Bucket="scans")
            yield Store(folder=folder / "scans", port=port, client=client, process=process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with an empty bucket."""
    with running_store(tmp_path / "store") as running:
        yield running
