"""An object as a file that can be read from anywhere, which costs what is read and little more."""

from __future__ import annotations

import io

from tomodex.sources.s3.bucket import Bucket

#: Bytes that are asked for first: a header, or the end of a zip.
FIRST_PIECE = 2**16

#: Read on and on, more is asked for at once, and never more than this.
LARGEST_PIECE = 2**23


class ObjectStream(io.RawIOBase):
    """Reads one object, the same from the first piece to the last."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._at = 0
        self._held, self._begin = b"", 0
        self._ask = FIRST_PIECE
        self._etag = ""
        self.size = 0  #: bytes of the whole object
        self._receive()

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.size - self._at if size is None or size < 0 else size
        parts = []
        while wanted > 0 and self._at < self.size:
            if not self._begin <= self._at < self._begin + len(self._held):
                self._receive()
            start = self._at - self._begin
            part = self._held[start : start + wanted]
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        return b"".join(parts)

    def _receive(self) -> None:
        """Hold the piece that begins where we are."""
        goes_on = self._held and self._at == self._begin + len(self._held)
        self._ask = min(self._ask * 2, LARGEST_PIECE) if goes_on else FIRST_PIECE
        piece = self._bucket.piece(self._key, self._at, self._ask, self._etag)
        self._held, self._begin = piece.data, self._at
        self.size, self._etag = piece.size, piece.etag

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(base + position, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
