"""Who is let in over HTTP, as whom, and that no other web site can use a browser's login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

from tomodex.access import Asker
from tomodex.admission import SERVE_TOKEN_ROLES, Access, Askers, seal_of
from tomodex.errors import Misconfigured
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.web.guard import asker_of, csrf_of
from tomodex.web.login import local_path
from tomodex.web.serving import require_guard
from tomodex.web.sessions import COOKIE, Sessions

ALICE, VIEWER, OPS = ("a" * 32, "v" * 32, "o" * 32)


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE", ALICE)
    monkeypatch.setenv("VIEWER", VIEWER)
    monkeypatch.setenv("OPS", OPS)


ACCESS = {
    "tokens": {
        "alice": {"secret": "env:ALICE", "roles": ["researcher"]},
        "portal": {"secret": "env:VIEWER", "roles": ["viewer"]},
        "ops": {"secret": "env:OPS", "roles": ["operator"]},
    }
}


def settings_with(folder: Path, **more: Any) -> Settings:
    return load_settings(data=folder / "data", **more)


def app_with(settings: Settings) -> FastAPI:
    """The app, and a route that says who asks."""
    app, router = make_app(settings), APIRouter()

    @router.api_route("/whoami", methods=["GET", "POST"], include_in_schema=False)
    def whoami(asker: Asker = Depends(asker_of), csrf: str = Depends(csrf_of)) -> dict[str, Any]:  # noqa: B008
        return {"name": asker.name, "roles": sorted(asker.roles), "csrf": csrf}

    app.include_router(router)
    return app


def client_of(settings: Settings, **how: Any) -> TestClient:
    return TestClient(app_with(settings), base_url="http://127.0.0.1", **how)


@pytest.fixture
def guarded(tmp_path: Path) -> TestClient:
    return client_of(settings_with(tmp_path, access=ACCESS), follow_redirects=False)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(client: TestClient, token: str = ALICE, **form: str) -> httpx.Response:
    return client.post("/login", data={"token": token, **form})


# --- tokens -------------------------------------------------------------------------------------


def test_a_token_says_who_asks_and_what_they_may(guarded):
    seen = guarded.get("/whoami", headers=bearer(ALICE)).json()
    assert (seen["name"], seen["roles"]) == ("alice", ["researcher"])
    assert guarded.get("/whoami", headers=bearer(VIEWER)).json()["roles"] == ["viewer"]


def test_the_token_of_serve_stays_that_of_a_researcher_operator_and_service(tmp_path, monkeypatch):
    old = "the-only-token-there-was"
    monkeypatch.setenv("OLD", old)
    client = client_of(settings_with(tmp_path, access=ACCESS, serve={"token": "env:OLD"}))
    seen = client.get("/whoami", headers=bearer(old)).json()
    assert (seen["name"], set(seen["roles"])) == ("token", SERVE_TOKEN_ROLES)


def test_a_short_token_of_serve_is_refused_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setenv("OLD", "fifteen letters")
    with pytest.raises(Misconfigured, match="fewer than 16"):
        client_of(settings_with(tmp_path, serve={"token": "env:OLD"}))


def test_without_access_whoever_asks_from_this_machine_may_all_but_identify(tmp_path):
    seen = client_of(settings_with(tmp_path)).get("/whoami").json()
    assert (seen["name"], seen["roles"]) == ("local", ["operator", "researcher", "service"])
    with pytest.raises(Misconfigured, match="local"):
        settings_with(tmp_path, access={"local": ["steward"]})


def test_with_access_this_machine_has_to_say_who_it_is_too(guarded):
    assert guarded.get("/whoami").status_code == HTTPStatus.UNAUTHORIZED
    assert guarded.get("/whoami", headers=bearer("x" * 32)).status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_what_a_proxy_passes_on_is_not_from_this_machine(tmp_path, header):
    client = client_of(settings_with(tmp_path))
    assert client.get("/whoami", headers={header: "198.51.100.7"}).status_code == 401
    far = client_of(settings_with(tmp_path), client=("198.51.100.7", 50_000))
    assert far.get("/whoami").status_code == HTTPStatus.UNAUTHORIZED


def test_a_token_that_can_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv("SHORT", "hunter2")
    access = Access(tokens={"bob": {"secret": "env:SHORT", "roles": ["viewer"]}})
    with pytest.raises(Misconfigured, match="bob has fewer than 16") as wrong:
        Askers(access)
    assert "hunter2" not in str(wrong.value)


def test_two_askers_cannot_have_one_token():
    both = {name: {"secret": "env:ALICE", "roles": ["viewer"]} for name in ("a", "b")}
    with pytest.raises(Misconfigured, match="same token"):
        Askers(Access(tokens=both))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": {"bob": {"secret": ALICE, "roles": ["viewer"]}}},
        {"tokens": {"bob": {"secret": "env:ALICE", "roles": []}}},
        {"tokens": {"bob": {"secret": "env:ALICE", "roles": ["admin"]}}},
        {"tokens": {"oidc:bob": {"secret": "env:ALICE", "roles": ["viewer"]}}},
        {"tokens": {"owner": {"secret": "env:ALICE", "roles": ["viewer"]}}},
        {"tokens": {"local": {"secret": "env:ALICE", "roles": ["viewer"]}}},
        {"tokens": {"token": {"secret": "env:ALICE", "roles": ["viewer"]}}},
        {"fewest_patients": 1},
        {"oidc": {"issuer": "http://idp.example", "audience": "t", "roles": {"a": "viewer"}}},
        {
            "oidc": {
                "issuer": "https://idp.example",
                "audience": "t",
                "roles": {"a": "viewer"},
                "algorithms": ["none"],
            }
        },
    ],
)
def test_access_that_is_set_wrong_is_refused_without_its_secret(tmp_path, wrong):
    with pytest.raises(Misconfigured, match="access") as refused:
        settings_with(tmp_path, access=wrong)
    assert ALICE not in str(refused.value)


def test_any_kind_of_access_lets_other_machines_in():
    require_guard(load_settings(serve={"host": "0.0.0.0"}, access=ACCESS))
    with pytest.raises(Misconfigured, match="token"):
        require_guard(load_settings(serve={"host": "0.0.0.0"}))


# --- another machine ----------------------------------------------------------------------------


def _address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.254", 9))  # sends nothing
        return str(probe.getsockname()[0])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, FastAPI]]:
    """The app on all addresses, as another machine reaches it."""
    app = app_with(settings_with(tmp_path, access=ACCESS, serve={"per_second": 10_000}))
    listening = socket.create_server(("0.0.0.0", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://{_address()}:{listening.getsockname()[1]}", app
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def paths_of(app: FastAPI) -> list[tuple[str, str]]:
    """Every path and method that the app says it has, and some that it does not."""
    found = [
        (path.replace("{", "").replace("}", ""), method.upper())
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]
    return [
        *found,
        ("/v1/openapi.json", "GET"),
        ("/whoami", "POST"),
        ("/", "GET"),
        ("/docs", "GET"),
        ("/x", "DELETE"),
    ]


def test_another_machine_gets_nothing_without_a_token(served):
    url, app = served
    paths = [(p, m) for p, m in paths_of(app) if p not in ("/v1/live", "/v1/health", "/v1/ready")]
    assert len(paths) > 6
    with httpx.Client(base_url=url) as client:
        for path, method in paths:
            for headers in ({}, bearer("x" * 32), {"Cookie": f"{COOKIE}=x"}):
                refused = client.request(method, path, headers=headers)
                assert (path, refused.status_code) == (path, HTTPStatus.UNAUTHORIZED)
                assert refused.json()["detail"].startswith("send the token")
        # The same with a token is answered, so it was the token.
        assert client.get("/whoami", headers=bearer(ALICE)).json()["name"] == "alice"


# --- login --------------------------------------------------------------------------------------


def test_a_browser_logs_in_with_a_token_and_gets_a_cookie_that_no_script_can_read(guarded):
    answer = log_in(guarded, next="/search?q=liver")
    assert answer.status_code == HTTPStatus.SEE_OTHER
    assert answer.headers["location"] == "/search?q=liver"
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert ALICE not in cookie
    seen = guarded.get("/whoami").json()
    assert (seen["name"], seen["roles"]) == ("alice", ["researcher"])


def test_over_tls_the_cookie_is_never_sent_without(tmp_path):
    client = TestClient(
        app_with(settings_with(tmp_path, access=ACCESS)), base_url="https://t.example"
    )
    assert "Secure" in client.post("/login", data={"token": ALICE}, follow_redirects=False).headers[
        "set-cookie"
    ].split("; ")


def test_a_wrong_token_gives_no_cookie(guarded):
    for token in ("", "x" * 32, ALICE[:-1]):
        refused = log_in(guarded, token)
        assert refused.status_code == HTTPStatus.UNAUTHORIZED
        assert "set-cookie" not in refused.headers
        assert "Nobody has this token" in refused.text


def test_logging_out_ends_the_session_on_the_server(guarded):
    log_in(guarded)
    cookie, csrf = guarded.cookies[COOKIE], guarded.get("/whoami").json()["csrf"]
    guarded.post("/logout", data={"csrf": csrf})
    guarded.cookies.set(COOKIE, cookie)
    assert guarded.get("/whoami").status_code == HTTPStatus.UNAUTHORIZED


def test_a_session_ends_by_itself_and_with_its_token(tmp_path):
    now = [0.0]
    file = tmp_path / "sessions.db"
    askers = Askers(Access.model_validate(ACCESS))
    sessions = Sessions(file, askers, 8, now=lambda: now[0])
    cookie = sessions.begin(askers.of_token(ALICE), seal_of(ALICE))
    assert sessions.find(cookie).asker.name == "alice"
    without = {"tokens": {n: t for n, t in ACCESS["tokens"].items() if n != "alice"}}
    assert Sessions(file, Askers(Access.model_validate(without)), 8).find(cookie) is None
    now[0] = 8 * 3600 + 1
    assert sessions.find(cookie) is None


def test_the_file_of_sessions_lets_nobody_in_who_reads_it(tmp_path):
    file = tmp_path / "sessions.db"
    askers = Askers(Access.model_validate(ACCESS))
    cookie = Sessions(file, askers, 8).begin(askers.of_token(ALICE))
    assert file.stat().st_mode & 0o777 == 0o600
    assert cookie.encode() not in file.read_bytes()


def test_whoever_opens_a_page_is_sent_to_the_login_and_back(guarded):
    answer = guarded.get("/search?q=a%26b", headers={"Accept": "text/html,*/*"})
    assert answer.headers["location"] == "/login?next=%2Fsearch%3Fq%3Da%2526b"
    assert 'value="/search?q=a%26b"' in guarded.get(answer.headers["location"]).text
    assert guarded.get("/search").status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil", "evil", ""]
)
def test_a_login_leads_nowhere_else(guarded, after):
    assert local_path(after) == "/"
    assert log_in(guarded, next=after).headers["location"] == "/"


def test_what_is_shown_on_the_login_page_cannot_break_out_of_it(guarded):
    page = guarded.get("/login", params={"next": '/"><script>alert(1)</script>'}).text
    assert "<script>" not in page
    assert 'value="/&#34;&gt;&lt;script' in page


def test_the_login_page_may_load_its_style_and_nothing_of_others(guarded):
    policy = guarded.get("/login").headers["Content-Security-Policy"]
    assert "style-src 'self'" in policy
    assert "default-src 'none'" in policy


def test_of_who_is_not_known_no_more_is_read_than_a_login_takes(guarded):
    answer = log_in(guarded, "x" * 2**16)
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:tomodex:problem:too-long"


def test_guessing_tokens_is_slowed_down(guarded):
    answers = [log_in(guarded, "x" * 32).status_code for _ in range(20)]
    assert HTTPStatus.TOO_MANY_REQUESTS in answers


# --- other web sites ----------------------------------------------------------------------------

FROM_ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1234"},
]


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_a_page_of_another_site_cannot_use_a_login(guarded, headers):
    log_in(guarded)
    csrf = guarded.get("/whoami").json()["csrf"]
    refused = guarded.post("/whoami", headers=headers | {"X-CSRF-Token": csrf})
    assert refused.status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_nor_this_machine_where_nobody_has_to_log_in(tmp_path, headers):
    client = client_of(settings_with(tmp_path))
    assert client.post("/v1/tasks/retry", headers=headers).status_code == HTTPStatus.FORBIDDEN
    assert client.post("/v1/tasks/retry").status_code == HTTPStatus.OK


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
def test_nor_log_somebody_in(guarded, headers):
    assert guarded.post("/login", data={"token": ALICE}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "site", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://127.0.0.1"}]
)
def test_a_form_of_ours_has_to_send_back_what_only_our_pages_know(guarded, site):
    log_in(guarded)
    csrf = guarded.get("/whoami").json()["csrf"]
    assert guarded.post("/whoami", headers=site).status_code == HTTPStatus.FORBIDDEN
    assert guarded.post("/whoami", data={"csrf": "0" * 64}, headers=site).status_code == 403
    assert guarded.post("/whoami", data={"csrf": csrf, "x": "y"}, headers=site).is_success
    assert guarded.post("/whoami", headers={**site, "X-CSRF-Token": csrf}).is_success


def test_a_program_with_a_token_needs_nothing_of_that(guarded):
    assert guarded.post("/whoami", headers=bearer(ALICE)).is_success


# --- patience -----------------------------------------------------------------------------------


def test_those_behind_one_proxy_do_not_use_up_each_others_turn(tmp_path):
    slow = client_of(settings_with(tmp_path, access=ACCESS, serve={"per_second": 0.5}))
    alice = [slow.get("/whoami", headers=bearer(ALICE)).status_code for _ in range(3)]
    assert alice == [200, 200, 429]
    assert slow.get("/whoami", headers=bearer(OPS)).status_code == HTTPStatus.OK


# --- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/tasks"), ("GET", "/v1/tasks/1.2"), ("POST", "/v1/tasks/retry")],
)
def test_tasks_are_for_operators(guarded, method, path):
    assert guarded.request(method, path, headers=bearer(ALICE)).status_code == 403
    assert guarded.request(method, path, headers=bearer(OPS)).status_code in (200, 404)


def test_only_a_service_orders(guarded):
    for token in (ALICE, VIEWER, OPS):
        refused = guarded.post("/v1/tasks", json={}, headers=bearer(token))
        assert refused.status_code == HTTPStatus.FORBIDDEN
        assert refused.json()["detail"] == "only a service may do that"
