"""Scores on a Ray cluster: one warm actor for each worker, fed by `saboc_jax.evaluation.farm.Farm`.

    with RayExecutor(num_workers=8, address="auto") as executor:
        evaluator = Evaluator(Runner(space, scorer, Draws(keys, batches)), executor=executor)
        scores = evaluator.evaluate(masks)

Ray is an extra (`pip install 'saboc_jax[ray]'`) and is imported when an executor is made.
Every node needs the driver's package versions. Nodes with other versions are refused, because
results are stored under the driver's versions.

**Bits.** XLA adds in an order that depends on its flags and on how many threads it has. Workers
therefore get the driver's `JAX_*`, `XLA_*` and `NPROC` variables, and on machines of one kind they
give the same bits as a run in the driver. With `NPROC=1` every worker has one thread everywhere.
(If the caller has initialised Ray, its workers keep their own variables.)
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from saboc_jax.evaluation.counts import Counts
from saboc_jax.evaluation.farm import Farm, Message, WorkerLostError
from saboc_jax.evaluation.identity import computing, current_versions
from saboc_jax.evaluation.jobs import Answer, Job
from saboc_jax.evaluation.runner import Runner
from saboc_jax.extras import needed

PASSED_ON = ("JAX_", "XLA_", "NPROC")
"""Prefixes of the environment variables that workers get from the driver."""


class Worker:
    """Computes jobs with a runner and keeps its compiled programs."""

    def load(self, runner: Runner) -> dict[str, Any]:
        """Takes the runner.

        Returns:
            `takes`, how many jobs it computes at once; `pid`; and `ways`, how it computes.
        """
        self._runner = runner
        return {"takes": runner.at_once, "pid": os.getpid(), "ways": _ways()}

    def compute(self, message: Message) -> Answer:
        """Computes the jobs of a message."""
        total = Answer([], [], Counts(), self._runner.platform)
        size = self._runner.at_once  # size at the start: it shrinks if memory runs out
        for start in range(0, len(message.jobs), size):
            jobs = message.jobs[start : start + size]
            answer = self._runner.compute(message.missing, jobs)
            total.rows.extend(answer.rows)
            total.seconds.extend(answer.seconds)
            total.counts.add(answer.counts)
        total.counts.device_jobs = []  # counts per device make sense in this worker only
        return total


@dataclass
class RayPool:
    """Actors of one runner.

    Attributes:
        ray: the module `ray`.
        runner: Ray reference to the runner.
        size: number of workers.
        resources: resources of an actor, as `num_cpus` and `num_gpus`.
        pids: process id of each ready worker.
    """

    ray: ModuleType
    runner: Any
    size: int
    resources: Mapping[str, float]
    pids: dict[int, int] = field(default_factory=dict)
    _actors: dict[int, Any] = field(default_factory=dict)
    _starting: dict[Any, int] = field(default_factory=dict)

    def start(self, worker: int) -> Any:
        self._end(worker)
        actor = self.ray.remote(Worker).options(**self.resources, max_restarts=0).remote()
        self._actors[worker] = actor
        ticket = actor.load.remote(self.runner)
        self._starting[ticket] = worker
        return ticket

    def send(self, worker: int, message: Message) -> Any:
        return self._actors[worker].compute.remote(message)

    def wait(self, tickets: Sequence[Any], timeout: float | None) -> Any:
        self.ray.wait(list(tickets), num_returns=1, timeout=timeout)
        done, _ = self.ray.wait(list(tickets), num_returns=len(tickets), timeout=0)
        return min(done, key=tickets.index, default=None)

    def answer(self, ticket: Any) -> Any:
        worker = self._starting.pop(ticket, None)
        try:
            answer = self.ray.get(ticket)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError) as error:
            raise WorkerLostError(str(error)) from error
        if worker is None:
            return answer
        if answer["ways"] != _ways():
            raise ValueError(
                f"a worker computes with {answer['ways']}; allowed: the driver's {_ways()}"
            )
        self.pids[worker] = answer["pid"]
        return answer["takes"]

    def close(self) -> None:
        """Ends all actors."""
        for worker in list(self._actors):
            self._end(worker)

    def _end(self, worker: int) -> None:
        self.pids.pop(worker, None)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self.ray.kill(actor, no_restart=True)


class RayExecutor:
    """Computes a runner's jobs on Ray; use as a context manager.

    The actors belong to one runner and stay warm for all its calls; another runner gets new actors.

    Args:
        num_workers: actors; None: one for each CPU of the cluster.
        address: address of a running cluster, "auto" for the one on this machine; None:
            `RAY_ADDRESS`, or if that is unset, a new Ray on this machine.
        cpus_per_worker: CPUs that an actor reserves.
        gpus_per_worker: GPUs that an actor reserves; with 0 it sees no GPU.
        in_flight: most messages that a worker has.
        retries: how often a job is tried again after its worker was lost.

    Raises:
        MissingExtraError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address.
        ValueError: if a number is not allowed.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        address: str | None = None,
        *,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        in_flight: int = 2,
        retries: int = 3,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; allowed: 1 or more")
        self._ray = _import_ray(_is_own(address))
        self._owns_ray = not self._ray.is_initialized()
        if self._owns_ray:
            _connect(self._ray, address, num_workers, cpus_per_worker)
        self._resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}
        cpus = self._ray.cluster_resources().get("CPU", 1.0)
        self.num_workers = num_workers or max(1, int(cpus // max(cpus_per_worker, 1.0)))
        self._in_flight, self._retries = in_flight, retries
        self._of: Runner | None = None
        self._pool: RayPool | None = None
        self._farm: Farm | None = None

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the ready workers."""
        return dict(self._pool.pids) if self._pool else {}

    @property
    def restarts(self) -> int:
        """Number of workers that were lost and started again."""
        return self._farm.restarts if self._farm else 0

    def run(
        self, runner: Runner, missing: Sequence[str], jobs: Sequence[Job]
    ) -> Iterator[tuple[Sequence[Job], Answer]]:
        """See `saboc_jax.evaluation.evaluator.Executor`."""
        return self.warm(runner).run(missing, jobs)

    def warm(self, runner: Runner) -> Farm:
        """Starts the runner's workers unless they already run."""
        if self._farm is None or self._of is not runner:
            self._let_go()
            sent = self._ray.put(runner)
            self._pool = RayPool(self._ray, sent, self.num_workers, self._resources)
            self._farm, self._of = Farm(self._pool, self._in_flight, self._retries), runner
        return self._farm

    def stop(self) -> None:
        """See `saboc_jax.evaluation.evaluator.Executor`."""
        if self._farm:
            self._farm.stop()

    def close(self) -> None:
        """Ends the workers, and Ray too if this executor started or joined it."""
        if self._ray.is_initialized():
            self._let_go()
            if self._owns_ray:
                self._ray.shutdown()

    def _let_go(self) -> None:
        if self._pool:
            self._pool.close()
        self._pool, self._farm, self._of = None, None, None


def _ways() -> dict[str, str]:
    """Returns how this process computes: the settings and versions that identify results."""
    return computing() | current_versions()


def _is_own(address: str | None) -> bool:
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def _import_ray(own: bool) -> ModuleType:
    if own and "ray" not in sys.modules:
        # Ray listens on all interfaces, whatever address it is given; only its token keeps others
        # of the network from running code. It reads this when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    with needed("ray", "A Ray executor"):
        import ray
    return ray


def _connect(
    ray: ModuleType, address: str | None, num_workers: int | None, cpus_per_worker: float
) -> None:
    """Joins the cluster at the address, or starts a Ray on this machine."""
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    options: dict[str, Any] = {"runtime_env": {"env_vars": passed_on}} if passed_on else {}
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
        if num_workers:  # allow the requested number, even beyond the CPUs
            options["num_cpus"] = max(os.cpu_count() or 1, int(num_workers * cpus_per_worker))
    ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
