"""An association with a PACS: opened, watched while the PACS answers, and closed.

pynetdicom waits for whole messages and has no limit for what comes meanwhile. So a watch of our
own cuts the connection where nothing comes for too long, or too much.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import PresentationContext

from tomodex.errors import Misconfigured, Unavailable
from tomodex.sources.dimse.options import DimseOptions, Peer
from tomodex.sources.dimse.statuses import PENDING, SUCCESS, describe_status
from tomodex.sources.gate import NotReached

VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"  #: Study Root Query/Retrieve
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"

#: Bytes of a PDU that we take; 16 kB, the usual, take three times as long for a slice (measured).
MAX_PDU = 131_072

#: Bytes of one instance that are held until it is written; 6,000 slices of enhanced CT have 3 GB.
MAX_INSTANCE = 2 * 2**30

#: How often the watch looks.
WATCH_S = 0.2

# Nobody but us says what the log holds: pynetdicom's repeats identifiers.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a C-FIND brought."""

    identifiers: Sequence[Dataset]
    status: int | None  #: the last; None: we stopped listening, as there were too many


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the archive says of a C-GET or C-MOVE when it is done."""

    status: int
    completed: int  #: instances, warnings included
    failed: int


class Watch:
    """Cuts the connections of a request when it is silent, takes, or brings too much."""

    def __init__(self, options: DimseOptions) -> None:
        self._answer_s = options.answer_s
        self._transfer_s = options.transfer_s
        self._heard = self._begin = time.monotonic()
        self._waiting = False
        self._done = Event()
        self._cut: list[Callable[[], None]] = []
        self._held = Counter[int]()  # bytes of the message that each association receives
        self.reason = ""  #: why it was cut; "": it was not

    def handlers(self) -> list[Any]:
        """What an association must be opened with to be watched."""
        return [
            (evt.EVT_CONN_OPEN, self._add),
            (evt.EVT_DATA_RECV, self._hear),
            (evt.EVT_DIMSE_RECV, self._forget_size),
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, there is somebody who looks."""
        looking = Thread(target=self._look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            self._done.set()
            looking.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this lasts, the archive is to answer."""
        self._heard = self._begin = time.monotonic()
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def cut(self, reason: str) -> None:
        """End it now."""
        self.reason = self.reason or reason
        for shut in self._cut:
            shut()

    def _add(self, event: evt.Event) -> None:
        association = event.assoc
        connection = _socket_of(association)
        # pynetdicom takes the limit away once it is connected.
        connection.settimeout(self._answer_s)
        # It writes a request in two parts; the second would wait 40 ms for the first one's receipt.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def shut() -> None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            # A request that is about to be sent waits for this, whatever became of the rest.
            association._is_paused = True

        self._cut.append(shut)

    def _hear(self, event: evt.Event) -> None:
        self._heard = time.monotonic()
        self._held[id(event.assoc)] += len(event.data)
        if self._held[id(event.assoc)] > MAX_INSTANCE:
            self.cut(f"it sent more than {MAX_INSTANCE // 2**20} MiB in one message")

    def _forget_size(self, event: evt.Event) -> None:
        self._held[id(event.assoc)] = 0

    def _look(self) -> None:
        while not self._done.wait(WATCH_S):
            now = time.monotonic()
            if self._waiting and now - self._heard > self._answer_s:
                self.cut(f"it was silent for {self._answer_s:g} s")
            elif self._waiting and now - self._begin > self._transfer_s:
                self.cut(f"it was not done after {self._transfer_s:g} s")


class _Checkpoint:
    """Where pynetdicom's own thread stops while we wait for answers.

    Its thread may have passed it when it is asked to stop, and then takes an answer away from us:
    one of 1,200 was lost so on a busy machine (measured). So whoever asks it to stop waits until it
    stands here.
    """

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._changed = Condition()
        self._is_open = True
        self._stands = False

    def is_set(self) -> bool:
        return self._is_open

    def set(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._is_open = False
            while self._thread.is_alive() and not (self._stands or self._is_open):
                self._changed.wait(WATCH_S)

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            while not self._is_open:
                self._stands = True
                self._changed.notify_all()
                self._changed.wait(timeout)
            self._stands = False
        return True


def _socket_of(association: Association) -> socket.socket:
    transport = association.dul.socket
    assert transport is not None
    assert transport.socket is not None
    return transport.socket


class Line:
    """An association that is up, for one request after another."""

    def __init__(self, association: Association, watch: Watch, peer: Peer) -> None:
        self._association = association
        self._watch = watch
        self._peer = peer

    @property
    def implementation(self) -> str:
        """What the PACS calls itself, such as "ORTHANC1.10.1"."""
        return str(self._association.acceptor.implementation_version_name or "").strip()

    def accepts(self, sop_class: str) -> bool:
        """Whether the PACS takes requests of that class."""
        return any(
            context.abstract_syntax == sop_class and context.as_scu
            for context in self._association.accepted_contexts
        )

    def accepted_for_storage(self) -> frozenset[str]:
        """Storage classes that it will send to us on this association."""
        return frozenset(
            str(context.abstract_syntax)
            for context in self._association.accepted_contexts
            if context.as_scp
        )

    def echo(self) -> None:
        """C-ECHO; raises Unavailable unless it is answered with success."""
        with self._watch.waiting():
            status = self._require(self._attempt(self._association.send_c_echo))
        if status.Status != SUCCESS:
            raise Unavailable(f"{self._peer} answers C-ECHO with {describe_status(status.Status)}")

    def find(self, keys: Dataset, most: int) -> Found:
        """C-FIND; after `most` answers nothing more is listened to, and the line is of no use."""
        identifiers: list[Dataset] = []
        with self._watch.waiting():
            answers = self._attempt(lambda: self._association.send_c_find(keys, FIND))
            for status, identifier in answers:
                found = int(self._require(status).Status)
                if found not in PENDING:
                    return Found(identifiers=identifiers, status=found)
                if identifier is None:
                    self._association.abort()
                    raise Unavailable(f"{self._peer} sent an answer that makes no sense")
                identifiers.append(identifier)
                if len(identifiers) > most:
                    self._association.abort()
                    return Found(identifiers=identifiers, status=None)
        raise self._lost()

    def get(self, keys: Dataset) -> Sent:
        """C-GET; instances arrive meanwhile, at the handler that the line was opened with."""
        return self._sent(lambda: self._association.send_c_get(keys, GET))

    def move(self, keys: Dataset, destination: str) -> Sent:
        """C-MOVE; instances arrive meanwhile, at the port of the destination."""
        return self._sent(lambda: self._association.send_c_move(keys, destination, MOVE))

    def takes(self, sop_class: str, transfer_syntax: str) -> bool:
        """Whether the PACS takes instances of that class so encoded."""
        return any(
            context.abstract_syntax == sop_class and transfer_syntax in context.transfer_syntax
            for context in self._association.accepted_contexts
        )

    def store(self, instance: Dataset) -> int:
        """C-STORE; the status that is answered.

        Raises:
            Unavailable: nothing is answered, or no class or encoding was agreed on.
        """
        with self._watch.waiting():
            try:
                status = self._attempt(lambda: self._association.send_c_store(instance))
            except ValueError as nothing_agreed:
                raise Unavailable(
                    f"{self._peer} takes no instance of {instance.SOPClassUID.name}"
                ) from nothing_agreed
            return int(self._require(status).Status)

    def _sent(self, ask: Callable[[], Iterator[tuple[Dataset, Dataset | None]]]) -> Sent:
        with self._watch.waiting():
            for status, _ in self._attempt(ask):
                if int(self._require(status).Status) not in PENDING:
                    completed = _count(status, "NumberOfCompletedSuboperations")
                    warned = _count(status, "NumberOfWarningSuboperations")
                    return Sent(
                        status=int(status.Status),
                        completed=completed + warned,
                        failed=_count(status, "NumberOfFailedSuboperations"),
                    )
        raise self._lost()

    def _attempt(self, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except RuntimeError as closed:  # the association has gone since it was used last
            raise self._lost() from closed

    def _require(self, status: Dataset) -> Dataset:
        if "Status" not in status:
            raise self._lost()
        return status

    def _lost(self) -> Unavailable:
        why = self._watch.reason or "it closed the connection"
        return Unavailable(f"{self._peer} did not answer to the end: {why}")


class NothingTaken(Unavailable):
    """It answers, and takes nothing of the kinds that are proposed."""


@contextmanager
def associated(
    peer: Peer,
    options: DimseOptions,
    contexts: Sequence[PresentationContext],
    *,
    negotiation: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    watch: Watch | None = None,
) -> Iterator[Line]:
    """An association with the PACS, released at the end, aborted if something went wrong.

    Raises:
        NotReached: it cannot be reached, or refuses.
        NothingTaken: it takes nothing of what is proposed.
    """
    entity = AE(ae_title=peer.calling)
    entity.acse_timeout = entity.connection_timeout = options.connect_s
    entity.network_timeout = None  # the watch looks after it
    entity.dimse_timeout = options.transfer_s
    watch = watch or Watch(options)
    with watch.running():
        try:
            association = entity.associate(
                peer.host,
                peer.port,
                contexts=list(contexts),
                ae_title=peer.called,
                max_pdu=MAX_PDU,
                ext_neg=list(negotiation),
                tls_args=(_tls(peer, options), peer.host) if options.tls != "no" else None,
                evt_handlers=[*watch.handlers(), *handlers],
            )
        except OSError as unreachable:
            raise NotReached(f"{peer} cannot be reached: {unreachable.strerror}") from unreachable
        if association.rejected_contexts and not association.is_established:
            raise NothingTaken(
                f"{peer} takes no request of the kind that is needed, from {peer.calling}"
            )
        if not association.is_established:
            raise NotReached(_refusal(association, peer, options))
        association._reactor_checkpoint = cast(Event, _Checkpoint(association))
        try:
            yield Line(association, watch, peer)
        except BaseException:
            association.abort()
            raise
        association.release()


def query_contexts(*sop_classes: str) -> list[PresentationContext]:
    """What is proposed to ask questions; answers are little endian, so easily read."""
    syntaxes: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    return [build_context(sop_class, syntaxes) for sop_class in sop_classes]


def relational_negotiation() -> SOPClassExtendedNegotiation:
    """Asks to put questions to all studies at once (PS3.4 C.5.1.1)."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = FIND
    item.service_class_application_information = b"\x01"
    return item


def _count(status: Dataset, keyword: str) -> int:
    return int(status.get(keyword) or 0)


# --- what went wrong ----------------------------------------------------------------------------

#: Of those reasons that an administrator can do something about (PS3.8 9.3.4): source, reason.
_REJECTED: dict[tuple[int | None, int | None], str] = {
    (1, 3): "it does not know our AE title; enter {peer.calling} there, with this machine",
    (1, 7): "it is not called {peer.called}; the path of the URL is its AE title",
    (3, 1): "it is too busy for another association",
    (3, 2): "it is at its limit of associations",
}


def _refusal(association: Association, peer: Peer, options: DimseOptions) -> str:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        known = _REJECTED.get((answer.result_source, answer.diagnostic))
        why = known.format(peer=peer) if known else f"{answer.result_str}, {answer.reason_str}"
        return f"{peer} refuses the association: {why}"
    why = _unreachable(peer, options) or "it does not answer as a DICOM node does"
    return f"{peer} cannot be reached: {why}"


def _unreachable(peer: Peer, options: DimseOptions) -> str:
    """Why no connection can be made, as the system says it; "" if one can."""
    try:
        with socket.create_connection((peer.host, peer.port), options.connect_s) as plain:
            if options.tls != "no":
                _tls(peer, options).wrap_socket(plain, server_hostname=peer.host).close()
    except ssl.SSLCertVerificationError as wrong:
        return f"its certificate is not accepted, {wrong.verify_message}"
    except TimeoutError:
        return f"nothing answers within {options.connect_s:g} s"
    except OSError as refused:
        return refused.strerror or str(refused)
    return ""


def _tls(peer: Peer, options: DimseOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer; whom we trust and who we are (PS3.15 B.12)."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert:
            context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as wrong:
        raise Misconfigured(f"{peer.url}: ca, cert or key cannot be used: {wrong}") from wrong
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = options.tls == "yes"
    return context


def certificate_of(peer: Peer, options: DimseOptions) -> dict[str, Any]:
    """The certificate that the PACS shows; raises OSError where there is none to see."""
    with (
        socket.create_connection((peer.host, peer.port), options.connect_s) as plain,
        _tls(peer, options).wrap_socket(plain, server_hostname=peer.host) as shown,
    ):
        return dict(shown.getpeercert() or {})
