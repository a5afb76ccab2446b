"""Orthanc as Debian packages it: DIMSE and DICOMweb, started anew for each test that asks for it.

Tests that need another configuration call `running_orthanc` themselves:

    with running_orthanc(tmp_path, LimitFindResults=20) as orthanc: ...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.servers.ports import free_port, wait_until_listening

ORTHANC = "/usr/sbin/Orthanc"
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """A running Orthanc that anybody on this machine may ask, and where it can be asked."""

    folder: Path
    dicom_port: int
    http_port: int
    move_port: int  #: where it sends what a C-MOVE asks for to TOMODEX
    process: subprocess.Popen[bytes]
    aet: str = "ORTHANC"

    @property
    def rest(self) -> str:
        """Base of its own REST API."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Base of QIDO-RS and WADO-RS."""
        return f"{self.rest}/dicom-web"

    def store(self, files: Iterable[Path]) -> None:
        """Put DICOM files into it as they are; one that it does not take fails the test."""
        with requests.Session() as session:
            for file in files:
                answer = session.post(f"{self.rest}/instances", data=file.read_bytes(), timeout=60)
                assert answer.ok, f"Orthanc does not take {file.name}: {answer.text}"

    def files(self) -> Iterator[bytes]:
        """Every instance that it holds, as it keeps it."""
        for uid in requests.get(f"{self.rest}/instances", timeout=60).json():
            yield requests.get(f"{self.rest}/instances/{uid}/file", timeout=60).content

    def freeze(self) -> None:
        """It stays, and does nothing any more, until `thaw`."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is gone at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_orthanc(folder: Path, **configuration: object) -> Iterator[Orthanc]:
    """An empty Orthanc that keeps its files in `folder`; `configuration` as in its manual."""
    dicom_port, http_port, move_port = free_port(), free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "orthanc.json"
    file.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "DicomPort": dicom_port,
                "HttpPort": http_port,
                "Plugins": [DICOMWEB],
                "DicomModalities": {"tomodex": ["TOMODEX", "127.0.0.1", move_port]},
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowGet": True,
                "DicomAlwaysAllowMove": True,
                "DicomScuTimeout": 5,
                "AuthenticationEnabled": False,
                "OverwriteInstances": True,
                "SyncStorageArea": False,
                **configuration,
            }
        )
    )
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(file)], stdout=log, stderr=log)
        try:
            wait_until_listening(http_port, process)
            wait_until_listening(dicom_port, process)
            yield Orthanc(
                folder=folder,
                dicom_port=dicom_port,
                http_port=http_port,
                move_port=move_port,
                process=process,
            )
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty Orthanc."""
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running
