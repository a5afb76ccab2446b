"""A modality that pushes series to a receiver (C-STORE), for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, SegmentationStorage, Verification

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


@contextmanager
def associated(
    port: int,
    *,
    calling: str = "CT1",
    called: str = "TOMODEX",
    syntax: str = EXPLICIT,
    tls: Any = None,
) -> Iterator[Association]:
    """An association with a receiver on this machine, established or not."""
    entity = AE(ae_title=calling)
    contexts = [
        build_context(CTImageStorage, syntax),
        build_context(SegmentationStorage, syntax),
        build_context(Verification),
    ]
    association = entity.associate(
        "127.0.0.1", port, contexts=contexts, ae_title=called, max_pdu=0, tls_args=tls
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def push(port: int, files: Iterable[Path | Dataset], **how: Any) -> list[int]:
    """Push instances over one association; return the answers, -1 where none came."""
    with associated(port, **how) as association:
        assert association.is_established
        return [store(association, file) for file in files]


def store(association: Association, file: Path | Dataset) -> int:
    """Push one instance; return the answer, -1 if none came."""
    dataset = file if isinstance(file, Dataset) else dcmread(file)
    return int(getattr(association.send_c_store(dataset), "Status", -1))
