"""The queue in Apache Kafka, for workers on more than one machine.

    cluster.py     how Kafka is reached, and what its errors mean to us
    topics.py      the topics: their names, and how they are to be
    making.py      finds and makes them
    safety.py      whether Kafka keeps them as they have to be kept, and how safely
    rights.py      what its user may do in Kafka, and what of it is missing
    records.py     what the log says: one kind of record for each kind of fact
    view.py        the same facts in a local SQLite file, which answers every question
    ledger.py      reads the log into the view, up to its end
    outbox.py      Kafka transactions
    desk.py        decisions (put, withdraw, retry...), one at a time in the whole cluster
    crew.py        which partitions are ours, as one worker among many
    relay.py       brings tasks to workers that take them, from those that leave their source
    feed.py        results at their offsets, and how far each consumer has come
    queue.py       all of it as a `Queue`

**The log is the truth.** `PREFIX.states` is one compacted partition, and what stands of a task is a
function of the newest record of each key alone, so that every reader comes to the same, whatever
compaction has removed. A task has two: `task`, which only decisions write and which has a version,
and `work`, which only its worker writes and which names the version that it is about. Work on
another version says nothing. Whoever decides holds one transactional id, so of two who decide at
once one is fenced, looks again and decides anew.

**The partitions of the lane topics say whose a task is.** Each task has a ticket in one, and the
consumer group shares out the partitions among workers. A worker writes in transactions that carry
the offset of its partition and the generation of its membership, so that Kafka refuses whoever has
lost it. Which task is next is asked of the view, not read off the partition: the order is the one
of the SQLite queue, and no series waits behind one that is paused or slow.
"""
