"""What the user of a queue may do in Kafka, and what of it is missing.

docs/how-to/use-kafka.md has the same as a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    AclOperation,
    AdminClient,
)

from tomodex.errors import Misconfigured
from tomodex.probe import Probe
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster

#: Operations by kind of resource, each on all whose names begin with the queue's prefix and a dot,
#: in Kafka's words. To read or write includes to describe.
RIGHTS: Mapping[str, Sequence[str]] = {
    "topic": ("Read", "Write", "DescribeConfigs"),
    "group": ("Read",),
    "transactional-id": ("Write",),
}

#: What whoever makes the topics needs besides.
TO_CREATE: Mapping[str, Sequence[str]] = {"topic": ("Create",)}


def acl_commands(cluster: Cluster, rights: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What somebody who may can type so that our user may do all this."""
    who = f"User:{cluster.options.user or 'NAME'}"
    start = (
        f"kafka-acls.sh --bootstrap-server {cluster.servers} --command-config admin.properties "
        f"--add --allow-principal {who} --resource-pattern-type prefixed"
    )
    return [
        f"{start} --{kind} {cluster.names.prefix}. "
        + " ".join(f"--operation {one}" for one in operations)
        for kind, operations in rights.items()
    ]


def probe_rights(cluster: Cluster) -> Iterator[Probe]:
    """Look whether we may do all that a queue needs; nothing is written, and no group joined."""
    admin = cluster.admin()
    missing = {
        "topic": _missing_of_topics(cluster, admin),
        "group": _missing_of_groups(cluster, admin),
        "transactional-id": _missing_of_transactions(cluster),
    }
    wrong = {kind: found for kind, found in missing.items() if found}
    said = [f"{kind} {_names(names)}: {operation}" for kind, found in wrong.items()
            for operation, names in found.items()]  # fmt: skip
    needed = {kind: list(found) for kind, found in wrong.items()}
    yield Probe(
        subject="rights",
        verdict="wrong" if wrong else "ok",
        sentence=f"not allowed: {'; '.join(said)}" if wrong else "all that a queue needs",
        advice="have somebody who may type the commands" if wrong else "",
        commands=tuple(acl_commands(cluster, needed)),
    )


#: Names of resources by the operation that is not allowed on them.
Missing = Mapping[str, Sequence[str]]


def _missing_of_topics(cluster: Cluster, admin: AdminClient) -> Missing:
    asked = admin.describe_topics(
        TopicCollection(list(cluster.names.all)),
        request_timeout=PATIENCE_S,
        include_authorized_operations=True,
    )
    cluster.door.await_answers(admin, asked, PATIENCE_S)
    allowed: dict[str, Collection[AclOperation] | None] = {}
    for name, answer in asked.items():
        try:
            allowed[name] = answer.result().authorized_operations
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise cluster.named(error.args[0]) from error
            allowed[name] = ()
    return _missing("topic", allowed)


def _missing_of_groups(cluster: Cluster, admin: AdminClient) -> Missing:
    names = [cluster.names.workers, cluster.names.view, f"{cluster.names.prefix}.to.doctor"]
    return _missing("group", {name: cluster.allowed_in_group(name, admin) for name in names})


def _missing_of_transactions(cluster: Cluster) -> Missing:
    """Kafka does not say it but of one that is begun; this one is of nobody else, and empty."""
    name = f"{cluster.names.prefix}.doctor"
    producer = cluster.producer(name, 10_000)
    try:
        with cluster.named_errors():
            producer.init_transactions(PATIENCE_S)
    except Misconfigured:
        return {"Write": [name]}
    finally:
        producer.purge()
    return {}


def _missing(kind: str, allowed: Mapping[str, Collection[AclOperation] | None]) -> Missing:
    """None: the broker does not say."""
    found: dict[str, list[str]] = {}
    for name, operations in allowed.items():
        known = None if operations is None else {one.name.replace("_", "") for one in operations}
        for operation in RIGHTS[kind]:
            if known is not None and operation.upper() not in known:
                found.setdefault(operation, []).append(name)
    return found


def _names(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
