"""Saying whose pseudonyms are, to a steward who says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tomodex import wiring
from tomodex.access import Asker
from tomodex.errors import BadQuery, Forbidden, Misconfigured
from tomodex.identities import Identity
from tomodex.pseudonym import audit_mark
from tomodex.settings import Settings

#: Pseudonyms at once: a person asks for some, a program for all.
MOST = 100

#: A reason is more than a key that was held down.
SHORTEST_REASON = 8


def identify(
    settings: Settings, asker: Asker, pseudonyms: Sequence[str], reason: str
) -> Mapping[str, Identity]:
    """Whose these are; one that nobody knows is left out.

    Raises:
        Forbidden: the asker is no steward.
        BadQuery: there is no reason, or there are too many at once.
        Misconfigured: the site does not keep whose pseudonyms are.
    """
    audit = wiring.audit_of(settings)
    try:
        asker.require("identify")
    except Forbidden:
        audit.write(asker, "refused", reason, right="identify")
        raise
    if len(reason.strip()) < SHORTEST_REASON:
        raise BadQuery("say why, in a sentence: it is kept in the audit log")
    if not 1 <= len(pseudonyms) <= MOST:
        raise BadQuery(f"1 to {MOST} pseudonyms at once, not {len(pseudonyms):,}")
    identities = wiring.identities_of(settings)
    if identities is None:
        raise Misconfigured("whose pseudonyms are is not kept: set `identities` in [access]")
    # Before it is answered. Whose it was can be told by whoever has the site's key, and no other.
    for pseudonym in pseudonyms:
        audit.write(asker, "identify", reason, patient=mark_of(settings, pseudonym))
    return identities.find(pseudonyms)


def mark_of(settings: Settings, pseudonym: str) -> str:
    """What the audit log calls a patient."""
    return audit_mark(settings.key_file, pseudonym)
