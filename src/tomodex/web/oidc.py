"""People whom an OpenID Connect provider knows, such as Keycloak: by their token, or by logging in.

Keys come from the provider and are kept for some minutes; algorithms are those that the settings
name. A login is the authorization code flow with PKCE (RFC 7636), state and nonce, each used once.
"""

from __future__ import annotations

import hmac
import secrets
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode, urlsplit

import orjson
import requests

from tomodex.access import Asker, Role
from tomodex.admission import Oidc
from tomodex.errors import Misconfigured, Unavailable
from tomodex.options import Secret

if TYPE_CHECKING:
    from jwt import PyJWKClient

TIMEOUT_S = 5.0

#: Its answers are some kB; more is not read.
MOST_OCTETS = 1_000_000

#: A claim that is no longer than a line of the audit log.
LONGEST_NAME = 100

#: What a token has to say besides what it is checked for.
REQUIRED = ("exp", "iat", "iss", "aud", "sub")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A login that was begun: what the browser has to come back with, and what proves it."""

    state: str
    nonce: str
    verifier: str

    @property
    def challenge(self) -> str:
        digest = sha256(self.verifier.encode()).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


def new_attempt() -> Attempt:
    """Three random numbers of 256 bits."""
    return Attempt(
        state=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(32),
    )


class Provider:
    """An OpenID Connect provider; it is asked when somebody comes with its token.

    Raises:
        Misconfigured: the extra is not installed, or the client's secret cannot be read.
    """

    def __init__(self, oidc: Oidc) -> None:
        try:
            import jwt
        except ImportError as missing:
            raise Misconfigured(
                "OpenID Connect needs an extra: pip install 'tomodex[oidc]'"
            ) from missing
        self._jwt = jwt
        self._oidc = oidc
        self._secret = Secret(oidc.client_secret).read() if oidc.client_secret else ""
        self._session = requests.Session()
        self._session.verify = str(oidc.ca) if oidc.ca else True
        self._session.trust_env = False

    @property
    def has_login(self) -> bool:
        """Whether people can log in with a browser."""
        return bool(self._oidc.client)

    def asker(self, token: str) -> Asker | None:
        """Whose token it is; None: nobody's, or it is over.

        Raises:
            Unavailable: the provider does not answer.
        """
        claims = self._claims(token, self._oidc.audience)
        return self._named(claims, claims) if claims else None

    def login_url(self, attempt: Attempt) -> str:
        """Where the browser is sent."""
        asked = {
            "response_type": "code",
            "client_id": self._oidc.client,
            "redirect_uri": self._oidc.redirect,
            "scope": "openid profile",
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._endpoint('authorization_endpoint')}?{urlencode(asked)}"

    def log_in(self, attempt: Attempt, code: str) -> Asker | None:
        """Who has logged in; None: the provider does not say, or it was somebody else's login.

        Raises:
            Unavailable: the provider does not answer.
        """
        answer = self._exchange(attempt, code)
        who = self._claims(str(answer.get("id_token", "")), self._oidc.client)
        if not who or not hmac.compare_digest(str(who.get("nonce", "")), attempt.nonce):
            return None
        # Providers say roles in the token for us, and not all in the one that says who it is.
        for_us = self._claims(str(answer.get("access_token", "")), self._oidc.audience)
        same = for_us is not None and for_us["sub"] == who["sub"]
        return self._named(who, for_us if same and for_us else who)

    def _named(self, who: Mapping[str, Any], roles: Mapping[str, Any]) -> Asker:
        name = str(who.get(self._oidc.name_claim) or who["sub"])[:LONGEST_NAME]
        # A colon tells them from whom the settings name.
        return Asker(name=f"oidc:{name}", roles=self._roles(roles))

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[Role]:
        found: Any = claims
        for part in self._oidc.roles_claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        said = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        known = self._oidc.roles
        return frozenset(known[role] for role in said if isinstance(role, str) and role in known)

    def _claims(self, token: str, audience: str) -> Mapping[str, Any] | None:
        """What a token says that is the provider's, for this audience, and not over."""
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            return cast(
                Mapping[str, Any],
                self._jwt.decode(
                    token,
                    key,
                    algorithms=list(self._oidc.algorithms),
                    audience=audience,
                    issuer=self._oidc.issuer,
                    leeway=self._oidc.leeway_s,
                    options={"require": list(REQUIRED)},
                ),
            )
        except self._jwt.PyJWKClientConnectionError as silent:
            raise Unavailable(f"{self._oidc.issuer} does not give its keys") from silent
        except self._jwt.PyJWTError:
            return None

    @cached_property
    def _keys(self) -> PyJWKClient:
        # Its own defaults: keys are kept for 300 s, and an unknown one is asked for every 30 s.
        url, context = self._endpoint("jwks_uri"), ssl.create_default_context(cafile=self._oidc.ca)
        return self._jwt.PyJWKClient(url, timeout=TIMEOUT_S, ssl_context=context)

    def _endpoint(self, name: str) -> str:
        url = str(self._configuration.get(name, ""))
        if urlsplit(url).scheme != urlsplit(self._oidc.issuer).scheme:
            raise Unavailable(f"{self._oidc.issuer} names no {name} that can be used")
        return url

    @cached_property
    def _configuration(self) -> Mapping[str, Any]:
        url = f"{self._oidc.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = self._asked("GET", url)
        if found.get("issuer") != self._oidc.issuer:
            raise Unavailable(f"{url} is of another issuer")
        return found

    def _exchange(self, attempt: Attempt, code: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._oidc.redirect,
            "client_id": self._oidc.client,
            "code_verifier": attempt.verifier,
        }
        auth = (self._oidc.client, self._secret) if self._secret else None
        return self._asked("POST", self._endpoint("token_endpoint"), data=form, auth=auth)

    def _asked(self, method: str, url: str, **how: Any) -> Mapping[str, Any]:
        """The object that it answers; {} where it refuses."""
        try:
            with self._session.request(
                method, url, timeout=TIMEOUT_S, allow_redirects=False, stream=True, **how
            ) as answer:
                if answer.status_code >= requests.codes.server_error:
                    raise Unavailable(f"{self._oidc.issuer} does not answer")
                octets = answer.raw.read(MOST_OCTETS, decode_content=True)
                found = orjson.loads(octets) if answer.ok else {}
        except (requests.RequestException, ValueError, OSError) as silent:
            raise Unavailable(f"{self._oidc.issuer} does not answer") from silent
        return found if isinstance(found, dict) else {}
