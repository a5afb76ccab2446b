"""Where files that we make are put: masks for a person, reports for a PACS.

    folder:                         a directory                    folder.py
    s3:                             a bucket                       bucket.py
    dicomweb+https: dicomweb+http:  STOW-RS, DICOM objects only    stow.py
    dimse:                          C-STORE, DICOM objects only    cstore.py

The scheme of a URL picks one of these; see `registry.py`. Options and secrets are those of the
sources of the same scheme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from tomodex.formats.dicom_header import Subject
from tomodex.probe import Probe
from tomodex.registry import open_adapter

ADAPTERS = {
    "folder": "tomodex.stores.folder:FolderStore",
    "s3": "tomodex.stores.bucket:BucketStore",
    "dicomweb+https": "tomodex.stores.stow:StowStore",
    "dicomweb+http": "tomodex.stores.stow:StowStore",
    "dimse": "tomodex.stores.cstore:CStoreStore",
}

#: What ends the name of a DICOM file.
DICOM = ".dcm"


class Store(Protocol):
    """Takes files; the same again does no harm."""

    url: str  #: without secrets
    only_dicom: bool  #: it takes DICOM objects and nothing else

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        """Put files under their own names `below` a folder; return where each is.

        An archive keeps objects by their UIDs and has no folders.

        Raises:
            Unavailable: they were not taken, or not all; the same call may work later.
            Unsuitable: they are refused for what they are.
            Misconfigured: we are refused.
        """

    def probe(self) -> Iterator[Probe]:
        """Look whether it can be used, for `tomodex doctor`; raises nothing of its own."""

    def close(self) -> None:
        """Give back what it holds open."""


class Archive(Store, Protocol):
    """A store that knows whose study it is, and what it has of it."""

    def known(
        self, study_uid: str, series_uid: str
    ) -> tuple[Subject, Sequence[tuple[str, str]]] | None:
        """Whose study it is and (SOP class, UID) of the series' instances; None: it has neither.

        Raises:
            Unavailable: it does not answer.
        """


def open_store(url: str, state: Path) -> Store:
    """Open the store that `url` names; `state` is a folder to remember things in."""
    return cast(Store, open_adapter("store", url, ADAPTERS, state=state))
