"""DICOM objects into an archive by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import IO

import orjson
import requests
import urllib3

from tomodex.errors import Misconfigured, NotThere, Unavailable, Unsuitable
from tomodex.formats.dicom_header import Subject, subject_of
from tomodex.options import read_options
from tomodex.probe import Probe
from tomodex.sources.dicomweb.connection import (
    ATTEMPTS,
    BUSY,
    FIRST_WAIT_S,
    Connection,
    DicomWebOptions,
    Refused,
)
from tomodex.sources.dicomweb.json_model import Json
from tomodex.sources.gate import Gate

#: Bytes of an answer that are looked at: it names the objects that are refused.
MAX_ANSWER = 2**20

#: What an archive answers that does not let us in, or not do that.
OURS = frozenset({401, 403, 404, 405, 407, 415})

#: Of a warning, not a failure: the archive has the object already, or changed some of it.
_KEPT = frozenset({0x0111, 0xB000, 0xB006, 0xB007})

_DICOM = "application/dicom"
_JSON = "application/dicom+json"


class StowStore:
    """`dicomweb+https://user@host/dicom-web?password=file:/run/secrets/pacs`"""

    only_dicom = True

    def __init__(self, url: str, *, state: Path) -> None:
        options = read_options(url, DicomWebOptions)
        self._connection = _Writable(url, options, Gate(url.partition("?")[0], state, options))
        self.url = self._connection.url

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        for file in files:
            self._connection.store(file)
        return [self.url for _ in files]

    def known(
        self, study_uid: str, series_uid: str
    ) -> tuple[Subject, Sequence[tuple[str, str]]] | None:
        """What QIDO-RS says of a series and its study."""
        try:
            studies = self._connection.json("studies", {"StudyInstanceUID": study_uid, **_ASKED})
            instances = self._connection.json(f"studies/{study_uid}/series/{series_uid}/instances")
        except (NotThere, Refused):
            return None
        if not studies or not instances:
            return None
        subject = subject_of(lambda keyword: _text(studies[0], keyword), study_uid)
        pairs = [(_text(one, "SOPClassUID"), _text(one, "SOPInstanceUID")) for one in instances]
        return subject, [pair for pair in pairs if all(pair)]

    def probe(self) -> Iterator[Probe]:
        """Whether it answers; whether it may be written to, only a write tells."""
        try:
            self._connection.json("studies", {"limit": "1"})
        except (Unavailable, Misconfigured) as wrong:
            yield Probe(subject="STOW-RS", verdict="wrong", sentence=str(wrong))
        else:
            yield Probe(subject="STOW-RS", verdict="ok", sentence=f"{self.url} answers")

    def close(self) -> None:
        """Give back its connections."""
        self._connection.close()


_ASKED = {
    "includefield": [
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
    ]
}


def _text(dataset: Json, keyword: str) -> str:
    """The only value of an element in DICOM's JSON model (PS3.18 F.2), as text; "": none."""
    from pydicom.datadict import tag_for_keyword

    element = dataset.get(f"{tag_for_keyword(keyword):08X}")
    values = element.get("Value") if isinstance(element, Mapping) else None
    value = values[0] if isinstance(values, list) and len(values) == 1 else ""
    if isinstance(value, Mapping):  # a person's name, in up to three ways of writing
        groups = [str(value.get(k, "")) for k in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


class _Writable(Connection):
    def store(self, file: Path) -> None:
        """Store one object; one that is there already is stored.

        Raises:
            Unavailable: the archive does not answer or has no room.
            Unsuitable: it refuses this object ("refused").
            Misconfigured: it refuses us.
        """
        wait_s = FIRST_WAIT_S
        for attempt in range(1, ATTEMPTS + 1):
            with self._gate.passing():
                status, answer = self._post(file)
            if status not in BUSY:
                return self._judge(status, answer)
            if attempt < ATTEMPTS:
                time.sleep(wait_s)
                wait_s *= 2
        raise Unavailable(f"{self.url} answers {status}, asked {ATTEMPTS} times")

    def close(self) -> None:
        self._session.close()

    def _post(self, file: Path) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        kind = f'multipart/related; type="{_DICOM}"; boundary={boundary}'
        with ExitStack() as opened:
            body = opened.enter_context(file.open("rb"))
            try:
                answer = opened.enter_context(
                    self._session.post(
                        f"{self._base}/studies",
                        data=_Parts(body, boundary),
                        headers={"Content-Type": kind, "Accept": _JSON},
                        timeout=(self._options.connect_s, self._options.read_s),
                        stream=True,
                        allow_redirects=False,
                    )
                )
                return answer.status_code, answer.raw.read(MAX_ANSWER, decode_content=True)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as wrong:
                raise Unavailable(f"{self.url} {self._plain(wrong)}") from wrong

    def _judge(self, status: int, answer: bytes) -> None:
        if status in OURS:
            raise Misconfigured(
                f"{self.url} answers {status} to STOW-RS: check its address, and what the user or "
                "token may do there"
            )
        reasons = _failures(answer)
        if reasons - _KEPT or (status == HTTPStatus.CONFLICT and not reasons):
            shown = ", ".join(f"{reason:04X}H" for reason in sorted(reasons)) or "no reason"
            raise Unsuitable("refused", f"{self.url} refuses the object: {shown}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"{self.url} answers {status} to STOW-RS")
        if status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED) and not reasons:
            raise Unsuitable("refused", f"{self.url} answers {status} to STOW-RS")


def _failures(answer: bytes) -> set[int]:
    """Failure reasons (PS3.4 Table B.2-1) of an answer; none where it is no JSON."""
    try:
        said = orjson.loads(answer)
        failed = said.get("00081198", {}).get("Value", [])
        return {int(one["00081197"]["Value"][0]) for one in failed}
    except (orjson.JSONDecodeError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return set()


class _Parts:
    """The body of a request with one object, read as it is sent."""

    def __init__(self, file: IO[bytes], boundary: str) -> None:
        head = f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode()
        self._pieces = (head, file, f"\r\n--{boundary}--\r\n".encode())
        size = file.seek(0, 2)
        file.seek(0)
        self._left = size + len(self._pieces[0]) + len(self._pieces[2])
        self._stage = 0
        self._held = head

    def __len__(self) -> int:
        return self._left

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        _, file, tail = self._pieces
        if self._stage == 0:
            self._stage = 1
            return self._held
        if self._stage == 1:
            if piece := file.read(size):
                return piece
            self._stage = 2
            return tail
        return b""
