"""pynetdicom's server, made fit for strangers: bounds on what a peer can make it read or await.

As it comes, it reads as many bytes as a PDU claims to have, and lets a peer that is silent within a
PDU or a TLS handshake stop its thread. It is left with what it is good at, which is to negotiate;
once an association is established, conversation.py has it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import socket as Socket
from typing import Any, cast

from pynetdicom import _config
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from tomodex.receiving.conversation import (
    MOST_PDU_BYTES,
    PDU_S,
    SILENCE_S,
    Context,
    Conversation,
    Ended,
    NotDicom,
    Pushed,
)

log = logging.getLogger(__name__)

#: A connection may be open for so many times the associations, most of which are then refused.
CONNECTIONS_TIMES = 4

#: Seconds between two looks at whether pynetdicom has sent that it accepts.
LOOK_S = 0.001

#: Of pynetdicom's state machine: ready for data (PS3.8 9.2.1).
_ESTABLISHED = "Sta6"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who pushes."""

    address: str
    aet: str


#: Keeps an instance that a peer pushes, and returns what to answer; see `conversation.Take`.
TakeFrom = Callable[[Peer, Pushed], int]


def keep_quiet() -> None:
    """Keep pynetdicom from logging: its lines and tracebacks quote what a peer has sent."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


class Contexts(list[PresentationContext]):
    """Presentation contexts that all associations share, since acceptors only read them.

    pynetdicom copies them for each association, which takes 0.2 s for all storage classes.
    """

    def __deepcopy__(self, memo: object) -> Contexts:
        return self


class Handler(RequestHandler):
    """Makes an association of each connection, with the bounds of this module."""

    server: Server

    def _create_association(self) -> Any:
        self.request.settimeout(SILENCE_S)
        association: Any = super()._create_association()
        socket: Any = association.dul.socket
        socket.recv = partial(receive, socket)
        association.dul._is_transport_event = partial(
            _read_unless_established, association.dul, association.dul._is_transport_event
        )
        association._run_reactor = partial(self.server.converse, association)
        return association


class Server(ThreadedAssociationServer):
    """Accepts connections and never waits for one of them."""

    daemon_threads = True

    def __init__(self, *args: Any, take: TakeFrom, **kwargs: Any) -> None:
        self._take = take
        self._conversations: dict[Any, Conversation] = {}
        super().__init__(*args, **{**kwargs, "request_handler": Handler})
        self.contexts = Contexts(self.contexts)

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

    def converse(self, association: Any) -> None:
        """Answer what is asked on an association that was accepted, until it is over."""
        if not _take_over(association.dul):
            return
        socket = association.dul.socket.socket
        peer = Peer(str(association.requestor.address), str(association.requestor.ae_title))
        conversation = Conversation(socket, _contexts(association))
        self._conversations[association] = conversation
        try:
            conversation.answer_all(partial(self._take, peer))
        except NotDicom as bad:
            log.warning("not DICOM", extra={"peer": peer.address, "why": str(bad)})
        except Ended as ended:
            log.debug("ended", extra={"peer": peer.address, "why": str(ended)})
        finally:
            del self._conversations[association]
            association.is_established = False

    def end_all(self) -> None:
        """Have every association end soon."""
        for association in self.active_associations:
            conversation = self._conversations.get(association)
            if conversation is not None:
                conversation.end()
            else:  # it is being negotiated
                association.abort()


def _contexts(association: Any) -> dict[int, Context]:
    return {
        context.context_id: Context(
            sop_class=str(context.abstract_syntax), syntax=str(context.transfer_syntax[0])
        )
        for context in association.accepted_contexts
    }


def _read_unless_established(dul: Any, read: Callable[[], bool]) -> bool:
    """What pynetdicom's thread does about bytes that came: from some time on they are ours."""
    return dul.state_machine.current_state != _ESTABLISHED and read()


def _take_over(dul: Any) -> bool:
    """Wait until a peer was told that it is accepted, then stop pynetdicom's thread.

    False if the association is over before that.
    """
    while dul.state_machine.current_state != _ESTABLISHED:
        if not dul.is_alive():
            return False
        time.sleep(LOOK_S)
    dul.kill_dul()
    dul.join()
    return dul.socket.socket is not None


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
