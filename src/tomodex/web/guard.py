"""Who may ask, as whom, and how often.

Whoever asks sends a token (RFC 6750), has logged in with a browser, or asks from this machine where
nobody has to say who they are. A browser sends its cookie, and reaches this machine, whatever page
it shows; so what is not asked with a token has to come from a page of ours (CSRF).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request

from tomodex.access import Asker, Right
from tomodex.admission import Askers
from tomodex.doors import is_loopback
from tomodex.errors import Unavailable
from tomodex.web.problems import Refused, refusal_of
from tomodex.web.sessions import COOKIE, Session, Sessions, fits

#: What may be asked by anybody: whether it lives, and what a login page needs.
OPEN = ("/v1/live", "/v1/health", "/v1/ready", "/login", "/login/provider", "/login/callback")
OPEN_FOLDER = "/static/"

#: Methods that change nothing (RFC 9110 9.2.1).
SAFE = ("GET", "HEAD", "OPTIONS")

#: Where a page sends back what proves that it is ours.
CSRF_HEADER, CSRF_FIELD = "X-CSRF-Token", "csrf"
FORM = "application/x-www-form-urlencoded"

#: What a proxy adds to what it passes on: whoever asks is then not on this machine.
PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip")

MOST_FIELDS = 1000

#: Clients that are told apart; of more, the one that has been silent for longest is forgotten.
MOST_CLIENTS = 10_000

#: Tokens of a provider that are looked at at once.
MOST_ASKING = 4

#: Seconds whose requests a client may make at once.
BURST_S = 4.0


class Provider(Protocol):
    """Says who sends a token that is not one of ours."""

    def asker(self, token: str) -> Asker | None:
        """Whose it is; None: nobody's, or it is over."""


class Patience:
    """How often each client may ask.

    Args:
        per_second: requests of one client.
        now: seconds; a test's own clock.
    """

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require(self, client: str) -> None:
        """Raises Refused: it is too often (429)."""
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


class Guard:
    """Lets requests pass whose asker is known and does not come too fast.

    Args:
        askers: who is known by a token.
        sessions: who has logged in with a browser.
        patience: how often one may ask.
        provider: who is let in on the word of others; None: nobody.
    """

    def __init__(
        self,
        askers: Askers,
        sessions: Sessions,
        patience: Patience,
        provider: Provider | None = None,
    ) -> None:
        self._askers = askers
        self._sessions = sessions
        self._patience = patience
        self._provider = provider
        self._asking = CapacityLimiter(MOST_ASKING)

    async def admit(self, request: Request) -> None:
        """Let a request pass, and let `asker_of` and `csrf_of` say who it is.

        Raises:
            Refused: it is not known who it is (401), it comes from a page of others (403), or too
                often (429).
        """
        header = request.headers.get("Authorization", "")
        session = None if header else self._session(request)
        asker = await self._asker(header, request) if not session else session.asker
        known = asker is not None and asker != self._askers.local()
        self._patience.require(f"asker {asker.name}" if asker and known else address_of(request))
        if asker is None and not _is_open(request.url.path):
            raise unknown()
        if not header and request.method not in SAFE:
            _require_own_page(request)
            if session:
                await _require_csrf(request, session)
        request.state.asker = asker
        request.state.csrf = session.csrf if session else ""

    async def _asker(self, header: str, request: Request) -> Asker | None:
        if not header:
            return None if _is_from_elsewhere(request) else self._askers.local()
        scheme, _, given = header.partition(" ")
        token = given.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        asker = self._askers.of_token(token)
        if asker is None and self._provider and token.count(".") == 2:
            asker = await self._asker_of_provider(self._provider, token)
        return asker

    async def _asker_of_provider(self, provider: Provider, token: str) -> Asker | None:
        # It may have to fetch keys; while it waits for them, others find threads free.
        try:
            return await run_sync(provider.asker, token, limiter=self._asking)
        except Unavailable as silent:
            raise refusal_of(silent) from silent

    def _session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(COOKIE, "")
        return self._sessions.find(cookie) if cookie else None


def asker_of(request: Request) -> Asker:
    """Who asks; for routes, as `Annotated[Asker, Depends(asker_of)]`.

    Raises:
        Refused: it is not known (401).
    """
    asker: Asker | None = getattr(request.state, "asker", None)
    if asker is None:
        raise unknown()
    return asker


def permit(right: Right) -> Callable[[Request], None]:
    """A check that who asks has a right, for `dependencies=[Depends(permit("operate"))]`."""

    def require(request: Request) -> None:
        asker_of(request).require(right)

    return require


def csrf_of(request: Request) -> str:
    """What forms of our pages have to send as `csrf`, and scripts as X-CSRF-Token; "": nothing."""
    return str(getattr(request.state, "csrf", ""))


def form_of(body: bytes) -> Mapping[str, str]:
    """The fields of a form, the first of each name; nothing of what is none."""
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""


def unknown() -> Refused:
    """The answer to whoever did not say who they are."""
    return Refused(
        HTTPStatus.UNAUTHORIZED,
        "token",
        "send the token, as Authorization: Bearer TOKEN",
        {"WWW-Authenticate": "Bearer"},
    )


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDER)


def _is_from_elsewhere(request: Request) -> bool:
    """Whether it was passed on by a proxy, or comes from another machine."""
    if any(name in request.headers for name in PASSED_ON):
        return True
    host = address_of(request)
    return _is_address(host) and not is_loopback(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _require_own_page(request: Request) -> None:
    """Refuse what a page of another web site has the browser send.

    Browsers say since 2023 where a request comes from (Fetch Metadata); older ones send `Origin`
    with whatever may change something. Neither: it is no browser.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or _netloc(origin) == request.headers.get("Host", "").lower()
    if not ours:
        raise Refused(HTTPStatus.FORBIDDEN, "other-site", "this came from a page of another site")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def _require_csrf(request: Request, session: Session) -> None:
    if not fits(session, request.headers.get(CSRF_HEADER) or await _field(request)):
        raise Refused(
            HTTPStatus.FORBIDDEN, "csrf", "the page is too old; load it again, and send it again"
        )


async def _field(request: Request) -> str:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return ""
    return form_of(await request.body()).get(CSRF_FIELD, "")
