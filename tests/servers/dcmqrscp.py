"""DCMTK's dcmqrscp: the plainest of archives, which knows one transfer syntax at a time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.ports import free_port, wait_until_listening

DCMQRSCP, STORESCU = "/usr/bin/dcmqrscp", "/usr/bin/storescu"

CONFIGURATION = """
NetworkTCPPort  = {port}
MaxPDUSize      = 16384
MaxAssociations = 16
HostTable BEGIN
tomodex = (TOMODEX, 127.0.0.1, {move_port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {storage} RW (1000, 8192mb) {peers}
AETable END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dcmqrscp:
    """A running dcmqrscp and where it can be asked."""

    folder: Path
    dicom_port: int
    move_port: int  #: where it sends what a C-MOVE asks for to TOMODEX
    process: subprocess.Popen[bytes]
    aet: str = "ARCHIVE"

    def store(self, files: Iterable[Path], *options: str) -> None:
        """Send DICOM files to it by storescu, as they are where `options` propose their syntax."""
        command = [STORESCU, "-aet", "TOMODEX", "-aec", self.aet, *options]
        command += ["127.0.0.1", str(self.dicom_port), *map(str, files)]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert sent.returncode == 0, sent.stdout + sent.stderr

    def kill(self) -> None:
        """It and its children are gone at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_dcmqrscp(folder: Path, *options: str, peers: str = "ANY") -> Iterator[Dcmqrscp]:
    """An empty dcmqrscp that keeps its files in `folder`; `options` are its command line's.

    `peers` are those whom it answers: ANY, or names of its host table, such as `tomodex`.
    """
    port, move_port = free_port(), free_port()
    storage = folder / "storage"
    storage.mkdir(parents=True)
    file = folder / "dcmqrscp.cfg"
    file.write_text(
        CONFIGURATION.format(port=port, move_port=move_port, storage=storage, peers=peers)
    )
    with (folder / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen(
            [DCMQRSCP, "-c", str(file), *options], stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until_listening(port, process)
            yield Dcmqrscp(folder=folder, dicom_port=port, move_port=move_port, process=process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Iterator[Dcmqrscp]:
    """An empty dcmqrscp."""
    with running_dcmqrscp(tmp_path / "dcmqrscp") as running:
        yield running
