"""The only loop over architectures: one compiled program, resumable, the bad ones flagged.

A score has two halves. What is observed of the network (its kernel, its gradients) is one XLA
program for every architecture of the space, compiled ahead of time so that compile and run
time are measured apart. What is read from it (eigenvalues, a regression) runs in float64 on
the host: it is small, needs the precision, and GPUs are slow at it.

Policy for bad architectures: one without a path from input to output, and one whose metrics
are not all finite, has NaN in every metric of that repeat, is counted, and is ranked last by
`saboc_jax.ranking`. It is never dropped.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.precision import enable_x64
from saboc_jax.records import Request, Result, current_versions, request
from saboc_jax.scorers.base import check_needs, labels_only, observe
from saboc_jax.spaces.base import mask_to_gates
from saboc_jax.store import Store
from saboc_jax.types import Batch, Gates, PRNGKey, Scorer, SearchSpace


@dataclass
class Counts:
    """What an evaluator has done.

    Attributes:
        scored: (architecture, repeat) pairs that ran.
        served: pairs found in memory or in the store.
        disconnected: pairs not run, for no path joins input and output.
        non_finite: pairs that ran and gave a metric that is not finite.
        compilations: scoring programs compiled.
        compile_seconds: time of it.
        run_seconds: time of running them.
    """

    scored: int = 0
    served: int = 0
    disconnected: int = 0
    non_finite: int = 0
    compilations: int = 0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0


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
    counts: Counts = field(default_factory=Counts)
    _memory: dict[tuple[str, int], tuple[np.ndarray, dict[str, Any]]] = field(default_factory=dict)
    _programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.batches) or not self.keys:
            raise ValueError(
                f"{len(self.keys)} keys and {len(self.batches)} batches; allowed: one of each "
                "per repeat, at least one"
            )
        for batch in self.batches:
            check_needs(self.scorer, batch)
        self._versions = current_versions()
        self.seeds = self.seeds or [str(number) for number in range(len(self.keys))]

    def evaluate(self, masks: Bool[Any, "b decisions options"]) -> Float[np.ndarray, "b repeats k"]:
        """Metrics of every mask and repeat, NaN where bad."""
        return np.stack(
            [
                np.stack([self.score(mask, repeat)[0] for repeat in range(len(self.keys))])
                for mask in np.asarray(masks, bool)
            ]
        )

    def score(
        self, mask: Bool[np.ndarray, "decisions options"], repeat: int
    ) -> tuple[Float[np.ndarray, " k"], dict[str, Any]]:
        """Metrics and diagnostics of one mask in one repeat."""
        text = mask_text(mask, self.space)
        found = self._memory.get((text, repeat)) or self._stored(text, repeat)
        if found is None:
            found = self._compute(mask, repeat, text)
        else:
            self.counts.served += 1
        self._memory[text, repeat] = found
        if self.on_score:
            self.on_score()
        return found

    def _compute(
        self, mask: Bool[np.ndarray, "decisions options"], repeat: int, text: str
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if not self.space.is_connected(mask):
            self.counts.disconnected += 1
            bad = np.full(len(self.scorer.metrics), np.nan)
            self._keep(text, repeat, bad, {"flag": "disconnected"}, 0.0)
            return bad, {"flag": "disconnected"}
        start = time.perf_counter()
        before = self.counts.compile_seconds
        scores, diagnostics = self._run(mask_to_gates(mask), repeat)
        seconds = time.perf_counter() - start - (self.counts.compile_seconds - before)
        self.counts.scored += 1
        self.counts.run_seconds += seconds
        if not np.isfinite(scores).all():
            self.counts.non_finite += 1
            diagnostics["flag"] = "non_finite"
        self._keep(text, repeat, scores, diagnostics, seconds)
        return scores, diagnostics

    def _run(self, gates: Gates, repeat: int) -> tuple[np.ndarray, dict[str, Any]]:
        key, batch = self.keys[repeat], self.batches[repeat]
        observed: Any = {}
        if self.scorer.observables:
            look = lambda key, gates, batch: observe(self.scorer, key, gates, batch)  # noqa: E731
            observed = self._program("observe", look, key, gates, batch)(key, gates, batch)
        host = jax.local_devices(backend="cpu")[0]
        with enable_x64(), jax.default_device(host):
            double = jax.tree.map(_to_host, (observed, gates, labels_only(batch)))
            finish = self._program("finish", self.scorer.finish, *double)
            scores, diagnostics = finish(*double)
        return np.asarray(scores), {name: np.asarray(v) for name, v in diagnostics.items()}

    def _program(self, name: str, function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        """The compiled function; compiled ahead of time, once for each shape of arguments."""
        signature = (name, str(jax.tree.map(lambda a: (a.shape, a.dtype), args)))
        if signature not in self._programs:
            start = time.perf_counter()
            self._programs[signature] = jax.jit(function).lower(*args).compile()
            self.counts.compile_seconds += time.perf_counter() - start
            self.counts.compilations += name == "observe"
        return self._programs[signature]

    # --- the store ------------------------------------------------------------------------------

    def _request(self, text: str, repeat: int) -> Request:
        return request(
            self.space_id or self.space.name,
            text,
            self.scorer.name,
            self.dataset or "unnamed",
            self.seeds[repeat],
            self.scorer.options,
            self._versions,
        )

    def _stored(self, text: str, repeat: int) -> tuple[np.ndarray, dict[str, Any]] | None:
        if self.store is None:
            return None
        (result,) = self.store.get([self._request(text, repeat)])
        if result is None:
            return None
        scores = np.array([result.metrics[name] for name in self.scorer.metrics])
        return scores, {
            k: np.asarray(v) if isinstance(v, list) else v for k, v in result.diagnostics.items()
        }

    def _keep(
        self, text: str, repeat: int, scores: np.ndarray, diagnostics: Any, seconds: float
    ) -> None:
        if self.store is not None:
            metrics = dict(zip(self.scorer.metrics, map(float, scores), strict=True))
            result = Result(self._request(text, repeat), metrics, diagnostics, seconds)
            self.store.put([result])


def _to_host(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
