"""How fast slices that are pushed are taken and synced to disk, while series are indexed beside.

Prints one line of JSON. Senders in processes of their own push CT slices of 512 x 512 in int16 over
one association each, as fast as they are answered; then they do so again while two workers index
phantoms in `tomodex index`. A sender writes to the socket what was encoded before, in PDUs of 128
KiB as DCMTK does, so that it takes hardly more of the two cores than another machine would.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket as Socket
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF

from listing import ct_slice

EXPLICIT = "1.2.840.10008.1.2.1"

#: DCMTK's storescu sends no larger ones.
MOST_PDU_BYTES = 128 * 2**10

COMMAND = [sys.executable, "-c", "from tomodex.cli import main; main()"]

#: How the element Status (0000,0900) of an answer begins, and the PDU that releases.
STATUS = struct.pack("<HHL", 0x0000, 0x0900, 2)
RELEASE = struct.pack(">BBLL", 5, 0, 4, 0)

#: Replaced in the encoded bytes for each slice, so as long as all of them.
_UID = "1.2.826.0.1.3680043.8.498.10000000000"


def main() -> None:
    """Receive alone, then beside indexing; print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=2000, help="in all, each time")
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--cores", type=int, default=2, help="that everything here may use")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory(prefix="tomodex-bench-", dir=Path.cwd()) as scratch:
        root = Path(scratch)
        sync_ms = sync_cost_ms(root)
        phantoms = [*COMMAND, "phantom", str(root / "phantoms")]
        subprocess.run(phantoms, check=True, stdout=subprocess.DEVNULL)
        with Receiver(root) as receiver:
            alone = push(receiver.port, options.slices, options.associations)
            before_s = receiver.cpu_s()
            with indexing(root) as running:
                beside = push(receiver.port, options.slices, options.associations)
                still = running.poll() is None
            cpu_s = receiver.cpu_s() - before_s
            summary = receiver.end()
    result = {
        "bench": "receive",
        "slices": options.slices,
        "associations": options.associations,
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 1),
        "alone": alone,
        "while_indexing": {**beside, "indexed_all_along": still},
        "receiver_cpu_ms_per_slice": round(1000 * cpu_s / options.slices, 2),
        "fsync_file_ms": sync_ms[0],
        "fsync_folder_ms": sync_ms[1],
        "answered_with_success": summary["received"]["received"],
    }
    print(json.dumps(result))


class Receiver:
    """`tomodex receive` as a site runs it."""

    def __init__(self, root: Path) -> None:
        self._out = (root / "out.json").open("w+b")
        self._err = (root / "err.log").open("w+b")
        command = [*COMMAND, "--data", str(root / "receiver"), "receive", "--port", "0", "--json"]
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._err)
        self.port = self._port(root / "err.log")

    def _port(self, log: Path) -> int:
        while "listens on" not in (said := log.read_text()):
            if self._process.poll() is not None:
                raise SystemExit(said)
            time.sleep(0.05)
        return int(said.rsplit(":", 1)[1])

    def cpu_s(self) -> float:
        """Processor time that its processes have used."""
        pids = [self._process.pid]
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat").read_text().split() for pid in [*pids, *children]]
        return sum(int(stat[13]) + int(stat[14]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def end(self) -> dict[str, dict[str, int]]:
        """Have it end, and say what it received."""
        self._process.terminate()
        self._process.wait(60)
        self._out.seek(0)
        summary: dict[str, dict[str, int]] = json.load(self._out)
        return summary

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()


@contextmanager
def indexing(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Index phantoms in two workers, over and over, while the context lasts."""
    script = f"""
import itertools, subprocess
for turn in itertools.count():
    data = {str(root)!r} + f"/index-{{turn}}"
    command = {COMMAND!r} + ["--data", data, "index", {str(root / "phantoms")!r}, "--workers", "2"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
    running = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        yield running
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def sync_cost_ms(root: Path, times: int = 50) -> tuple[float, float]:
    """Median of what it takes to sync a file of a slice's size, and the folder above it, ms."""
    data = os.urandom(2 * 512 * 512)
    descriptor = os.open(root, os.O_RDONLY)
    costs = []
    for number in range(times):
        with (root / f"sync-{number}").open("wb") as file:
            file.write(data)
            file.flush()
            begin = time.perf_counter()
            os.fsync(file.fileno())
            middle = time.perf_counter()
        os.fsync(descriptor)
        costs.append((middle - begin, time.perf_counter() - middle))
    os.close(descriptor)
    of_file, of_folder = np.median(costs, axis=0) * 1000
    return round(float(of_file), 2), round(float(of_folder), 2)


def push(port: int, slices: int, associations: int) -> dict[str, float]:
    """Push so many slices; the rate, and how long answers took."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(associations)]
    each = slices // associations
    senders = [context.Process(target=send, args=(port, each, end)) for _, end in pipes]
    for sender, (_, end) in zip(senders, pipes, strict=True):
        sender.start()
        end.close()  # so that its death is seen
    for pipe, _ in pipes:
        pipe.recv()  # ready
    begin = time.perf_counter()
    for pipe, _ in pipes:
        pipe.send("go")
    answers_s = [second for pipe, _ in pipes for second in pipe.recv()]
    elapsed_s = time.perf_counter() - begin
    for sender in senders:
        sender.join()
    return {
        "slices_per_s": round(len(answers_s) / elapsed_s, 1),
        "answer_p50_ms": round(1000 * float(np.percentile(answers_s, 50)), 1),
        "answer_p95_ms": round(1000 * float(np.percentile(answers_s, 95)), 1),
    }


def send(port: int, slices: int, pipe: Connection) -> None:
    """Push slices of one series over one association; what each answer took goes into the pipe."""
    entity = AE(ae_title="BENCH")
    context = build_context(CTImageStorage, EXPLICIT)
    association = entity.associate("127.0.0.1", port, [context], "TOMODEX", max_pdu=0)
    pdu_bytes = min(association.acceptor.maximum_length, MOST_PDU_BYTES)
    message = encoded_message(pdu_bytes)
    # From here on the socket is ours alone.
    association._reactor_checkpoint.clear()
    association.dul.kill_dul()
    association.dul.join()
    connection: Any = association.dul.socket
    socket: Socket = connection.socket
    socket.settimeout(60)
    pipe.send("ready")
    pipe.recv()
    pipe.send([send_one(socket, message, number) for number in range(slices)])
    socket.sendall(RELEASE)
    socket.recv(10)
    socket.close()
    association._kill = True
    association._reactor_checkpoint.set()


def encoded_slice() -> bytes:
    """A slice with a header as long as scanners write it, and noise."""
    dataset: Dataset = ct_slice(512)
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = generate_uid(), _UID
    dataset.PixelData = np.random.default_rng(0).integers(0, 4096, (512, 512), "<u2").tobytes()
    found = encode(dataset, False, True)
    assert found is not None
    return found


def encoded_message(pdu_bytes: int) -> bytes:
    """A whole C-STORE request, as the PDUs that it is sent in."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, _UID
    request.DataSet = BytesIO(encoded_slice())
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    pdus = []
    for primitive in message.encode_msg(1, pdu_bytes):
        pdu: Any = P_DATA_TF()
        pdu.from_primitive(primitive)
        pdus.append(pdu.encode())
    return b"".join(pdus)


def send_one(socket: Socket, message: bytes, number: int) -> float:
    """Push one slice that is encoded already; seconds until it was answered with success."""
    uid = f"{_UID[:-10]}{os.getpid() % 1000:04d}{number:06d}"
    sent = message.replace(_UID.encode(), uid.encode())
    begin = time.perf_counter()
    socket.sendall(sent)
    answer = socket.recv(2**16)
    took_s = time.perf_counter() - begin
    at = answer.index(STATUS) + len(STATUS)
    if answer[at : at + 2] != b"\0\0":
        raise SystemExit("a slice was not answered with success")
    return took_s


if __name__ == "__main__":
    main()
