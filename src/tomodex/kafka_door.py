"""The way into a Kafka cluster: who we are there, and what its errors mean to us.

Needs confluent-kafka, so it is imported only by what is asked for Kafka.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tomodex.doors import KafkaAccess
from tomodex.errors import Misconfigured, TomodexError, Unavailable, Unsuitable
from tomodex.kafka_greeting import Place, places_of, why_refused
from tomodex.options import Options, without_query

#: How often librdkafka may say the same thing; while no broker answers, each of its clients would
#: say so every second.
SAME_S = 60.0


class Seldom:
    """Lets a line of librdkafka through unless it, or the same of another client, just was.

    Args:
        now: seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._said: dict[str, float] = {}

    def __call__(self, line: logging.LogRecord) -> bool:
        now = self._now()
        self._said = {said: at for said, at in self._said.items() if at > now - SAME_S}
        # Which client and thread it is, and how long a connection took, is another each time.
        said = re.sub(r"\[[^]]*\]:?|\(after [^)]*\)", "", line.getMessage())
        return self._said.setdefault(said, now) == now


log = logging.getLogger(__name__)
log.addFilter(Seldom())

_K = TypeVar("_K")
_V = TypeVar("_V")

#: What no waiting mends, and what a person can do about it. Not that a topic is unknown: a broker
#: says so while it starts.
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not do that with the topic; "
    "`tomodex doctor` says what is not allowed",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this user may not use the group; "
    "`tomodex doctor` says what is not allowed",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this user may not use the transactional id; "
    "`tomodex doctor` says what is not allowed",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this user may not do this in the cluster; "
    "`tomodex doctor` says what is not allowed",
    KafkaError.SASL_AUTHENTICATION_FAILED: "user or password are wrong",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "the brokers do not know this `mechanism`",
    KafkaError._AUTHENTICATION: "user or password are wrong",
    KafkaError._SSL: "TLS is not agreed upon; see `protocol` and the certificates",
    KafkaError.INVALID_REPLICATION_FACTOR: "there are fewer brokers than copies asked for",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "the brokers allow no transaction of 60 s",
    KafkaError.UNSUPPORTED_VERSION: "the brokers are too old",
}

#: A message that will never be taken.
TOO_LARGE = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
    }
)


#: A broker that answers in so long has not refused us, whatever another one says.
GRACE_S = 1.0

#: How long what went wrong beside our calls is worth saying.
FRESH_S = 60.0

#: Characters of it that are said.
MOST_SAID = 200

#: How often it is looked whether an answer has come.
POLL_S = 0.05


class KafkaOptions(Options, KafkaAccess):
    """What any Kafka URL may set after its `?`."""


def place_of(url: str) -> tuple[str, str]:
    """The brokers, with commas between them, and the topic that `kafka://brokers/topic` names.

    Raises:
        Misconfigured: it names none, or a user, whose place is among the options.
    """
    parts = urlsplit(url)
    servers, topic = parts.netloc, unquote(parts.path).strip("/")
    if not servers or "@" in servers or not topic or "/" in topic:
        raise Misconfigured(
            f"{without_query(url)}: a topic is kafka://broker:9092,other:9092/TOPIC, and a user an "
            "option of it"
        )
    return servers, topic


def connection(servers: str, door: KafkaAccess) -> dict[str, Any]:
    """What librdkafka needs to reach the brokers.

    Raises:
        Misconfigured: the password is not where it is said to be.
    """
    given = {
        "bootstrap.servers": servers,
        "security.protocol": door.protocol,
        "sasl.mechanism": door.mechanism if door.user else "",
        "sasl.username": door.user,
        "sasl.password": door.password.read() if door.password else "",
        "ssl.ca.location": str(door.ca) if door.ca else "",
        "ssl.certificate.location": str(door.certificate) if door.certificate else "",
        "ssl.key.location": str(door.key) if door.key else "",
    }
    own = {
        # It would write to stderr by itself, not as JSON.
        "logger": log,
        "log_level": 3,
        # As it comes, each client knocks ten times a second at a broker that is down (measured).
        "reconnect.backoff.ms": 500,
    }
    return {name: value for name, value in given.items() if value} | own


class Door:
    """The way into one cluster, and what has gone wrong there beside our calls.

    Args:
        servers: brokers as `host:port`, with commas between them.

    Raises:
        Misconfigured: the password is not where it is said to be.
    """

    def __init__(self, servers: str, access: KafkaAccess) -> None:
        self.servers = servers
        self._access = access
        self._complaint: KafkaError | None = None
        self._complained_s = 0.0
        #: What every client of librdkafka is to be given.
        self.settings: Mapping[str, Any] = {
            **connection(servers, access),
            "error_cb": self._remember,
        }

    def admin(self) -> AdminClient:
        """Someone who may ask about the cluster.

        Raises:
            Misconfigured: a certificate or an option is not as it should be.
        """
        try:
            return AdminClient(dict(self.settings))
        except KafkaException as error:
            raise self.named(error.args[0]) from error

    def await_answers(
        self, admin: AdminClient, asked: Mapping[_K, Future[_V]], seconds: float
    ) -> None:
        """Return as soon as all of these have come.

        Raises:
            Misconfigured: no broker lets us in, and why.
            Unavailable: none answers.
        """
        begin = time.monotonic()
        looked = False
        while not all(one.done() for one in asked.values()):
            admin.poll(POLL_S)
            waited_s = time.monotonic() - begin
            if waited_s > seconds:
                self._require_welcome()
                raise self.named(KafkaError(KafkaError._TIMED_OUT))
            if not looked and waited_s > GRACE_S and self._complained_s >= begin:
                self._require_welcome()
                looked = True

    def _require_welcome(self) -> None:
        """Raises Misconfigured: the brokers do not let us in, and waiting does not help."""
        complaint = self._fresh_complaint()
        places = [*_places_in(complaint), *places_of(self.servers)]
        if reason := why_refused(list(dict.fromkeys(places)), self._access):
            raise Misconfigured(f"Kafka: {reason}")
        if complaint is not None and complaint.code() in REFUSED:
            raise Misconfigured(f"Kafka at {self.servers}: {REFUSED[complaint.code()]}")

    def named(self, error: KafkaError) -> TomodexError:
        """Our error for one of Kafka's."""
        if error.code() in REFUSED:
            return Misconfigured(f"Kafka at {self.servers}: {REFUSED[error.code()]}")
        if error.code() in TOO_LARGE:
            sentence = "does not take the message: too large, see max.message.bytes of the topic"
            return Unsuitable("refused_by_kafka", f"Kafka at {self.servers} {sentence}")
        if error.code() == KafkaError._INVALID_ARG:
            return Misconfigured(f"Kafka at {self.servers}: {error.str()}")
        complaint = self._fresh_complaint()
        # In the middle of the work it may be one broker of many, or last a moment: no reason to
        # stop, but to be said.
        beside = f" ({complaint.str()[:MOST_SAID]})" if complaint is not None else ""
        name = error.name()
        return Unavailable(f"Kafka at {self.servers} does not answer as agreed: {name}{beside}")

    def _remember(self, error: KafkaError) -> None:
        """What goes wrong beside our calls, which then only say that they took too long."""
        # That all are down comes after the reason why.
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._fresh_complaint() is not None:
            return
        self._complaint, self._complained_s = error, time.monotonic()

    def _fresh_complaint(self) -> KafkaError | None:
        stale = time.monotonic() - self._complained_s > FRESH_S
        return None if stale else self._complaint


def _places_in(complaint: KafkaError | None) -> Sequence[Place]:
    """The broker that it is about, as `sasl_ssl://kafka3:9093/3: ...`: it may be one of those that
    a broker has told us of, by a name that is good only among themselves."""
    found = re.match(r"(?:\w+://)?([^/\s]+:\d+)/", complaint.str()) if complaint else None
    return places_of(found[1]) if found else ()
