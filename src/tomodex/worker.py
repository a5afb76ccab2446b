"""Takes tasks off the queue one at a time, has each annotated, and settles it.

A worker may be killed at any moment: what it held is given to another when its lease runs out. One
that is asked to end (SIGTERM, Ctrl-C) gives its task back at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from tomodex.annotation import AnnotatedSeries
from tomodex.bounds import TOO_MUCH, Bounds
from tomodex.errors import (
    Elsewhere,
    Misconfigured,
    Suspended,
    TomodexError,
    Unavailable,
    Unsuitable,
)
from tomodex.queues import Failed, Outcome, Queue, Rejected, Retry, Shared, Status, Task

log = logging.getLogger(__name__)

#: Short, as it is how long the task of a dead machine waits; a live worker renews it in time.
LEASE = timedelta(minutes=5)

#: Between two looks at a queue that had nothing to do.
IDLE_S = 1.0

#: The longest pause of a worker while nothing outside answers.
LONGEST_PAUSE_S = 60.0

#: How many places of the code a failed task names, the innermost first.
PLACES = 3

#: For so long at least a source is passed over, whatever is said of it.
SHORTEST_REST_S = 1.0

#: How often workers are looked after.
POLL_S = 0.2

#: A worker that ends so often in a row without having held a task will not do better.
FALSE_STARTS = 3

#: One that lived for so long has started well, and dies for another reason.
WELL_STARTED_S = 600.0

#: How long a worker may take to finish its task, and then to give it back, before it is killed.
FINISH_S = 30.0
GIVE_BACK_S = 10.0

#: Added to the niceness of a worker: what is pushed or asked cannot wait, indexing can.
NICENESS = 10

#: Stands before the process that started a worker in the worker's name.
NAME_MARK = "pid"

#: Exit code of a worker that no other will do better than.
MISCONFIGURED = 2

#: Where nothing else is said, a series may take what it wants.
UNBOUNDED = Bounds(0, 0, 0)

Annotate = Callable[[Task], AnnotatedSeries]
Stop = Callable[[], bool]

#: What a process does until it is told to stop; it is given its name.
Main = Callable[[str, Stop], None]


class Leave(SystemExit):
    """This process was asked to end; a library that ends it by itself is a bug instead."""


def work(
    queue: Queue,
    annotate: Annotate,
    *,
    worker: str,
    stop: Stop,
    lease: timedelta = LEASE,
    idle_s: float = IDLE_S,
    bounds: Bounds = UNBOUNDED,
    avoiding: Collection[str] = (),
) -> None:
    """Settle one task after another until `stop` says so, which is asked between two.

    While the archive or the queue does not answer, the pauses between tasks grow, so that an
    outage does not use up the attempts of everything that waits. An archive that is left alone is
    passed over until its time has come, and sources `avoiding` always.
    """
    unanswered, left_alone = 0, LeftAlone()
    leave_to_others(queue, avoiding)
    while not stop():
        try:
            others = {*avoiding, *left_alone.sources()}
            outcome = work_once(queue, annotate, worker, lease, bounds, others)
        except Suspended as suspended:
            left_alone.add(suspended)
            if isinstance(suspended, Elsewhere):
                leave_to_others(queue, [suspended.source])
            continue
        except Unavailable as unavailable:
            log.warning("unavailable", extra={"worker": worker, "sentence": str(unavailable)})
            outcome = Retry(sentence=str(unavailable))
        unanswered = unanswered + 1 if isinstance(outcome, Retry) else 0
        if unanswered:
            rest(min(2.0 ** (unanswered - 1), LONGEST_PAUSE_S), stop)
        elif outcome is None:
            rest(idle_s, stop)


def leave_to_others(queue: Queue, sources: Collection[str]) -> None:
    """Have a queue that gives each worker its part bring series of these sources to others."""
    if sources and isinstance(queue, Shared):
        queue.leave(sources)


class LeftAlone:
    """Sources that nothing is asked of now, and until when."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}

    def add(self, suspended: Suspended) -> None:
        """Pass a source over until its time has come, and for a moment in any case."""
        soonest = datetime.now(UTC) + timedelta(seconds=SHORTEST_REST_S)
        self._until[suspended.source] = max(suspended.until, soonest)

    def sources(self) -> Collection[str]:
        """Those whose time has not come yet."""
        now = datetime.now(UTC)
        self._until = {source: until for source, until in self._until.items() if until > now}
        return self._until


def work_once(
    queue: Queue,
    annotate: Annotate,
    worker: str,
    lease: timedelta = LEASE,
    bounds: Bounds = UNBOUNDED,
    avoiding: Collection[str] = (),
) -> Outcome | None:
    """Settle one task; None if there was none to take. Ends the process if it takes too much.

    Raises:
        Suspended: the task's source is left alone for now; the task is given back untried.
        Unavailable: the queue did not answer; the task will be done again.
        Misconfigured: no task can be done so, and this one is given back.
    """
    task = queue.lease(worker, lease, avoiding)
    if task is None:
        return None
    started = time.monotonic()
    try:
        give_up = partial(_give_up, queue, task, worker, started)
        with _held(queue, task, lease), bounds.watched(task.attempt, give_up):
            outcome, ours = _settle(queue, task, outcome_of(annotate, task))
    except (KeyboardInterrupt, Leave, Misconfigured, Suspended) as end:
        queue.give_back(task)
        log.info("ready", extra=_facts(task, worker, started) | _why(end))
        raise
    event = _status(queue, task, outcome) if ours else "lost"
    log.log(_level(event), event, extra=_facts(task, worker, started) | _details(outcome))
    return outcome


def outcome_of(annotate: Annotate, task: Task) -> Outcome:
    """What comes of a task, whatever its series does to us."""
    try:
        return annotate(task)
    except Unsuitable as unsuitable:
        return Rejected(reason=unsuitable.reason, sentence=unsuitable.sentence)
    except (Leave, Misconfigured, Suspended):
        raise
    except Unavailable as unavailable:
        return Retry(sentence=str(unavailable))
    except (Exception, SystemExit) as bug:  # noqa: BLE001 - one bad series must not stop the worker
        return Failed(reason=type(bug).__name__, sentence=describe(bug))


def describe(error: BaseException) -> str:
    """What went wrong and where, without what a header may hold.

    Only our own errors are quoted: pydicom's, say, repeat the value that they could not read.
    """
    said = f": {error}" if isinstance(error, TomodexError) else ""
    frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    places = [f"{Path(c.co_filename).name}:{line} {c.co_name}" for c, line in frames[-PLACES:]]
    return f"{type(error).__name__}{said} at {' < '.join(reversed(places))}"


def rest(seconds: float, stop: Stop) -> None:
    """Let so much time pass, or less if `stop` says so."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stop():
        time.sleep(min(left, POLL_S))


def nothing_left(queue: Queue) -> bool:
    """Nothing waits, is put off or is in some worker's hands."""
    return not any(status in ("ready", "in-progress") for _, status in queue.count())


def _settle(queue: Queue, task: Task, outcome: Outcome) -> tuple[Outcome, bool]:
    """The outcome as it was stored, and whether the task was still ours."""
    try:
        return outcome, queue.settle(task, outcome)
    except ValueError as unwritable:  # such as a NaN, which JSON cannot say
        failed = Failed(reason=type(unwritable).__name__, sentence=describe(unwritable))
        return failed, queue.settle(task, failed)


@contextmanager
def _held(queue: Queue, task: Task, lease: timedelta) -> Iterator[None]:
    """Keep a task ours for as long as the work on it takes."""
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(queue, task, lease, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()


def _beat(queue: Queue, task: Task, lease: timedelta, done: threading.Event) -> None:
    """Renew the lease three times in its length, until the work is done or the task is lost."""
    while not done.wait(lease.total_seconds() / 3):
        try:
            if not queue.extend(task, lease):
                return
        except TomodexError as error:  # the next beat may come in time yet
            uid = task.series.series_uid
            log.warning("not renewed", extra={"series_uid": uid, "sentence": str(error)})


def _give_up(
    queue: Queue, task: Task, worker: str, started: float, reason: str, sentence: str
) -> None:
    """Settle a task whose worker is about to be ended, for another worker to try."""
    outcome = Retry(reason=reason, sentence=sentence)
    event = _status(queue, task, outcome) if queue.settle(task, outcome) else "lost"
    log.log(_level(event), event, extra=_facts(task, worker, started) | _details(outcome))


def _status(queue: Queue, task: Task, outcome: Outcome) -> Status:
    match outcome:
        case AnnotatedSeries():
            return "completed"
        case Rejected():
            return "rejected"
        case Failed():
            return "failed"
    # How many attempts are enough is the queue's to say.
    states = queue.states(task.series.series_uid)
    return next((s.status for s in states if s.configuration == task.configuration), "ready")


def _level(event: str) -> int:
    if event == "failed":
        return logging.ERROR
    return logging.INFO if event in ("completed", "rejected") else logging.WARNING


def _facts(task: Task, worker: str, started: float) -> dict[str, object]:
    return {
        "series_uid": task.series.series_uid,
        "configuration": task.configuration,
        "lane": task.lane,
        "attempt": task.attempt,
        "worker": worker,
        "seconds": round(time.monotonic() - started, 3),
    }


def _why(end: BaseException) -> dict[str, object]:
    return {"sentence": str(end)} if isinstance(end, TomodexError) else {}


def _details(outcome: Outcome) -> dict[str, object]:
    match outcome:
        case AnnotatedSeries(annotations=annotations):
            return {"structures": len(annotations)}
        case Rejected(reason=reason, sentence=sentence) | Failed(reason=reason, sentence=sentence):
            return {"reason": reason, "sentence": sentence}
    return {"reason": outcome.reason, "sentence": outcome.sentence}


# Several of them, each in a process of its own


@dataclass(slots=True)
class _Place:
    """One of the places that a worker has; who holds it changes when one dies."""

    main: Main
    is_beside: bool = False  #: the others go on without it
    name: str = ""
    process: SpawnProcess | None = None
    stop: Connection | None = None  #: the worker ends when this is closed, by us or by our death
    scratch: str = ""  #: where its temporary files lie, which a killed one leaves
    starts: int = 0
    started: float = 0.0
    false_starts: int = 0
    not_before: float = field(default_factory=time.monotonic)


def run_workers(
    count: int,
    main: Main,
    *,
    bury: Callable[[str], int],
    finished: Stop,
    progress: Callable[[], None],
    beside: Sequence[Main] = (),
    finish_s: float = 0.0,
) -> None:
    """Keep so many workers at work until `finished`, then let them end.

    Args:
        count: of worker processes.
        main: opens what it needs and works until its second argument says stop; its first is the
            name of the worker. It is run in a new process, so it has to be picklable, and what it
            logs to has to be set up by itself.
        bury: `Queue.bury`, so that nobody waits for the lease of a worker that was seen to die.
        finished: asked some times a second; workers that all have returned are enough too.
        progress: called as often.
        beside: what else is kept at work, each in a process of its own; one that dies again and
            again is started later each time, and ends nothing.
        finish_s: how long workers may finish what they hold when this process is asked to end;
            then they give it back.

    Raises:
        Misconfigured: a worker's settings are wrong, or workers end again and again before they
            take any task.
    """
    places = [_Place(main) for _ in range(count)]
    places += [_Place(one, is_beside=True) for one in beside]
    patience_s = 0.0
    try:
        while not finished() and _keep_alive(places, bury):
            progress()
            time.sleep(POLL_S)
        patience_s = FINISH_S
    except Leave:
        patience_s = finish_s
        raise
    finally:
        _end(places, patience_s, bury)
    progress()


def bury_the_dead(queue: Queue) -> int:
    """Give back what workers of this machine hold whose starter is gone; return how much.

    After a power cut or `kill -9` nobody waits for the leases to run out. A worker that is still
    alive and finishes late is refused by the queue.
    """
    return sum(queue.bury(name) for name in queue.holders() if _is_orphan(name))


def _is_orphan(worker: str) -> bool:
    """Whether this machine started the worker, by a process that has ended since."""
    host, _, rest = worker.rpartition(f"-{NAME_MARK}")
    starter = rest.partition("-")[0]
    if host != socket.gethostname() or not starter.isdigit():
        return False
    try:
        os.kill(int(starter), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, so alive
        return False
    return False


def leave_on_sigterm() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that a worker gives back its task."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Leave(128 + number)


def _keep_alive(places: Sequence[_Place], bury: Callable[[str], int]) -> bool:
    """Start who is not there yet and who has died; False if all have come to their end."""
    for number, place in enumerate(places):
        if place.process is not None and place.process.exitcode:
            _mourn(place, bury)
        if place.process is None and time.monotonic() >= place.not_before:
            mark = f"{NAME_MARK}{os.getpid()}-{number}.{place.starts}"
            _start(place, f"{socket.gethostname()}-{mark}")
    return any(place.process is None or place.process.exitcode != 0 for place in places)


def _mourn(place: _Place, bury: Callable[[str], int]) -> None:
    """Give back what a dead worker held and free its place.

    A series that kills its workers is given up by the queue. A worker that dies without one
    could be started for ever, so that is counted here.
    """
    code = place.process.exitcode if place.process else None
    held = bury(place.name)
    log.error("worker died", extra={"worker": place.name, "exit_code": code, "held": held})
    if code == MISCONFIGURED:
        raise Misconfigured("a worker cannot work with these settings; the log says why")
    lived_s = time.monotonic() - place.started
    well = held or code == TOO_MUCH or lived_s > WELL_STARTED_S
    place.false_starts = 0 if well else place.false_starts + 1
    if place.false_starts > FALSE_STARTS and not place.is_beside:
        raise Misconfigured(
            f"workers end before they take a task, the last with exit code {code}; the log says why"
        )
    shutil.rmtree(place.scratch, ignore_errors=True)
    place.process = None
    pause_s = min(2.0 ** (place.false_starts - 1), LONGEST_PAUSE_S) if place.false_starts else 0.0
    place.not_before = time.monotonic() + pause_s


def _start(place: _Place, name: str) -> None:
    # Not forked: threads, SQLite files and GPUs do not survive that.
    context = multiprocessing.get_context("spawn")
    heard, place.stop = context.Pipe(duplex=False)
    place.name, place.starts = name, place.starts + 1
    place.scratch = tempfile.mkdtemp(prefix="tomodex-worker-")
    args = place.main, name, heard, place.scratch
    process = context.Process(target=_be_worker, args=args, name=name)
    process.start()
    place.process = process
    place.started = time.monotonic()
    heard.close()


def _be_worker(
    main: Callable[[str, Stop], None], name: str, heard: Connection, scratch: str
) -> None:
    # First of all: threads that are begun from here on have it too.
    os.nice(NICENESS)
    # What this process leaves there, retrieved images above all, goes with it.
    tempfile.tempdir = scratch
    # Ctrl-C reaches every process of the terminal; the one that started us says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_on_sigterm()
    try:
        main(name, heard.poll)
    except TomodexError as error:
        log.error("worker ended", extra={"worker": name, "sentence": str(error)})  # noqa: TRY400
        sys.exit(MISCONFIGURED if isinstance(error, Misconfigured) else 1)


def _end(places: Sequence[_Place], patience_s: float, bury: Callable[[str], int]) -> None:
    """Let every worker finish, else give back, what it holds; kill those that do neither."""
    for place in places:
        if place.stop is not None:
            place.stop.close()
    alive = [(place.name, place.process) for place in places if place.process is not None]
    _join(alive, patience_s)
    for _, process in alive:
        process.terminate()
    _join(alive, GIVE_BACK_S)
    for name, process in alive:
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode:
            bury(name)
    for place in places:
        shutil.rmtree(place.scratch, ignore_errors=True)


def _join(alive: Sequence[tuple[str, SpawnProcess]], patience_s: float) -> None:
    end = time.monotonic() + patience_s
    for _, process in alive:
        process.join(max(0.0, end - time.monotonic()))
