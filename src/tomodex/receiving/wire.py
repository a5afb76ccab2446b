"""pynetdicom's server, made fit for strangers: bounds on what a peer can make it read, hold, await.

As it comes, it reads as many bytes as a PDU claims to have, holds every data set in memory, lets a
peer that is silent within a PDU or a TLS handshake stop its thread, and lets one that does not wait
for answers fill the memory.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from socket import socket as Socket
from tempfile import TemporaryFile
from typing import IO, Any, cast

from pynetdicom import _config
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

log = logging.getLogger(__name__)

#: The largest P-DATA PDU we ask for; DCMTK sends 128 KiB at most, dcm4che what it is allowed.
PDU_BYTES = 256 * 2**10

#: The largest PDU we read: an A-ASSOCIATE-RQ with 128 contexts of 40 syntaxes has 350 kB.
MOST_PDU_BYTES = 2**20

#: A command set has some 200 bytes.
MOST_COMMAND_BYTES = 2**16

#: A data set up to here is held in memory, of each association: eight slices of CT.
HELD_BYTES = 4 * 2**20

#: Requests that wait in one association while another is answered; a peer has to wait itself.
MOST_WAITING = 2

#: A peer that is silent for so long within a PDU is gone.
SILENCE_S = 60.0

#: The longest that one PDU may take, however slowly it trickles.
PDU_S = 120.0

#: A connection may be open for so many times the associations, most of which are then refused.
CONNECTIONS_TIMES = 4


def keep_quiet() -> None:
    """Keep pynetdicom from logging: its lines and tracebacks quote what a peer has sent."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


class Arriving(BytesIO):
    """A data set that is arriving: in memory while it is small, in a file when it is not.

    A write that fails is remembered, not raised: the request has to be read to its end before it
    can be answered.
    """

    def __init__(self, folder: Path, may_grow: Callable[[], bool]) -> None:
        super().__init__()
        self._folder = folder
        self._may_grow = may_grow
        self._file: IO[bytes] | None = None
        self.failure: OSError | None = None
        self.full = False  #: there was no more room for it than the site wants to keep free

    def write(self, data: Any, /) -> int:
        if self.failure or self.full:
            return len(data)
        if self._file is None and self.tell() + len(data) <= HELD_BYTES:
            return super().write(data)
        try:
            self._spill(data)
        except OSError as failure:
            self.failure = failure
        if self.failure or self.full:
            self._forget()
        return len(data)

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed in `close`
            self._file.write(self.getbuffer())
            self.seek(0)
            self.truncate()
        self.full = not self._may_grow()
        if not self.full:
            self._file.write(data)

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self.seek(0)
        self.truncate()

    def read_again(self) -> IO[bytes]:
        """What has arrived, from its beginning."""
        stream: IO[bytes] = self if self._file is None else self._file
        stream.seek(0)
        return stream

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def __del__(self) -> None:
        self.close()  # of an association that ended in the middle


class Bounded(BytesIO):
    """A command set that is arriving."""

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > MOST_COMMAND_BYTES:
            raise ValueError("a command set is too long")
        return super().write(data)


class Provider(DIMSEServiceProvider):
    """Puts messages together from what arrives, within bounds; ends what is none."""

    def __init__(self, association: Any, arriving: Callable[[], BytesIO]) -> None:
        super().__init__(association)
        self._arriving = arriving

    def receive_primitive(self, primitive: Any) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = Bounded()
            self.message.data_set = self._arriving()
        try:
            super().receive_primitive(primitive)
        except Exception as bad:  # noqa: BLE001 - a stranger's bytes end his association, not ours
            log.warning("not DICOM", extra={"peer": _peer(self.assoc), "why": type(bad).__name__})
            self._end()
        if self.msg_queue.qsize() > MOST_WAITING:
            log.warning("does not wait", extra={"peer": _peer(self.assoc)})
            self._end()

    def _end(self) -> None:
        self.dul.event_queue.put("Evt19")  # as for an invalid PDU (PS3.8 9.2.3): A-ABORT


class Handler(RequestHandler):
    """Makes an association of each connection, with the bounds of this module."""

    server: Server

    def _create_association(self) -> Any:
        self.request.settimeout(SILENCE_S)
        association = super()._create_association()
        association.dimse = Provider(association, self.server.arriving)
        socket: Any = association.dul.socket
        socket.recv = partial(receive, socket)
        return association


class Server(ThreadedAssociationServer):
    """Accepts connections and never waits for one of them."""

    daemon_threads = True

    def __init__(self, *args: Any, arriving: Callable[[], BytesIO], **kwargs: Any) -> None:
        self.arriving = arriving
        super().__init__(*args, **{**kwargs, "request_handler": Handler})

    def get_request(self) -> tuple[Socket, Any]:
        connection, address = cast(Socket, self.socket).accept()
        if self.ssl_context is not None:
            connection.settimeout(SILENCE_S)
            # The handshake is made by the association's own thread, when it reads.
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        most = CONNECTIONS_TIMES * self.ae.maximum_associations
        return len(self.active_associations) < most

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("connection failed", extra={"peer": client_address[0]}, exc_info=True)


def receive(socket: Any, wanted: int) -> bytearray:
    """So many bytes from a peer, or fewer if it closes the connection.

    Raises:
        OSError: more are asked for than any PDU needs, or they do not come in time.
    """
    if wanted > MOST_PDU_BYTES:
        raise OSError("a PDU claims more bytes than are taken")
    received = bytearray(wanted)
    at, end = 0, time.monotonic() + PDU_S
    with memoryview(received) as view:
        while at < wanted:
            if time.monotonic() > end:
                raise TimeoutError("a PDU takes too long")
            count = socket.socket.recv_into(view[at:])
            if not count:
                break
            at += count
    del received[at:]
    return received


def tls_of(certificate: Path, key: Path | None, peers: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer (PS3.15 B.12); with `peers`, only for those whose certificate it signs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=peers)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if peers is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _peer(association: Any) -> str:
    return str(association.requestor.address)
