"""Apache Kafka in KRaft mode, from Maven Central, put together by install.sh.

broker             one broker without any security, that all tests share
running_kafka      one of one's own, which may be stopped and started again
secured            one with TLS, users, certificates and access control
running_cluster    several, which keep copies of everything and may be killed one by one
"""

from __future__ import annotations

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from tests.servers.ports import free_port, wait_until_listening

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
JARS = SERVERS / "kafka-4.1.0"

#: Half the processor time of a start, and no more is needed here.
LIGHT = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

Settings = Mapping[str, str]

#: (resource, how it is named, name, operation), in Kafka's words.
Right = tuple[str, str, str, str]


def settings(folder: Path, port: int, controller: int) -> Settings:
    """One node that is both broker and controller, with one copy of everything."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "num.partitions": "2",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # What a process that was killed has begun is ended when its time is over, and not later.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    }


@contextmanager
def running_kafka(folder: Path, port: int) -> Iterator[str]:
    """Address of a broker that keeps its data in `folder`."""
    if not (folder / "server.properties").exists():
        _format(folder, settings(folder, port, free_port()), _cluster_name())
    process = _start(folder)
    try:
        wait_until_listening(port, process, 120)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _cluster_name() -> str:
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _format(folder: Path, given: Settings, cluster: str) -> None:
    """Make an empty store for a node with these settings."""
    made = _begin_format(folder, given, cluster).wait(120)
    assert made == 0, (folder / "log").read_text()


def _begin_format(folder: Path, given: Settings, cluster: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    tool = "kafka.tools.StorageTool"
    return _java(folder, tool, "format", f"--cluster-id={cluster}", "-c", str(file))


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return _java(folder, "kafka.Kafka", str(folder / "server.properties"))


def _java(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["java", "-Xmx512m", *LIGHT, "-cp", f"{JARS}/*", *command], stdout=log, stderr=log
        )


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker that all tests share; topics are made when they are named."""
    with running_kafka(tmp_path_factory.mktemp("kafka"), free_port()) as address:
        yield address


# TLS, users and access control

#: A user of the mechanism PLAIN, who is in the broker's settings.
PLAIN_USER, PLAIN_PASSWORD = "plain", "plain-secret-4711"

#: Listeners by what is to be tried at them, as Kafka calls their protocols.
LISTENERS = {
    "open": "PLAINTEXT",  # for the tests' own tools: who says no name may do everything
    "users": "SASL_SSL",
    "certificates": "SSL",
    "expired": "SASL_SSL",  # with a certificate that was good until last year
    "elsewhere": "SASL_SSL",  # with the certificate of another host
}

#: Which certificate each shows.
SHOWN = {"users": "good", "certificates": "good", "expired": "expired", "elsewhere": "elsewhere"}


@dataclass(frozen=True, kw_only=True)
class Secured:
    """A broker that wants to know who asks, and lets nobody do what was not allowed."""

    folder: Path
    ports: Mapping[str, int]  #: by the names of LISTENERS
    authority: trustme.CA = field(repr=False)

    def at(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    @property
    def ca(self) -> Path:
        """Who has signed the broker's certificates, PEM."""
        return self.folder / "ca.pem"

    @property
    def admin(self) -> AdminClient:
        """Who may do everything."""
        return AdminClient({"bootstrap.servers": self.at("open")})

    def add_user(self, name: str, password: str) -> None:
        """Make a user of the mechanism SCRAM-SHA-512."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        made = UserScramCredentialUpsertion(name, info, password.encode())
        admin = self.admin
        for done in admin.alter_user_scram_credentials([made]).values():
            done.result(30)

    def add_certificate(self, name: str) -> tuple[Path, Path]:
        """A client's certificate and its key, PEM, for the user of this name."""
        leaf = self.authority.issue_cert(f"{name}@site.example", common_name=name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.write_bytes(leaf.private_key_pem.bytes())
        return certificate, key

    def allow(self, user: str, rights: Sequence[Right]) -> None:
        """Let a user do this."""
        self._change(user, rights, AclPermissionType.ALLOW)

    def forbid(self, user: str, rights: Sequence[Right]) -> None:
        """Have a user not do what may be allowed otherwise."""
        self._change(user, rights, AclPermissionType.DENY)

    def take_back(self, user: str, rights: Sequence[Right]) -> None:
        """Have what was forbidden as if it never had been."""
        admin = self.admin
        asked = [
            AclBindingFilter(*_binding(user, right, AclPermissionType.DENY)) for right in rights
        ]
        for done in admin.delete_acls(asked).values():
            done.result(30)

    def _change(self, user: str, rights: Sequence[Right], permission: AclPermissionType) -> None:
        admin = self.admin
        asked = [AclBinding(*_binding(user, right, permission)) for right in rights]
        for done in admin.create_acls(asked).values():
            done.result(30)

    def add_topic(self, name: str) -> None:
        """Make a topic that is compacted."""
        admin = self.admin
        topic = NewTopic(name, num_partitions=1, config={"cleanup.policy": "compact"})
        admin.create_topics([topic])[name].result(30)


def _binding(user: str, right: Right, permission: AclPermissionType) -> tuple[Any, ...]:
    resource, pattern, name, operation = right
    return (
        ResourceType[resource],
        name,
        ResourcePatternType[pattern],
        f"User:{user}",
        "*",
        AclOperation[operation],
        permission,
    )


@contextmanager
def running_secured_kafka(folder: Path) -> Iterator[Secured]:
    """A broker with every listener of LISTENERS."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in LISTENERS}
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    last_year = datetime(datetime.now(UTC).year - 1, 6, 1, tzinfo=UTC)
    leaves = {
        "good": authority.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert(
            "127.0.0.1", not_before=last_year.replace(month=1), not_after=last_year
        ),
        "elsewhere": authority.issue_cert("kafka.elsewhere.example"),
    }
    for name, leaf in leaves.items():
        (folder / f"broker-{name}.pem").write_bytes(_as_keystore(leaf))
    _format(folder, _secured_settings(folder, ports, free_port()), _cluster_name())
    process = _start(folder)
    try:
        wait_until_listening(ports["users"], process, 120)
        wait_until_listening(ports["open"], process, 120)
        yield Secured(folder=folder, ports=ports, authority=authority)
    finally:
        process.kill()
        process.wait()


def _as_keystore(leaf: trustme.LeafCert) -> bytes:
    """Key and certificates as Kafka reads them: it knows PKCS #8 alone."""
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem + b"".join(one.bytes() for one in leaf.cert_chain_pems)


def _secured_settings(folder: Path, ports: Mapping[str, int], controller: int) -> Settings:
    first = settings(folder, ports["open"], controller)
    listeners = {name: f"{name.upper()}://127.0.0.1:{port}" for name, port in ports.items()}
    protocols = {name: f"{name.upper()}:{protocol}" for name, protocol in LISTENERS.items()}
    module = "org.apache.kafka.common.security"
    given = {
        **first,
        "listeners": ",".join([*listeners.values(), f"CONTROLLER://127.0.0.1:{controller}"]),
        "listener.security.protocol.map": ",".join([*protocols.values(), "CONTROLLER:PLAINTEXT"]),
        "inter.broker.listener.name": "OPEN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "auto.create.topics.enable": "false",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "ssl.principal.mapping.rules": "RULE:.*CN=([^,]+).*/$1/",
        "listener.name.certificates.ssl.client.auth": "required",
    }
    for listener, shown in SHOWN.items():
        own = f"listener.name.{listener}"
        given[f"{own}.ssl.keystore.type"] = "PEM"
        given[f"{own}.ssl.keystore.location"] = str(folder / f"broker-{shown}.pem")
        if LISTENERS[listener] == "SASL_SSL":
            given[f"{own}.sasl.enabled.mechanisms"] = "SCRAM-SHA-512,PLAIN"
            scram = f"{module}.scram.ScramLoginModule required;"
            plain = (
                f'{module}.plain.PlainLoginModule required user_{PLAIN_USER}="{PLAIN_PASSWORD}";'
            )
            given[f"{own}.scram-sha-512.sasl.jaas.config"] = scram
            given[f"{own}.plain.sasl.jaas.config"] = plain
    return given


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with access control that all tests share; each has users and topics of its own."""
    with running_secured_kafka(tmp_path_factory.mktemp("secured-kafka")) as broker:
        yield broker


# Several brokers


class RunningCluster:
    """Brokers that are controllers too, each of which may be killed and started again."""

    def __init__(self, folders: Sequence[Path], ports: Sequence[int]) -> None:
        self._folders = folders
        self._ports = ports
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def start(self, number: int) -> None:
        """Start one; it may take a while until it listens."""
        self._processes[number] = _start(self._folders[number])

    def wait(self) -> None:
        """Until all that were started listen."""
        for number, process in self._processes.items():
            wait_until_listening(self._ports[number], process, 120)

    def kill(self, number: int) -> None:
        """As a power cut would."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    def kill_all(self) -> None:
        for number in list(self._processes):
            self.kill(number)


@contextmanager
def running_cluster(folder: Path, more: Settings, brokers: int = 3) -> Iterator[RunningCluster]:
    """Brokers that keep copies of everything; their numbers begin with 0, their ids too.

    Args:
        more: settings of each besides.
    """
    nodes = range(brokers)
    folders = [folder / f"broker-{number}" for number in nodes]
    ports, controllers = [free_port() for _ in nodes], [free_port() for _ in nodes]
    voters = ",".join(f"{number}@127.0.0.1:{controllers[number]}" for number in nodes)
    name = _cluster_name()
    made = []
    for number in nodes:
        own = {
            **settings(folders[number], ports[number], controllers[number]),
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "offsets.topic.replication.factor": str(brokers),
            "offsets.topic.num.partitions": "6",
            "transaction.state.log.replication.factor": str(brokers),
            "transaction.state.log.num.partitions": "6",
            "transaction.state.log.min.isr": "2",
            **more,
        }
        made.append(_begin_format(folders[number], own, name))
    assert [one.wait(120) for one in made] == [0] * brokers
    cluster = RunningCluster(folders, ports)
    try:
        for number in nodes:
            cluster.start(number)
        cluster.wait()
        yield cluster
    finally:
        cluster.kill_all()
