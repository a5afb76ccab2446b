"""64 bits that stand for a UID or a pseudonym, and for a set of patients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

#: Keys of sets are sums of this many values, so that the order does not matter.
MODULUS = 1 << 64


def key_of(text: str) -> int:
    """The first 64 bits of a hash: equal where the text is."""
    # A lone surrogate, from a wrong character set, has no UTF-8.
    octets = text.encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(octets, digest_size=8).digest(), "little")


def patients_key(patients: Iterable[str]) -> int:
    """What stands for a set of patients, by their pseudonyms; "" is nobody.

    It depends on who is in the set and on nothing else, so two questions that find the same
    patients can be answered with the same noise. It is a sum, and no secret: whoever draws noise
    from it hashes it with a secret first.
    """
    return sum(key_of(patient) for patient in set(patients) if patient) % MODULUS
