"""The only loop over architectures: resumable, nothing computed twice, the bad ones flagged.

A runner computes (`saboc_jax.evaluation.runner`); an evaluator knows what is computed already, in
memory or in a store, and hands on the rest.

Policy for bad architectures: flagged, counted, ranked last by `saboc_jax.statistics.ranking`, never
dropped. One without a path from input to output ("disconnected") has NaN in every metric. One with
a metric that is not finite ("non_finite") keeps what its scorer gave: NaN, no value, ranks it last
whatever its other metrics are; an infinity, which some definitions have as a value, ranks it last
by that metric. What the store serves is counted by its flag there: a resumed run says the same.

An evaluator without an executor computes its jobs here, one chunk after another. With one it hands
over all jobs that nobody knows yet, takes what comes back in whatever order, and keeps it in the
store itself: SQLite's log wants every writer on one machine with a local disk, workers may be
anywhere, and one writer means that a score is counted and stored once. What a driver loses when
it is killed is therefore what was under way, a few jobs for each worker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.evaluation.counts import Counts, is_flagged
from saboc_jax.evaluation.identity import Identity
from saboc_jax.evaluation.jobs import Answer, Draws, Job, ScoreRow, mask_text
from saboc_jax.evaluation.records import Result
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers.combine import check_storable
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture, Scorer, SearchSpace


class StoppedError(Exception):
    """An evaluator was told to stop before all was scored; what it has computed is kept."""


class Executor(Protocol):
    """Computes a runner's jobs somewhere else."""

    def run(
        self, runner: Runner, missing: Sequence[str], jobs: Sequence[Job]
    ) -> Iterator[tuple[Sequence[Job], Answer]]:
        """Gives every job once, in the order in which they are finished.

        Args:
            runner: what computes them.
            missing: names of the scorer's parts that are to be computed.
            jobs: distinct.
        """
        ...

    def stop(self) -> None:
        """Begins nothing more; `run` ends with what is under way."""
        ...

    def close(self) -> None:
        """Lets the workers go."""
        ...


@dataclass
class Evaluator:
    """Scores masks of a runner's space, and keeps the scores.

    Attributes:
        runner: what computes.
        store: where finished repeats are kept; None: in memory only.
        executor: computes the runner's jobs somewhere else; None: here.
        representative_of: gives the architecture that is scored in place of one, see
            `saboc_jax.spaces.isomorphism`; None: each is scored itself.
        on_score: called after every (architecture, repeat).
        stop: asked before each chunk, and after each answer of an executor; once it says yes,
            nothing more is begun. None: never.
        dataset: name of the data, for the store.
        space_id: what people shall call the space in the store; "": its name.
        same_platform: are scores of another platform other scores? They are to the bit, not to
            what they are for: False.
        counts: what has been done.
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
        """What identifies the scores."""
        platform = self.runner.platform if self.same_platform else ""
        return Identity(self.space, self.runner.draws, self.space_id, self.dataset, platform)

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
        """Metrics of every mask and repeat; see the module for the bad ones.

        Raises:
            StoppedError: if `stop` said so before all were scored.
        """
        masks = np.asarray(masks, bool)
        rows = self._rows([(mask, repeat) for mask in masks for repeat in range(self.repeats)])
        return np.stack([row.scores for row in rows]).reshape(len(masks), self.repeats, -1)

    def score(self, mask: Bool[np.ndarray, "decisions options"], repeat: int) -> ScoreRow:
        """Metrics and diagnostics of one mask in one repeat.

        Raises:
            StoppedError: if `stop` said so before.
        """
        return self._rows([(mask, repeat)])[0]

    def with_draws(self, draws: Draws) -> "Evaluator":
        """The same on other keys and batches, sharing the compiled programs."""
        runner = self.runner.with_draws(draws)
        return replace(self, runner=runner, counts=Counts(), _memory={})

    def keep_in(self, store: Store) -> None:
        """From now on results are kept in this store, and those in memory are forgotten."""
        check_storable(self.scorer)
        self.store = store
        self._memory.clear()

    def _rows(self, pairs: Sequence[tuple[np.ndarray, int]]) -> list[ScoreRow]:
        """The row of each (mask, repeat); those that nobody knows are computed in chunks."""
        jobs = [self._job(mask, repeat) for mask, repeat in pairs]
        waiting: dict[tuple[str, ...], dict[tuple[str, int], Job]] = {}  # by what is missing
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
        """Parts that are to be computed, and the job with what the store has of it; None: none."""
        rows = self._stored(job)
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
        """Keeps NaN of an architecture without a path from input to output."""
        self.counts.disconnected += 1
        rows = {
            part.name: ScoreRow(np.full(len(part.metrics), np.nan), {"flag": "disconnected"})
            for part in self.runner.parts
            if part.name in missing
        }
        self._keep(job, rows, 0.0, self.runner.platform)
        self._tell()

    def _compute(self, missing: Sequence[str], jobs: Sequence[Job]) -> None:
        """Has jobs scored by the parts that are missing, here or elsewhere; keeps their rows."""
        if self.executor is None:
            self._take(jobs, self.runner.compute(missing, jobs))
            return
        for done, answer in self.executor.run(self.runner, missing, jobs):
            self._take(done, answer)
            if self._stopping():  # what is under way is still taken
                self.executor.stop()

    def _take(self, jobs: Sequence[Job], answer: Answer) -> None:
        """Keeps the rows of jobs, then tells of each.

        Raises:
            ValueError: if another platform computed them and that counts.
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
        """Keeps in memory the scorer's own row, made of those of its parts."""
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

    def _stored(self, job: Job) -> dict[str, ScoreRow]:
        """The rows of the parts that are in the store."""
        if self.store is None:
            return {}
        parts = self.runner.parts
        results = self.store.get([self.identity.request(job, part) for part in parts])
        # Parts that were scored together have the seconds of the program they shared.
        seconds = [result.seconds for result in results if result is not None]
        self.counts.stored_seconds += max(seconds, default=0.0)
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

    def _keep(self, job: Job, rows: dict[str, ScoreRow], seconds: float, platform: str) -> None:
        """Keeps a row of each part; its seconds are those of the program they shared."""
        self._remember(job, rows)
        if self.store is None:
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
