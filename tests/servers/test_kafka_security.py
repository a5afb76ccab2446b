"""Kafka as hospitals run it: TLS, users, certificates, and access control that allows what
docs/how-to/use-kafka.md says and no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import trustme

from tests.contracts.queue import feed, new, settle_next
from tests.servers.kafka import PLAIN_PASSWORD, PLAIN_USER, Secured
from tomodex.errors import Misconfigured
from tomodex.queues.kafka.queue import KafkaQueue
from tomodex.sinks import open_sink

pytestmark = pytest.mark.server

#: Long and odd enough to be found wherever it should not be.
PASSWORD = "korrekt-pferd-8471"

#: A person waits for so long, seconds, before he believes that nothing happens.
SOON_S = 10.0

Options = Mapping[str, str]


@pytest.fixture
def prefix() -> str:
    """Topics and users that no other test has."""
    return f"s{uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def _passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("PLAIN_PASSWORD", PLAIN_PASSWORD)


def url_of(secured: Secured, listener: str, topic: str, options: Options) -> str:
    return f"kafka://{secured.at(listener)}/{topic}?{urlencode(options)}"


def with_password(secured: Secured, user: str) -> Options:
    return {
        "protocol": "SASL_SSL",
        "ca": str(secured.ca),
        "user": user,
        "password": "env:KAFKA_PASSWORD",
    }


def with_certificate(secured: Secured, user: str) -> Options:
    certificate, key = secured.add_certificate(user)
    return {
        "protocol": "SSL",
        "ca": str(secured.ca),
        "certificate": str(certificate),
        "key": str(key),
    }


def in_plain_text(secured: Secured) -> Options:
    """Within TLS, that is."""
    return {
        **with_password(secured, PLAIN_USER),
        "mechanism": "PLAIN",
        "password": "env:PLAIN_PASSWORD",
    }


# Who may come in does


def rights(prefix: str) -> list[tuple[str, str, str, str]]:
    topic = [
        ("TOPIC", "PREFIXED", f"{prefix}.", operation)
        for operation in ("READ", "WRITE", "DESCRIBE_CONFIGS", "CREATE")
    ]
    others = [("GROUP", "READ"), ("TRANSACTIONAL_ID", "WRITE")]
    return [*topic, *((kind, "PREFIXED", f"{prefix}.", what) for kind, what in others)]


@pytest.mark.parametrize("how", ["password", "plain", "certificate"])
def test_the_queue_works_for_a_user_who_may_use_it(secured, prefix, how):
    user = PLAIN_USER if how == "plain" else prefix
    options = {
        "password": lambda: with_password(secured, user),
        "plain": lambda: in_plain_text(secured),
        "certificate": lambda: with_certificate(secured, user),
    }[how]()
    if how == "password":
        secured.add_user(user, PASSWORD)
    secured.allow(user, rights(prefix))
    listener = "certificates" if how == "certificate" else "users"
    url = url_of(secured, listener, prefix, {"partitions": "2", "fetch_ms": "5", **options})
    assert len(KafkaQueue.create(url)) == 10
    with closing(KafkaQueue(url)) as queue:
        assert queue.put([new("1.1"), new("1.2")]) == 2
        settle_next(queue)
        settle_next(queue)
        with queue.claim("index"):
            queue.confirm("index", 1)
        assert queue.cursor("index") == 1
        assert [uid for uid, _ in feed(queue)] == ["1.1", "1.2"]
        assert {probe.verdict for probe in queue.probe()} <= {"ok", "doubtful"}


# Who may not is told why, soon


@pytest.fixture
def user(secured: Secured, prefix: str) -> str:
    secured.add_user(prefix, PASSWORD)
    secured.allow(prefix, rights(prefix))
    return prefix


@pytest.fixture
def stranger(tmp_path: Path) -> trustme.CA:
    """Who signs certificates, but none of the broker's."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    return authority


Fault = Callable[[Secured, Options, Path, trustme.CA], tuple[str, Options]]

FAULTS: Mapping[str, tuple[str, Fault]] = {
    "a wrong password": (
        "user or password are wrong",
        lambda broker, good, tmp, ca: ("users", {**good, "password": "env:PLAIN_PASSWORD"}),
    ),
    "an unknown user": (
        "user or password are wrong",
        lambda broker, good, tmp, ca: ("users", {**good, "user": "nobody"}),
    ),
    "another mechanism": (
        "does not know the `mechanism` SCRAM-SHA-256; it knows SCRAM-SHA-512, PLAIN",
        lambda broker, good, tmp, ca: ("users", {**good, "mechanism": "SCRAM-SHA-256"}),
    ),
    "another authority": (
        "not good: .*stranger.pem does not hold who signed it",
        lambda broker, good, tmp, ca: ("users", {**good, "ca": str(tmp / "stranger.pem")}),
    ),
    "no authority": (
        "not good: .*see `ca`",
        lambda broker, good, tmp, ca: ("users", {k: v for k, v in good.items() if k != "ca"}),
    ),
    "an expired certificate": (
        "not good: certificate has expired",
        lambda broker, good, tmp, ca: ("expired", good),
    ),
    "the certificate of another host": (
        "mismatch.*name the broker as its certificate does",
        lambda broker, good, tmp, ca: ("elsewhere", good),
    ),
    "no TLS where there is": (
        "speaks TLS; set `protocol` to SSL",
        lambda broker, good, tmp, ca: ("users", {}),
    ),
    "a user without TLS where there is": (
        "speaks TLS; set `protocol` to SASL_SSL",
        lambda broker, good, tmp, ca: ("users", {**good, "protocol": "SASL_PLAINTEXT"}),
    ),
    "TLS where there is none": (
        "has no TLS; name a port that has, or set `protocol` to SASL_PLAINTEXT",
        lambda broker, good, tmp, ca: ("open", good),
    ),
    "no user where one is asked for": (
        "asks for a user; set `protocol` to SASL_SSL",
        lambda broker, good, tmp, ca: ("users", {"protocol": "SSL", "ca": str(broker.ca)}),
    ),
    "a user where none is asked for": (
        "asks for no user; set `protocol` to PLAINTEXT",
        lambda broker, good, tmp, ca: ("open", {**good, "protocol": "SASL_PLAINTEXT"}),
    ),
    "no certificate where one is asked for": (
        "wants a certificate of ours; see `certificate` and `key`",
        lambda broker, good, tmp, ca: ("certificates", {"protocol": "SSL", "ca": str(broker.ca)}),
    ),
    "a certificate of a stranger": (
        "does not take our certificate",
        lambda broker, good, tmp, ca: ("certificates", strangers(broker, tmp, ca)),
    ),
}


def strangers(broker: Secured, folder: Path, authority: trustme.CA) -> Options:
    leaf = authority.issue_cert("eve@site.example", common_name="eve")
    certificate, key = folder / "eve.pem", folder / "eve.key"
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    access = {"protocol": "SSL", "ca": str(broker.ca)}
    return {**access, "certificate": str(certificate), "key": str(key)}


@pytest.mark.parametrize("fault", FAULTS)
def test_who_is_not_let_in_is_told_why_soon(
    secured, user, fault, tmp_path, stranger, caplog, record_property
):
    says, make = FAULTS[fault]
    listener, options = make(secured, with_password(secured, user), tmp_path, stranger)
    begin = time.monotonic()
    with pytest.raises(Misconfigured, match=says) as refused:
        KafkaQueue(url_of(secured, listener, user, options))
    seconds = time.monotonic() - begin
    record_property("seconds", round(seconds, 1))
    assert seconds < SOON_S
    (probe,) = open_sink(url_of(secured, listener, user, options)).probe()
    assert probe.verdict == "wrong"
    said = f"{refused.value} {probe.sentence} {caplog.text}"
    assert PASSWORD not in said
    assert PLAIN_PASSWORD not in said
