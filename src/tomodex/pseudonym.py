"""Patient pseudonyms: the same patient has the same one, and nobody without the key can tell whose.

HMAC-SHA-256 under a secret key of the site (NIST FIPS 198-1). Without the key a pseudonym cannot be
found by trying patient numbers, which a plain hash would allow.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tomodex.errors import Misconfigured

#: Shorter keys than this could be guessed; the ones we make are as long as the hash.
MIN_KEY_BYTES = 16


def pseudonymizer(key: bytes) -> Callable[[str], str]:
    """A function from an identifier to 32 hexadecimal characters (128 bits)."""

    def pseudonymize(identifier: str) -> str:
        return hmac.digest(key, identifier.encode(), "sha256").hex()[:32]

    return pseudonymize


def load_key(path: Path) -> bytes:
    """Read the site's key, or make one that only its owner can read.

    Raises:
        Misconfigured: the file cannot be read or made, or holds too little.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as refused:
        raise Misconfigured(f"pseudonym key {path}: {refused.strerror}") from refused
    if len(key) < MIN_KEY_BYTES:
        raise Misconfigured(
            f"pseudonym key {path} has {len(key)} bytes, needs {MIN_KEY_BYTES} or more"
        )
    return key


def audit_mark(key_file: Path, name: str) -> str:
    """What the audit log calls a patient or a series: who has neither key nor name finds nothing.

    Raises:
        Misconfigured: as `load_key`.
    """
    return hmac.digest(load_key(key_file), b"audit\0" + name.encode(), "sha256").hex()[:32]


def _make_key(path: Path) -> None:
    """Write a new key under another name first, so that two workers cannot end up with two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another worker was first; then its key counts
            os.link(fresh, path)
    finally:
        Path(fresh).unlink()
