"""The loop that feeds workers with jobs, wherever they are.

`Farm` is the loop, `Pool` what it needs of the workers; `saboc_jax.evaluation.ray` is one on Ray.

- **Warm**: a worker is given the runner once, compiles at its first job, and stays.
- **Back-pressure**: a worker has at most `in_flight` messages, one that it works on and one
  that waits there; all other jobs wait here.
- **Messages** hold as many jobs as a worker's devices take at once, more if jobs are quick,
  fewer if too few jobs are left for all workers.
- **Retries**: a lost worker is started again, and its jobs are sent again at once, one by one.
  Only the message that it worked on is blamed; a job is given up after `retries` such losses.
- **Nothing twice**: an answer that arrived before its worker was lost is kept.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from saboc_jax.evaluation.jobs import Answer, Job

MESSAGE_SECONDS = 0.2
MESSAGE_JOBS = 64


class WorkerLostError(Exception):
    """A worker ended before it answered."""


class Message(NamedTuple):
    """Jobs that are sent together, and the missing parts of the scorer."""

    missing: tuple[str, ...]
    jobs: tuple[Job, ...]


class Pool(Protocol):
    """Workers by number. A ticket stands for an answer to come and is hashable."""

    size: int

    def start(self, worker: int) -> Any:
        """Starts a worker, or starts it again; the answer is how many jobs it takes at once."""
        ...

    def send(self, worker: int, message: Message) -> Any:
        """Gives a worker a message; messages are worked on in the order in which they came."""
        ...

    def wait(self, tickets: Sequence[Any], timeout: float | None) -> Any:
        """Waits for an answered or lost ticket and returns the earliest.

        Args:
            tickets: in the order in which they were given out.
            timeout: seconds after which it returns None; None: no limit.
        """
        ...

    def answer(self, ticket: Any) -> Any:
        """Returns the answer; raises WorkerLostError if the worker ended without one."""
        ...


class _Flight(NamedTuple):
    """A message under way; None: a worker that is starting."""

    worker: int
    life: int
    message: Message | None


@dataclass
class Farm:
    """Feeds the workers of a pool.

    Attributes:
        pool: the workers.
        in_flight: most messages that a worker has.
        retries: how often a job, or a start, is tried again after a worker was lost with it.
        start_timeout: seconds without any worker after which the farm gives up.
        restarts: number of workers that were lost and started again.
    """

    pool: Pool
    in_flight: int = 2
    retries: int = 3
    start_timeout: float = 300.0
    restarts: int = 0
    _missing: tuple[str, ...] = ()
    _queue: deque[Job] = field(default_factory=deque)
    _again: deque[Job] = field(default_factory=deque)
    _stopped: bool = False
    _flying: dict[Any, _Flight] = field(default_factory=dict)  # the oldest first
    _takes: dict[int, int] = field(default_factory=dict)  # jobs at once, by ready worker
    _lives: Counter[int] = field(default_factory=Counter)
    _blamed: set[tuple[int, int]] = field(default_factory=set)
    _losses: Counter[Any] = field(default_factory=Counter)
    _seconds: float = math.inf  # recent time of one job

    def __post_init__(self) -> None:
        if self.in_flight < 1 or self.retries < 0:
            raise ValueError(
                f"in_flight={self.in_flight}, retries={self.retries}; allowed: at least 1 and 0"
            )
        for worker in range(self.pool.size):
            self._start(worker)

    def run(
        self, missing: Sequence[str], jobs: Sequence[Job]
    ) -> Iterator[tuple[Sequence[Job], Answer]]:
        """Yields every job once with its answer, in the order in which jobs finish.

        Raises:
            RuntimeError: if workers are lost again and again, with one job or at their start.
            TimeoutError: if there is no worker for `start_timeout` seconds.
        """
        self._begin(missing, jobs)
        while self._queue or self._again or self._working():
            self._send_out()
            timeout = None if self._working() else self.start_timeout
            ticket = self.pool.wait(list(self._flying), timeout)
            if ticket is None:
                raise TimeoutError(
                    f"none of {self.pool.size} workers was ready after {self.start_timeout:.0f} s;"
                    " does the cluster have the CPUs and GPUs that they ask for?"
                )
            try:
                answer = self.pool.answer(ticket)
            except WorkerLostError as error:
                self._lost(ticket, error)
                continue
            flight = self._flying.pop(ticket)
            if flight.message is None:
                self._takes[flight.worker] = answer
                self._losses.pop(("start", flight.worker), None)
            else:
                self._seconds = sum(answer.seconds) / len(answer.seconds)
                yield flight.message.jobs, answer

    def stop(self) -> None:
        """Starts no more jobs; `run` ends when the jobs under way are done."""
        self._stopped = True
        self._queue.clear()
        self._again.clear()

    def _begin(self, missing: Sequence[str], jobs: Sequence[Job]) -> None:
        """Takes new jobs; drops jobs that an interrupted run left behind."""
        self.stop()
        self._stopped = False
        self._missing = tuple(missing)
        self._queue.extend(jobs)
        self._flying = {
            ticket: flight for ticket, flight in self._flying.items() if flight.message is None
        }

    def _working(self) -> bool:
        return any(flight.message for flight in self._flying.values())

    def _start(self, worker: int) -> None:
        self._lives[worker] += 1
        ticket = self.pool.start(worker)
        self._flying[ticket] = _Flight(worker, self._lives[worker], None)

    def _send_out(self) -> None:
        """Sends messages to workers, starting with the least busy."""
        has = Counter(flight.worker for flight in self._flying.values())
        for level in range(self.in_flight):
            for worker in self._takes:
                if has[worker] == level and (self._queue or self._again):
                    message = Message(self._missing, self._next(worker))
                    ticket = self.pool.send(worker, message)
                    self._flying[ticket] = _Flight(worker, self._lives[worker], message)
                    has[worker] += 1

    def _next(self, worker: int) -> tuple[Job, ...]:
        """Returns the jobs of the next message: one job to retry alone, else several."""
        if self._again:
            return (self._again.popleft(),)
        fair = math.ceil(len(self._queue) / (self.pool.size * self.in_flight))
        quick = min(MESSAGE_JOBS, int(MESSAGE_SECONDS / max(self._seconds, 1e-9)))
        number = min(max(self._takes[worker], quick), fair)
        return tuple(self._queue.popleft() for _ in range(number))

    def _lost(self, ticket: Any, error: WorkerLostError) -> None:
        """Starts the worker again and requeues the jobs it had."""
        worker, life, message = self._flying[ticket]
        mine = [t for t, f in self._flying.items() if (f.worker, f.life) == (worker, life)]
        del self._flying[ticket]
        if life == self._lives[worker]:
            self.restarts += 1
            self._takes.pop(worker, None)
            if message is None:
                self._blame(("start", worker), f"worker {worker} was lost at its start", error)
            self._start(worker)
        if message is None or self._stopped:
            return
        # The worker was on its first unanswered message; the others only waited there.
        blamed = mine[0] == ticket and (worker, life) not in self._blamed
        if blamed:
            self._blamed.add((worker, life))
        for job in reversed(message.jobs):
            if blamed:
                self._blame(job.name, f"workers were lost while they scored {job.name}", error)
            self._again.appendleft(job)

    def _blame(self, what: Any, text: str, error: WorkerLostError) -> None:
        self._losses[what] += 1
        if self._losses[what] > self.retries:
            raise RuntimeError(f"{text}, {self._losses[what]} times: {error}") from error
