"""Instances that arrive, each written to a file of its own just as it was sent."""

from __future__ import annotations

import errno
import os
import re
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, cast

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode_file_meta

from tomodex.errors import Unsuitable
from tomodex.header import read_header

#: PS3.4 B.2.3
KEPT, NO_ROOM, REFUSED = 0x0000, 0xA700, 0xC000

_PREAMBLE = bytes(128) + b"DICM"


class Shelf:
    """Takes the instances of one series into a folder, each once; several threads may use it."""

    def __init__(self, folder: Path, series_uid: str) -> None:
        self.folder = folder
        self._series_uid = series_uid
        self._files: dict[str, Path] = {}
        self._lock = Lock()
        self._number = 0
        self.trouble = ""  #: why an instance could not be written; "": all could

    @property
    def files(self) -> list[Path]:
        """What has arrived, by SOP Instance UID."""
        with self._lock:
            return [self._files[uid] for uid in sorted(self._files)]

    def take(self, event: evt.Event) -> int:
        """Write the instance of a C-STORE; return the status to answer with."""
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        if self.trouble:
            return NO_ROOM
        if request.DataSet is None or not re.fullmatch(r"[0-9.]{1,64}", uid, re.ASCII):
            return REFUSED
        with self._lock:
            if uid in self._files:
                return KEPT
            self._number += 1
            part = self.folder / f"{self._number:06}.part"
        meta = _PREAMBLE + encode_file_meta(event.file_meta)
        return self._keep(uid, part, meta, request.DataSet)

    def _keep(self, uid: str, part: Path, meta: bytes, dataset: BytesIO) -> int:
        try:
            with part.open("w+b") as file:
                file.write(meta)
                file.write(dataset.getbuffer())
                file.seek(0)
                if not self._is_ours(file):
                    part.unlink()
                    return REFUSED
            part.replace(self.folder / f"{uid}.dcm")
        except OSError as refused:
            part.unlink(missing_ok=True)
            self.trouble = _describe(refused, self.folder)
            return NO_ROOM
        with self._lock:
            self._files[uid] = self.folder / f"{uid}.dcm"
        return KEPT

    def _is_ours(self, file: IO[bytes]) -> bool:
        """Whether it is an instance of the series, and not something that nobody asked for."""
        try:
            header = read_header(file)
        except Unsuitable:
            # It says what it is when it is judged; here it only must not be another series.
            return True
        return header is not None and header.elements.text("SeriesInstanceUID") == self._series_uid


def shelf_in(folder: Path, series_uid: str) -> Shelf:
    """An empty shelf; what is left in the folder from an earlier try is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    return Shelf(folder, series_uid)


def _describe(refused: OSError, folder: Path) -> str:
    if refused.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on {os.fspath(folder)}"
    return f"cannot write into {os.fspath(folder)}: {refused.strerror}"
