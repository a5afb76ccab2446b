"""The web app: its routes, its guard, and how it says what went wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tomodex.admission import Askers
from tomodex.cohorts import Cohorts
from tomodex.pipeline import software_versions
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.web.answers import TOKEN, shown
from tomodex.web.guard import Guard, Patience
from tomodex.web.health import health_router
from tomodex.web.identities import identities_router
from tomodex.web.login import login_router, to_login, wants_login
from tomodex.web.oidc import Provider
from tomodex.web.problems import PROBLEMS, Refused, answer_problems, problem
from tomodex.web.routes import add_routes
from tomodex.web.sessions import Sessions
from tomodex.web.tasks import MOST_BODY_BYTES, tasks_router
from tomodex.wiring import audit_of, cohorts_of, queue_of

log = logging.getLogger(__name__)

#: What a browser may call us where there is no token: else any web site could give its own name
#: our address, and ask us through it (DNS rebinding).
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]

#: Security headers: answers are data, never pages that could run something.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(settings: Settings, cohorts: Cohorts | None = None) -> FastAPI:
    """The app for these settings; `cohorts` None: what `cohorts_of` them is.

    Raises:
        Misconfigured: the queue, the rules or a token cannot be used.
    """
    queue = queue_of(settings)
    askers = Askers(settings.access, settings.serve.token)
    sessions = Sessions(settings.data / "sessions.db", askers, settings.access.session_h)
    provider = Provider(settings.access.oidc) if settings.access.oidc else None
    app = FastAPI(
        title="Tomodex",
        version=version("tomodex"),
        openapi_url="/v1/openapi.json",
        # Their pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
        max_body_size=MOST_BODY_BYTES,
        responses=dict(PROBLEMS),
    )
    answer_problems(app)
    _guard(app, Guard(askers, sessions, Patience(settings.serve.per_second), provider))
    if askers.everybody:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES)
    app.include_router(login_router(askers, sessions, audit_of(settings), provider))
    app.include_router(identities_router(settings), dependencies=TOKEN)
    tasks = tasks_router(settings, queue, load_rules(settings.rules))
    app.include_router(tasks, dependencies=TOKEN)
    asked = cohorts or cohorts_of(settings)
    add_routes(app, settings, asked, queue)
    app.include_router(health_router(queue, asked))
    _add_version(app)
    return app


def _add_version(app: FastAPI) -> None:
    @app.get(
        "/v1/version",
        tags=["server"],
        dependencies=TOKEN,
        responses=shown({"tomodex": "0.1.0", "numpy": "2.4.1"}),
        summary="Versions of what runs",
    )
    async def versions() -> dict[str, str]:
        return dict(software_versions())


def _guard(app: FastAPI, guard: Guard) -> None:
    """Let the guard see each request first, and log how it was answered."""

    @app.middleware("http")
    async def pass_guard(
        request: Request, go_on: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        begin = time.monotonic()
        try:
            await guard.admit(request)
            response = await go_on(request)
        except Refused as refused:
            response = to_login(request) if wants_login(request, refused) else problem(refused)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)  # pages have a policy of their own
        facts = {
            "method": request.method,
            "path": request.url.path[:200],
            "status": response.status_code,
            "client": request.client.host if request.client else "",
            "seconds": round(time.monotonic() - begin, 4),
        }
        log.info("answered", extra=facts)
        return response
