"""The way into a Kafka cluster: who we are there, and what its errors mean to us.

Needs confluent-kafka, so it is imported only by what is asked for Kafka.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import unquote, urlsplit

from confluent_kafka import KafkaError

from tomodex.doors import KafkaAccess
from tomodex.errors import Misconfigured, TomodexError, Unavailable, Unsuitable
from tomodex.options import Options, without_query

log = logging.getLogger(__name__)

#: What no waiting mends, and what a person can do about it. Not that a topic is unknown: a broker
#: says so while it starts.
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not use the topic; see its ACLs",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this user may not use the group; see its ACLs",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this user may not begin transactions; see "
    "the ACLs",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this user may not do this in the cluster",
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
    # It would write to stderr by itself, not as JSON.
    own = {"logger": log, "log_level": 3}
    return {name: value for name, value in given.items() if value} | own


def named(servers: str, error: KafkaError, complaint: KafkaError | None = None) -> TomodexError:
    """Our error for one of Kafka's.

    Args:
        complaint: what it has last said beside our calls, which then only take too long.
    """
    for one in (error, complaint):
        if one is not None and one.code() in REFUSED:
            return Misconfigured(f"Kafka at {servers}: {REFUSED[one.code()]}")
    if error.code() in TOO_LARGE:
        return Unsuitable("refused_by_kafka", f"Kafka at {servers} does not take the message: too "
                          "large, see max.message.bytes of the topic")  # fmt: skip
    if error.code() == KafkaError._INVALID_ARG:
        return Misconfigured(f"Kafka at {servers}: {error.str()}")
    return Unavailable(f"Kafka at {servers} does not answer as agreed: {error.name()}")
