"""The only loop over architectures: resumable, nothing computed twice, the bad ones flagged.

An evaluator knows which scores are already in memory or in a store, and hands the remaining jobs
to a runner (`saboc_jax.evaluation.runner`), which computes them.

Bad architectures are flagged, counted and ranked last by `saboc_jax.statistics.ranking`; they are
never dropped. An architecture without a path from input to output ("disconnected") has NaN in
every metric, and so has a network that cannot be scored ("refused", if the runner is not strict),
with its reason beside. An architecture with a metric that is not finite ("non_finite") keeps its
scorer's values: NaN means no value and ranks it last whatever its other metrics are; an infinity,
which is a value in some definitions, ranks it last by that metric. A score from the store is
counted by the flag stored with it, so a resumed run reports the same counts.

Without an executor, an evaluator computes its jobs in this process, one chunk after another. With
an executor, it hands over all jobs without a score, takes the answers in any order, and writes
them to the store itself. SQLite's log needs all writers on one machine with a local disk, while
workers may be anywhere; with one writer, each score is counted and stored once. If the driver is
killed, it therefore loses only the jobs under way, a few for each worker.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.evaluation.counts import Counts, is_flagged
from saboc_jax.evaluation.examination import REFUSED
from saboc_jax.evaluation.identity import Identity
from saboc_jax.evaluation.jobs import Answer, Draws, Job, ScoreRow, mask_text
from saboc_jax.evaluation.records import Result
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.precision import EXACT
from saboc_jax.scorers.combine import check_storable
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture, Scorer, SearchSpace

LOGGER = logging.getLogger(__name__)


def elsewhere_text(other: str, own: str) -> str:
    """Says that scores of another platform are served, and how to have one's own."""
    return (
        f"Some of these scores were computed on {other}, not on {own}: they agree to rounding; "
        "same_platform=True computes them here"
    )


class StoppedError(Exception):
    """An evaluator was told to stop before it scored everything; finished scores are kept."""


class Executor(Protocol):
    """Computes a runner's jobs somewhere else."""

    def run(
        self, runner: Runner, missing: Sequence[str], jobs: Sequence[Job]
    ) -> Iterator[tuple[Sequence[Job], Answer]]:
        """Yields every job once with its answer, in the order in which jobs finish.

        Args:
            runner: computes the jobs.
            missing: names of the scorer's parts to compute.
            jobs: distinct jobs.
        """
        ...

    def stop(self) -> None:
        """Starts no more jobs; `run` ends when the jobs under way are done."""
        ...

    def close(self) -> None:
        """Releases the workers."""
        ...


@dataclass
class Evaluator:
    """Scores masks of a runner's space, and keeps the scores.

    Attributes:
        runner: computes the scores.
        store: where finished repeats are kept; None: in memory only.
        executor: computes the runner's jobs somewhere else; None: here.
        representative_of: maps an architecture to the one that is scored in its place, see
            `saboc_jax.spaces.isomorphism`; None: each is scored itself.
        on_score: called after every (architecture, repeat).
        stop: called before each chunk, and after each answer of an executor; once it returns
            True, no more jobs start. None: never stop.
        dataset: name of the data, for the store.
        space_id: readable name of the space in the store; "": its own name.
        same_platform: whether scores of other platforms count as different results. Their bits
            differ but their use does not, so the default is False.
        counts: what this evaluator has done.
    """

    runner: Runner
    store: Store | None = None
    executor: Executor | None = None
    representative_of: Callable[[Architecture], Architecture] | None = None
    on_score: Callable[[], None] | None = None
    stop: Callable[[], bool] | None = None
    dataset: str = ""
    space_id: str = ""
    same_platform: bool = False
    counts: Counts = field(default_factory=Counts)
    _memory: dict[tuple[str, int], ScoreRow] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.store is not None:
            check_storable(self.scorer)

    @cached_property
    def identity(self) -> Identity:
        """The identity of the scores, for the store."""
        runner = self.runner
        rounds_its_own_way = runner.matmul_precision not in EXACT
        platform = runner.platform if self.same_platform or rounds_its_own_way else ""
        known = (self.space_id, self.dataset, platform, runner.matmul_precision)
        return Identity(self.space, runner.draws, *known)

    @property
    def space(self) -> SearchSpace:
        """The runner's search space."""
        return self.runner.space

    @property
    def scorer(self) -> Scorer:
        """The runner's scorer."""
        return self.runner.scorer

    @property
    def repeats(self) -> int:
        """How often each architecture is scored."""
        return len(self.runner.draws)

    def evaluate(self, masks: Bool[Any, "b decisions options"]) -> Float[np.ndarray, "b repeats k"]:
        """Returns the metrics of every mask and repeat; see the module for bad architectures.

        Raises:
            StoppedError: if `stop` returned True before all were scored.
        """
        masks = np.asarray(masks, bool)
        rows = self._rows([(mask, repeat) for mask in masks for repeat in range(self.repeats)])
        return np.stack([row.scores for row in rows]).reshape(len(masks), self.repeats, -1)

    def score(self, mask: Bool[np.ndarray, "decisions options"], repeat: int) -> ScoreRow:
        """Returns the metrics and diagnostics of one mask in one repeat.

        Raises:
            StoppedError: if `stop` returned True before it was scored.
        """
        return self._rows([(mask, repeat)])[0]

    def with_draws(self, draws: Draws) -> "Evaluator":
        """Returns this evaluator on other keys and batches; it shares the compiled programs."""
        runner = self.runner.with_draws(draws)
        return replace(self, runner=runner, counts=Counts(), _memory={})

    def keep_in(self, store: Store) -> None:
        """Keeps results in this store from now on, and forgets the results in memory."""
        check_storable(self.scorer)
        self.store = store
        self._memory.clear()

    def _rows(self, pairs: Sequence[tuple[np.ndarray, int]]) -> list[ScoreRow]:
        """Returns the row of each (mask, repeat); computes unknown rows in chunks."""
        jobs = [self._job(mask, repeat) for mask, repeat in pairs]
        waiting: dict[tuple[str, ...], dict[tuple[str, int], Job]] = {}  # by missing parts
        for job in jobs:
            if self._stopping():
                break
            if job.name in self._memory or any(job.name in group for group in waiting.values()):
                self._served()
            elif found := self._missing(job):
                missing, job = found
                waiting.setdefault(missing, {})[job.name] = job
                if self.executor is None and len(waiting[missing]) >= self.runner.at_once:
                    self._compute(missing, list(waiting.pop(missing).values()))
        for missing, group in waiting.items():
            if not self._stopping():
                self._compute(missing, list(group.values()))
        if any(job.name not in self._memory for job in jobs):
            raise StoppedError("told to stop before all was scored")
        return [self._memory[job.name] for job in jobs]

    def _stopping(self) -> bool:
        return self.stop is not None and self.stop()

    def _job(self, mask: np.ndarray, repeat: int) -> Job:
        mask = self._representative(mask)
        return Job(mask, (mask_text(mask, self.space), repeat), {})

    def _representative(
        self, mask: Bool[np.ndarray, "decisions options"]
    ) -> Bool[np.ndarray, "decisions options"]:
        """The mask of the architecture that is scored in place of this one."""
        if self.representative_of is None or (mask.sum(1) != 1).any():
            return mask
        other = architecture_to_mask(self.representative_of(mask.argmax(1)), mask.shape[1])
        self.counts.isomorphic += not np.array_equal(mask, other)
        return other

    def _missing(self, job: Job) -> tuple[tuple[str, ...], Job] | None:
        """Returns the parts to compute, and the job with its stored rows; None: nothing to do."""
        rows = self._found(job)
        missing = tuple(part.name for part in self.runner.parts if part.name not in rows)
        job = job._replace(rows=rows)
        if not missing:
            self.counts.disconnected += is_flagged(rows, "disconnected")
            self.counts.non_finite += is_flagged(rows, "non_finite")
            self._remember(job, {})
            self._served()
        elif not self.space.is_connected(job.mask):
            self._flag(missing, job)
        else:
            return missing, job
        return None

    def _served(self) -> None:
        self.counts.served += 1
        self._tell()

    def _tell(self) -> None:
        if self.on_score:
            self.on_score()

    def _flag(self, missing: Sequence[str], job: Job) -> None:
        """Keeps NaN for an architecture without a path from input to output."""
        self.counts.disconnected += 1
        rows = {
            part.name: ScoreRow(np.full(len(part.metrics), np.nan), {"flag": "disconnected"})
            for part in self.runner.parts
            if part.name in missing
        }
        self._keep(job, rows, 0.0, self.runner.platform)
        self._tell()

    def _compute(self, missing: Sequence[str], jobs: Sequence[Job]) -> None:
        """Computes the missing parts of jobs, here or on the executor, and keeps their rows."""
        if self.executor is None:
            self._take(jobs, self.runner.compute(missing, jobs))
            return
        for done, answer in self.executor.run(self.runner, missing, jobs):
            self._take(done, answer)
            if self._stopping():  # answers of the jobs under way are still taken
                self.executor.stop()

    def _take(self, jobs: Sequence[Job], answer: Answer) -> None:
        """Keeps the rows of jobs, then calls `on_score` for each.

        Raises:
            ValueError: if `same_platform` is set and another platform computed them.
        """
        if self.same_platform and answer.platform != self.runner.platform:
            raise ValueError(
                f"computed by {answer.platform!r}; allowed with same_platform: "
                f"{self.runner.platform!r}, this process's own"
            )
        self.counts.add(answer.counts)
        for job, rows, seconds in zip(jobs, answer.rows, answer.seconds, strict=True):
            self._keep(job, rows, seconds, answer.platform)
        for _ in jobs:
            self._tell()

    def _remember(self, job: Job, rows: dict[str, ScoreRow]) -> None:
        """Joins the rows of the parts into the scorer's own row and keeps it in memory."""
        rows = job.rows | rows
        if not self.scorer.parts:
            self._memory[job.name] = rows[self.scorer.name]
            return
        scores = np.concatenate([rows[part.name].scores for part in self.scorer.parts])
        diagnostics = {
            f"{name}.{key}": value
            for name, row in rows.items()
            for key, value in row.diagnostics.items()
        }
        self._memory[job.name] = ScoreRow(scores, diagnostics)

    # --- the store ------------------------------------------------------------------------------

    def _found(self, job: Job) -> dict[str, ScoreRow]:
        """The rows in the store; none of a network whose program cannot be traced, if it may be."""
        try:
            return self._stored(job)
        except Exception:
            if self.runner.strict:
                raise
            return {}  # the runner says why

    def _stored(self, job: Job) -> dict[str, ScoreRow]:
        """The rows of the parts that are in the store."""
        if self.store is None:
            return {}
        parts = self.runner.parts
        results = self.store.get([self.identity.request(job, part) for part in parts])
        # Parts scored together each hold the seconds of their shared program: count them once.
        seconds = [result.seconds for result in results if result is not None]
        self.counts.stored_seconds += max(seconds, default=0.0)
        self._note_platforms({result.platform for result in results if result is not None})
        return {
            part.name: ScoreRow(
                np.array([result.metrics[name] for name in part.metrics]),
                {
                    key: np.asarray(value) if isinstance(value, list) else value
                    for key, value in result.diagnostics.items()
                },
            )
            for part, result in zip(parts, results, strict=True)
            if result is not None
        }

    def _note_platforms(self, platforms: set[str]) -> None:
        """Says once that another platform computed what the store serves."""
        others = sorted(platforms - {"", self.runner.platform})
        if others and not self.counts.elsewhere:
            LOGGER.warning(elsewhere_text(others[0], self.runner.platform))
            self.counts.elsewhere = others[0]

    def _keep(self, job: Job, rows: dict[str, ScoreRow], seconds: float, platform: str) -> None:
        """Keeps a row of each part; `seconds` is the time of the program they shared."""
        self._remember(job, rows)
        if self.store is None or is_flagged(rows, REFUSED):  # what is refused is tried again
            return
        parts = [part for part in self.runner.parts if part.name in rows]
        shared = {"scored_with": [part.name for part in parts]} if len(parts) > 1 else {}
        self.store.put(
            [
                Result(
                    self.identity.request(job, part),
                    dict(zip(part.metrics, map(float, rows[part.name].scores), strict=True)),
                    rows[part.name].diagnostics | shared,
                    seconds,
                    called=job.name[0],
                    platform=platform,
                )
                for part in parts
            ]
        )
