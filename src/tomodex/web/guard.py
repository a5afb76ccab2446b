"""Who may ask, and how often."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus

from fastapi import Request

from tomodex.web.problems import Refused

#: What may be asked without a token: whether it lives.
OPEN = ("/v1/health",)

#: Clients that are told apart; of more, the one that has been silent for longest is forgotten.
MOST_CLIENTS = 10_000

#: Seconds whose requests a client may make at once.
BURST_S = 4.0


class Guard:
    """Lets requests pass that have the token and do not come too fast.

    Args:
        token: what clients have to send (RFC 6750); "": none, for loopback only.
        per_second: requests of one client's address.
        now: seconds; a test's own clock.
    """

    def __init__(
        self, token: str, per_second: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = _digest(token) if token else b""
        self._per_second = per_second
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require(self, request: Request) -> None:
        """Raises Refused: the token is missing or wrong (401), or it is too often (429)."""
        self._require_patience(request.client.host if request.client else "")
        if self._token and request.url.path not in OPEN:
            self._require_token(request.headers.get("Authorization", ""))

    def _require_token(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        # Digests, so that neither content nor length of the token can be found by timing.
        right = hmac.compare_digest(_digest(given.strip()), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "token",
                "send the token, as Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    def _require_patience(self, client: str) -> None:
        now, most = self._now(), max(1.0, self._per_second * BURST_S)
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._buckets[client] = (left - allowed, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - left) / self._per_second
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too-often",
                f"at most {self._per_second:g} requests a second; send several tasks in one",
                {"Retry-After": str(max(1, round(wait_s)))},
            )


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
