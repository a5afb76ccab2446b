"""Logging in with a browser: a form that takes a token, and gives a cookie for some hours."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from tomodex.admission import Askers, seal_of
from tomodex.auditlog import Audit
from tomodex.web.guard import Patience, address_of, form_of
from tomodex.web.oidc import Provider, new_attempt
from tomodex.web.pages.rendering import render_alone
from tomodex.web.problems import Refused
from tomodex.web.sessions import ATTEMPT_COOKIE, COOKIE, Sessions

log = logging.getLogger(__name__)

#: Logins of one address a second; a person who mistypes is not held up, a program that guesses is.
LOGINS_PER_SECOND = 2.0

#: A token, and where the login leads, as a form writes them. Nobody is known yet who sends more.
MOST_FORM_BYTES = 32 * 2**10


def login_router(
    askers: Askers, sessions: Sessions, audit: Audit, provider: Provider | None = None
) -> APIRouter:
    """The routes, for those who are known by a token or by a provider."""
    router = APIRouter(include_in_schema=False)
    patience = Patience(LOGINS_PER_SECOND)
    offered = provider is not None and provider.has_login

    @router.get("/login")
    def show(after: Annotated[str, Query(alias="next", max_length=4096)] = "/") -> Response:
        if askers.everybody:
            return RedirectResponse(local_path(after), HTTPStatus.SEE_OTHER)
        return login_page(after, offered=offered)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        patience.require(address_of(request))
        form = form_of(await _short_body(request))
        token, after = form.get("token", "").strip(), form.get("next", "/")
        asker = askers.of_token(token)
        if asker is None:
            log.warning("login refused", extra={"client": address_of(request)})
            return login_page(after, "Nobody has this token.", offered=offered)
        await run_in_threadpool(audit.write, asker, "login")
        answer = RedirectResponse(local_path(after), HTTPStatus.SEE_OTHER)
        give_cookie(request, answer, sessions.begin(asker, seal_of(token)))
        return answer

    if provider and offered:
        _add_provider(router, provider, sessions, audit, patience)

    _add_logout(router, sessions, audit)
    return router


def _add_logout(router: APIRouter, sessions: Sessions, audit: Audit) -> None:
    """The end of a login, on the server too."""

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        session = sessions.find(request.cookies.get(COOKIE, ""))
        if session:
            sessions.end(request.cookies[COOKIE])
            audit.write(session.asker, "logout")
        answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, path="/")
        return answer


async def _short_body(request: Request) -> bytes:
    """The body, of which no more is read than a login takes.

    Raises:
        Refused: it is longer (413).
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_FORM_BYTES:
            sentence = f"a login takes {MOST_FORM_BYTES:,} bytes at most"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-long", sentence)
    return bytes(body)


def _add_provider(
    router: APIRouter, provider: Provider, sessions: Sessions, audit: Audit, patience: Patience
) -> None:
    """The way to the provider, and back from it."""

    @router.get("/login/provider")
    def go(
        request: Request, after: Annotated[str, Query(alias="next", max_length=4096)] = "/"
    ) -> Response:
        patience.require(address_of(request))
        attempt = new_attempt()
        answer = RedirectResponse(provider.login_url(attempt), HTTPStatus.SEE_OTHER)
        cookie = sessions.begin_attempt(attempt, local_path(after))
        # It has to come with a visit from the provider's site.
        _set_cookie(request, answer, ATTEMPT_COOKIE, cookie, "lax")
        return answer

    @router.get("/login/callback")
    def come_back(
        request: Request,
        state: Annotated[str, Query(max_length=200)] = "",
        code: Annotated[str, Query(max_length=4096)] = "",
    ) -> Response:
        patience.require(address_of(request))
        begun = sessions.take_attempt(request.cookies.get(ATTEMPT_COOKIE, ""), state)
        asker = provider.log_in(begun[0], code) if begun and code else None
        if begun is None or asker is None:
            log.warning("login refused", extra={"client": address_of(request)})
            return login_page("/", "The login did not succeed; try again.", offered=True)
        audit.write(asker, "login")
        # A page that goes on by itself: a browser sends no strict cookie along a way that began
        # at another site.
        answer = render_alone("onward.html", HTTPStatus.OK, after=begun[1])
        give_cookie(request, answer, sessions.begin(asker))
        answer.delete_cookie(ATTEMPT_COOKIE, path="/")
        return answer


def login_page(after: str, complaint: str = "", *, offered: bool = False) -> Response:
    """The form; `after` is where a login leads, `offered` adds the provider's."""
    return render_alone(
        "login.html",
        HTTPStatus.UNAUTHORIZED if complaint else HTTPStatus.OK,
        after=local_path(after),
        complaint=complaint,
        offered=offered,
    )


def wants_login(request: Request, refused: Refused) -> bool:
    """Whether somebody looks at a page, and is to log in to see it."""
    return (
        refused.status == HTTPStatus.UNAUTHORIZED
        and request.method == "GET"
        and "Authorization" not in request.headers
        and not request.url.path.startswith("/v1/")
        and "text/html" in request.headers.get("accept", "")
    )


def to_login(request: Request) -> Response:
    """The way to the login page, and from there to what was asked for."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(asked, safe='')}", HTTPStatus.SEE_OTHER)


def local_path(after: str) -> str:
    """The path if it is one of ours, else the first page: a link must lead nobody away."""
    foreign = not after.startswith("/") or after.startswith(("//", "/\\"))
    return "/" if foreign or not after.isprintable() or "\\" in after else after


def give_cookie(request: Request, answer: Response, cookie: str) -> None:
    """Have the browser keep who it is: out of reach of scripts, and sent to us from us alone."""
    _set_cookie(request, answer, COOKIE, cookie, "strict")


def _set_cookie(
    request: Request, answer: Response, name: str, value: str, same: Literal["lax", "strict"]
) -> None:
    secure = request.url.scheme == "https"
    answer.set_cookie(name, value, path="/", httponly=True, samesite=same, secure=secure)
