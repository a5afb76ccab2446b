"""Who is let in, and as whom: the settings `[access]`, and the tokens that they name."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

from tomodex.access import OWNER, Asker, Role
from tomodex.errors import Misconfigured
from tomodex.options import Secret

#: Shorter tokens than this can be guessed over a network.
MIN_TOKEN_CHARACTERS = 16

#: Who asks from this machine where nobody has to say who they are.
LOCAL = "local"

#: Who sends the token of `[serve]`.
SERVE_TOKEN = "token"
SERVE_TOKEN_ROLES: frozenset[Role] = frozenset({"researcher", "operator", "service"})

#: Names that the audit log has for others.
TAKEN = (OWNER.name, LOCAL, SERVE_TOKEN)


def _free(name: str) -> str:
    if name in TAKEN:
        raise ValueError(f"{name} means somebody else in the audit log")
    return name


#: What a token is called in the audit log: no colon, so that no person's name can look like one.
TokenName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$"), AfterValidator(_free)
]


def _named(place: str) -> str:
    TypeAdapter(Secret).validate_python(place)
    return place


#: Where a secret lies: `file:/run/secrets/alice` or `env:NAME`.
SecretPlace = Annotated[str, AfterValidator(_named)]


class Token(BaseModel):
    """A person or program that is known by a token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: SecretPlace
    roles: tuple[Role, ...] = Field(min_length=1)


class Oidc(BaseModel):
    """An OpenID Connect provider, such as Keycloak, whose word on who somebody is counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(pattern=r"^https?://[^\s?#]+$")  #: as its tokens name it
    audience: str = Field(min_length=1)  #: what its tokens are to be meant for
    client: str = ""  #: our client id there, for logins in a browser; "": tokens only
    client_secret: SecretPlace | None = None  #: None: a public client
    redirect: str = ""  #: URL of our /login/callback, as the provider knows it
    roles_claim: str = "realm_access.roles"  #: where its tokens say roles; dots go deeper
    roles: Mapping[str, Role] = Field(min_length=1)  #: what it calls them -> what they are here
    name_claim: str = "preferred_username"  #: who somebody is, for the audit log
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
        ...,
    ] = ("RS256", "PS256", "ES256")  #: never one with a shared secret, and never none
    leeway_s: float = Field(default=30.0, ge=0, le=300)  #: by which clocks may differ
    ca: Path | None = None  #: PEM file of who signs its certificate; None: as the system has it

    @field_validator("issuer")
    @classmethod
    def _be_guarded(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("an issuer on another machine is asked over https")
        if parts.username or parts.password:
            raise ValueError("an issuer's URL holds no password")
        return issuer

    @model_validator(mode="after")
    def _lead_back(self) -> Oidc:
        if self.client and not re.fullmatch(r"https?://[^\s?#]+/login/callback", self.redirect):
            raise ValueError("redirect is our URL that ends in /login/callback")
        return self


class Access(BaseModel):
    """Who may ask, and what they may learn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Mapping[TokenName, Token] = Field(default={})  #: by the name that the audit log has
    oidc: Oidc | None = None  #: None: nobody is let in on the word of others
    #: Of whoever asks from this machine while there are neither tokens nor OIDC.
    local: tuple[Literal["viewer", "researcher", "operator", "service"], ...] = (
        "researcher",
        "operator",
        "service",
    )
    fewest_patients: int = Field(default=10, ge=2, le=1000)  #: viewers learn of fewer no number
    questions_a_day: int = Field(default=2000, ge=1)  #: of one viewer; each field counted is one
    session_h: float = Field(default=8.0, gt=0, le=24)  #: a browser is logged in for
    identities: bool = False  #: keep which patient a pseudonym is, for stewards
    identities_file: Path | None = None  #: None: `identities.db` in the data folder


class Askers:
    """Those who are known by a token.

    Args:
        access: the settings.
        serve_token: where the token of `[serve]` lies; "": there is none.

    Raises:
        Misconfigured: a secret cannot be read, is too short, or two askers have the same.
    """

    def __init__(self, access: Access, serve_token: str = "") -> None:
        self._local = Asker(name=LOCAL, roles=frozenset(access.local))
        self._known: dict[bytes, Asker] = {}
        if serve_token:
            self._add(serve_token, Asker(name=SERVE_TOKEN, roles=SERVE_TOKEN_ROLES))
        for name, token in access.tokens.items():
            self._add(token.secret, Asker(name=name, roles=frozenset(token.roles)))
        self.everybody = not (self._known or access.oidc)  #: nobody has to say who they are

    def local(self) -> Asker | None:
        """Whoever asks from this machine; None: they have to say who they are."""
        return self._local if self.everybody else None

    def of_token(self, token: str) -> Asker | None:
        """Whose token it is; None: nobody's."""
        given = _digest(token)
        # Every digest is compared, and in constant time: neither which token is nearly right nor
        # how long one is can be found by timing.
        found = [asker for known, asker in self._known.items() if hmac.compare_digest(known, given)]
        return found[0] if found else None

    def of_seal(self, seal: str) -> Asker | None:
        """Whose token has this seal; None: nobody's any more."""
        return next((asker for known, asker in self._known.items() if _seal(known) == seal), None)

    def _add(self, place: str, asker: Asker) -> None:
        token = Secret(place).read()
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise Misconfigured(
                f"the token of {asker.name} has fewer than {MIN_TOKEN_CHARACTERS} characters; "
                "`openssl rand -hex 32` makes one"
            )
        digest = _digest(token)
        if digest in self._known:
            raise Misconfigured(f"{asker.name} and {self._known[digest].name} have the same token")
        self._known[digest] = asker


def seal_of(token: str) -> str:
    """What tells a token from others, and lets nobody in."""
    return _seal(_digest(token))


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _seal(digest: bytes) -> str:
    return sha256(b"seal" + digest).hexdigest()
