"""Runs the web app until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tomodex.doors import Serve, is_loopback
from tomodex.errors import Misconfigured
from tomodex.heartbeat import beat, beating, working
from tomodex.rebuilding import Rebuilder
from tomodex.settings import Settings
from tomodex.web.app import make_app
from tomodex.wiring import lasting_cohorts_of

#: Requests at once; more are told to come again (503).
MOST_AT_ONCE = 200

#: How long requests may go on when we are asked to end.
FINISH_S = 10

#: Seconds a connection may be idle.
IDLE_S = 30

#: Seconds that a request may take to arrive, up to twice as many.
ARRIVE_S = 60.0


class Prompt(H11Protocol):
    """A connection that ends when its request does not arrive.

    Else anybody who sends some octets now and then, and never all, holds as many as there may be.
    """

    arrive_s = ARRIVE_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look = self.loop.call_later(self.arrive_s, self._end_if_slow, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _end_if_slow(self, before: object) -> None:
        now = self.cycle
        if now is before and (now is None or now.response_complete or now.more_body):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self.arrive_s, self._end_if_slow, now)


class Server(uvicorn.Server):
    """Gives a sign of life while its event loop goes round."""

    async def on_tick(self, counter: int) -> bool:
        beat()
        return await super().on_tick(counter)


def serve(settings: Settings, started: Callable[[int], None]) -> None:
    """Serve until a signal; `started` is told the port.

    Raises:
        Misconfigured: the settings do not fit together, or the port is taken.
    """
    door = settings.serve
    require_guard(settings)
    config = uvicorn.Config(
        make_app(settings, lasting_cohorts_of(settings)),
        http=Prompt,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_AT_ONCE,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=FINISH_S,
        ssl_certfile=door.certificate,
        ssl_keyfile=door.key,
    )
    listening, rebuilder = _listen(door), Rebuilder(settings)
    rebuilder.start()
    started(listening.getsockname()[1])
    try:
        with listening, beating(settings.data, "serve"):
            working()
            _run(config, listening)
    finally:  # SIGTERM comes out of it as SystemExit
        rebuilder.end()


def require_guard(settings: Settings) -> None:
    """Refuse to answer everybody who can reach this machine.

    Raises:
        Misconfigured: nobody has to say who they are.
    """
    door, access = settings.serve, settings.access
    guarded = door.token or access.tokens or access.oidc
    if not is_loopback(door.host) and not guarded:
        raise Misconfigured(
            f"{door.host} can be reached from other machines: give each asker a token under "
            "[access.tokens], or set `token` in [serve], such as file:/run/secrets/tomodex-token"
        )


def _run(config: uvicorn.Config, listening: socket.socket) -> None:
    try:
        Server(config).run(sockets=[listening])
    except OSError as wrong:  # ssl.SSLError is one
        raise Misconfigured(f"cannot serve: {wrong}") from wrong
    except KeyboardInterrupt:  # uvicorn raises it again when it has ended
        return


def _listen(door: Serve) -> socket.socket:
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    try:
        listening = socket.create_server((door.host, door.port), family=family, backlog=128)
        # Connections have it from here. asyncio sets it on sockets that say they are TCP, which
        # this one does not; without it each short answer waits 40 ms for the client's system.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as refused:
        raise Misconfigured(
            f"cannot listen on {door.host}:{door.port}: {refused.strerror}"
        ) from refused
