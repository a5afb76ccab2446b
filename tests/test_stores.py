"""Where masks and reports are put: a folder, a bucket, an archive by STOW-RS or C-STORE."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import moto
import orjson
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.masked import AT, AXIAL, masks_of, origin_of
from tests.servers.ports import free_port
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.dicom_seg import Packing, write_segs
from tomodex.sources.dicomweb import connection
from tomodex.stores import Store, open_store
from tomodex.stores import stow as stow_module
from tomodex.stores.cstore import CStoreStore
from tomodex.stores.stow import StowStore
from tomodex.terminology import load_terminology

# pynetdicom leaves the socket of a refused connection open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")

LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def seg(folder: Path, packing: Packing = "native") -> Path:
    origin = origin_of(AXIAL)
    (ds,) = write_segs(masks_of(origin), origin, load_terminology(), "LABELMAP", packing, AT)
    path = folder / "seg.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def opened(url: str, tmp_path: Path) -> Store:
    (tmp_path / "state").mkdir(exist_ok=True)
    return open_store(url, tmp_path / "state")


# --- a folder -------------------------------------------------------------------------------------


def test_a_folder_gets_files_whole_and_for_its_owner_only(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text("{}")
    store = opened(f"folder://{tmp_path}/masks", tmp_path)
    for text in ("{}", '{"newer": 1}'):
        file.write_text(text)
        (place,) = store.put([file], "1.2.3")
        assert Path(place).read_text() == text
    assert place == f"{tmp_path}/masks/1.2.3/labels.json"
    assert [one.name for one in Path(place).parent.iterdir()] == ["labels.json"]
    assert stat.S_IMODE((tmp_path / "masks").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_is_asked_again_later(tmp_path):
    store = opened(f"folder://{tmp_path}/masks", tmp_path)
    (tmp_path / "masks" / "1.2.3").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot write"):
        store.put([tmp_path / "missing"], "1.2.3")


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="cannot make"):
        opened(f"folder://{tmp_path}/file/masks", tmp_path)


# --- a bucket -------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SECRET"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="masks")
        yield client


def test_a_bucket_gets_an_object_for_each_file(tmp_path, bucket):
    file = seg(tmp_path)
    url = "s3://masks/research?region=us-east-1&key=env:SECRET&secret=env:SECRET"
    (place,) = opened(url, tmp_path).put([file], "1.2.3")
    assert place == "s3://masks/research/1.2.3/seg.dcm"
    kept = bucket.get_object(Bucket="masks", Key="research/1.2.3/seg.dcm")["Body"].read()
    assert kept == file.read_bytes()


def test_a_bucket_that_is_not_there_is_a_wrong_setting(tmp_path, bucket):
    url = "s3://other?region=us-east-1&key=env:SECRET&secret=env:SECRET"
    with pytest.raises(Misconfigured, match="no bucket 'other'"):
        opened(url, tmp_path).put([seg(tmp_path)], "1.2.3")


def test_a_bucket_is_looked_at_without_writing_to_it(tmp_path, bucket):
    options = "region=us-east-1&key=env:SECRET&secret=env:SECRET"
    (there,) = opened(f"s3://masks/research?{options}", tmp_path).probe()
    (other,) = opened(f"s3://other?{options}", tmp_path).probe()
    assert (there.verdict, other.verdict) == ("ok", "wrong")
    assert "no bucket 'other'" in other.sentence
    assert bucket.list_objects_v2(Bucket="masks")["KeyCount"] == 0


# --- STOW-RS --------------------------------------------------------------------------------------


@dataclass
class StowServer:
    """Keeps what it is sent, and answers as a test wants it to."""

    http: HTTPServer
    kept: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http.expect_request("/rs/studies", method="POST").respond_with_handler(self._take)

    @property
    def url(self) -> str:
        return f"dicomweb+{self.http.url_for('/rs')}"

    def _take(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if self.answers else Response("{}", 200)
        if answer.status_code < 300:
            kind = request.headers["Content-Type"]
            boundary = re.search(r"boundary=(\w+)", kind)
            assert boundary is not None
            assert 'type="application/dicom"' in kind
            _, part, end = request.get_data().split(f"--{boundary[1]}".encode())
            assert end == b"--\r\n"
            head, _, body = part.partition(b"\r\n\r\n")
            assert head == b"\r\nContent-Type: application/dicom"
            self.kept.append(body.removesuffix(b"\r\n"))
        return answer


@pytest.fixture
def stow(httpserver: HTTPServer, monkeypatch) -> StowServer:
    monkeypatch.setattr(stow_module, "FIRST_WAIT_S", 0.001)
    return StowServer(httpserver)


def failed(reason: int) -> bytes:
    return orjson.dumps({"00081198": {"vr": "SQ", "Value": [{"00081197": {"Value": [reason]}}]}})


def test_an_object_arrives_as_it_is(tmp_path, stow, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    file = seg(tmp_path)
    store = opened(f"{stow.url}?token=env:TOKEN", tmp_path)
    assert store.only_dicom
    assert store.put([file], "1.2.3") == [stow.url]
    assert stow.kept == [file.read_bytes()]
    assert stow.headers[0]["Authorization"] == "Bearer secret"
    assert stow.headers[0]["Content-Length"].isdigit()


def test_a_busy_archive_is_asked_again(tmp_path, stow):
    stow.answers = [Response("", 503), Response("", 429)]
    opened(stow.url, tmp_path).put([seg(tmp_path)], "1.2.3")
    assert len(stow.kept) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Response("", 401), Misconfigured),
        (Response("", 404), Misconfigured),
        (Response("", 500), Unavailable),
        (Response("", 400), Unsuitable),
        (Response(failed(0x0122), 409), Unsuitable),  # the SOP class is not supported
        (Response(failed(0xA900), 202), Unsuitable),
        (Response("", 302, {"Location": "https://elsewhere.example"}), Unsuitable),
    ],
    ids=lambda one: getattr(one, "status", None) or one.__name__,
)
def test_a_refusal_is_named_by_what_helps(tmp_path, stow, answer, error):
    stow.answers = [answer]
    with pytest.raises(error):
        opened(stow.url, tmp_path).put([seg(tmp_path)], "1.2.3")


def test_an_object_that_is_there_already_is_stored(tmp_path, stow):
    stow.answers = [Response(failed(0x0111), 409)]
    assert opened(stow.url, tmp_path).put([seg(tmp_path)], "1.2.3") == [stow.url]


def test_an_archive_that_stays_busy_or_is_not_there_is_asked_later(tmp_path, stow):
    stow.answers = [Response("", 503)] * connection.ATTEMPTS
    with pytest.raises(Unavailable, match="503"):
        opened(stow.url, tmp_path).put([seg(tmp_path)], "1.2.3")
    gone = f"dicomweb+http://127.0.0.1:{free_port()}/rs"
    with pytest.raises(Unavailable, match="cannot be reached"):
        opened(gone, tmp_path).put([seg(tmp_path)], "1.2.3")


def test_qido_says_whose_a_study_is(tmp_path, stow):
    study = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane", "Ideographic": "山"}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00080020": {"vr": "DA", "Value": ["20260102"]},
        "00100040": {"vr": "CS"},
    }
    instance = {"00080016": {"Value": ["1.2.840"]}, "00080018": {"Value": ["1.2.3.1"]}}
    stow.http.expect_request("/rs/studies", method="GET").respond_with_json([study])
    stow.http.expect_request("/rs/studies/1.2/series/1.2.3/instances").respond_with_json([instance])
    store = opened(stow.url, tmp_path)
    assert isinstance(store, StowStore)
    known = store.known("1.2", "1.2.3")
    assert known is not None
    subject, images = known
    assert (subject.patient_id, subject.patient_name, subject.study_date, subject.sex) == (
        "P1", "Doe^Jane=山", "20260102", "",
    )  # fmt: skip
    assert images == [("1.2.840", "1.2.3.1")]
    assert store.known("1.2", "9.9") is None


# --- C-STORE --------------------------------------------------------------------------------------


@dataclass
class Scp:
    """A PACS that keeps what it is sent."""

    port: int
    kept: list[Dataset] = field(default_factory=list)
    status: int = 0x0000

    @property
    def url(self) -> str:
        return f"dimse://TOMODEX@127.0.0.1:{self.port}/PACS"


def study_answer() -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.StudyDate = "Doe^Jane", "P1", "20260102"
    return ds


def image_answer(number: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840", f"1.2.3.{number}"
    return ds


@contextmanager
def running_scp(*syntaxes: str, has_study: bool = True) -> Iterator[Scp]:
    scp = Scp(free_port())

    def keep(event: evt.Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        scp.kept.append(ds)
        return scp.status

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if has_study and event.identifier.QueryRetrieveLevel == "STUDY":
            yield 0xFF00, study_answer()
        elif has_study:
            yield from ((0xFF00, image_answer(n)) for n in (1, 2))
        yield 0x0000, None

    entity = AE(ae_title="PACS")
    entity.add_supported_context(LABELMAP, list(syntaxes))
    entity.add_supported_context(FIND)
    handlers: list[Any] = [(evt.EVT_C_STORE, keep), (evt.EVT_C_FIND, find)]
    server = entity.start_server(("127.0.0.1", scp.port), block=False, evt_handlers=handlers)
    try:
        yield scp
    finally:
        server.shutdown()


@pytest.mark.parametrize("packing", ["native", "rle", "deflated"])
@pytest.mark.parametrize(
    "syntaxes",
    [
        (ExplicitVRLittleEndian,),
        (ImplicitVRLittleEndian,),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless),
    ],
    ids=["explicit", "implicit", "rle too"],
)
def test_a_pacs_gets_the_same_voxels_in_a_syntax_that_it_takes(tmp_path, packing, syntaxes):
    file = seg(tmp_path, packing)
    with running_scp(*syntaxes) as scp:
        assert opened(scp.url, tmp_path).put([file], "1.2.3") == [scp.url]
    (kept,) = scp.kept
    taken = kept.file_meta.TransferSyntaxUID
    assert taken in syntaxes
    assert (taken == RLELossless) == (packing == "rle" and RLELossless in syntaxes)
    assert (kept.pixel_array == pydicom.dcmread(file).pixel_array).all()


@pytest.mark.parametrize(
    ("status", "error"), [(0xA700, Unavailable), (0xA900, Unsuitable), (0xC123, Unsuitable)]
)
def test_a_status_of_failure_is_named_by_what_helps(tmp_path, status, error):
    with running_scp(ExplicitVRLittleEndian) as scp:
        scp.status = status
        with pytest.raises(error):
            opened(scp.url, tmp_path).put([seg(tmp_path)], "1.2.3")


def test_a_duplicate_is_as_good_as_stored(tmp_path):
    with running_scp(ExplicitVRLittleEndian) as scp:
        scp.status = 0x0111
        opened(scp.url, tmp_path).put([seg(tmp_path)], "1.2.3")


def test_a_pacs_that_does_not_answer_is_asked_later(tmp_path):
    with pytest.raises(Unavailable, match="cannot be reached"):
        opened(f"dimse://TOMODEX@127.0.0.1:{free_port()}/PACS", tmp_path).put([seg(tmp_path)], "")


def test_c_find_says_whose_a_study_is(tmp_path):
    with running_scp(ExplicitVRLittleEndian) as scp:
        store = opened(scp.url, tmp_path)
        assert isinstance(store, CStoreStore)
        known = store.known("1.2", "1.2.3")
    assert known is not None
    subject, images = known
    assert (subject.patient_id, subject.patient_name) == ("P1", "Doe^Jane")
    assert images == [("1.2.840", "1.2.3.1"), ("1.2.840", "1.2.3.2")]
    with running_scp(ExplicitVRLittleEndian, has_study=False) as scp:
        store = opened(scp.url, tmp_path)
        assert isinstance(store, CStoreStore)
        assert store.known("1.2", "1.2.3") is None
