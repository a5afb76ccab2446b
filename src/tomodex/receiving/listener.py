"""The storage SCP: takes what others push (C-STORE), and says success once it is safe on disk.

What can be decoded is taken as it is encoded; the bytes of a data set are written as they came.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer
from typing import IO, Any, cast

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts

from tomodex.errors import Misconfigured, Unsuitable
from tomodex.header import read_header
from tomodex.pixels import TRANSFER_SYNTAXES
from tomodex.receiving.conversation import IDLE_S, PDU_BYTES, Pushed
from tomodex.receiving.wire import Peer, Server, keep_quiet, tls_of
from tomodex.sources.spool_folder import Spool, is_uid

log = logging.getLogger(__name__)

#: Of this program; drawn once (PS3.5 B.2).
IMPLEMENTATION_UID = "2.25.291740374420311478250914013512905937911"
IMPLEMENTATION = "TOMODEX"

#: Answers to C-STORE (PS3.4 B.2.3).
SUCCESS, OUT_OF_RESOURCES, OTHER_CLASS, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000

#: How long associations may go on when we are asked to end.
FINISH_S = 10.0

#: What `OSError` says where there is no room.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

#: Bytes of an instance after which the room on the disk is looked at again.
LOOK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where others push to, and who may."""

    host: str
    port: int  #: 0: any that is free
    aet: str  #: our AE title, which others have to call
    allow: tuple[str, ...] = ()  #: AE titles that may call; empty: any
    associations: int = 10  #: at once
    reserve_bytes: int = 0  #: of the disk that are left free: nothing is taken beyond
    certificate: Path | None = None  #: PEM; None: no TLS
    key: Path | None = None  #: PEM; None: it is in `certificate`
    peers: Path | None = None  #: PEM of who signs certificates of others; None: they need none


@dataclass(slots=True)
class Counts:
    """What was received since the start; several associations count at once."""

    received: int = 0  #: instances answered with success
    bytes: int = 0
    same: int = 0  #: of those, that were here already
    replaced: int = 0  #: of those, that were here with another content
    refused: dict[str, int] = field(default_factory=dict)  #: by the answer's code
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, status: int, size: int = 0, kept: str = "") -> None:
        """Count one answer."""
        with self._lock:
            if status != SUCCESS:
                code = f"0x{status:04X}"
                self.refused[code] = self.refused.get(code, 0) + 1
                return
            self.received += 1
            self.bytes += size
            self.same += kept == "same"
            self.replaced += kept == "replaced"

    @property
    def summary(self) -> dict[str, Any]:
        """The counts for a program."""
        with self._lock:
            return {
                name: getattr(self, name) for name in ("received", "bytes", "same", "replaced")
            } | {"refused": dict(self.refused)}


@contextmanager
def listening(door: Door, spool: Spool, counts: Counts) -> Iterator[int]:
    """Receive into the spool while the context lasts; gives the port.

    Raises:
        Misconfigured: the port is taken, the AE title is none, or the certificate cannot be used.
    """
    keep_quiet()
    server = _server(door, spool, counts)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        _end(server)
        thread.join()


def _server(door: Door, spool: Spool, counts: Counts) -> Server:
    tls = None
    if door.certificate is not None:
        try:
            tls = tls_of(door.certificate, door.key, door.peers)
        except OSError as wrong:  # ssl.SSLError is one
            raise Misconfigured(
                f"cannot use the certificate {door.certificate}: {wrong}"
            ) from wrong
    try:
        server = _entity(door).make_server(
            (door.host, door.port),
            ssl_context=tls,
            server_class=Server,
            take=partial(_answer, spool, door, counts),
        )
    except OSError as refused:
        raise Misconfigured(
            f"cannot listen on {door.host}:{door.port}: {refused.strerror}"
        ) from refused
    return cast(Server, server)


def _entity(door: Door) -> AE:
    try:
        entity = AE(ae_title=door.aet)
        entity.require_calling_aet = list(door.allow)
    except (ValueError, TypeError) as wrong:
        raise Misconfigured(f"an AE title has 1 to 16 characters of ASCII: {wrong}") from wrong
    entity.require_called_aet = True
    entity.implementation_class_uid = IMPLEMENTATION_UID
    entity.implementation_version_name = IMPLEMENTATION
    entity.maximum_associations = door.associations
    entity.maximum_pdu_size = PDU_BYTES
    entity.network_timeout = IDLE_S
    syntaxes = sorted(TRANSFER_SYNTAXES)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), syntaxes)
    entity.supported_contexts += VerificationPresentationContexts
    return entity


def _end(server: Server) -> None:
    """Take no more associations, let those that go on come to an end for a while, then abort."""
    BaseServer.shutdown(server)
    server.server_close()
    end = time.monotonic() + FINISH_S
    while server.active_associations and time.monotonic() < end:
        time.sleep(0.05)
    server.end_all()


def _has_room(spool: Spool, door: Door) -> bool:
    return shutil.disk_usage(spool.root).free > door.reserve_bytes


# --- answering ----------------------------------------------------------------------------------


def _answer(spool: Spool, door: Door, counts: Counts, peer: Peer, pushed: Pushed) -> int:
    """Keep one instance, and say what came of it."""
    begin = time.monotonic()
    try:
        status = _keep(pushed, spool, door, counts)
    except OSError as failed:
        log.error(  # noqa: TRY400 - not a bug of ours
            "no room" if failed.errno in NO_ROOM else "not kept",
            extra={"peer": peer.address, "aet": peer.aet, "why": failed.strerror},
        )
        status = OUT_OF_RESOURCES
    if status != SUCCESS:
        counts.count(status)
    facts = {"peer": peer.address, "aet": peer.aet, "status": f"0x{status:04X}"}
    log.debug("answered", extra=facts | {"seconds": round(time.monotonic() - begin, 4)})
    return status


def _keep(pushed: Pushed, spool: Spool, door: Door, counts: Counts) -> int:
    if not is_uid(pushed.sop_instance):
        return NOT_UNDERSTOOD
    descriptor, arrived = spool.arrive()
    try:
        with os.fdopen(descriptor, "w+b") as file:
            _write(file, pushed, partial(_require_room, spool, door))
            size = file.tell()
            series_uid, status = _judge(file, pushed)
            if status != SUCCESS:
                return status
            os.fsync(file.fileno())
        kept = spool.keep(arrived, series_uid, pushed.sop_instance)
    finally:
        arrived.unlink(missing_ok=True)
    counts.count(SUCCESS, size, kept)
    return SUCCESS


def _write(file: IO[bytes], pushed: Pushed, require_room: Callable[[], None]) -> None:
    """A file as PS3.10 7.1 wants it, always the same one of the same data set."""
    uid = pushed.sop_instance
    meta = _meta(pushed.sop_class, pushed.syntax, len(uid))
    require_room()
    file.write(meta.replace(_stand_in(len(uid)).encode(), uid.encode()))
    unseen = 0
    for piece in pushed.pieces:
        unseen += file.write(piece)
        if unseen > LOOK_BYTES:
            require_room()
            unseen = 0
    file.flush()


def _require_room(spool: Spool, door: Door) -> None:
    if not _has_room(spool, door):
        raise OSError(errno.ENOSPC, f"less than {door.reserve_bytes} bytes would be left free")


@lru_cache(maxsize=512)
def _meta(sop_class: str, syntax: str, uid_length: int) -> bytes:
    """What stands before the data set, for a SOP Instance UID of that length.

    Made anew for each instance, it would take as long as reading its header (0.5 ms, measured).
    """
    meta: Any = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    stand_in = _stand_in(uid_length)
    meta.add(DataElement("MediaStorageSOPInstanceUID", "UI", stand_in, validation_mode=IGNORE))
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = IMPLEMENTATION
    written = BytesIO()
    written.write(bytes(128) + b"DICM")
    write_file_meta_info(cast(DicomIO, written), meta)
    return written.getvalue()


def _stand_in(length: int) -> str:
    """What is replaced by a UID of that length, and is none itself."""
    return "?" * length


def _judge(file: IO[bytes], pushed: Pushed) -> tuple[str, int]:
    """The series that an instance belongs to, and what to answer if it cannot be kept."""
    file.seek(0)
    try:
        header = read_header(file)
    except Unsuitable:
        header = None
    if header is None:
        return "", NOT_UNDERSTOOD
    said = [header.elements.text(name) for name in ("SOPClassUID", "SOPInstanceUID")]
    if said != [pushed.sop_class, pushed.sop_instance]:
        return "", OTHER_CLASS
    series_uid = header.elements.text("SeriesInstanceUID")
    return (series_uid, SUCCESS) if is_uid(series_uid) else ("", NOT_UNDERSTOOD)
