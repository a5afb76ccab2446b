"""Whether Kafka keeps a queue's topics as they have to be kept, and how safely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    ConfigResource,
    ResourceType,
)

from tomodex.errors import Misconfigured
from tomodex.probe import Probe
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.making import Topic, require_topics, topic_of
from tomodex.queues.kafka.topics import KEPT, MOST_BYTES

#: Kafka's own topics that a queue stands on: how far consumers are, and what is committed.
INTERNAL = ("__consumer_offsets", "__transaction_state")

Settings = Mapping[str, Mapping[str, str]]


def probe_topics(cluster: Cluster) -> Iterator[Probe]:
    """Look at each topic: whether it keeps what it has to, and how safely."""
    found = require_topics(cluster)
    yield Probe(
        subject="topics",
        verdict="ok",
        sentence=f"{len(found)} of {cluster.names.prefix}, lanes of "
        f"{found[cluster.names.tickets[0]].partitions} partitions",
    )
    yield _copies([*found.values()])
    yield _internal(cluster)
    settings = _settings(cluster)
    if settings is None:
        sentence = "not seen: this user may not DescribeConfigs"
        yield Probe(subject="topic settings", verdict="doubtful", sentence=sentence)
        return
    yield _kept(settings)
    yield _confirmed(settings, found)


def _copies(topics: Sequence[Topic]) -> Probe:
    fewest = min(topics, key=lambda topic: topic.copies)
    behind = [topic for topic in topics if topic.in_sync < topic.copies]
    advice = ""
    if behind:
        advice = "see whether a broker is down, or slow: until it is back there are fewer copies"
    elif fewest.copies < 2:
        advice = "with one copy a lost disk loses the queue: make the topics with ?copies=3"
    return Probe(
        subject="copies",
        verdict="doubtful" if advice else "ok",
        sentence=f"{fewest.copies} of {fewest.name}"
        + (f", {behind[0].in_sync} in sync of {behind[0].name}" if behind else ""),
        advice=advice,
    )


def _internal(cluster: Cluster) -> Probe:
    """Brokers make these with one copy if they are told so, as some packages do for a trial."""
    brokers, topics = _look_at_internal(cluster)
    lacking = [topic for topic in topics if topic.copies < min(2, brokers)]
    shown = ", ".join(f"{topic.copies} of {topic.name}" for topic in topics)
    return Probe(
        subject="Kafka's own topics",
        verdict="doubtful" if lacking else "ok",
        sentence=shown or "not there yet, or this user may not Describe them",
        advice="if the one broker that has it is lost, all consumers begin anew and nothing can be "
        "settled: have its partitions copied (kafka-reassign-partitions.sh), and set "
        "offsets.topic.replication.factor and transaction.state.log.replication.factor to 3"
        if lacking
        else "",
    )


def _look_at_internal(cluster: Cluster) -> tuple[int, Sequence[Topic]]:
    """How many brokers there are, and those of the topics that we may see."""
    admin = cluster.admin()
    asked = admin.describe_topics(TopicCollection(list(INTERNAL)), request_timeout=PATIENCE_S)
    nodes = {"cluster": admin.describe_cluster(request_timeout=PATIENCE_S)}
    cluster.door.await_answers(admin, {**asked, **nodes}, PATIENCE_S)
    with cluster.named_errors():
        brokers = len(nodes["cluster"].result().nodes)
    seen = []
    for answer in asked.values():
        try:
            seen.append(topic_of(answer.result()))
        except KafkaException:  # not there before the first group, or not for us to see
            continue
    return brokers, seen


def _settings(cluster: Cluster) -> Settings | None:
    """Settings of each topic; None: we may not see them."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in cluster.names.all]
    admin = cluster.admin()
    asked = admin.describe_configs(resources, request_timeout=PATIENCE_S)
    cluster.door.await_answers(admin, asked, PATIENCE_S)
    try:
        with cluster.named_errors():
            return {
                resource.name: {name: entry.value for name, entry in answer.result().items()}
                for resource, answer in asked.items()
            }
    except Misconfigured:
        return None


def _kept(settings: Settings) -> Probe:
    """Whether all is kept, and large results are taken."""
    faults: list[str] = []
    for topic, told in settings.items():
        if told.get("cleanup.policy") != "compact":
            faults.append(f"{topic} has cleanup.policy={told.get('cleanup.policy')}")
        if int(told.get("max.message.bytes") or 0) < MOST_BYTES:
            faults.append(f"{topic} has max.message.bytes={told.get('max.message.bytes')}")
    return Probe(
        subject="topic settings",
        verdict="wrong" if faults else "ok",
        sentence="; ".join(faults) or "compacted, with room for large results",
        advice=f"set cleanup.policy=compact and max.message.bytes={KEPT['max.message.bytes']}, or "
        "results and tasks are lost with time"
        if faults
        else "",
    )


def _confirmed(settings: Settings, topics: Mapping[str, Topic]) -> Probe:
    """Whether what is confirmed outlasts a broker, and whether one may be away."""
    faults: list[str] = []
    for name, told in settings.items():
        least, copies = int(told.get("min.insync.replicas") or 1), topics[name].copies
        if copies > 2 and least < 2:
            faults.append(f"{name} has min.insync.replicas={least}: one broker alone confirms")
        if least >= copies > 1 or least > copies:
            faults.append(f"{name} has min.insync.replicas={least} of {copies}: none may be away")
        if told.get("unclean.leader.election.enable") == "true":
            faults.append(f"{name} has unclean.leader.election.enable=true")
    more = f" (and {len(faults) - 1} more)" if faults[1:] else ""
    seen = {told.get("min.insync.replicas") for told in settings.values()}
    return Probe(
        subject="confirmations",
        verdict="doubtful" if faults else "ok",
        sentence=faults[0] + more
        if faults
        else f"min.insync.replicas={' and '.join(map(str, seen))}",
        advice="set min.insync.replicas to 2 of 3 copies, and unclean.leader.election.enable=false "
        "(kafka-configs.sh --alter), or what was confirmed may be lost with a broker"
        if faults
        else "",
    )
