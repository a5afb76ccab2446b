"""People whom an OpenID Connect provider knows; the provider here signs with real keys."""

from __future__ import annotations

import base64
import hmac
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from pytest_httpserver import HTTPServer
from starlette.testclient import TestClient
from werkzeug import Request, Response

from tests.test_web_guard import app_with
from tomodex import wiring
from tomodex.errors import Misconfigured
from tomodex.settings import Settings, load_settings
from tomodex.web.sessions import ATTEMPT_COOKIE, COOKIE

KEY, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
OURS = "http://127.0.0.1/login/callback"


class Idp:
    """A provider that knows Ada, and remembers what it was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("").rstrip("/")
        self.keys = {"key1": KEY}
        self.nonce = ""
        self.asked: list[dict[str, list[str]]] = []
        self.fetched = 0
        discovery = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
        }
        server.expect_request("/.well-known/openid-configuration").respond_with_json(discovery)
        server.expect_request("/keys").respond_with_handler(self._keys)
        server.expect_request("/token", method="POST").respond_with_handler(self._token)

    def sign(self, key: Any = KEY, kid: str = "key1", algorithm: str = "RS256", **said: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "tomodex",
            "sub": "u1",
            "iat": now,
            "exp": now + 60,
            "preferred_username": "ada",
            "realm_access": {"roles": ["ct-research", "unrelated"]},
        }
        wanted = {name: value for name, value in (claims | said).items() if value is not None}
        return jwt.encode(wanted, key, algorithm=algorithm, headers={"kid": kid})

    def _keys(self, request: Request) -> Response:
        self.fetched += 1
        keys = [
            {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        return Response(json.dumps({"keys": keys}))

    def _token(self, request: Request) -> Response:
        self.asked.append(parse_qs(request.get_data(as_text=True)))
        answer = {
            "id_token": self.sign(aud="page", nonce=self.nonce, realm_access=None),
            "access_token": self.sign(),
        }
        return Response(json.dumps(answer), content_type="application/json")


@pytest.fixture
def idp(httpserver: HTTPServer) -> Idp:
    return Idp(httpserver)


def settings_of(folder: Path, idp: Idp, **more: Any) -> Settings:
    oidc = {
        "issuer": idp.url,
        "audience": "tomodex",
        "client": "page",
        "redirect": OURS,
        "roles": {"ct-research": "researcher"},
    }
    return load_settings(data=folder / "data", access={"oidc": oidc | more})


@pytest.fixture
def settings(tmp_path: Path, idp: Idp) -> Settings:
    return settings_of(tmp_path, idp)


@pytest.fixture
def client(settings: Settings) -> TestClient:
    return TestClient(app_with(settings), base_url="http://127.0.0.1", follow_redirects=False)


def whoami(client: TestClient, token: str) -> httpx.Response:
    return client.get("/whoami", headers={"Authorization": f"Bearer {token}"})


# --- tokens -------------------------------------------------------------------------------------


def test_a_token_of_the_provider_says_who_asks_and_what_they_may(client, idp):
    seen = whoami(client, idp.sign()).json()
    assert (seen["name"], seen["roles"]) == ("oidc:ada", ["researcher"])
    assert whoami(client, idp.sign(preferred_username=None)).json()["name"] == "oidc:u1"


def test_somebody_without_a_role_of_ours_is_known_and_may_nothing(client, idp):
    for roles in ({"roles": ["unrelated"]}, {"roles": "researcher"}, {"roles": 3}, [], None):
        assert whoami(client, idp.sign(realm_access=roles)).json()["roles"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"iss": "http://evil.example"},
        {"aud": "another"},
        {"aud": None},
        {"nbf": 4_000_000_000},
        {"key": OTHER},
        {"kid": "unknown"},
        {"algorithm": "RS512"},
        {"key": "x" * 40, "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
    ],
    ids=[
        "has ended",
        "never ends",
        "without a time",
        "for nobody",
        "by another provider",
        "for another application",
        "for no application",
        "for later",
        "signed with another key",
        "with an unknown key",
        "in another algorithm",
        "with a shared secret",
        "not signed",
    ],
)
def test_a_token_that_is_not_the_providers_for_us_and_now_is_nobodys(client, idp, wrong):
    assert whoami(client, idp.sign(**wrong)).status_code == 401


def test_a_public_key_is_no_shared_secret(client, idp):
    """The attack on libraries that let a token say how it is checked (CVE-2015-9235)."""
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    payload = idp.sign().split(".")[1]
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "key1"}).encode())
    signed = f"{header.decode().rstrip('=')}.{payload}"
    mark = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), "sha256")).decode()
    assert whoami(client, f"{signed}.{mark.rstrip('=')}").status_code == 401


def test_clocks_may_differ_by_some_seconds(client, idp):
    now = int(time.time())
    assert whoami(client, idp.sign(exp=now - 10)).status_code == 200
    assert whoami(client, idp.sign(exp=now - 60)).status_code == 401


def test_keys_are_fetched_once_and_unknown_ones_do_not_make_us_ask_all_the_time(client, idp):
    for _ in range(5):
        assert whoami(client, idp.sign()).status_code == 200
    for n in range(20):
        assert whoami(client, idp.sign(kid=f"made up {n}")).status_code == 401
    assert idp.fetched == 1


def test_a_provider_that_is_silent_is_said_to_be(tmp_path, idp, httpserver):
    httpserver.clear()
    silent = TestClient(app_with(settings_of(tmp_path, idp)), base_url="http://127.0.0.1")
    answer = whoami(silent, idp.sign())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    with pytest.raises(AssertionError):
        httpserver.check_assertions()
    httpserver.clear()


def test_what_is_no_token_of_a_provider_is_not_looked_at(client, idp):
    for token in ("a.b.c", "..", "x" * 10_000):
        assert whoami(client, token).status_code == 401


# --- login --------------------------------------------------------------------------------------


def begin(client: TestClient, idp: Idp, after: str = "/search?q=liver") -> dict[str, str]:
    """What the browser is sent to the provider with."""
    sent = client.get("/login/provider", params={"next": after})
    url = urlsplit(sent.headers["location"])
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{idp.url}/auth"
    asked = {name: values[0] for name, values in parse_qs(url.query).items()}
    idp.nonce = asked["nonce"]
    return asked


def test_a_person_logs_in_at_the_provider_and_comes_back_to_where_they_were(client, idp, settings):
    assert "/login/provider" in client.get("/login").text
    asked = begin(client, idp)
    assert (asked["code_challenge_method"], asked["redirect_uri"]) == ("S256", OURS)
    back = client.get("/login/callback", params={"code": "c0de", "state": asked["state"]})
    assert back.status_code == 200
    assert "url=/search?q=liver" in back.text
    cookies = back.headers.get_list("set-cookie")
    assert any(c.startswith(COOKIE) and "SameSite=strict" in c for c in cookies)
    seen = client.get("/whoami").json()
    assert (seen["name"], seen["roles"]) == ("oidc:ada", ["researcher"])
    (form,) = idp.asked
    assert form["code"] == ["c0de"]
    proof = base64.urlsafe_b64encode(sha256(form["code_verifier"][0].encode()).digest())
    assert proof.decode().rstrip("=") == asked["code_challenge"]
    assert [e.act for e in wiring.audit_of(settings).entries()] == ["login"]


def test_a_login_is_used_once_and_only_by_the_browser_that_began_it(client, idp):
    asked = begin(client, idp)
    cookie = client.cookies[ATTEMPT_COOKIE]
    wrong = client.get("/login/callback", params={"code": "c", "state": "another"})
    assert COOKIE not in wrong.headers.get("set-cookie", "")
    client.cookies.set(ATTEMPT_COOKIE, cookie)
    again = client.get("/login/callback", params={"code": "c", "state": asked["state"]})
    assert again.status_code == 401
    asked = begin(client, idp)
    client.cookies.clear()
    stranger = client.get("/login/callback", params={"code": "c", "state": asked["state"]})
    assert stranger.status_code == 401
    assert idp.asked == []


def test_a_token_of_another_login_is_refused(client, idp):
    asked = begin(client, idp)
    idp.nonce = "of another"
    back = client.get("/login/callback", params={"code": "c", "state": asked["state"]})
    assert (back.status_code, len(idp.asked)) == (401, 1)
    assert client.get("/whoami").status_code == 401


def test_a_login_leads_to_no_other_site(client, idp):
    asked = begin(client, idp, "https://evil.example/")
    back = client.get("/login/callback", params={"code": "c", "state": asked["state"]})
    assert "evil" not in back.text


def test_a_client_needs_to_know_where_people_come_back(tmp_path, idp):
    with pytest.raises(Misconfigured, match="login/callback"):
        settings_of(tmp_path, idp, redirect="")
