"""Computes scores with one compiled program for the architectures of a space; keeps no scores.

A score has two halves. The first observes the network (its kernel, its gradients). It is one XLA
program for every architecture of the space, compiled ahead of time so that compile and run
time are measured apart. The second reads the score from it (eigenvalues, a regression). It runs
in float64 on the host: it is small, needs the precision, and GPUs are slow at it.

A runner can be pickled and sent to another process. Its compiled programs and device arrays stay
behind, and it uses the devices of the new process.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from saboc_jax.devices import check_divides, find_devices, platform_of
from saboc_jax.evaluation.backoff import Chunk, in_passes, is_out_of_memory
from saboc_jax.evaluation.counts import Counts, is_flagged
from saboc_jax.evaluation.examination import FALLBACK, REFUSED, Examination, examine
from saboc_jax.evaluation.jobs import Answer, Draws, Job, ScoreRow
from saboc_jax.evaluation.sharing import (
    arranged,
    collected,
    places_for,
    sharded,
    share_out,
    stacked,
)
from saboc_jax.layers.fast_programs import with_fast_convolutions
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.memory import check_fits
from saboc_jax.precision import (
    chosen_precision,
    computing_in,
    enable_x64,
    products_at,
    usual_switches,
)
from saboc_jax.scorers.batches import check_batch, check_needs, tells_apart
from saboc_jax.scorers.combine import (
    combine,
    labels_only,
    observe,
    on_space,
    shared_by,
    split_apart,
)
from saboc_jax.types import ProgramEach, Scorer, SearchSpace

LOGGER = logging.getLogger(__name__)
PLACES = 4
"""Jobs that each device takes at a time if there are several devices."""
TOGETHER = 64
"""Jobs that a GPU or TPU takes at a time, under `vmap`; fewer if its memory does not suffice."""
MAX_PROGRAMS = 64
"""Limit on kept programs: if each architecture has its own, a search would fill the memory."""
FEW_PROGRAMS = 6
"""The same of networks that are made when they are needed: two, with their weights."""
LONGEST_REASON = 400  # characters of why a network is refused


@dataclass
class Runner:
    """Scores masks of a space on fixed keys and batches.

    Attributes:
        space: the search space.
        scorer: any scorer of that space.
        draws: the key and the batch of every repeat.
        devices: how many local devices share the work; None: all.
        shard: "architectures": the devices share the jobs; if architectures have their own
            programs, the first device runs all jobs. "images": jobs run one after another,
            each on all devices; for scorers that observe only NTKs.
        chunk: how much is computed at once; it shrinks if memory runs out. None: one job on a
            single device, `PLACES` on each of several devices, `TOGETHER` on each GPU or TPU.
        programs: compiled programs.
        check: examine networks that are not of our own layers, once each
            (`evaluation.examination`).
        pieces: compiled links of architectures that are chains (`saboc_jax.layers.chain`); None:
            one program for each architecture.
        matmul_precision: of the networks' products and convolutions, one of
            `saboc_jax.precision.MATMUL_PRECISIONS`; None: JAX's setting where it is set, else
            "highest", which is float32 on every platform.
        together: each device runs its jobs at once, under `vmap`, which saves launches and takes
            memory for all; None: off the CPU, where it is many times faster (on the CPU slower).
        strict: raise what goes wrong with a network. False: networks with programs of their own
            are flagged as refused, with the reason.

    Raises:
        ValueError: if a batch is wrong (see `check_batch`) or lacks a field that the scorer needs,
            or the devices cannot share the scorer.
    """

    space: SearchSpace
    scorer: Scorer
    draws: Draws
    devices: int | None = None
    shard: str = "architectures"
    chunk: Chunk | None = None
    programs: ProgramCache = field(default_factory=partial(ProgramCache, MAX_PROGRAMS))
    check: bool = True
    pieces: ProgramCache | None = field(default_factory=ProgramCache)
    matmul_precision: str | None = None
    together: bool | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        self.matmul_precision = chosen_precision(self.matmul_precision)
        self._devices = find_devices(self.devices)
        shared_by(self.scorer, self.shard, len(self._devices))  # raises if they cannot
        space = self.space
        checked = [
            check_batch(batch, space.num_classes, space.loss) for batch in self.draws.batches
        ]
        self.draws = replace(self.draws, batches=checked)
        for batch in checked:
            check_needs(self.scorer, batch)
            if self.shard == "images":
                check_divides(len(self._devices), number_of(batch.images))
        if (
            not self.space.networks.checked and self.programs.maximum > FEW_PROGRAMS
        ):  # else it is shared with another runner
            self.programs = ProgramCache(FEW_PROGRAMS)
        self._examined: dict[Any, Examination] = {}
        if self.together is None:
            self._together = self._devices[0].platform != "cpu"
        else:
            self._together = self.together
        several = len(self._devices) > 1 and self.shard == "architectures"
        self._chunk = self.chunk or Chunk(TOGETHER if self._together else PLACES if several else 1)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        """Pickles the arguments that made this runner, for another process."""
        made_of = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return partial(Runner, **made_of), ()

    def with_draws(self, draws: Draws) -> "Runner":
        """Returns this runner on other keys and batches; it shares programs and chunk size."""
        other = replace(self, draws=draws)
        other._chunk = self._chunk
        return other

    @property
    def platform(self) -> str:
        """The kind of device that computes."""
        return platform_of(self._devices[0])

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """The scorers that the scorer combines, or the scorer itself if it combines none."""
        return self.scorer.parts or (self.scorer,)

    @property
    def at_once(self) -> int:
        """Jobs in one call; 1 for own programs, sharded images and observables that run apart."""
        if isinstance(self.space.networks, ProgramEach) or self.shard == "images":
            return 1
        if any(split_apart(part)[1].observables for part in self.parts):
            return 1
        return len(self._devices) * self._chunk.jobs

    def compute(self, missing: Sequence[str], jobs: Sequence[Job]) -> Answer:
        """Returns a row of each missing part for each job.

        Args:
            missing: names of parts of the scorer.
            jobs: any number of jobs; only one if architectures have their own programs.

        Raises:
            Exception: whatever a network's own code raises, if `strict`.
        """
        if self.strict or not isinstance(self.space.networks, ProgramEach):
            return self._compute(missing, jobs)
        try:
            return self._compute(missing, jobs)
        except Exception as error:  # a user's network may raise anything
            return self._refused(missing, jobs, error)

    def _refused(self, missing: Sequence[str], jobs: Sequence[Job], error: Exception) -> Answer:
        """Returns rows without values that say why."""
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        notes = {"flag": REFUSED, REFUSED: reason}
        widths = {part.name: len(part.metrics) for part in self.parts if part.name in missing}
        rows = [
            {name: ScoreRow(np.full(width, np.nan), dict(notes)) for name, width in widths.items()}
            for _ in jobs
        ]
        counts = Counts(refused=len(jobs))
        return Answer(rows, [0.0] * len(jobs), counts, self.platform)

    @usual_switches()
    def _compute(self, missing: Sequence[str], jobs: Sequence[Job]) -> Answer:
        start, before, counts = time.perf_counter(), self._compile_seconds(), Counts()
        parts = [part for part in self.parts if part.name in missing]
        scorer, program_space = self._placed(parts, jobs[0])
        with products_at(self.matmul_precision), computing_in(self.space.dtype):
            observed = self._observe(scorer, program_space, jobs, counts)
        rows = [self._finish(scorer, parts, *pair) for pair in zip(jobs, observed, strict=True)]
        notes = self._notes(scorer, program_space)
        counts.compile_seconds += self._compile_seconds() - before
        counts.run_seconds = time.perf_counter() - start - counts.compile_seconds
        counts.scored = len(jobs)
        for job, own in zip(jobs, rows, strict=True):
            for values, diagnostics in own.values():
                diagnostics.update(notes)
                if not np.isfinite(values).all():
                    diagnostics["flag"] = "non_finite"
            counts.non_finite += is_flagged(job.rows | own, "non_finite")
        seconds = counts.run_seconds / len(jobs)
        return Answer(rows, [seconds] * len(jobs), counts, self.platform)

    def _placed(self, parts: Sequence[Scorer], job: Job) -> tuple[Scorer, SearchSpace | None]:
        """Returns the scorer of these parts as it runs, and the job's own space or None.

        The space is None if one program serves all architectures. The scorer's name joins the
        names of its parts.
        """
        scorer = combine(parts, "+".join(part.name for part in parts))
        program_space = None
        if isinstance(self.space.networks, ProgramEach):
            program_space = self.space.program(job.mask)
            scorer = on_space(scorer, program_space, self.pieces)
        return shared_by(scorer, self.shard, len(self._devices)), program_space

    def _observe(
        self, scorer: Scorer, program_space: SearchSpace | None, jobs: Sequence[Job], counts: Counts
    ) -> list[Any]:
        """Observes each job, gives values on the host; retries smaller when memory runs out."""
        before = self._compilations()
        while True:
            try:
                smaller, size = in_passes(scorer, self._chunk.images), self.at_once
                if size == 1:
                    seen = [self._observe_one(smaller, program_space, job, counts) for job in jobs]
                else:
                    groups = [jobs[i : i + size] for i in range(0, len(jobs), size)]
                    several = [self._observe_chunk(smaller, group, counts) for group in groups]
                    seen = [one for group in several for one in group]
                break
            except (MemoryError, RuntimeError) as error:
                batch = self.draws.batches[0]
                if not is_out_of_memory(error) or not self._chunk.halve(scorer, batch):
                    raise
                counts.shrunk = str(self._chunk)
                if self._chunk.halvings == 1:
                    LOGGER.warning("memory does not suffice; smaller from here on: %s", error)
        counts.compilations += self._compilations() - before
        return seen

    def _observe_one(
        self, scorer: Scorer, program_space: SearchSpace | None, job: Job, counts: Counts
    ) -> dict[str, Any]:
        repeat, gates = job.name[1], self.space.gates(job.mask)
        key, batch = self.draws.keys[repeat], self.draws.batches[repeat]
        whole, apart = split_apart(scorer)
        observed: Any = observe(apart, key, gates, batch) if apart.observables else {}
        for value in observed.values():  # own programs report their compile time
            seconds = value.pop("compile_seconds", 0) if isinstance(value, dict) else 0
            counts.compile_seconds += seconds
            counts.compilations += bool(seconds)
        if whole.observables:
            observed |= self._observe_whole(whole, program_space, key, gates, batch)
        return jax.device_get(observed)

    def _observe_whole(
        self, scorer: Scorer, program_space: SearchSpace | None, key: Any, gates: Any, batch: Any
    ) -> dict[str, Any]:
        """Runs the observing program; the first run on a foreign network examines it, too."""
        name = ("observe", scorer.name, program_space, self._chunk.images)
        known = self._examined.get((scorer.name, program_space))
        replaced = known is not None and FALLBACK in known.notes
        asked, scorer = scorer, known.scorer if known is not None and replaced else scorer
        # Tests hold the networks of our own spaces, which have a recipe.
        ours = isinstance(self.space.networks, ProgramEach) and self.space.networks.recipe
        run, own = partial(observe, scorer), (name, replaced)
        if program_space is not None and not ours:
            run = with_fast_convolutions(run)
        observed: dict[str, Any] = self.programs.run(own, run, key, gates, batch)
        if known is not None or not self.check or program_space is None or ours:
            return observed
        found = examine(scorer, program_space, key, gates, batch, observed, self.programs)
        self._examined[scorer.name, program_space] = found
        if len(self._examined) > self.programs.maximum:  # they hold networks
            del self._examined[next(iter(self._examined))]
        if FALLBACK not in found.notes:
            return observed
        return self._observe_whole(asked, program_space, key, gates, batch)

    def _notes(self, scorer: Scorer, program_space: SearchSpace | None) -> dict[str, Any]:
        """Returns what an examination of the network found, for the diagnostics."""
        found = self._examined.get((scorer.name, program_space))
        return {} if found is None else dict(found.notes)

    def _observe_chunk(
        self, scorer: Scorer, jobs: Sequence[Job], counts: Counts
    ) -> list[dict[str, Any]]:
        """Observes several jobs, shared out over the devices."""
        if not scorer.observables:
            return [{} for _ in jobs]
        number = self._chunk.jobs
        if self._together:
            number = places_for(len(jobs), len(self._devices), number)
        places = share_out(len(jobs), len(self._devices), number)
        gates = np.stack([self.space.gates(job.mask) for job in jobs])
        repeats = np.array([job.name[1] for job in jobs])
        args = (*arranged(places, gates, repeats, self._devices), *self._draws_on_devices)
        name = ("observe", scorer.name, None, self._chunk.images, self._together)
        look = sharded(partial(observe, scorer), self._devices, self._together)
        program = self.programs.compiled(name, look, *args)
        if self._together:
            check_fits(program, self._devices[0])
        seen = collected(program(*args), places)
        counts.device_jobs = np.add(counts.device_jobs or 0, (places >= 0).sum(1)).tolist()
        return seen

    def _finish(
        self, scorer: Scorer, parts: Sequence[Scorer], job: Job, observed: Any
    ) -> dict[str, ScoreRow]:
        """Computes the second half of a score, in float64 on the host."""
        gates, batch = self.space.gates(job.mask), self.draws.batches[job.name[1]]
        host = jax.local_devices(backend="cpu")[0]
        with enable_x64(), jax.default_device(host):
            double = jax.tree.map(_to_host, (observed, gates, labels_only(batch)))
            scores, notes = self.programs.run(("finish", scorer.name), scorer.finish, *double)
        ends = np.cumsum([len(part.metrics) for part in parts])[:-1]
        told = self._told_apart[job.name[1]]
        return {
            part.name: ScoreRow(
                own if told[part.name] else np.full_like(own, np.nan),
                {
                    name.rpartition(".")[2]: np.asarray(value)
                    for name, value in notes.items()
                    if name.rpartition(".")[0] == part.name
                },
            )
            for part, own in zip(parts, np.split(np.asarray(scores), ends), strict=True)
        }

    @cached_property
    def _told_apart(self) -> list[dict[str, bool]]:
        """For each repeat: can each part of the scorer tell the examples apart?"""
        return [
            {part.name: bool(tells_apart(part, batch)) for part in self.parts}
            for batch in self.draws.batches
        ]

    @cached_property
    def _draws_on_devices(self) -> tuple[Any, Any]:
        return stacked(self.draws.keys, self.draws.batches, self._devices)

    @property
    def _caches(self) -> list[ProgramCache]:
        return [cache for cache in (self.programs, self.pieces) if cache is not None]

    def _compilations(self) -> int:
        return sum(cache.compilations for cache in self._caches)

    def _compile_seconds(self) -> float:
        return sum(cache.compile_seconds for cache in self._caches)


def _to_host(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
