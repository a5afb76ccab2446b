"""Whose a pseudonym is: a table of its own, in a file of its own, that nothing else reads.

It is kept where a site asks for it. The index, the results and the logs never have what is in it;
whoever asks is a steward, says why, and stands in the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import RLock

from tomodex.errors import Unavailable
from tomodex.private_file import PASSING, open_private

#: Patients of whom it is known that they are in the table, so that not every instance asks it.
KNOWN = 100_000

#: What stands between a patient's ID and its issuer where a reader gives both, as HL7 writes it.
ISSUED_BY = "^^^"

#: What readers have pseudonymized that is no patient: a study without one, and a catalogue's key.
NAMELESS = ("study:", "tomodex catalogue")

SCHEMA = """
create table if not exists identity (
    pseudonym text primary key,
    patient   text not null,
    issuer    text not null
) strict, without rowid;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a patient is to the hospital."""

    patient_id: str  #: (0010,0020)
    issuer: str  #: (0010,0021); "" where the header has none


class Identities:
    """`identities.db`; any number of processes and threads use it at once.

    Raises:
        Misconfigured: the file cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self._lock = RLock()  # an apsw connection serves one thread at a time
        self._db = open_private(file, SCHEMA)

    def remember(self, pseudonym: str, identifier: str) -> None:
        """`identifier` is as readers make it: the ID, and its issuer where there is one."""
        if identifier.startswith(NAMELESS):
            return
        patient, _, issuer = identifier.partition(ISSUED_BY)
        sql = "insert into identity values (?, ?, ?) on conflict do nothing"
        self._change(sql, [(pseudonym, patient, issuer)])

    def find(self, pseudonyms: Iterable[str]) -> Mapping[str, Identity]:
        """Whose these are; one that nobody knows is left out."""
        sql = "select patient, issuer from identity where pseudonym = ?"
        found: dict[str, Identity] = {}
        with self._lock:
            for pseudonym in pseudonyms:
                for patient, issuer in self._db.execute(sql, (pseudonym,)):
                    found[pseudonym] = Identity(patient_id=str(patient), issuer=str(issuer))
        return found

    def forget(self, pseudonyms: Iterable[str]) -> None:
        """Have these no more."""
        self._change("delete from identity where pseudonym = ?", [(p,) for p in pseudonyms])

    def _change(self, sql: str, rows: list[tuple[str, ...]]) -> None:
        try:
            with self._lock, self._db:
                self._db.executemany(sql, rows)
        except PASSING as refused:
            raise Unavailable(f"the identities cannot be written: {refused}") from refused


def remembering(pseudonymize: Callable[[str], str], identities: Identities) -> Callable[[str], str]:
    """The same pseudonyms, each remembered with whose it is."""

    @lru_cache(maxsize=KNOWN)
    def pseudonymize_and_remember(identifier: str) -> str:
        pseudonym = pseudonymize(identifier)
        identities.remember(pseudonym, identifier)
        return pseudonym

    return pseudonymize_and_remember
