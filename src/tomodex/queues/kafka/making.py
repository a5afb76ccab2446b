"""Finds and makes the topics of a queue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    NewTopic,
    TopicDescription,
)

from tomodex.errors import Misconfigured, Unavailable
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.rights import RIGHTS, acl_commands
from tomodex.queues.kafka.topics import USUAL_COPIES, settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One of our topics as the cluster has it."""

    name: str
    id: str  #: another one if it was deleted and made anew
    partitions: int
    copies: int  #: of the partition with the fewest
    in_sync: int  #: of the partition with the fewest; less than `copies` while a broker is away


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
        found[name] = topic_of(told)
    return found


def topic_of(told: TopicDescription) -> Topic:
    """What the cluster tells of a topic."""
    return Topic(
        name=told.name,
        id=str(told.topic_id),
        partitions=len(told.partitions),
        copies=min((len(one.replicas) for one in told.partitions), default=0),
        in_sync=min((len(one.isr) for one in told.partitions), default=0),
    )


def _unseen(cluster: Cluster, topic: str) -> Misconfigured:
    return Misconfigured(
        f"Kafka at {cluster.servers}: this user may not even see the topic {topic}; "
        "docs/how-to/use-kafka.md says what has to be allowed",
        commands=acl_commands(cluster, RIGHTS),
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
            + "; `tomodex doctor --create` makes them",
            commands=topic_commands(cluster, missing, copies_of(cluster)),
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


def copies_of(cluster: Cluster) -> int:
    """How many copies a topic of ours is to have.

    The brokers' own default is one where nobody has set it, and a lost disk then loses the queue.
    """
    if cluster.options.copies > 0:
        return cluster.options.copies
    admin = cluster.admin()
    asked = {"cluster": admin.describe_cluster(request_timeout=PATIENCE_S)}
    cluster.door.await_answers(admin, asked, PATIENCE_S)
    with cluster.named_errors():
        return min(USUAL_COPIES, len(asked["cluster"].result().nodes))


def topic_commands(cluster: Cluster, names: Sequence[str], copies: int) -> Sequence[str]:
    """What somebody who may can type to make these topics."""
    settings = " ".join(f"--config {name}={value}" for name, value in settings_of(copies).items())
    return [
        f"kafka-topics.sh --bootstrap-server {cluster.servers} --command-config admin.properties "
        f"--create --topic {name} --partitions {_partitions_of(cluster, name)} "
        f"--replication-factor {copies} {settings}"
        for name in names
    ]


def _partitions_of(cluster: Cluster, name: str) -> int:
    return cluster.options.partitions if name in cluster.names.tickets else 1


def make_topics(cluster: Cluster) -> Sequence[str]:
    """Make the topics that are not there; return their names.

    Raises:
        Unavailable: the cluster does not answer.
        Misconfigured: this user may not make them, or not so many copies.
    """
    there = find_topics(cluster)
    missing = [name for name in cluster.names.all if name not in there]
    if not missing:
        return []
    copies = copies_of(cluster)
    asked = [
        NewTopic(
            name,
            num_partitions=_partitions_of(cluster, name),
            replication_factor=copies,
            config=dict(settings_of(copies)),
        )
        for name in missing
    ]
    admin = cluster.admin()  # its answers come only as long as it is there
    for name, made in admin.create_topics(asked, request_timeout=PATIENCE_S).items():
        try:
            made.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Misconfigured(
                    f"Kafka at {cluster.servers} does not make the topic {name}: "
                    f"{error.args[0].str()}",
                    commands=topic_commands(cluster, missing, copies),
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
