"""The parts of a multipart/related body (RFC 2387), each handed on while it arrives.

No library does this: requests-toolbelt and dicomweb-client hold a part, which may be a volume of
gigabytes, in memory, and take the end of a broken connection for the end of a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message

from tomodex.errors import Unavailable

#: Bytes of the headers of a part; they are passed over.
MAX_HEADERS = 16 * 2**10

#: Characters of a boundary; RFC 2046 allows 70, and servers take more.
MAX_BOUNDARY = 256


def boundary_of(content_type: str, sender: str) -> bytes | None:
    """What stands between the parts; None if a body of this type has no parts.

    Raises:
        Unavailable: it has, and does not say; `sender` is named.
    """
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_maintype() != "multipart":
        return None
    boundary = message.get_boundary() or ""
    if not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
        raise Unavailable(f"{sender} sends parts, and does not say what stands between them")
    return boundary.encode()


def parts(chunks: Iterator[bytes], boundary: bytes, sender: str) -> Iterator[Iterator[bytes]]:
    """Each part as pieces of its content; the rest of one is passed over when the next is asked.

    Raises:
        Unavailable: the body ends before its last boundary; `sender` is named.
    """
    body = _Body(chunks, boundary, sender)
    for _ in body.until_boundary():  # a preamble, which says nothing
        pass
    while body.another_part():
        content = body.until_boundary()
        yield content
        for _ in content:
            pass


class _Body:
    """A body as it arrives, of which a chunk and a boundary are held at most."""

    def __init__(self, chunks: Iterator[bytes], boundary: bytes, sender: str) -> None:
        self._chunks = chunks
        self._sender = sender
        # The line break before a boundary belongs to it, and is left out before the first.
        self._held = bytearray(b"\r\n")
        self._delimiter = b"\r\n--" + boundary

    def until_boundary(self) -> Iterator[bytes]:
        """What stands before the next boundary, which is passed over then."""
        while (at := self._held.find(self._delimiter)) < 0:
            # Its beginning may have arrived.
            sure = len(self._held) - len(self._delimiter) + 1
            if sure > 0:
                yield self._take(sure)
            self._receive()
        if at > 0:
            yield self._take(at)
        self._take(len(self._delimiter))

    def another_part(self) -> bool:
        """Whether a part follows the boundary; its headers are passed over."""
        while len(self._held) < 2:
            self._receive()
        if self._held.startswith(b"--"):
            return False
        while (at := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEADERS:
                raise Unavailable(
                    f"{self._sender} sends headers of a part longer than {MAX_HEADERS} bytes"
                )
            self._receive()
        self._take(at + 4)
        return True

    def _receive(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise Unavailable(f"{self._sender} ended its answer before the last part was whole")
        self._held += chunk

    def _take(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken
