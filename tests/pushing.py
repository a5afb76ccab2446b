"""A modality that pushes series (C-STORE), and the receiver as a site runs it, for tests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, SegmentationStorage, Verification

from tests.servers.ports import free_port

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


@contextmanager
def associated(
    port: int,
    *,
    calling: str = "CT1",
    called: str = "TOMODEX",
    syntax: str = EXPLICIT,
    tls: Any = None,
) -> Iterator[Association]:
    """An association with a receiver on this machine, established or not."""
    entity = AE(ae_title=calling)
    contexts = [
        build_context(CTImageStorage, syntax),
        build_context(SegmentationStorage, syntax),
        build_context(Verification),
    ]
    association = entity.associate(
        "127.0.0.1", port, contexts=contexts, ae_title=called, max_pdu=0, tls_args=tls
    )
    socket = association.dul.socket.socket if association.dul.socket else None
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if socket is not None:  # pynetdicom leaves it open where the peer has gone
            socket.close()


def push(port: int, files: Iterable[Path | Dataset], **how: Any) -> list[int]:
    """Push instances over one association; return the answers, -1 where none came."""
    with associated(port, **how) as association:
        assert association.is_established
        return [store(association, file) for file in files]


def store(association: Association, file: Path | Dataset) -> int:
    """Push one instance; return the answer, -1 if none came."""
    dataset = file if isinstance(file, Dataset) else dcmread(file)
    return int(getattr(association.send_c_store(dataset), "Status", -1))


@contextmanager
def receiving(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`tomodex receive` as a site runs it, and its port."""
    port = free_port()
    code = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", code, "--data", str(tmp_path / "data"), "receive"]
    command += ["--port", str(port), "--json", *options]
    out = (tmp_path / "out.json").open("wb")
    with out, (tmp_path / "err.log").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            wait_for(lambda: "listens" in (tmp_path / "err.log").read_text(), process)
            yield process, port
        finally:
            process.kill()
            process.wait()


def wait_for(
    done: Any, process: subprocess.Popen[bytes] | None = None, seconds: float = 60
) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert process is None or process.poll() is None, "the receiver has ended"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
