"""Who is logged in with a browser, which cannot send a token with what it asks.

The cookie is a random number, of which the file keeps a hash: neither can be made from the other.
A session ends by itself, by `end`, and when the token that it was begun with is withdrawn.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, cast

import apsw

from tomodex.access import RIGHTS, Asker, Role
from tomodex.admission import Askers
from tomodex.errors import Misconfigured
from tomodex.web.oidc import Attempt

COOKIE = "tomodex-session"

#: Of a login that a provider was asked for; it comes back from another site.
ATTEMPT_COOKIE = "tomodex-login"

#: Seconds that somebody may take to log in at a provider.
ATTEMPT_S = 600

#: 256 random bits.
COOKIE_BYTES = 32

BUSY_MS = 10_000

SCHEMA = """
create table if not exists session (
    digest blob primary key,         -- SHA-256 of the cookie
    seal   text not null,            -- of the token it was begun with; '': another said who it is
    name   text not null,
    roles  text not null,            -- of those of whom another said who they are
    ends_s real not null             -- since 1970
) strict, without rowid;
-- Logins that a provider was asked for.
create table if not exists attempt (
    digest   blob primary key,       -- SHA-256 of the cookie
    state    text not null,
    nonce    text not null,
    verifier text not null,
    after    text not null,          -- where it leads
    ends_s   real not null
) strict, without rowid;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One browser of one asker."""

    asker: Asker
    csrf: str  #: what its forms have to send back, as no other web site can read it


class Sessions:
    """`sessions.db` in the data folder; any number of processes and threads use it at once.

    Raises:
        Misconfigured: the file cannot be used.
    """

    def __init__(
        self, file: Path, askers: Askers, hours: float, now: Callable[[], float] = time.time
    ) -> None:
        self._askers = askers
        self._seconds = hours * 3600
        self._now = now
        self._lock = RLock()  # an apsw connection serves one thread at a time
        self._db = _open(file)

    def begin(self, asker: Asker, seal: str = "") -> str:
        """Log in; the cookie's value. `seal` is that of the token that was shown."""
        cookie = secrets.token_urlsafe(COOKIE_BYTES)
        roles, now = " ".join(sorted(asker.roles)), self._now()
        with self._lock:
            self._db.execute("delete from session where ends_s < ?", (now,))
            self._db.execute(
                "insert into session values (?, ?, ?, ?, ?)",
                (_digest(cookie), seal, asker.name, roles, now + self._seconds),
            )
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Whose cookie it is; None: nobody's, or the session is over."""
        sql = "select seal, name, roles from session where digest = ? and ends_s >= ?"
        with self._lock:
            found: Any = self._db.execute(sql, (_digest(cookie), self._now()))
            rows: list[tuple[str, str, str]] = found.fetchall()
        if not rows:
            return None
        seal, name, roles = rows[0]
        if seal:
            asker = self._askers.of_seal(seal)
        else:
            known = frozenset(cast(Role, role) for role in roles.split() if role in RIGHTS)
            asker = Asker(name=name, roles=known)
        return Session(asker=asker, csrf=_csrf(cookie)) if asker else None

    def begin_attempt(self, attempt: Attempt, after: str) -> str:
        """Remember a login that a provider is asked for; the value of its cookie."""
        cookie, now = secrets.token_urlsafe(COOKIE_BYTES), self._now()
        row = (_digest(cookie), attempt.state, attempt.nonce, attempt.verifier, after)
        with self._lock:
            self._db.execute("delete from attempt where ends_s < ?", (now,))
            self._db.execute(
                "insert into attempt values (?, ?, ?, ?, ?, ?)", (*row, now + ATTEMPT_S)
            )
        return cookie

    def take_attempt(self, cookie: str, state: str) -> tuple[Attempt, str] | None:
        """The login that the browser comes back from, and where it leads; it is taken once.

        None: it was not begun here, or it took too long.
        """
        sql = """delete from attempt where digest = ? and ends_s >= ?
            returning state, nonce, verifier, after"""
        with self._lock:
            found: Any = self._db.execute(sql, (_digest(cookie), self._now()))
            rows: list[tuple[str, str, str, str]] = found.fetchall()
        if not rows or not hmac.compare_digest(rows[0][0].encode(), state.encode()):
            return None
        begun, nonce, verifier, after = rows[0]
        return Attempt(state=begun, nonce=nonce, verifier=verifier), after

    def end(self, cookie: str) -> None:
        """Log out."""
        with self._lock:
            self._db.execute("delete from session where digest = ?", (_digest(cookie),))


def fits(session: Session, csrf: str) -> bool:
    """Whether a form comes from a page of this session."""
    return hmac.compare_digest(session.csrf.encode(), csrf.encode())


def _digest(cookie: str) -> bytes:
    return sha256(cookie.encode()).digest()


def _csrf(cookie: str) -> str:
    return hmac.digest(cookie.encode(), b"csrf", "sha256").hex()


def _open(file: Path) -> apsw.Connection:
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        db = apsw.Connection(os.fspath(file))
        db.set_busy_timeout(BUSY_MS)
        db.execute(SCHEMA)
    except (apsw.Error, OSError) as wrong:
        raise Misconfigured(f"cannot use {file}: {wrong}") from wrong
    return db
