"""Kafka as hospitals run it: TLS, users, certificates, and access control that allows what
docs/how-to/use-kafka.md says and no more."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import trustme
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import NewTopic

from tests.contracts.queue import HOUR, annotated, ct, feed, new, settle_next
from tests.servers.kafka import PLAIN_PASSWORD, PLAIN_USER, Secured
from tomodex.bridging.topics import Topics
from tomodex.doors import Bridge
from tomodex.errors import Misconfigured
from tomodex.queues import Failed
from tomodex.queues.kafka.queue import KafkaQueue
from tomodex.queues.kafka.rights import RIGHTS, TO_CREATE
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


#: A row of the table in docs/how-to/use-kafka.md: resource, name, operations.
ROW = re.compile(r"^\| (topic|group|transactional id) \| prefix `tomodex\.` \| (.+) \|$", re.M)

PAGE = Path(__file__).parents[2] / "docs/how-to/use-kafka.md"


def documented() -> list[tuple[str, str]]:
    """Kinds of resource and operations, as the page has them."""
    return [
        (kind.replace(" ", "-"), operation)
        for kind, operations in ROW.findall(PAGE.read_text())
        for operation in re.findall(r"`(\w+)`", operations)
    ]


def as_acl(prefix: str, kind: str, operation: str) -> tuple[str, str, str, str]:
    """As Kafka's tools name it."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()
    return kind.replace("-", "_").upper(), "PREFIXED", f"{prefix}.", words


def rights(prefix: str, but: tuple[str, str] | None = None) -> list[tuple[str, str, str, str]]:
    return [as_acl(prefix, *right) for right in documented() if right != but]


def test_the_page_names_what_the_doctor_looks_for():
    needed = {*_pairs(RIGHTS), *_pairs(TO_CREATE)}
    assert needed == set(documented())
    assert len(documented()) == len(needed)


def _pairs(given: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(kind, operation) for kind, operations in given.items() for operation in operations]


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
        use(queue)
        assert [uid for uid, _ in feed(queue)] == ["1.1"]
        assert {probe.verdict for probe in queue.probe()} <= {"ok", "doubtful"}
    # The same user, with a topic that others read.
    topic = f"{prefix}.series"
    secured.add_topic(topic)
    with closing(open_sink(url_of(secured, listener, topic, options))) as sink:
        sink.write([annotated(ct("1.1"))])
        assert [probe.verdict for probe in sink.probe()] == ["ok"]


def use(queue: KafkaQueue) -> None:
    """All that needs a right of its own."""
    assert queue.put([new("1.1"), new("1.2")]) == 2
    settle_next(queue)
    task = queue.lease("w", HOUR)
    assert task is not None
    assert queue.extend(task, HOUR)
    assert queue.settle(task, Failed(reason="odd", sentence="odd"))
    assert queue.withdraw("1.2")
    with queue.claim("index"):
        queue.confirm("index", 1)
    assert queue.cursor("index") == 1


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
    said = f"{refused.value} {caplog.text}"
    assert PASSWORD not in said
    assert PLAIN_PASSWORD not in said


def test_a_sink_that_is_not_let_in_says_why(secured, user):
    options = with_password(secured, user)
    with closing(open_sink(url_of(secured, "expired", "series", options))) as sink:
        (probe,) = sink.probe()
        assert (probe.verdict, "certificate has expired" in probe.sentence) == ("wrong", True)
        with pytest.raises(Misconfigured, match="certificate has expired"):
            sink.write([annotated(ct("1.1"))])


# Who may not do something is told what


@pytest.fixture(scope="module")
def others(secured: Secured) -> str:
    """The prefix of a queue that was made, and is used, by somebody else."""
    prefix = f"s{uuid4().hex[:8]}"
    url = url_of(secured, "open", prefix, {"partitions": "2"})
    KafkaQueue.create(url)
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1")])
    return prefix


#: What needs each right, and what is said where it is not allowed.
NEEDED_FOR: Mapping[tuple[str, str], tuple[Callable[[KafkaQueue], object], str]] = {
    ("topic", "Read"): (lambda queue: queue.count(), "may not do that with the topic"),
    ("topic", "Write"): (lambda queue: queue.put([new("1.9")]), "may not do that with the topic"),
    ("group", "Read"): (lambda queue: queue.lease("w", HOUR), "may not read the group .*workers"),
    ("transactional-id", "Write"): (
        lambda queue: queue.put([new("1.9")]),
        "may not use the transactional id",
    ),
}


@pytest.mark.parametrize("right", NEEDED_FOR, ids=" ".join)
def test_a_right_that_is_missing_is_named_at_once(secured, others, prefix, right):
    secured.add_user(prefix, PASSWORD)
    secured.allow(prefix, rights(others, but=right))
    need, says = NEEDED_FOR[right]
    url = url_of(secured, "users", others, with_password(secured, prefix))
    with closing(KafkaQueue(url)) as queue:
        probes = {probe.subject: probe for probe in queue.probe()}
        begin = time.monotonic()
        with pytest.raises(Misconfigured, match=says) as refused:
            need(queue)
        assert time.monotonic() - begin < SOON_S
        if right == ("group", "Read"):
            with pytest.raises(Misconfigured, match=r"may not read the group .*\.to\.index"):
                queue.cursor("index")
    kind, operation = right
    found = probes["rights"]
    assert found.verdict == "wrong"
    assert f"{kind} {others}." in found.sentence
    assert f": {operation}" in found.sentence
    (command,) = found.commands
    asked = f"--resource-pattern-type prefixed --{kind} {others}. --operation {operation}"
    assert command.endswith(asked)
    assert PASSWORD not in f"{refused.value} {found}"


def test_who_may_not_describe_settings_is_told_so_and_can_work(secured, others, prefix):
    secured.add_user(prefix, PASSWORD)
    secured.allow(prefix, rights(others, but=("topic", "DescribeConfigs")))
    url = url_of(secured, "users", others, with_password(secured, prefix))
    with closing(KafkaQueue(url)) as queue:
        probes = {probe.subject: probe for probe in queue.probe()}
        assert queue.count() is not None
    assert "may not DescribeConfigs" in probes["topic settings"].sentence
    assert "and 9 more: DescribeConfigs" in probes["rights"].sentence


def test_who_may_do_nothing_is_told_what_to_have_allowed(secured, others, prefix):
    secured.add_user(prefix, PASSWORD)
    url = url_of(secured, "users", others, with_password(secured, prefix))
    with pytest.raises(Misconfigured, match=f"may not even see the topic {others}") as refused:
        KafkaQueue(url)
    commands = refused.value.commands
    assert len(commands) == len(RIGHTS)
    assert all(f"--allow-principal User:{prefix} " in command for command in commands)


def test_a_sink_names_the_right_that_it_lacks(secured, others, prefix):
    secured.add_user(prefix, PASSWORD)
    options = with_password(secured, prefix)
    topic = f"{others}.results"
    with closing(open_sink(url_of(secured, "users", topic, options))) as sink:
        for allowed in ("DESCRIBE", "READ"):
            secured.allow(prefix, [("TOPIC", "LITERAL", topic, allowed)])
            with pytest.raises(Misconfigured, match=f"may not Write to the topic {topic}"):
                sink.write([annotated(ct("1.1"))])
            (probe,) = sink.probe()
            assert probe.verdict == "wrong"
            assert "--operation Write" in probe.commands[0]
        secured.allow(prefix, [("TOPIC", "LITERAL", topic, "WRITE")])
        sink.write([annotated(ct("1.1"))])


def test_a_sink_whose_right_is_taken_away_says_so_and_goes_on_when_it_is_back(
    secured, others, prefix
):
    secured.add_user(prefix, PASSWORD)
    topic = f"{others}.results"
    write = [("TOPIC", "LITERAL", topic, "WRITE")]
    secured.allow(prefix, write)
    url = url_of(secured, "users", topic, {**with_password(secured, prefix), "timeout_s": "5"})
    with closing(open_sink(url)) as sink:
        sink.write([annotated(ct("1.1"))])
        secured.forbid(prefix, write)
        with pytest.raises(Misconfigured, match="may not"):
            sink.write([annotated(ct("1.2"))])
        secured.take_back(prefix, write)
        sink.write([annotated(ct("1.3"))])


# The commands


def tomodex(folder: Path, settings: str, *arguments: str) -> subprocess.Popen[str]:
    """A command with this tomodex.toml, its log in the folder."""
    (folder / "tomodex.toml").write_text(settings)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOMODEX_")},
        "TOMODEX_CONFIG": str(folder / "tomodex.toml"),
        "TOMODEX_DATA": str(folder / "data"),
    }
    command = [sys.executable, "-c", "from tomodex.cli import main; main()", *arguments]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )


def test_who_may_not_make_topics_is_given_the_commands_for_it(secured, prefix, tmp_path):
    secured.add_user(prefix, PASSWORD)
    secured.allow(prefix, rights(prefix, but=("topic", "Create")))
    url = url_of(secured, "users", prefix, {"partitions": "3", **with_password(secured, prefix)})
    doctor = tomodex(tmp_path, f'queue = "{url}"', "doctor", "--create", "--json")
    said, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 1
    assert "does not make the topic" in (tmp_path / "log").read_text()
    assert PASSWORD not in said + (tmp_path / "log").read_text()
    (finding,) = [one for one in json.loads(said) if one["part"] == "queue"]
    assert finding["verdict"] == "wrong"
    assert len(finding["commands"]) == 10
    for command in finding["commands"]:
        type_in(secured, command)
    with closing(KafkaQueue(url)) as queue:
        use(queue)
        assert {probe.verdict for probe in queue.probe()} <= {"ok", "doubtful"}


def type_in(secured: Secured, command: str) -> None:
    """What kafka-topics.sh does, which Maven Central does not have."""
    reader = ArgumentParser()
    for option in ("--bootstrap-server", "--command-config", "--topic"):
        reader.add_argument(option, required=True)
    for option in ("--partitions", "--replication-factor"):
        reader.add_argument(option, type=int, required=True)
    reader.add_argument("--create", action="store_true", required=True)
    reader.add_argument("--config", action="append", required=True)
    program, *arguments = shlex.split(command)
    assert program == "kafka-topics.sh"
    given = reader.parse_args(arguments)
    topic = NewTopic(
        given.topic,
        num_partitions=given.partitions,
        replication_factor=given.replication_factor,
        config=dict(one.split("=") for one in given.config),
    )
    admin = secured.admin
    admin.create_topics([topic])[given.topic].result(30)


#: What the bridge may do: resource, how it is named, name after the prefix, operation.
BRIDGE = [
    ("TOPIC", "LITERAL", "tasks", "READ"),
    ("TOPIC", "LITERAL", "results", "WRITE"),
    ("TOPIC", "LITERAL", "errors", "WRITE"),
    ("GROUP", "PREFIXED", "group", "READ"),
    ("TRANSACTIONAL_ID", "PREFIXED", "group-", "WRITE"),
]

BRIDGE_SETTINGS = """
segmenters = ["none:"]
workers = 1
[bridge]
protocol = "SASL_SSL"
user = "{user}"
password = "env:KAFKA_PASSWORD"
ca = "{ca}"
"""


@pytest.fixture
def bridge(secured: Secured, prefix: str, tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts a bridge with the predecessor's .env, for a user who may do nothing yet."""
    secured.add_user(prefix, PASSWORD)
    for name in ("tasks", "results", "errors"):
        secured.add_topic(f"{prefix}.{name}")
    (tmp_path / ".env").write_text(f"""
BOOTSTRAP_SERVER={secured.at("users")}
INCOMING_INDEX_TOPIC_NAME="{prefix}.tasks"
OUTGOING_INDEX_TOPIC_NAME="{prefix}.results"
ERROR_TOPIC_NAME="{prefix}.errors"
INDEX_CONSUMER_GROUP="{prefix}.group"
""")
    settings = BRIDGE_SETTINGS.format(user=prefix, ca=secured.ca)
    return lambda: tomodex(tmp_path, settings, "bridge", "--env", str(tmp_path / ".env"))


def test_the_bridge_answers_with_a_password_and_no_more_rights_than_it_needs(
    secured, prefix, bridge, tmp_path
):
    allow_bridge(secured, prefix)
    producer = Producer({"bootstrap.servers": secured.at("open")})
    producer.produce(f"{prefix}.tasks", "no JSON at all", "1.2.3")
    assert producer.flush(30) == 0
    reading = {"bootstrap.servers": secured.at("open"), "group.id": prefix}
    with closing(Consumer({**reading, "auto.offset.reset": "earliest"})) as consumer:
        consumer.subscribe([f"{prefix}.errors"])
        process = bridge()
        try:
            message = consumer.poll(60)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert message is not None, (tmp_path / "log").read_text()
    assert json.loads(message.value())["message"] == "no JSON at all"
    assert PASSWORD not in (tmp_path / "log").read_text()


def test_a_bridge_that_may_not_be_in_its_group_ends_and_says_why(secured, prefix, bridge, tmp_path):
    allow_bridge(secured, prefix, but="group")
    process = bridge()
    process.communicate(timeout=100)
    assert process.returncode == 2
    assert "may not use the group" in (tmp_path / "log").read_text()


def test_a_bridge_that_may_not_begin_transactions_says_so(secured, prefix, bridge):
    allow_bridge(secured, prefix, but="group-")
    door = Bridge(
        servers=secured.at("users"),
        tasks=f"{prefix}.tasks",
        group=f"{prefix}.group",
        **with_password(secured, prefix),
    )
    with closing(Topics(door, "one")) as topics:
        assert topics.take(1) == []
        with pytest.raises(Misconfigured, match="may not use the transactional id"):
            topics.last_sent()


def allow_bridge(secured: Secured, prefix: str, but: str = "") -> None:
    """Let it do what its page says, but for what begins with one name."""
    allowed = [(kind, how, f"{prefix}.{name}", op)
               for kind, how, name, op in BRIDGE if name != but]  # fmt: skip
    secured.allow(prefix, allowed)
