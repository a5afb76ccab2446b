"""Real senders push to `tomodex receive`: what they push is indexed as what lies in a folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import requests
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.pushing import receiving, wait_for
from tests.servers.dcmqrscp import STORESCU
from tests.servers.orthanc import running_orthanc
from tests.servers.volumes import outcome, real_files, write_phantoms
from tomodex.discovery import discover
from tomodex.queues import Queue, open_queue
from tomodex.selection import load_rules
from tomodex.settings import Settings, load_settings
from tomodex.sources import Source, open_source
from tomodex.wiring import annotator_of, queue_of, source_of
from tomodex.worker import nothing_left, work

pytestmark = pytest.mark.server

#: Option of storescu to propose a transfer syntax, and no other.
PROPOSE: Mapping[str, str] = {
    ExplicitVRLittleEndian: "-xe",
    ImplicitVRLittleEndian: "-xi",
    JPEG2000Lossless: "-xv",
    JPEGLSLossless: "-xt",
    RLELossless: "-xr",
}

#: Label Map Segmentation Storage, which storescu 3.6.7 does not know.
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def storescu(port: int, files: Iterable[Path]) -> None:
    """Push files in the syntax that they have, an association for each syntax."""
    by_syntax: dict[str, list[Path]] = {}
    for file in files:
        by_syntax.setdefault(dcmread(file).file_meta.TransferSyntaxUID, []).append(file)
    for syntax, some in by_syntax.items():
        command = [STORESCU, "-aet", "CT1", "-aec", "TOMODEX", PROPOSE[syntax], "-R"]
        command += ["127.0.0.1", str(port), *map(str, some)]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert sent.returncode == 0, sent.stdout + sent.stderr


def real_series(folder: Path) -> list[Path]:
    """Real files that any sender takes: those with UIDs of their own, once each."""
    folder.mkdir()
    seen: dict[str, Path] = {}
    for number, file in enumerate(real_files()):
        header = dcmread(file, stop_before_pixels=True, force=True)
        uids = [header.get(name, "") for name in ("SOPInstanceUID", "SeriesInstanceUID")]
        syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
        known = syntax in PROPOSE and header.get("SOPClassUID") != LABEL_MAP
        if all(uids) and known and uids[0] not in seen:
            seen[uids[0]] = folder / f"{number}.dcm"
            seen[uids[0]].write_bytes(file.read_bytes())
    return list(seen.values())


def index(settings: Settings, queue: Queue) -> dict[str, tuple[str, str]]:
    """Work off the queue; what became of each series."""
    work(
        queue,
        annotator_of(settings),
        worker="test",
        stop=lambda: nothing_left(queue),
        idle_s=0.1,
    )
    states = [
        s for status in ("completed", "rejected", "failed") for s in queue.find_states(status)
    ]
    return {s.series.series_uid: (s.status, s.reason) for s in states}


def of_folder(folder: Path, tmp_path: Path) -> tuple[dict[str, tuple[str, str]], Source]:
    """What becomes of the same files where they lie in a folder."""
    settings = load_settings(data=tmp_path / "of-folder")
    source, queue = source_of(settings, str(folder)), queue_of(settings)
    discover(source, load_rules(None), queue)
    became = index(settings, queue)
    queue.close()
    return became, source


def equals_folder(tmp_path: Path, folder: Path) -> int:
    """Index what was received, compare it with the folder; return how many volumes were equal."""
    expected, theirs = of_folder(folder, tmp_path)
    settings = load_settings(data=tmp_path / "data")
    queue = open_queue(settings.queue_url)
    wait_for(lambda: all(queue.states(uid) for uid in expected))
    assert index(settings, queue) == expected
    queue.close()
    url = f"spool://{tmp_path}/data/spool"
    ours = open_source(url, pseudonymize=str, state=tmp_path)
    equal = 0
    for number, uid in enumerate(expected):
        pair = [
            outcome(source, source.describe(uid).series, tmp_path / name / str(number))
            for name, source in (("ours", ours), ("theirs", theirs))
        ]
        assert pair[0] == pair[1]
        equal += len(pair[0]) == 64  # a hash of voxels
    return equal


def test_phantoms_that_storescu_pushes_equal_those_of_a_folder(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms")
    with receiving(tmp_path, "--quiet-s", "2", "--allow", "CT1") as (_, port):
        storescu(port, sorted((tmp_path / "phantoms").iterdir()))
        assert equals_folder(tmp_path, tmp_path / "phantoms") == len(PROPOSE)


@pytest.mark.skipif(not real_files(), reason="TOMODEX_REAL_DATA is not set")
def test_real_series_that_storescu_pushes_equal_those_of_a_folder(tmp_path: Path) -> None:
    files = real_series(tmp_path / "real")
    with receiving(tmp_path, "--quiet-s", "2") as (_, port):
        storescu(port, files)
        assert equals_folder(tmp_path, tmp_path / "real") >= 7


def test_what_orthanc_pushes_equals_what_lies_in_a_folder(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms")
    files = sorted((tmp_path / "phantoms").iterdir())
    with receiving(tmp_path, "--quiet-s", "2") as (_, port):
        peer = {"tomodex": ["TOMODEX", "127.0.0.1", port]}
        with running_orthanc(tmp_path / "orthanc", DicomModalities=peer) as orthanc:
            orthanc.store(files)
            series = requests.get(f"{orthanc.rest}/series", timeout=60).json()
            store = f"{orthanc.rest}/modalities/tomodex/store"
            pushed = requests.post(store, json=series, timeout=300)
            assert pushed.json()["InstancesCount"] == len(files)
            assert pushed.json()["FailedInstancesCount"] == 0
        assert equals_folder(tmp_path, tmp_path / "phantoms") == len(PROPOSE)
