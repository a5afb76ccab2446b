"""A directory that files are put into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tomodex.errors import Misconfigured, Unavailable
from tomodex.probe import Probe, probe_room
from tomodex.registry import path_of


class FolderStore:
    """`folder:///srv/masks`; the folder is made if it is not there.

    Raises:
        Misconfigured: it cannot be made.
    """

    only_dicom = False

    def __init__(self, url: str, *, state: Path) -> None:
        del state
        self.url = url
        self._folder = path_of(url)
        try:
            # Masks of a head show a face: for their owner only.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as refused:
            raise Misconfigured(f"cannot make {self._folder}: {refused.strerror}") from refused

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        target = self._folder / below
        try:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            return [str(_put(file, target / file.name)) for file in files]
        except OSError as refused:
            raise Unavailable(f"cannot write to {target}: {refused.strerror}") from refused

    def probe(self) -> Iterator[Probe]:
        """Whether there is room."""
        yield probe_room(self._folder.absolute())

    def close(self) -> None:
        """Nothing is held open."""


def _put(file: Path, target: Path) -> Path:
    """Put a file there, whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(file, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
