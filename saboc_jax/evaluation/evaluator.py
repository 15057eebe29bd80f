"""The only loop over architectures: one compiled program, resumable, the bad ones flagged.

A score has two halves. What is observed of the network (its kernel, its gradients) is one XLA
program for every architecture of the space, compiled ahead of time so that compile and run
time are measured apart. What is read from it (eigenvalues, a regression) runs in float64 on
the host: it is small, needs the precision, and GPUs are slow at it.

Policy for bad architectures: flagged, counted, ranked last by `saboc_jax.statistics.ranking`, never
dropped. One without a path from input to output ("disconnected") has NaN in every metric. One with
a metric that is not finite ("non_finite") keeps what its scorer gave: NaN, no value, ranks it last
whatever its other metrics are; an infinity, which some definitions have as a value, ranks it last
by that metric. What the store serves is counted by its flag there: a resumed run says the same.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.devices import find_devices
from saboc_jax.evaluation.backoff import Chunk, in_passes, is_out_of_memory
from saboc_jax.evaluation.counts import Counts as Counts
from saboc_jax.evaluation.counts import is_flagged
from saboc_jax.evaluation.farm import Executor
from saboc_jax.evaluation.records import Request, Result, current_versions, request
from saboc_jax.evaluation.sharing import arranged, collected, sharded, share_out, stacked
from saboc_jax.evaluation.store import Store
from saboc_jax.layers.chain import Pieces
from saboc_jax.ntk.sharded import check_divides
from saboc_jax.precision import computing_in, enable_x64
from saboc_jax.scorers.combine import (
    check_needs,
    check_storable,
    combine,
    labels_only,
    observe,
    on_space,
    shared_by,
    split_apart,
)
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture, Batch, PRNGKey, ProgramEach, Scorer, SearchSpace

LOGGER = logging.getLogger(__name__)
Row = tuple[np.ndarray, dict[str, Any]]
"""Scores [k] and diagnostics of one scorer."""
PLACES = 4
"""Jobs that each of several devices takes at a time."""


class Job(NamedTuple):
    """One architecture or supernet in one repeat.

    Attributes:
        mask: what is scored.
        name: its text and the repeat.
        rows: what the store has of it, by scorer.
    """

    mask: Bool[np.ndarray, "decisions options"]
    name: tuple[str, int]
    rows: dict[str, Row]


def mask_text(mask: Bool[np.ndarray, "decisions options"], space: SearchSpace) -> str:
    """The space's text of a one-hot mask; rows of bits for a supernet."""
    if (mask.sum(1) == 1).all():
        return space.to_string(mask.argmax(1))
    return "supernet:" + "/".join("".join(str(int(bit)) for bit in row) for row in mask)


@dataclass
class Evaluator:
    """Scores masks of a space on fixed keys and batches.

    Attributes:
        space: the search space.
        scorer: any scorer of that space.
        keys: one scoring key per repeat; seeds weights.
        batches: one batch per repeat.
        dataset: name of the data, for the store.
        seeds: name of each repeat's key and batch, for the store.
        store: where finished repeats are kept; None: in memory only.
        on_score: called after every (architecture, repeat).
        stands_for: gives the architecture that is scored in place of one, see
            `saboc_jax.spaces.isomorphism`; None: each is scored itself.
        max_programs: compiled programs that are kept, the latest used; where architectures have
            their own, a search would fill the memory with them.
        pieces: compiled links of architectures that are chains (`saboc_jax.layers.chain`); None:
            one program for each architecture.
        devices: how many local devices share the work; None: all.
        shard: "architectures": the devices share the jobs, and the first alone runs those of
            architectures that have their own programs. "images": jobs run one after another,
            each on all devices; for scorers that observe nothing but NTKs.
        chunk: how much is computed at once; it shrinks where memory does not suffice. None: one
            job on one device, `PLACES` on each of several.
        executor: computes the jobs somewhere else (`saboc_jax.evaluation.farm`); None: here.
        counts: what has been done.
    """

    space: SearchSpace
    scorer: Scorer
    keys: Sequence[PRNGKey]
    batches: Sequence[Batch]
    dataset: str = ""
    seeds: Sequence[str] = ()
    store: Store | None = None
    on_score: Callable[[], None] | None = None
    space_id: str = ""
    stands_for: Callable[[Architecture], Architecture] | None = None
    max_programs: int = 64
    pieces: Pieces | None = field(default_factory=Pieces)
    devices: int | None = None
    shard: str = "architectures"
    chunk: Chunk | None = None
    executor: Executor | None = None
    counts: Counts = field(default_factory=Counts)
    _drawn: Any = field(default=None, init=False)  # keys and batches on all devices
    _memory: dict[tuple[str, int], Row] = field(default_factory=dict)
    _programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.batches) or not self.keys:
            raise ValueError(
                f"{len(self.keys)} keys and {len(self.batches)} batches; allowed: one of each "
                "per repeat, at least one"
            )
        self._devices = find_devices(self.devices)
        shared_by(self.scorer, self.shard, len(self._devices))  # raises where it cannot
        for batch in self.batches:
            check_needs(self.scorer, batch)
            if self.shard == "images":
                check_divides(len(self._devices), batch.images.shape[0])
        if self.store is not None:
            check_storable(self.scorer)
        self._versions = current_versions()
        several = len(self._devices) > 1 and self.shard == "architectures"
        self._chunk = self.chunk = self.chunk or Chunk(PLACES if several else 1)
        self.seeds = self.seeds or [str(number) for number in range(len(self.keys))]

    def evaluate(self, masks: Bool[Any, "b decisions options"]) -> Float[np.ndarray, "b repeats k"]:
        """Metrics of every mask and repeat; see the module for the bad ones."""
        masks, repeats = np.asarray(masks, bool), range(len(self.keys))
        rows = self._rows([(mask, repeat) for mask in masks for repeat in repeats])
        return np.stack([scores for scores, _ in rows]).reshape(len(masks), len(repeats), -1)

    def score(
        self, mask: Bool[np.ndarray, "decisions options"], repeat: int
    ) -> tuple[Float[np.ndarray, " k"], dict[str, Any]]:
        """Metrics and diagnostics of one mask in one repeat."""
        return self._rows([(mask, repeat)])[0]

    def with_draws(
        self, keys: Sequence[PRNGKey], batches: Sequence[Batch], seeds: Sequence[str]
    ) -> "Evaluator":
        """The same on other keys and batches, sharing the compiled programs."""
        return replace(self, keys=keys, batches=batches, seeds=seeds, counts=Counts(), _memory={})

    def keep_in(self, store: Store) -> None:
        """From now on results are kept in this store, and those in memory are forgotten."""
        check_storable(self.scorer)
        self.store = store
        self._memory.clear()

    def _representative(
        self, mask: Bool[np.ndarray, "decisions options"]
    ) -> Bool[np.ndarray, "decisions options"]:
        """The mask of the architecture that is scored in place of this one."""
        if self.stands_for is None or (mask.sum(1) != 1).any():
            return mask
        other = architecture_to_mask(self.stands_for(mask.argmax(1)), mask.shape[1])
        self.counts.isomorphic += not np.array_equal(mask, other)
        return other

    @property
    def _parts(self) -> tuple[Scorer, ...]:
        return self.scorer.parts or (self.scorer,)

    def _joined(self, rows: dict[str, Row]) -> Row:
        """The scorer's own scores and diagnostics, made of those of its parts."""
        if not self.scorer.parts:
            return rows[self.scorer.name]
        diagnostics = {
            f"{name}.{key}": value for name, row in rows.items() for key, value in row[1].items()
        }
        return np.concatenate([rows[part.name][0] for part in self._parts]), diagnostics

    def _rows(self, pairs: Sequence[tuple[np.ndarray, int]]) -> list[Row]:
        """The row of each (mask, repeat); those that nobody knows are computed in chunks."""
        jobs = [self._job(mask, repeat) for mask, repeat in pairs]
        waiting: dict[tuple[str, ...], dict[tuple[str, int], Job]] = {}  # by what is missing
        for job in jobs:
            if job.name in self._memory or any(job.name in group for group in waiting.values()):
                self.counts.served += 1
                self._tell()
                continue
            rows = self._stored(*job.name)
            missing = tuple(part.name for part in self._parts if part.name not in rows)
            job = job._replace(rows=rows)
            if not missing:
                self.counts.served += 1
                self.counts.disconnected += is_flagged(rows, "disconnected")
                self.counts.non_finite += is_flagged(rows, "non_finite")
                self._remember(job, {})
                self._tell()
            elif not self.space.is_connected(job.mask):
                self._flag(missing, job)
            else:
                waiting.setdefault(missing, {})[job.name] = job
                if self.executor is None and len(waiting[missing]) >= self.at_once:
                    self._compute(missing, list(waiting.pop(missing).values()))
        for missing, group in waiting.items():
            self._compute(missing, list(group.values()))
        return [self._memory[job.name] for job in jobs]

    def _job(self, mask: np.ndarray, repeat: int) -> Job:
        mask = self._representative(mask)
        return Job(mask, (mask_text(mask, self.space), repeat), {})

    @property
    def at_once(self) -> int:
        """Jobs of one program; where they have their own, share devices or are measured: one."""
        if isinstance(self.space.networks, ProgramEach) or self.shard == "images":
            return 1
        if any(split_apart(part)[1].observables for part in self._parts):
            return 1
        return len(self._devices) * self._chunk.jobs

    def _remember(self, job: Job, rows: dict[str, Row]) -> None:
        self._memory[job.name] = self._joined(job.rows | rows)

    def _tell(self) -> None:
        if self.on_score:
            self.on_score()

    def _flag(self, missing: Sequence[str], job: Job) -> None:
        """Keeps NaN of an architecture without a path from input to output."""
        self.counts.disconnected += 1
        parts = [part for part in self._parts if part.name in missing]
        rows: dict[str, Row] = {
            part.name: (np.full(len(part.metrics), np.nan), {"flag": "disconnected"})
            for part in parts
        }
        self._keep(job, parts, rows, 0.0)
        self._tell()

    def _compute(self, missing: Sequence[str], jobs: Sequence[Job]) -> None:
        """Scores jobs by the parts that are missing, here or elsewhere; keeps a row of each."""
        if self.executor is None:
            self._take(missing, jobs, *self.compute(missing, jobs))
            return
        stopped: Exception | None = None
        for done, answer in self.executor.run(self, missing, jobs):
            self.counts.add(answer.counts)
            try:
                self._take(missing, done, answer.rows, answer.seconds)
            except Exception as error:  # e.g. out of time: what is under way is still kept
                self.executor.stop()
                stopped = stopped or error
        if stopped:
            raise stopped

    def compute(
        self, missing: Sequence[str], jobs: Sequence[Job]
    ) -> tuple[list[dict[str, Row]], list[float]]:
        """For each job a row of each missing part, in one program, and its seconds; kept nowhere.

        Args:
            missing: names of parts of the scorer.
            jobs: `at_once` of them or fewer.
        """
        parts = [part for part in self._parts if part.name in missing]
        start, before = time.perf_counter(), self.counts.compile_seconds
        found = self._run(parts, jobs)
        seconds = time.perf_counter() - start - (self.counts.compile_seconds - before)
        self.counts.scored += len(jobs)
        self.counts.run_seconds += seconds
        for job, rows in zip(jobs, found, strict=True):
            for values, diagnostics in rows.values():
                if not np.isfinite(values).all():
                    diagnostics["flag"] = "non_finite"
            self.counts.non_finite += is_flagged(job.rows | rows, "non_finite")
        return found, [seconds / len(jobs)] * len(jobs)

    def _take(
        self,
        missing: Sequence[str],
        jobs: Sequence[Job],
        found: Sequence[dict[str, Row]],
        seconds: Sequence[float],
    ) -> None:
        """Keeps the rows of jobs, then tells of each."""
        parts = [part for part in self._parts if part.name in missing]
        for job, rows, took in zip(jobs, found, seconds, strict=True):
            self._keep(job, parts, rows, took)
        for _ in jobs:
            self._tell()

    def _run(self, parts: Sequence[Scorer], jobs: Sequence[Job]) -> list[dict[str, Row]]:
        scorer = combine(parts, "+".join(part.name for part in parts))
        each = isinstance(self.space.networks, ProgramEach)
        own = self.space.program(jobs[0].mask) if each else None
        scorer = on_space(scorer, own, self.pieces) if own else scorer
        scorer = shared_by(scorer, self.shard, len(self._devices))
        with computing_in(self.space.dtype):
            observed = self._observe(scorer, own, jobs)
        return [
            self._finish(scorer, parts, job, seen) for job, seen in zip(jobs, observed, strict=True)
        ]

    def _finish(
        self, scorer: Scorer, parts: Sequence[Scorer], job: Job, observed: Any
    ) -> dict[str, Row]:
        """The second half of a score, in float64 on the host."""
        gates, batch = self.space.gates(job.mask), self.batches[job.name[1]]
        host = jax.local_devices(backend="cpu")[0]
        with enable_x64(), jax.default_device(host):
            double = jax.tree.map(_to_host, (observed, gates, labels_only(batch)))
            finish = self._program(("finish", scorer.name), scorer.finish, *double)
            scores, notes = finish(*double)
        ends = np.cumsum([len(part.metrics) for part in parts])[:-1]
        return {
            part.name: (
                own,
                {
                    name.rpartition(".")[2]: np.asarray(value)
                    for name, value in notes.items()
                    if name.rpartition(".")[0] == part.name
                },
            )
            for part, own in zip(parts, np.split(np.asarray(scores), ends), strict=True)
        }

    def _observe(self, scorer: Scorer, own: SearchSpace | None, jobs: Sequence[Job]) -> list[Any]:
        """What is seen of each job, on the host; in smaller chunks where it does not fit."""
        while True:
            try:
                smaller = in_passes(scorer, self._chunk.images)
                if self.at_once == 1:
                    return [self._observe_one(smaller, own, job) for job in jobs]
                groups = [jobs[i : i + self.at_once] for i in range(0, len(jobs), self.at_once)]
                return [seen for group in groups for seen in self._observe_chunk(smaller, group)]
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._chunk.halve(scorer, self.batches[0]):
                    raise
                self.counts.shrunk = str(self._chunk)
                if self._chunk.halvings == 1:
                    LOGGER.warning("memory does not suffice; smaller from here on: %s", error)

    def _observe_one(self, scorer: Scorer, own: SearchSpace | None, job: Job) -> dict[str, Any]:
        repeat, gates = job.name[1], self.space.gates(job.mask)
        key, batch = self.keys[repeat], self.batches[repeat]
        whole, apart = split_apart(scorer)
        observed: Any = self._run_apart(apart, key, gates, batch)
        if whole.observables:
            look = lambda key, gates, batch: observe(whole, key, gates, batch)  # noqa: E731
            name = ("observe", scorer.name, own, self._chunk.images)
            observed |= self._program(name, look, key, gates, batch)(key, gates, batch)
        return jax.device_get(observed)

    def _observe_chunk(self, scorer: Scorer, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """The same of several jobs, shared out over the devices."""
        if not scorer.observables:
            return [{} for _ in jobs]
        if self._drawn is None:
            self._drawn = stacked(self.keys, self.batches, self._devices)
        places = share_out(len(jobs), len(self._devices), self._chunk.jobs)
        gates = np.stack([self.space.gates(job.mask) for job in jobs])
        repeats = np.array([job.name[1] for job in jobs])
        args = (*arranged(places, gates, repeats, self._devices), *self._drawn)
        look = lambda key, gates, batch: observe(scorer, key, gates, batch)  # noqa: E731
        name = ("observe", scorer.name, None, self._chunk.images)
        found = collected(self._program(name, sharded(look, self._devices), *args)(*args), places)
        before = self.counts.device_jobs or 0
        self.counts.device_jobs = np.add(before, (places >= 0).sum(1)).tolist()
        return found

    def _run_apart(self, scorer: Scorer, key: PRNGKey, gates: Any, batch: Batch) -> dict[str, Any]:
        """What compiles its own pieces; counts them as compilations."""
        if not scorer.observables:
            return {}
        pieces = self.pieces or Pieces()
        number, seconds = pieces.compilations, pieces.compile_seconds
        observed = observe(scorer, key, gates, batch)
        own = [v.pop("compile_seconds", 0) for v in observed.values() if isinstance(v, dict)]
        self.counts.compilations += pieces.compilations - number + sum(map(bool, own))
        self.counts.compile_seconds += pieces.compile_seconds - seconds + sum(own)
        return observed

    def _program(
        self, name: tuple[Any, ...], function: Callable[..., Any], *args: Any
    ) -> Callable[..., Any]:
        """The compiled function; compiled ahead of time, once for each shape of arguments."""
        signature = (name, str(jax.tree.map(lambda a: (a.shape, a.dtype), args)))
        if signature not in self._programs:
            start = time.perf_counter()
            self._programs[signature] = jax.jit(function).lower(*args).compile()
            self.counts.compile_seconds += time.perf_counter() - start
            self.counts.compilations += name[0] == "observe"
            while len(self._programs) > self.max_programs:
                del self._programs[next(iter(self._programs))]
        self._programs[signature] = self._programs.pop(signature)  # the newest is the last
        return self._programs[signature]

    # --- the store ------------------------------------------------------------------------------

    def _request(self, text: str, repeat: int, part: Scorer) -> Request:
        return request(
            self.space_id or self.space.name,
            text,
            part.name,
            self.dataset or "unnamed",
            self.seeds[repeat],
            part.options,
            self._versions,
        )

    def _stored(self, text: str, repeat: int) -> dict[str, Row]:
        """The rows of the parts that are in the store."""
        if self.store is None:
            return {}
        results = self.store.get([self._request(text, repeat, part) for part in self._parts])
        # Parts that were scored together have the seconds of the program they shared.
        seconds = [result.seconds for result in results if result is not None]
        self.counts.stored_seconds += max(seconds, default=0.0)
        return {
            part.name: (
                np.array([result.metrics[name] for name in part.metrics]),
                {
                    key: np.asarray(value) if isinstance(value, list) else value
                    for key, value in result.diagnostics.items()
                },
            )
            for part, result in zip(self._parts, results, strict=True)
            if result is not None
        }

    def _keep(
        self, job: Job, parts: Sequence[Scorer], rows: dict[str, Row], seconds: float
    ) -> None:
        """Keeps a row of each part; its seconds are those of the program they shared."""
        self._remember(job, rows)
        if self.store is None:
            return
        shared = {"scored_with": [part.name for part in parts]} if len(parts) > 1 else {}
        self.store.put(
            [
                Result(
                    self._request(*job.name, part),
                    dict(zip(part.metrics, map(float, rows[part.name][0]), strict=True)),
                    rows[part.name][1] | shared,
                    seconds,
                )
                for part in parts
            ]
        )


def _to_host(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
