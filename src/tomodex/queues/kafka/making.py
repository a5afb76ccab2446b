"""Makes the topics of a queue, and says what is wrong with those that are there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tomodex.errors import Misconfigured, Unavailable
from tomodex.probe import Probe
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.rights import RIGHTS, acl_commands
from tomodex.queues.kafka.topics import KEPT, MOST_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One of our topics as the cluster has it."""

    name: str
    id: str  #: another one if it was deleted and made anew
    partitions: int
    copies: int


def find_topics(cluster: Cluster) -> Mapping[str, Topic]:
    """Those of our topics that are there, by name; none is made by asking.

    Raises:
        Unavailable: the cluster does not answer.
        Misconfigured: this user may not see them.
    """
    admin = cluster.admin()
    patience_s = min(PATIENCE_S, cluster.options.busy_s)
    asked = admin.describe_topics(
        TopicCollection(list(cluster.names.all)), request_timeout=patience_s
    )
    cluster.door.await_answers(admin, asked, patience_s)
    found: dict[str, Topic] = {}
    for name, answer in asked.items():
        try:
            told = answer.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise _unseen(cluster, name) from error
            raise cluster.named(error.args[0]) from error
        copies = min((len(p.replicas) for p in told.partitions), default=0)
        found[name] = Topic(
            name=name, id=str(told.topic_id), partitions=len(told.partitions), copies=copies
        )
    return found


def _unseen(cluster: Cluster, topic: str) -> Misconfigured:
    return Misconfigured(
        f"Kafka at {cluster.servers}: this user may not even see the topic {topic}; "
        "docs/how-to/use-kafka.md says what has to be allowed",
        advice="\n".join(acl_commands(cluster, RIGHTS)),
    )


def require_topics(cluster: Cluster) -> Mapping[str, Topic]:
    """All our topics.

    Raises:
        Misconfigured: some are not there.
    """
    found = find_topics(cluster)
    missing = [name for name in cluster.names.all if name not in found]
    if missing:
        raise Misconfigured(
            f"Kafka at {cluster.servers} has no topic {missing[0]}"
            + (f" and {len(missing) - 1} more" if missing[1:] else "")
            + "; `tomodex doctor --create` makes them"
        )
    lanes = {found[name].partitions for name in cluster.names.tickets}
    if len(lanes) > 1:
        raise Misconfigured(
            f"the topics {cluster.names.prefix}.tasks.* of lanes and retries have "
            f"{min(lanes)} to {max(lanes)} partitions; all need as many as the largest"
        )
    for name in (cluster.names.results, cluster.names.states):
        if found[name].partitions != 1:
            raise Misconfigured(f"the topic {name} has {found[name].partitions} partitions, not 1")
    return found


def make_topics(cluster: Cluster) -> Sequence[str]:
    """Make the topics that are not there; return their names.

    Raises:
        Unavailable: the cluster does not answer.
        Misconfigured: this user may not make them, or not so many copies.
    """
    there = find_topics(cluster)
    missing = [name for name in cluster.names.all if name not in there]
    asked = [
        NewTopic(
            name,
            num_partitions=cluster.options.partitions if name in cluster.names.tickets else 1,
            replication_factor=cluster.options.copies,
            config=dict(KEPT),
        )
        for name in missing
    ]
    if not asked:
        return []
    admin = cluster.admin()  # its answers come only as long as it is there
    for name, made in admin.create_topics(asked, request_timeout=PATIENCE_S).items():
        try:
            made.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Misconfigured(
                    f"Kafka at {cluster.servers} does not make the topic {name}: "
                    f"{error.args[0].str()}"
                ) from error
    _wait_for(cluster)
    return missing


def _wait_for(cluster: Cluster) -> None:
    """Have every broker know of the topics: what is made is not known everywhere at once."""
    until = time.monotonic() + PATIENCE_S
    while len(find_topics(cluster)) < len(cluster.names.all):
        if time.monotonic() > until:
            raise Unavailable(f"Kafka at {cluster.servers} has made topics that it does not show")
        time.sleep(0.05)


def probe_topics(cluster: Cluster) -> Iterator[Probe]:
    """Look at each topic: whether it keeps what it has to, and how safely."""
    found = require_topics(cluster)
    yield Probe(
        subject="topics",
        verdict="ok",
        sentence=f"{len(found)} of {cluster.names.prefix}, lanes of "
        f"{found[cluster.names.tickets[0]].partitions} partitions",
    )
    truth = found[cluster.names.states]
    alone = truth.copies < 2
    yield Probe(
        subject="copies",
        verdict="doubtful" if alone else "ok",
        sentence=f"{truth.copies} of {truth.name}",
        advice="with one copy a lost disk loses the queue: make the topics with ?copies=3"
        if alone
        else "",
    )
    yield from _probe_settings(cluster)


def _probe_settings(cluster: Cluster) -> Iterator[Probe]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in cluster.names.all]
    admin = cluster.admin()
    asked = admin.describe_configs(resources, request_timeout=PATIENCE_S)
    cluster.door.await_answers(admin, asked, PATIENCE_S)
    faults: list[str] = []
    for resource, answer in asked.items():
        try:
            with cluster.named_errors():
                told = {name: entry.value for name, entry in answer.result().items()}
        except Misconfigured:
            sentence = "not seen: this user may not DescribeConfigs"
            yield Probe(subject="topic settings", verdict="doubtful", sentence=sentence)
            return
        if told.get("cleanup.policy") != "compact":
            faults.append(f"{resource.name} has cleanup.policy={told.get('cleanup.policy')}")
        if int(told.get("max.message.bytes") or 0) < MOST_BYTES:
            faults.append(f"{resource.name} has max.message.bytes={told.get('max.message.bytes')}")
    yield Probe(
        subject="topic settings",
        verdict="wrong" if faults else "ok",
        sentence="; ".join(faults) or "compacted, with room for large results",
        advice=f"set cleanup.policy=compact and max.message.bytes={KEPT['max.message.bytes']}, or "
        "results and tasks are lost with time"
        if faults
        else "",
    )
