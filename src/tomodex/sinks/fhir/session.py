"""Who we are to a FHIR server: nobody, a user, a bearer of a token, a client, a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests
from pydantic import Field, model_validator
from requests.auth import AuthBase, HTTPBasicAuth

from tomodex.errors import Misconfigured, Unavailable
from tomodex.formats.fhir import Naming, WriteMode
from tomodex.options import Options, Secret, without_query

#: A token is fetched anew so long before its end, as clocks differ and requests take their time.
MARGIN_S = 30.0

#: RFC 6749 lets a server leave out how long a token lasts.
UNKNOWN_LIFE_S = 300.0


class FhirOptions(Options):
    """What the URL of a FHIR server may set."""

    mode: WriteMode = "put"
    base: str = Naming().base  #: canonical base of our profiles, code systems and identifiers
    patient_system: str = ""  #: system of the patient pseudonyms; empty: one below `base`
    observations: Literal["yes", "no"] = "no"  #: also an Observation for each number
    token: Secret | None = None  #: Bearer
    password: Secret | None = None  #: Basic, for the user in the URL
    token_url: str = ""  #: where OAuth2 gives client credentials a token
    client: str = ""  #: OAuth2 client id
    client_secret: Secret | None = None  #: OAuth2 client secret
    scope: str = ""  #: OAuth2 scopes, with spaces between
    ca: Path | None = None  #: certificates to trust instead of the usual ones
    cert: Path | None = None  #: client certificate and key, PEM
    tries: int = Field(6, ge=1, le=20)  #: of one transaction, before it is delivered later
    timeout_s: float = Field(60.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _one_way_to_be_known(self) -> FhirOptions:
        ways = [self.token is not None, self.password is not None, bool(self.token_url)]
        if sum(ways) > 1:
            raise ValueError("give one of token, password and token_url")
        if any((self.client, self.client_secret, self.scope)) and not self.token_url:
            raise ValueError("client, client_secret and scope need token_url")
        if self.token_url and not (self.client and self.client_secret):
            raise ValueError("token_url needs client and client_secret")
        if self.token_url and not self.token_url.startswith(("https://", "http://")):
            raise ValueError("token_url is an https:// or http:// URL")
        return self


def open_session(url: str, options: FhirOptions) -> requests.Session:
    """A session that says who we are.

    Raises:
        Misconfigured: a secret or a file is not there.
    """
    session = requests.Session()
    # A proxy or a .netrc of the machine must not change where a hospital's data goes.
    session.trust_env = False
    for file in (options.ca, options.cert):
        if file is not None and not file.is_file():
            raise Misconfigured(f"{without_query(url)}: there is no file {file}")
    if options.ca:
        session.verify = str(options.ca)
    if options.cert:
        session.cert = str(options.cert)
    if options.token:
        session.headers["Authorization"] = f"Bearer {options.token.read()}"
    elif options.password:
        session.auth = (urlsplit(url).username or "", options.password.read())
    elif options.token_url:
        session.auth = ClientCredentials(options)
    return session


class ClientCredentials(AuthBase):
    """OAuth2 client credentials (RFC 6749, 4.4): a token that is fetched again before its end."""

    def __init__(self, options: FhirOptions, clock: Callable[[], float] = time.monotonic) -> None:
        assert options.client_secret is not None
        self._options = options
        self._secret = options.client_secret
        self._secret.read()  # so that a secret that is not there is found out now
        self._clock = clock
        self._token, self._ends = "", 0.0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._clock() >= self._ends:
            self._token, life_s = self._fetch()
            # Of a token that lasts less than twice the margin, half of its life is used.
            self._ends = self._clock() + max(life_s - MARGIN_S, life_s / 2)
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def forget(self) -> None:
        """Fetch a token anew for the next request: the server takes this one no longer."""
        self._ends = 0.0

    def _fetch(self) -> tuple[str, float]:
        """A token and how many seconds it lasts."""
        place = without_query(self._options.token_url)
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(
                    self._options.token_url,
                    data={
                        "grant_type": "client_credentials",
                        **({"scope": self._options.scope} if self._options.scope else {}),
                    },
                    auth=HTTPBasicAuth(self._options.client, self._secret.read()),
                    headers={"Accept": "application/json"},
                    verify=str(self._options.ca) if self._options.ca else True,
                    timeout=(10, self._options.timeout_s),
                    allow_redirects=False,
                )
        except requests.exceptions.SSLError as wrong:
            raise Misconfigured(f"{place}: its certificate is not trusted") from wrong
        except requests.exceptions.RequestException as silent:
            raise Unavailable(f"{place}: no answer ({type(silent).__name__})") from silent
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(f"{place} answers {answer.status_code}")
        if answer.status_code != 200:
            raise Misconfigured(
                f"{place} answers {answer.status_code}: check client, client_secret and scope"
            )
        return _token_of(answer, place)


def _token_of(answer: requests.Response, place: str) -> tuple[str, float]:
    try:
        said = answer.json()
        token, life_s = said["access_token"], float(said.get("expires_in", UNKNOWN_LIFE_S))
    except (ValueError, TypeError, KeyError, AttributeError) as odd:
        raise Misconfigured(f"{place}: its answer is no OAuth2 token") from odd
    if not isinstance(token, str) or not token or not token.isprintable():
        raise Misconfigured(f"{place}: its answer is no OAuth2 token")
    return token, life_s
