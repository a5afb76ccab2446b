"""DICOM objects into a PACS by C-STORE (PS3.4 B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import build_context

from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.dicom_header import Subject, subject_of
from tomodex.probe import Probe
from tomodex.sources.dimse.association import (
    FIND,
    VERIFICATION,
    NothingTaken,
    associated,
    query_contexts,
)
from tomodex.sources.dimse.options import options_of, peer_of
from tomodex.sources.dimse.statuses import describe_status
from tomodex.sources.gate import Gate

#: Instances of one series that are asked for at most.
MOST_INSTANCES = 20_000

#: Label Map Segmentation Storage, of 2024: many archives do not know it yet.
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

#: PS3.4 B.2.3: taken as it is, or with a remark; there already (PS3.7 C.4.3) is as good.
_TAKEN = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})
_NO_ROOM = frozenset(range(0xA700, 0xA800))

_OF_STUDY = (
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
)


class CStoreStore:
    """`dimse://OUR_AE@host:port/PACS_AE`"""

    only_dicom = True

    def __init__(self, url: str, *, state: Path) -> None:
        self._peer, self._options = peer_of(url), options_of(url)
        self.url = self._peer.url
        self._gate = Gate(self.url, state, self._options)

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        for file in files:
            self._send(file)
        return [self.url for _ in files]

    def known(
        self, study_uid: str, series_uid: str
    ) -> tuple[Subject, Sequence[tuple[str, str]]] | None:
        """What C-FIND says of a series and its study."""
        of_study = _keys("STUDY", StudyInstanceUID=study_uid)
        for keyword in _OF_STUDY:
            setattr(of_study, keyword, "")
        of_images = _keys("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid)
        of_images.SOPInstanceUID = of_images.SOPClassUID = ""
        with (
            self._gate.passing(),
            associated(self._peer, self._options, query_contexts(FIND)) as line,
        ):
            studies = line.find(of_study, 2).identifiers
            if len(studies) != 1:
                return None
            images = line.find(of_images, MOST_INSTANCES).identifiers
        pairs = [(_text(one, "SOPClassUID"), _text(one, "SOPInstanceUID")) for one in images]
        subject = subject_of(lambda keyword: _text(studies[0], keyword), study_uid)
        return (subject, [pair for pair in pairs if all(pair)]) if images else None

    def probe(self) -> Iterator[Probe]:
        """Whether it answers C-ECHO; whether it takes objects, only C-STORE tells."""
        try:
            with associated(self._peer, self._options, query_contexts(VERIFICATION)) as line:
                line.echo()
        except (Unavailable, Misconfigured) as wrong:
            yield Probe(subject="C-STORE", verdict="wrong", sentence=str(wrong))
        else:
            yield Probe(subject="C-STORE", verdict="ok", sentence=f"{self._peer} answers C-ECHO")

    def close(self) -> None:
        """No association is kept open."""

    def _send(self, file: Path) -> None:
        ds = dcmread(file)
        syntax = ds.file_meta.TransferSyntaxUID
        offered = [build_context(ds.SOPClassUID, list(_NATIVE))]
        if syntax not in _NATIVE:
            # Of its own, as an archive chooses one for each context.
            offered.insert(0, build_context(ds.SOPClassUID, [syntax]))
        try:
            with self._gate.passing(), associated(self._peer, self._options, offered) as line:
                if not line.takes(ds.SOPClassUID, syntax):
                    _unpack(ds, syntax)
                self._judge(line.store(ds))
        except NothingTaken as unknown:
            kind = f"objects of class {ds.SOPClassUID.name}"
            if ds.SOPClassUID == LABEL_MAP:
                kind = "segmentations as label maps; older archives take seg-binary"
            raise Unsuitable("refused", f"{self._peer} takes no {kind}") from unknown

    def _judge(self, status: int) -> None:
        if status in _TAKEN:
            return
        said = f"{self._peer} answers C-STORE with {describe_status(status)}"
        if status in _NO_ROOM:
            raise Unavailable(said)
        raise Unsuitable("refused", said)


def _unpack(ds: Dataset, syntax: UID) -> None:
    """The object as every archive takes it."""
    if syntax == RLELossless:
        ds.decompress()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _keys(level: str, **known: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    for keyword, value in known.items():
        setattr(keys, keyword, value)
    return keys


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "")
