"""Connections of those who send slowly, and of those who are answered slowly."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request

from tomodex.doors import Serve
from tomodex.settings import load_settings
from tomodex.web.serving import Prompt, Server, _listen, serve

HEAD = b"POST /slow HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(Prompt, "arrive_s", 0.3)
    app = FastAPI()

    @app.post("/slow")
    async def slow(request: Request) -> int:
        octets = len(await request.body())
        await asyncio.sleep(1)
        return octets

    config = uvicorn.Config(app, log_config=None, lifespan="off", http=Prompt)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def answer_to(port: int, sent: bytes) -> bytes:
    """What comes until the connection ends; b"" if it ended without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        try:
            return connection.recv(1000)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, HEAD + b"X-A: 1", HEAD + b"Content-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "a line", "half a line", "half a body"],
)
def test_a_connection_ends_when_its_request_does_not_arrive(port, sent):
    assert answer_to(port, sent) == b""


def test_who_waits_for_an_answer_gets_it_however_long_it_takes(port):
    assert answer_to(port, HEAD + b"Content-Length: 4\r\n\r\nhalf").startswith(b"HTTP/1.1 200")


def test_nothing_goes_on_beside_a_server_that_was_asked_to_end(tmp_path, monkeypatch):
    """Else DuckDB fills the log with complaints, and a rebuild is torn from its work."""
    went_on = list[str]()

    def asked_to_end(*_: object, **__: object) -> None:
        went_on.extend(thread.name for thread in threading.enumerate())
        raise SystemExit(143)

    monkeypatch.setattr(Server, "run", asked_to_end)
    settings = load_settings(data=tmp_path / "data", serve={"port": 0})
    with pytest.raises(SystemExit):
        serve(settings, lambda port: None)
    assert "rebuilder" in went_on
    assert "rebuilder" not in [thread.name for thread in threading.enumerate()]


def test_a_short_answer_waits_for_no_acknowledgement():
    with _listen(Serve(port=0)) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
