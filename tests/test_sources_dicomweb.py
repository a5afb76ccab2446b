"""A DICOMweb server: what is asked, what is made of the answers, and what goes wrong on the way."""

from __future__ import annotations

import errno
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from tests.contracts.source import SourceContract, by_uid
from tests.test_instance import as_bytes, item
from tests.test_sources_folder import DESCRIPTION, NAME, PATIENT, pseudonym, slice_of, write_archive
from tomodex.errors import Misconfigured, NotThere, Suspended, Unavailable
from tomodex.instance import read_instance
from tomodex.selection import load_rules, select
from tomodex.series import Series
from tomodex.sources import Window, open_source
from tomodex.sources.dicomweb import connection as connection_module
from tomodex.sources.dicomweb import json_model, multipart
from tomodex.sources.dicomweb.source import DicomWebSource

BOUNDARY = b"0a1b2c"

Reply = tuple[int, Mapping[str, str], bytes]

#: What it says of a study, of a series, and of an instance.
LEVELS = (
    ("StudyInstanceUID", "StudyDate", "PatientID", "PatientSex", "PatientBirthDate"),
    ("SeriesInstanceUID", "StudyInstanceUID", "Modality", "SeriesNumber"),
    ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
)
KEYWORDS = sorted({keyword for level in LEVELS for keyword in level})

Said = dict[str, str]  #: by keyword


# --- a server -----------------------------------------------------------------------------------


@dataclass
class Archive:
    """What a server holds, and how it likes to answer."""

    instances: list[Dataset] = field(default_factory=list)
    cap: int = 10_000  #: answers that it gives at most, without a word
    pages: bool = True  #: whether it looks at `offset`
    most: int = 10_000  #: answers on all pages together
    relational: bool = True  #: whether it knows /series
    ignores_days: bool = False  #: of /series
    syntaxes: bool = True  #: whether it understands transfer-syntax=*
    metadata: bool = True
    says_counts: bool = True
    knows_twins: bool = True  #: whether it gives a series whose UID occurs in several studies
    before: list[Reply] = field(default_factory=list)  #: what it answers first
    asked: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    body: Callable[[bytes], bytes] = bytes  #: what becomes of a WADO-RS answer on its way
    known: dict[int, Said] = field(default_factory=dict)  #: asking pydicom again takes long

    def said(self) -> list[Said]:
        """What can be asked of the instances."""
        for ds in self.instances:
            if id(ds) not in self.known:
                self.known[id(ds)] = {keyword: str(ds.get(keyword, "")) for keyword in KEYWORDS}
        return [self.known[id(ds)] for ds in self.instances]

    def answer(self, address: str, headers: Mapping[str, str]) -> Reply:
        self.asked.append(address)
        self.headers.append(headers)
        if self.before:
            return self.before.pop(0)
        parts = urlsplit(address)
        path = parts.path.removeprefix("/dicom-web/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if path[-1] == "metadata":
            return self._metadata(path[3])
        if len(path) == 6:
            return self._instance(path[1], path[5])
        if len(path) == 4:
            return self._series(path[3], headers["Accept"])
        if path == ["series"] and not self.relational:
            return 404, {}, b"no such thing"
        return self._search(path, query)

    def _search(self, path: list[str], query: dict[str, str]) -> Reply:
        found = [one for one in self.said() if len(path) < 3 or one["StudyInstanceUID"] == path[1]]
        if len(path) == 5:
            found = [one for one in found if one["SeriesInstanceUID"] == path[3]]
        if "StudyDate" in query and not (path == ["series"] and self.ignores_days):
            first, _, last = query["StudyDate"].partition("-")
            found = [one for one in found if first <= one["StudyDate"] <= last]
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
            found = [one for one in found if query.get(keyword, one[keyword]) == one[keyword]]
        level = {"studies": 0, "series": 1, "instances": 2}[path[-1]]
        answers = self._answers(found, level)[: self.most]
        offset = int(query.get("offset", 0)) if self.pages else 0
        some = (
            answers[offset : offset + min(int(query["limit"]), self.cap)]
            if "limit" in query
            else answers
        )
        return (200, {}, json.dumps(some).encode()) if some else (204, {}, b"")

    def _answers(self, found: list[Said], level: int) -> list[dict[str, Any]]:
        groups: dict[str, list[Said]] = {}
        for one in found:
            groups.setdefault(one[LEVELS[level][0]], []).append(one)
        return [self._dataset(group, level) for _, group in sorted(groups.items())]

    def _dataset(self, group: list[Said], level: int) -> dict[str, Any]:
        said = {keyword: group[0][keyword] for keyword in LEVELS[level]}
        if level == 0 and self.says_counts:
            study = [one for one in self.said() if one[LEVELS[0][0]] == said[LEVELS[0][0]]]
            said["NumberOfStudyRelatedSeries"] = str(len({one[LEVELS[1][0]] for one in study}))
        if level == 1 and self.says_counts:
            said["NumberOfSeriesRelatedInstances"] = str(len(group))
        return {
            json_model.tag_of(keyword): {"vr": dictionary_VR(keyword), "Value": [value]}
            for keyword, value in said.items()
            if value
        }

    def _metadata(self, series_uid: str) -> Reply:
        found = [ds for ds in self.instances if ds.SeriesInstanceUID == series_uid]
        if not (found and self.metadata):
            return 404, {}, b""
        shown = [
            ds.to_json_dict(bulk_data_threshold=0, bulk_data_element_handler=str) for ds in found
        ]
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(shown).encode()

    def _series(self, series_uid: str, accepted: str) -> Reply:
        if "transfer-syntax" in accepted and not self.syntaxes:
            return 406, {}, b""
        those = [ds for ds in self.instances if ds.SeriesInstanceUID == series_uid]
        found = [as_bytes(ds) for ds in those]
        twins = len({ds.StudyInstanceUID for ds in those}) > 1
        if not found or (twins and not self.knows_twins):
            return 404, {}, b""
        return self._parts(found)

    def _instance(self, study_uid: str, sop_uid: str) -> Reply:
        return self._parts(
            [
                as_bytes(ds)
                for ds in self.instances
                if (ds.StudyInstanceUID, ds.SOPInstanceUID) == (study_uid, sop_uid)
            ]
        )

    def _parts(self, found: list[bytes]) -> Reply:
        kind = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY.decode()}"'
        return 200, {"Content-Type": kind}, self.body(in_parts(found))


def in_parts(contents: list[bytes]) -> bytes:
    """A multipart body."""
    head = b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + content + b"\r\n" for content in contents) + b"--" + BOUNDARY + b"--\r\n"


def usual(body: bytes) -> dict[str, str]:
    """Headers of every answer."""
    now = datetime.now(UTC)
    return {"Content-Length": str(len(body)), "Date": f"{now:%a, %d %b %Y %H:%M:%S} GMT"}


@contextmanager
def serving(archive: Archive, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server with this archive."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for headers and body: the second would wait for the first

        def do_GET(self) -> None:
            status, headers, body = archive.answer(self.path, dict(self.headers))
            self.send_response_only(status)
            for name, value in {**usual(body), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Nothing: pytest's output is for failures."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that goes away, or that does not trust us."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def answering(write: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that answers each connection as it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(2**16)
                    try:
                        write(connection)
                    except OSError:
                        continue

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def open_at(port: int, tmp_path: Path, query: str = "", **context: Any) -> DicomWebSource:
    """The server as another process would open it."""
    source = open_source(
        f"dicomweb+http://127.0.0.1:{port}/dicom-web?{query}",
        **{"pseudonymize": pseudonym, "state": tmp_path / "state", **context},
    )
    assert isinstance(source, DicomWebSource)
    return source


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def port(archive: Archive) -> Iterator[int]:
    with serving(archive) as port:
        yield port


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "FIRST_WAIT_S", 0.001)


def image(series: str, k: int = 0, **elements: object) -> Dataset:
    """A slice of a series in a study of its own."""
    return slice_of(
        series, k, **{"StudyInstanceUID": f"{series}.9", "StudyDate": "20260501", **elements}
    )


def test_a_series_whose_uid_several_studies_have_is_retrieved_one_by_one(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.knows_twins = False
    archive.instances = [
        image("1.2.1", k, StudyInstanceUID=study, SOPInstanceUID=f"{study}.{k}")
        for study in ("1.2.1.9", "1.2.1.8")
        for k in range(3)
    ]
    source = open_at(port, tmp_path)
    files = source.retrieve(replace(SERIES_1, instance_count=3), tmp_path / "into")
    kept = sorted(pydicom.dcmread(file).SOPInstanceUID for file in files)
    assert kept == [f"1.2.1.9.{k}" for k in range(3)]
    with pytest.raises(NotThere):
        source.retrieve(replace(SERIES_1, series_uid="1.2.5"), tmp_path / "none")


SERIES_1 = Series(series_uid="1.2.1", study_uid="1.2.1.9", patient="p", modality="CT")


class TestDicomWebSource(SourceContract):
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
        uids = write_archive(tmp_path / "archive")
        files = [file for file in (tmp_path / "archive").rglob("*") if file.is_file()]
        with serving(Archive(instances=[pydicom.dcmread(file) for file in files])) as self.port:
            yield uids

    def open_again(self, tmp_path: Path) -> DicomWebSource:
        return open_at(self.port, tmp_path)

    def test_a_series_is_described_as_it_was_found(
        self, source: DicomWebSource, tmp_path: Path
    ) -> None:
        """And with its headers, which cost a request of their own."""
        for uid, listing in by_uid(source).items():
            described = self.open_again(tmp_path).describe(uid)
            assert described.series == listing.series
            assert len(described.instances) == listing.series.instance_count
            assert listing.instances == ()


# --- finding ------------------------------------------------------------------------------------


def test_a_patient_has_the_pseudonym_of_the_headers_and_an_age(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", PatientBirthDate="19660502")]
    (listing,) = open_at(port, tmp_path, pseudonymize=lambda who: f"<{who}>").find()
    assert listing.series.patient == f"<{PATIENT}>"
    assert listing.series.attributes["PatientAge"] == 59
    assert listing.series.attributes["StudyDate"] == "2026-05-01"
    assert listing.series.study_uid == "1.2.1.9"


@pytest.mark.parametrize(("cap", "relational"), [(3, True), (3, False), (10_000, True)])
def test_every_series_is_found_whatever_the_server_caps(
    archive: Archive, port: int, tmp_path: Path, cap: int, relational: bool
) -> None:
    archive.cap, archive.relational = cap, relational
    days = [date(2019, 1, 1) + timedelta(days=37 * (k // 5)) for k in range(15)]
    archive.instances = [
        image(f"1.2.{k}.{s}", StudyInstanceUID=f"1.2.{k}", StudyDate=f"{day:%Y%m%d}")
        for k, day in enumerate(days)
        for s in range(2)
    ]
    archive.instances.append(image("1.2.99", StudyDate=""))
    found = [listing.series.series_uid for listing in open_at(port, tmp_path, "page=6").find()]
    assert sorted(found) == sorted(ds.SeriesInstanceUID for ds in archive.instances)


def test_a_window_has_the_studies_of_its_days_and_no_others(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    days = ("20260430", "20260501", "20260502", "20260503", "")
    archive.instances = [image(f"1.2.{k}", StudyDate=day) for k, day in enumerate(days)]
    window = Window(first=date(2026, 5, 1), last=date(2026, 5, 2))
    found = [listing.series.series_uid for listing in open_at(port, tmp_path).find(window=window)]
    assert found == ["1.2.1", "1.2.2"]
    searches = [asked for asked in archive.asked if asked.startswith("/dicom-web/studies?")]
    assert not [asked for asked in searches if "StudyDate=2026050" not in asked]


def test_a_sparse_archive_is_walked_in_few_requests(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", StudyDate="19991231"), image("1.2.2", StudyDate="20260101")]
    assert len(by_uid(open_at(port, tmp_path))) == 2
    assert len(archive.asked) < 50


def test_series_come_with_their_days_and_not_one_request_a_study(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image(f"1.2.{k}") for k in range(90)]
    window = Window(first=date(2026, 5, 1), last=date(2026, 5, 1))
    assert len(list(open_at(port, tmp_path).find(window=window))) == 90
    assert len(archive.asked) <= 4


def test_a_server_that_ignores_the_day_of_series_is_asked_study_by_study(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.ignores_days = True
    archive.instances = [
        image(f"1.2.{month}.{k}", StudyDate=f"2026{month:02d}01")
        for month in range(1, 7)
        for k in range(4)
    ]
    window = Window(first=date(2026, 1, 1), last=date(2026, 6, 30))
    listed = open_at(port, tmp_path, "page=10").find(window=window)
    found = [listing.series.series_uid for listing in listed]
    assert len(found) == len(set(found)) == 24
    assert sum("/dicom-web/series?" in asked for asked in archive.asked) == 1


def test_a_day_that_cannot_be_had_completely_is_unavailable(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.cap, archive.pages = 100, False
    archive.instances = [image(f"1.2.{k}") for k in range(101)]
    with pytest.raises(Unavailable, match=r"2026-05-01: .* the same 100 answers again"):
        list(open_at(port, tmp_path).find())
    archive.instances = [image(f"1.2.{k}", StudyDate=f"2026050{k // 60 + 1}") for k in range(150)]
    window = Window(first=date(2026, 5, 1), last=date(2026, 5, 31))
    assert len(list(open_at(port, tmp_path).find(window=window))) == 150


def test_a_server_without_pages_where_studies_arrive_is_listed_to_an_end(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.pages = False
    archive.instances = [image(f"1.2.{k}") for k in range(10)]
    answer = archive.answer

    def arriving(address: str, headers: Mapping[str, str]) -> Reply:
        if len(archive.asked) == 1:
            archive.instances.append(image("1.2.99"))
        assert len(archive.asked) < 20
        return answer(address, headers)

    archive.answer = arriving  # type: ignore[method-assign]
    assert len(list(open_at(port, tmp_path).find(window=DAY))) == 11


def test_a_server_that_caps_all_pages_together_is_asked_for_fewer_days(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.most = 100
    archive.instances = [
        image(f"1.2.{day}.{k}", StudyDate=f"2026050{day}") for day in (1, 2) for k in range(60)
    ]
    window = Window(first=date(2026, 5, 1), last=date(2026, 5, 9))
    assert len(list(open_at(port, tmp_path).find(window=window))) == 120
    archive.instances += [image(f"1.2.2.9{k}", StudyDate="20260502") for k in range(10, 70)]
    listed = open_at(port, tmp_path).find(window=window)
    with pytest.raises(Unavailable, match=r"2026-05-02: .* gives 100 answers on all pages"):
        list(listed)
    archive.most = 10_000
    assert len(list(open_at(port, tmp_path).find(window=window))) == 180


def test_series_that_a_cap_hides_are_asked_for_study_by_study(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.most = 121  # of the last study that comes, one series of three
    archive.instances = [
        image(f"1.2.{k}.{s}", StudyInstanceUID=f"1.2.{k}") for k in range(50) for s in range(3)
    ]
    for archive.says_counts in (True, False):
        found = open_at(port, tmp_path).find(window=DAY)
        assert len({listing.series.series_uid for listing in found}) == 150


def test_studies_without_date_that_a_cap_hides_are_unavailable(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.most = 50
    archive.instances = [
        image(f"1.2.{day}.{k}", StudyDate=f"2026050{day}") for day in (1, 2) for k in range(40)
    ]
    with pytest.raises(Unavailable, match="gives 50 studies if no day is named, and 80"):
        list(open_at(port, tmp_path, "page=40").find())


def test_a_server_may_be_said_to_have_no_limit(archive: Archive, port: int, tmp_path: Path) -> None:
    """One day is all that it holds, so that nothing comes after that."""
    archive.instances = [image(f"1.2.{k}") for k in range(100)]
    with pytest.raises(Unavailable, match="answer_limit=0"):
        list(open_at(port, tmp_path).find())
    assert len(list(open_at(port, tmp_path, "answer_limit=0").find())) == 100
    with pytest.raises(Unavailable, match="answer_limit=0"):
        list(open_at(port, tmp_path, "answer_limit=50").find())


@pytest.mark.parametrize("day", ["20260501", ""])
def test_what_is_stored_while_a_day_is_listed_doubles_nothing(
    archive: Archive, port: int, tmp_path: Path, day: str
) -> None:
    archive.instances = [image(f"1.2.{k}", StudyDate=day) for k in range(100, 130)]
    found = []
    for listing in open_at(port, tmp_path, "page=10").find():
        found.append(listing.series.series_uid)
        if len(found) % 3 == 0:
            archive.instances.append(image(f"1.2.0.{len(found)}", StudyDate=day))
    assert len(found) == len(set(found))
    assert set(found) >= {f"1.2.{k}" for k in range(100, 130)}


def test_segmentations_of_a_study_change_the_fingerprint_of_its_images(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1"), image("1.2.2")]
    before = by_uid(open_at(port, tmp_path))
    seg = image(
        "1.2.3", StudyInstanceUID="1.2.1.9", SOPClassUID=SegmentationStorage, Modality="SEG"
    )
    archive.instances.append(seg)
    after = by_uid(open_at(port, tmp_path))
    assert [after[uid].series.segmentations for uid in ("1.2.1", "1.2.2", "1.2.3")] == [1, 0, 0]
    assert after["1.2.1"].series.fingerprint != before["1.2.1"].series.fingerprint
    assert after["1.2.2"].series.fingerprint == before["1.2.2"].series.fingerprint
    archive.instances.append(image("1.2.2", 1))
    assert (
        by_uid(open_at(port, tmp_path))["1.2.2"].series.fingerprint
        != after["1.2.2"].series.fingerprint
    )


def test_a_server_that_does_not_count_leaves_count_and_fingerprint_open(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.says_counts = False
    archive.instances = [image("1.2.1")]
    (listing,) = open_at(port, tmp_path).find()
    assert (listing.series.instance_count, listing.series.fingerprint) == (None, "")
    assert len(open_at(port, tmp_path).retrieve(listing.series, tmp_path)) == 1


def test_an_answer_without_modality_is_passed_over_and_counted(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1"), image("1.2.2", Modality="")]
    source = open_at(port, tmp_path)
    assert list(by_uid(source)) == ["1.2.1"]
    assert source.skipped() == {"unreadable": 1}


def test_free_text_is_not_even_asked_for_unless_a_site_wants_it(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1")]
    list(open_at(port, tmp_path).find())
    assert not [asked for asked in archive.asked if "Description" in asked]
    list(open_at(port, tmp_path, free_text=True).find())
    assert [asked for asked in archive.asked if "SeriesDescription" in asked]


# --- headers ------------------------------------------------------------------------------------


def test_metadata_is_judged_as_the_headers_of_the_files_are(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", k) for k in range(30)]
    described = open_at(port, tmp_path).describe("1.2.1")
    assert {len(one.frames) for one in described.instances} == {1}
    assert described.instances[3].frames[0].position_mm == (0, 0, 7.5)
    assert described.instances[3].description == DESCRIPTION
    headers = by_uid_of_files(archive, tmp_path)
    rules = load_rules(None)
    assert select(described, rules).geometry == select(headers, rules).geometry
    archive.metadata = False
    assert open_at(port, tmp_path).describe("1.2.1").instances == ()


def by_uid_of_files(archive: Archive, tmp_path: Path) -> Any:
    """What a folder with the same instances lists."""
    folder = tmp_path / "files"
    folder.mkdir()
    for k, ds in enumerate(archive.instances):
        (folder / str(k)).write_bytes(as_bytes(ds))
    source = open_source(f"folder://{folder}", pseudonymize=pseudonym, state=tmp_path / "folder")
    return by_uid(source)["1.2.1"]


@given(
    st.dictionaries(
        st.one_of(st.text("0123456789ABCDEF", min_size=8, max_size=8), st.just("00080060")),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.floats(), st.text()),
            lambda some: st.one_of(
                st.lists(some, max_size=3),
                st.fixed_dictionaries(
                    {
                        "vr": st.sampled_from(
                            ["SQ", "CS", "DS", "US", "FD", "PN", "OW", "", None, 7]
                        ),
                        "Value": st.one_of(st.lists(some, max_size=3), some),
                    }
                ),
            ),
            max_leaves=10,
        ),
        max_size=6,
    )
)
def test_no_json_can_hurt(dataset: dict[str, Any]) -> None:
    instance = json_model.instance_of(dataset, "", pseudonym, True)
    assert instance is None or isinstance(instance.attributes, Mapping)
    count = json_model.count(dataset, "Modality")
    assert count is None or 0 <= count < 10**9


def test_names_in_any_script_are_read() -> None:
    dataset = {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00080070": {"vr": "LO", "Value": ["東芝"]},
        "00100020": {"vr": "LO", "Value": ["Ä-1"]},
    }
    instance = json_model.instance_of(dataset, "", str, False)
    assert instance is not None
    assert (instance.attributes["Manufacturer"], instance.patient) == ("東芝", "Ä-1")


def test_json_as_deep_as_it_can_be_is_cut() -> None:
    dataset: Any = {"00080060": {"vr": "CS", "Value": ["CT"]}}
    for _ in range(300):
        dataset = {"00081115": {"vr": "SQ", "Value": [dataset]}, "00080060": dataset["00080060"]}
    assert json_model.instance_of(dataset, "", str, False) is not None


# --- retrieving ---------------------------------------------------------------------------------


def test_instances_are_written_as_they_came_under_their_uids(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", k) for k in range(3)]
    files = open_at(port, tmp_path).retrieve(SERIES_1, tmp_path / "into")
    assert [file.name for file in files] == [f"1.2.1.{k}.dcm" for k in range(3)]
    assert [file.read_bytes() for file in files] == [as_bytes(ds) for ds in archive.instances]
    assert sorted((tmp_path / "into" / "instances").iterdir()) == list(files)


def test_a_server_that_knows_one_transfer_syntax_only_is_asked_for_that(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances, archive.syntaxes = [image("1.2.1")], False
    assert len(open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)) == 1
    assert sum("?" not in asked for asked in archive.asked) == 2


def test_the_first_of_two_instances_with_one_uid_counts(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", 0), image("1.2.1", 0, PixelData=b"\1" * 12)]
    archive.says_counts = False
    source = open_at(port, tmp_path)
    (file,) = source.retrieve(SERIES_1, tmp_path)
    assert file.read_bytes() == as_bytes(archive.instances[0])
    series = Series(**{**vars_of(SERIES_1), "instance_count": 2})
    with pytest.raises(Unavailable, match="sent 1 of 2 instances"):
        source.retrieve(series, tmp_path)


def vars_of(series: Series) -> dict[str, Any]:
    return {name: getattr(series, name) for name in Series.__slots__}


def test_fewer_instances_than_announced_are_unavailable_with_both_numbers(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1", k) for k in range(3)]
    (listing,) = open_at(port, tmp_path).find()
    archive.instances.pop()
    with pytest.raises(Unavailable, match="sent 2 of 3 instances"):
        open_at(port, tmp_path).retrieve(listing.series, tmp_path)


@pytest.mark.parametrize("says_counts", [True, False])
def test_a_part_of_a_series_is_not_taken_for_all_of_it(
    archive: Archive, port: int, tmp_path: Path, says_counts: bool
) -> None:
    """Also where nothing was announced: then the server is asked how many there are."""
    archive.instances = [image("1.2.1", k) for k in range(3)]
    archive.says_counts = says_counts
    some = in_parts([as_bytes(ds) for ds in archive.instances[:2]])
    kind = f'multipart/related; boundary="{BOUNDARY.decode()}"'
    archive.before = [(206, {"Content-Type": kind}, some)]
    with pytest.raises(Unavailable, match="sent 2 of 3 instances"):
        open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)
    archive.before = [(206, {}, b"[]")]
    with pytest.raises(Unavailable, match="a part of its JSON"):
        list(open_at(port, tmp_path).find())


def test_metadata_longer_than_is_held_counts_against_nobody(
    archive: Archive, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seg = image(
        "1.2.3", StudyInstanceUID="1.2.1.9", SOPClassUID=SegmentationStorage, Modality="SEG"
    )
    seg.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.1")]
    seg.ImageComments = "x" * 10_000
    archive.instances = [image("1.2.1"), seg]
    monkeypatch.setattr(connection_module, "MAX_JSON", 8_000)
    source = open_at(port, tmp_path)
    series = Series(**{**vars_of(SERIES_1), "segmentations": 1})
    for k in range(4):
        assert len(source.retrieve_segmentations(series, tmp_path / str(k))) == 1
        assert source.describe("1.2.3").instances == ()


def test_only_an_empty_answer_says_that_a_series_is_not_there(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    source = open_at(port, tmp_path)
    archive.instances = [image("1.2.1")]
    with pytest.raises(NotThere):
        source.describe("1.2.2")
    archive.relational = False
    with pytest.raises(Unavailable) as raised:
        source.describe("1.2.2")
    assert not isinstance(raised.value, NotThere)
    archive.before = [(500, {}, b"")]
    with pytest.raises(Unavailable) as raised:
        source.describe("1.2.2")
    assert not isinstance(raised.value, NotThere)


@pytest.mark.parametrize("kept", [10, 400, -3, -20])
def test_an_answer_that_ends_early_is_unavailable_and_leaves_nothing(
    archive: Archive, port: int, tmp_path: Path, kept: int
) -> None:
    archive.instances = [image("1.2.1", k) for k in range(2)]
    archive.body = lambda body: body[: len(body.rstrip()) + kept if kept < 0 else kept]
    with pytest.raises(Unavailable, match="ended its answer before the last part"):
        open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)
    assert list((tmp_path / "instances").iterdir()) == []


def test_a_connection_that_breaks_is_unavailable(tmp_path: Path) -> None:
    def write(connection: socket.socket) -> None:
        kind = b'multipart/related; boundary="x"'
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: " + kind)
        connection.sendall(b"\r\n\r\n--x\r\n\r\n" + bytes(100))

    with answering(write) as port, pytest.raises(Unavailable, match="broke off in the middle"):
        open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)


def test_another_series_or_no_dicom_is_unavailable(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image("1.2.1")]
    other = as_bytes(image("1.2.2"))
    for body, sentence in ((other, "of another series"), (b"<html>", "no DICOM")):
        archive.body = lambda _, body=body: in_parts([body])
        with pytest.raises(Unavailable, match=sentence):
            open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)
    page = (200, {"Content-Type": "text/html"}, b"<html>")
    archive.before = [page]
    with pytest.raises(Unavailable, match="'text/html' where instances"):
        open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)


def test_a_single_instance_may_come_without_parts(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.before = [(200, {"Content-Type": "application/dicom"}, as_bytes(image("1.2.1")))]
    assert len(open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)) == 1


def test_a_full_disk_is_unavailable_and_does_not_count_against_the_server(
    archive: Archive, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.instances = [image("1.2.1", k) for k in range(3)]
    replace_file = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "1.2.1.2.dcm":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", full)
    source = open_at(port, tmp_path)
    for _ in range(5):
        with pytest.raises(Unavailable, match="No space left") as raised:
            source.retrieve(SERIES_1, tmp_path)
        assert not isinstance(raised.value, Suspended)
    assert list((tmp_path / "instances").iterdir()) == []


def test_an_instance_larger_than_memory_may_be_is_never_held(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    import tracemalloc

    archive.instances = [image("1.2.1", PixelData=bytes(32 * 2**20))]
    body = archive.answer("/dicom-web/studies/1.2.1.9/series/1.2.1", {"Accept": ""})
    archive.before = [body]
    source = open_at(port, tmp_path)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        (file,) = source.retrieve(SERIES_1, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 32 * 2**20
    assert peak - before < 4 * 2**20


def test_a_segmentation_that_names_another_series_is_not_even_retrieved(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    seg = image(
        "1.2.3", StudyInstanceUID="1.2.1.9", SOPClassUID=SegmentationStorage, Modality="SEG"
    )
    seg.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.7")]
    archive.instances = [image("1.2.1"), seg]
    source = open_at(port, tmp_path)
    series = by_uid(source)["1.2.1"].series
    assert source.retrieve_segmentations(series, tmp_path) == []
    assert not [asked for asked in archive.asked if asked.endswith("series/1.2.3")]
    archive.metadata = False
    assert source.retrieve_segmentations(series, tmp_path) == []
    assert [asked for asked in archive.asked if asked.endswith("series/1.2.3")]


def test_a_segmentation_finds_its_series_by_images(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    seg = image(
        "1.2.3", StudyInstanceUID="1.2.1.9", SOPClassUID=SegmentationStorage, Modality="SEG"
    )
    derivation = item(SourceImageSequence=[item(ReferencedSOPInstanceUID="1.2.1.1")])
    seg.PerFrameFunctionalGroupsSequence = [item(DerivationImageSequence=[derivation])]
    other = image("1.2.4", StudyInstanceUID="1.2.1.9")
    archive.instances = [image("1.2.1", 0), image("1.2.1", 1), seg, other]
    source = open_at(port, tmp_path)
    listings = by_uid(source)
    (file,) = source.retrieve_segmentations(listings["1.2.1"].series, tmp_path)
    assert file.name == "1.2.3.0.dcm"
    assert source.retrieve_segmentations(listings["1.2.4"].series, tmp_path) == []


# --- parts --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50), st.binary(max_size=20))
def test_parts_are_what_was_sent_however_it_is_cut(
    contents: list[bytes], size: int, preamble: bytes
) -> None:
    contents = [content.replace(BOUNDARY, b"") for content in contents]
    body = preamble.replace(b"-", b"") + b"\r\n" + in_parts(contents)
    chunks = (body[k : k + size] for k in range(0, len(body), size))
    assert [b"".join(part) for part in multipart.parts(chunks, BOUNDARY, "pacs")] == contents


def test_parts_that_nobody_reads_are_passed_over() -> None:
    found = multipart.parts(iter([in_parts([b"a" * 100, b"b"])]), BOUNDARY, "pacs")
    assert sum(1 for _ in found) == 2


def test_headers_without_end_are_refused() -> None:
    endless = iter([b"--" + BOUNDARY + b"\r\n", *[b"x" * 10_000] * 10])
    with pytest.raises(Unavailable, match="pacs sends headers of a part"):
        list(multipart.parts(endless, BOUNDARY, "pacs"))


@pytest.mark.parametrize(
    "kind",
    ["multipart/related", 'multipart/related; boundary=""', f"multipart/x; boundary={'x' * 300}"],
)
def test_parts_without_boundary_are_refused(kind: str) -> None:
    with pytest.raises(Unavailable, match="does not say what stands between"):
        multipart.boundary_of(kind, "pacs")


# --- a server that does not answer well ---------------------------------------------------------

BUSY: Reply = (503, {}, b"")
EMPTY: Reply = (204, {}, b"")
DAY = Window(first=date(2026, 5, 1), last=date(2026, 5, 1))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    archive: Archive, port: int, tmp_path: Path, status: int
) -> None:
    archive.instances = [image("1.2.1")]
    archive.before = [(status, {"Retry-After": "0"}, b"")] * 3
    assert len(list(open_at(port, tmp_path).find(window=DAY))) == 1
    archive.before = [(status, {}, b"")] * 4
    with pytest.raises(Unavailable, match=f"answers {status} .*, asked 4 times"):
        list(open_at(port, tmp_path).find(window=DAY))


def test_a_server_that_says_when_is_asked_then(archive: Archive, port: int, tmp_path: Path) -> None:
    archive.before = [(503, {"Retry-After": "1"}, b"")]
    begun = time.monotonic()
    list(open_at(port, tmp_path).find(window=DAY))
    assert time.monotonic() - begun > 1
    at = datetime.now(UTC) + timedelta(hours=1)
    for said in ("3600", f"{at:%a, %d %b %Y %H:%M:%S} GMT"):
        archive.before = [(429, {"Retry-After": said}, b"")]
        with pytest.raises(Suspended, match="wants to be asked again") as raised:
            list(open_at(port, tmp_path).find(window=DAY))
        assert abs((raised.value.until - at).total_seconds()) < 30


@pytest.mark.parametrize("status", [500, 401])
def test_a_server_that_fails_again_and_again_is_left_alone(
    archive: Archive, port: int, tmp_path: Path, status: int
) -> None:
    archive.before = [(status, {}, b"")] * 3
    for _ in range(3):
        with pytest.raises(Unavailable, match=f"answers {status}"):
            list(open_at(port, tmp_path).find(window=DAY))
    asked = len(archive.asked)
    with pytest.raises(Suspended, match=str(status)):
        list(open_at(port, tmp_path).find(window=DAY))
    assert len(archive.asked) == asked


def test_a_series_that_is_gone_does_not_count_against_the_server(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    source = open_at(port, tmp_path)
    for _ in range(5):
        with pytest.raises(Unavailable, match=r"has no series 1\.2\.1") as raised:
            source.retrieve(SERIES_1, tmp_path)
        assert not isinstance(raised.value, Suspended)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((401, {}, b""), "does not accept who we are"),
        ((403, {}, b""), "does not permit this"),
        ((404, {}, b""), "no such thing at this address"),
        ((302, {"Location": "https://login.example/?who=Doe"}, b""), "sends us to https://login"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "no JSON but text/html"),
        ((200, {}, b'["x"]'), "no list of DICOM datasets"),
        ((200, {}, b'"x"'), "no list of DICOM datasets"),
        ((200, {}, b"[" * 100_000), "no JSON"),
    ],
)
def test_a_refusal_is_explained_and_never_taken_for_an_empty_archive(
    archive: Archive, port: int, tmp_path: Path, reply: Reply, sentence: str
) -> None:
    archive.before = [reply] * 3
    with pytest.raises(Unavailable, match=sentence) as raised:
        list(open_at(port, tmp_path).find())
    assert "Doe" not in str(raised.value)


def test_nobody_there_is_unavailable_at_once(tmp_path: Path) -> None:
    with answering(lambda _: None) as port:
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        list(open_at(port, tmp_path).find())


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with answering(lambda _: time.sleep(3)) as port:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"fell silent for 0\.2 s"):
            list(open_at(port, tmp_path, "read_s=0.2").find())
    assert time.monotonic() - begun < 2


def test_a_server_that_drips_is_given_up(tmp_path: Path) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.02)

    with answering(drip) as port:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"not done with its answer after 0\.5 s"):
            list(open_at(port, tmp_path, "total_s=0.5").find())
    assert time.monotonic() - begun < 2


def test_an_answer_that_does_not_fit_into_memory_is_refused(
    archive: Archive, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_JSON", 1000)
    archive.before = [(200, {}, b" " * 1001)]
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        list(open_at(port, tmp_path).find())


def test_nothing_of_a_patient_is_logged(
    archive: Archive, port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    archive.instances = [image("1.2.1")]
    source = open_at(port, tmp_path)
    (listing,) = source.find()
    source.describe("1.2.1")
    source.retrieve(listing.series, tmp_path)
    assert caplog.text  # urllib3 says what it asks for
    for secret in (PATIENT, NAME, DESCRIPTION):
        assert secret not in caplog.text


# --- who asks -----------------------------------------------------------------------------------


def test_credentials_come_from_where_they_are_kept(
    archive: Archive, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS", "pä:ss")
    (tmp_path / "token").write_text("abc\n")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    url = f"dicomweb+http://r%C3%B6bel@127.0.0.1:{port}/dicom-web?password=env:PACS"
    source = open_source(url, pseudonymize=pseudonym, state=tmp_path)
    list(source.find(window=DAY))
    list(open_at(port, tmp_path, f"token=file:{tmp_path}/token").find(window=DAY))
    list(open_at(port, tmp_path).find(window=DAY))
    shown = [headers.get("Authorization") for headers in archive.headers]
    assert shown == ["Basic csO2YmVsOnDDpDpzcw==", "Bearer abc", None]
    assert source.url == f"dicomweb+http://r%C3%B6bel@127.0.0.1:{port}/dicom-web"


def test_a_proxy_of_the_environment_is_not_used_and_a_named_one_is(
    archive: Archive, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    list(open_at(port, tmp_path).find(window=DAY))
    other = f"dicomweb+http://10.255.255.1/dicom-web?insecure=yes&proxy=http://127.0.0.1:{port}"
    source = open_source(other, pseudonymize=pseudonym, state=tmp_path)
    list(source.find(window=DAY))
    assert archive.asked[-1].startswith("http://10.255.255.1/dicom-web/studies?")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("dicomweb+http://pacs.example/x", "plain text"),
        ("dicomweb+https:///x", "no host"),
        ("dicomweb+https://me:topsecret@pacs/x", "no place in a URL"),
        ("dicomweb+https://me@pacs/x", "a user goes into the URL"),
        ("dicomweb+https://pacs/x?password=env:HOME", "a user goes into the URL"),
        ("dicomweb+https://me@pacs/x?password=env:HOME&token=env:HOME", "one of them"),
        ("dicomweb+https://pacs/x?token=env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
        ("dicomweb+https://pacs/x?ca=/nowhere.pem", "ca=/nowhere.pem cannot be read"),
        ("dicomweb+https://pacs/x?proxy=http://a:topsecret@b", "a proxy with a password"),
        ("dicomweb+https://pacs/x?verify=no", "verify"),
        ("dicomweb+https://pacs/x?page=0", "page"),
    ],
)
def test_settings_that_make_no_sense_are_refused_without_quoting_secrets(
    url: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=sentence) as raised:
        open_source(url, pseudonymize=pseudonym, state=tmp_path)
    assert "topsecret" not in str(raised.value)


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[str, Archive]]:
    """URL of a server that asks for a certificate, and what it holds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    archive = Archive(instances=[image("1.2.1")])
    with serving(archive, context) as port:
        yield f"dicomweb+https://127.0.0.1:{port}/dicom-web?", archive


def open_tls(url: str, tmp_path: Path) -> DicomWebSource:
    source = open_source(url, pseudonymize=pseudonym, state=tmp_path / "state")
    assert isinstance(source, DicomWebSource)
    return source


def test_both_sides_show_certificates(
    tls: tuple[str, Archive], authority: trustme.CA, tmp_path: Path
) -> None:
    url, _ = tls
    own = authority.issue_cert("tomodex.example")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    source = open_tls(f"{url}ca={tmp_path}/ca.pem&cert={tmp_path}/own.pem", tmp_path)
    assert len(by_uid(source)) == 1
    found = {probe.subject: probe for probe in source.probe()}
    assert "valid for" in found["TLS certificate"].sentence
    with pytest.raises(Unavailable):
        list(open_tls(f"{url}ca={tmp_path}/ca.pem", tmp_path).find(window=DAY))


def test_a_certificate_of_nobody_we_know_is_not_trusted(
    tls: tuple[str, Archive], tmp_path: Path
) -> None:
    url, archive = tls
    with pytest.raises(Unavailable, match=r"not trusted .*ca=FILE"):
        list(open_tls(url, tmp_path).find())
    assert archive.asked == []


# --- doctor -------------------------------------------------------------------------------------


def probes(source: DicomWebSource) -> dict[str, tuple[str, str]]:
    found = list(source.probe())
    assert all(probe.advice for probe in found if probe.verdict != "ok")
    return {probe.subject: (probe.verdict, probe.sentence) for probe in found}


def test_a_server_that_is_well_has_nothing_to_be_done(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.instances = [image(f"1.2.{k}") for k in range(30)]
    found = probes(open_at(port, tmp_path))
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert set(found) == {"QIDO-RS", "clock", "answer limit", "series search", "WADO-RS"}


def test_what_a_server_lacks_is_said(archive: Archive, port: int, tmp_path: Path) -> None:
    archive.instances = [image(f"1.2.{k}") for k in range(120)]
    archive.cap, archive.relational = 50, False
    found = probes(open_at(port, tmp_path))
    assert found["answer limit"] == (
        "ok",
        "it gives 50 answers at once, though 500 were asked for; paging works",
    )
    assert found["series search"][0] == "doubtful"
    archive.pages, archive.cap = False, 100
    assert probes(open_at(port, tmp_path))["answer limit"][0] == "wrong"


def test_a_server_that_cannot_be_searched_is_wrong(
    archive: Archive, port: int, tmp_path: Path
) -> None:
    archive.before = [(401, {}, b"")]
    ((subject, (verdict, sentence)),) = probes(open_at(port, tmp_path)).items()
    assert (subject, verdict) == ("QIDO-RS", "wrong")
    assert "answers 401 (Unauthorized): it does not accept who we are" in sentence


def test_a_clock_that_is_wrong_is_noticed(archive: Archive, port: int, tmp_path: Path) -> None:
    archive.before = [(200, {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}, b"[]")]
    assert probes(open_at(port, tmp_path))["clock"][0] == "doubtful"


def test_files_that_were_retrieved_are_read(archive: Archive, port: int, tmp_path: Path) -> None:
    archive.instances = [image("1.2.1", k) for k in range(3)]
    files = open_at(port, tmp_path).retrieve(SERIES_1, tmp_path)
    assert {one.series_uid for file in files if (one := read_instance(file, str))} == {"1.2.1"}
