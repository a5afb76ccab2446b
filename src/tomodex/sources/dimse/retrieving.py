"""The instances of a series, by C-GET or by C-MOVE to a port of ours."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext

from tomodex.errors import Suspended, Unavailable
from tomodex.instance import SEGMENTATIONS
from tomodex.locks import open_lock
from tomodex.pixels import TRANSFER_SYNTAXES, UNCOMPRESSED
from tomodex.sources.dimse.association import (
    FIND,
    GET,
    MAX_PDU,
    MOVE,
    Sent,
    Watch,
    associated,
    query_contexts,
)
from tomodex.sources.dimse.options import DimseOptions, Peer
from tomodex.sources.dimse.queries import transfer_keys
from tomodex.sources.dimse.statuses import (
    NOT_SUPPORTED,
    SUCCESS,
    UNKNOWN_DESTINATION,
    describe_status,
    says_it_cannot,
)
from tomodex.sources.dimse.storing import Shelf
from tomodex.sources.gate import Gate

#: CT, Enhanced CT and Legacy Converted Enhanced CT: what is asked for unless more is known.
CT_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)
SEG_CLASSES = tuple(sorted(SEGMENTATIONS))

#: PS3.8 9.3.2.2: identifiers are the odd numbers up to 255.
MOST_CONTEXTS = 128

#: Frames that are deflated one by one: of segmentations only.
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"

#: Uncompressed first, in the order in which we like them.
_SYNTAXES = (
    *sorted(TRANSFER_SYNTAXES, key=lambda uid: (uid not in UNCOMPRESSED, uid)),
    _DEFLATED_FRAMES,
)

#: How long the last instances may take to arrive when a C-MOVE says that it is done.
STRAGGLERS_S = 5.0

#: How often to look for a free port among ours.
POLL_S = 0.1


class NotSent(Unavailable):
    """The PACS answered, and does not send what was asked for; asked again, it hardly will."""


class Retriever:
    """Retrieves series from one PACS; remembers which way it takes."""

    def __init__(self, peer: Peer, options: DimseOptions, gate: Gate, state: Path) -> None:
        self._peer = peer
        self._options = options
        self._gate = gate
        self._ports = state / "ports"
        self._gets = options.retrieve != "move"

    def retrieve(
        self, study_uid: str, series_uid: str, shelf: Shelf, classes: Collection[str]
    ) -> Sent:
        """Put the instances of a series onto the shelf; return what the PACS says of it.

        `classes` are the SOP classes that they may be of.

        Raises:
            NotSent: the PACS has no way to send such instances to us.
            Unavailable: it did not answer to the end, refused, or the disk did.
        """
        try:
            sent = self._get_or_move(study_uid, series_uid, shelf, classes)
        except (Suspended, NotSent):
            raise
        except Unavailable as unavailable:
            raise Unavailable(shelf.trouble or str(unavailable)) from unavailable
        if shelf.trouble:
            raise Unavailable(shelf.trouble)
        return sent

    def _get_or_move(
        self, study_uid: str, series_uid: str, shelf: Shelf, classes: Collection[str]
    ) -> Sent:
        if self._gets:
            sent = self._get(study_uid, series_uid, shelf, classes)
            if sent is not None:
                return self._judged(sent, "C-GET")
            self._require_port()
            self._gets = False
        return self._judged(self._move(study_uid, series_uid, shelf), "C-MOVE")

    def _judged(self, sent: Sent, way: str) -> Sent:
        """The same, unless the PACS refuses it as a whole."""
        if sent.status == SUCCESS or sent.failed:
            return sent
        titles = ", ".join(title for title, _ in _places(self._peer, self._options))
        to = f" to {titles}" if sent.status == UNKNOWN_DESTINATION else ""
        error = NotSent if says_it_cannot(sent.status) else Unavailable
        raise error(f"{self._peer} answers {way}{to} with {describe_status(sent.status)}")

    def _require_port(self) -> None:
        if self._options.retrieve == "get" or not self._options.move_port:
            raise NotSent(
                f"{self._peer} does not offer C-GET of such series to {self._peer.calling}; permit "
                "it there, or give move_port, where it can send to by C-MOVE"
            )

    # --- C-GET ----------------------------------------------------------------------------------

    def _get(
        self, study_uid: str, series_uid: str, shelf: Shelf, classes: Collection[str]
    ) -> Sent | None:
        """None if the PACS does not offer it."""
        contexts = [*query_contexts(GET), *storage_contexts(classes, MOST_CONTEXTS - 1)]
        with (
            self._gate.passing(),
            associated(
                self._peer,
                self._options,
                # One that is always taken, so that a PACS without C-GET does not refuse us wholly.
                [*query_contexts(FIND), *contexts[: MOST_CONTEXTS - 1]],
                negotiation=[build_role(uid, scp_role=True) for uid in classes],
                handlers=[(evt.EVT_C_STORE, shelf.take)],
            ) as line,
        ):
            if not (line.accepts(GET) and line.accepted_for_storage()):
                return None
            sent = line.get(transfer_keys(study_uid, series_uid))
        return None if sent.status in NOT_SUPPORTED else sent

    # --- C-MOVE ---------------------------------------------------------------------------------

    def _move(self, study_uid: str, series_uid: str, shelf: Shelf) -> Sent:
        watch = Watch(self._options)
        with self._listening(shelf, watch) as title, self._gate.passing():
            with associated(self._peer, self._options, query_contexts(MOVE), watch=watch) as line:
                sent = line.move(transfer_keys(study_uid, series_uid), title)
            _wait_until(lambda: len(shelf.files) >= sent.completed, STRAGGLERS_S)
            return sent

    @contextmanager
    def _listening(self, shelf: Shelf, watch: Watch) -> Iterator[str]:
        """Let the PACS send to a port of ours, by the AE title that this gives.

        A port belongs to one process and one series at a time, so that what arrives there is what
        was asked for.
        """
        with ExitStack() as stack:
            title, port = stack.enter_context(self._port())
            entity = AE(ae_title=title)
            entity.require_called_aet = True
            entity.acse_timeout = self._options.connect_s
            entity.network_timeout = entity.dimse_timeout = self._options.transfer_s
            entity.maximum_pdu_size = MAX_PDU
            # All that there are: of one that is refused, some archives say that all has failed.
            for context in AllStoragePresentationContexts:
                entity.add_supported_context(str(context.abstract_syntax), list(_SYNTAXES))
            handlers = [*watch.handlers(), (evt.EVT_C_STORE, shelf.take)]
            try:
                entity.start_server(
                    (self._options.move_address, port), block=False, evt_handlers=handlers
                )
            except OSError as taken:
                raise Unavailable(
                    f"port {port} of move_port cannot be opened: {taken.strerror}"
                ) from taken
            stack.callback(entity.shutdown)
            yield title

    @contextmanager
    def _port(self) -> Iterator[tuple[str, int]]:
        """An AE title and its port that no other process uses now."""
        places = _places(self._peer, self._options)
        self._ports.mkdir(mode=0o700, parents=True, exist_ok=True)
        end = time.monotonic() + self._options.transfer_s
        while (held := self._first_free(places)) is None:
            if time.monotonic() > end:
                raise Unavailable(
                    f"other processes have used move_port for {self._options.transfer_s:g} s; give "
                    "as many ports as there are workers"
                )
            time.sleep(POLL_S)
        place, lock = held
        with lock:
            yield place

    def _first_free(
        self, places: Sequence[tuple[str, int]]
    ) -> tuple[tuple[str, int], IO[bytes]] | None:
        for place in places:
            lock = open_lock(self._ports / f"{place[1]}.lock")
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return place, lock
            lock.close()
        return None


def storage_contexts(classes: Collection[str], most: int) -> list[PresentationContext]:
    """What is proposed to receive those classes in, so that nothing is decompressed on the way.

    One context for each class and transfer syntax: of several in one, the PACS takes the first
    that it knows, whether or not the instance is stored so. Where there is no room for that, the
    classes named last have one context each.
    """
    room = most // len(_SYNTAXES) if len(classes) * len(_SYNTAXES) > most else len(classes)
    while room * len(_SYNTAXES) + len(classes) - room > most and room:
        room -= 1
    contexts = []
    for number, sop_class in enumerate(classes):
        if number < room:
            contexts += [build_context(sop_class, syntax) for syntax in _SYNTAXES]
        else:
            together: list[str | UID] = list(_SYNTAXES)
            contexts.append(build_context(sop_class, together))
    return contexts[:most]


def _places(peer: Peer, options: DimseOptions) -> list[tuple[str, int]]:
    """Our AE titles and their ports."""
    titles = options.move_aet or (peer.calling,) * len(options.move_port)
    return list(zip(titles, options.move_port, strict=True))


def _wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
