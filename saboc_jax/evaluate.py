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
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.precision import enable_x64
from saboc_jax.records import Request, Result, current_versions, request
from saboc_jax.scorers.base import (
    check_needs,
    combine,
    labels_only,
    observe,
    on_space,
    split_apart,
)
from saboc_jax.spaces.base import architecture_to_mask
from saboc_jax.spaces.chain import Pieces
from saboc_jax.store import Store
from saboc_jax.types import Architecture, Batch, PRNGKey, Scorer, SearchSpace

Row = tuple[np.ndarray, dict[str, Any]]
"""Scores [k] and diagnostics of one scorer."""


@dataclass
class Counts:
    """What an evaluator has done.

    Attributes:
        scored: (architecture, repeat) pairs that ran.
        served: pairs found in memory or in the store.
        disconnected: pairs not run, for no path joins input and output.
        non_finite: pairs that ran and gave a metric that is not finite.
        isomorphic: pairs whose score is that of another architecture of their class.
        compilations: scoring programs, or pieces of them, compiled.
        compile_seconds: time of it.
        run_seconds: time of running them.
        stored_seconds: time that what the store served took when it ran.
    """

    scored: int = 0
    served: int = 0
    disconnected: int = 0
    non_finite: int = 0
    isomorphic: int = 0
    compilations: int = 0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    stored_seconds: float = 0.0


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
        pieces: compiled links of architectures that are chains (`saboc_jax.spaces.chain`); None:
            one program for each architecture.
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
    counts: Counts = field(default_factory=Counts)
    _memory: dict[tuple[str, int], Row] = field(default_factory=dict)
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
        mask = self._representative(mask)
        text = mask_text(mask, self.space)
        found = self._memory.get((text, repeat))
        if found is None:
            rows = self._stored(text, repeat)
            missing = [part.name for part in self._parts if part.name not in rows]
            if missing:
                rows |= self._compute(mask, repeat, text, missing)
            else:
                self.counts.served += 1
            found = self._memory[text, repeat] = self._joined(rows)
        else:
            self.counts.served += 1
        if self.on_score:
            self.on_score()
        return found

    def with_draws(
        self, keys: Sequence[PRNGKey], batches: Sequence[Batch], seeds: Sequence[str]
    ) -> "Evaluator":
        """The same on other keys and batches, sharing the compiled programs."""
        return replace(self, keys=keys, batches=batches, seeds=seeds, counts=Counts(), _memory={})

    def keep_in(self, store: Store) -> None:
        """From now on results are kept in this store, and those in memory are forgotten."""
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

    def _compute(
        self,
        mask: Bool[np.ndarray, "decisions options"],
        repeat: int,
        text: str,
        missing: Sequence[str],
    ) -> dict[str, Row]:
        """Scores by the parts that are missing, in one program, and keeps a row of each."""
        parts = [part for part in self._parts if part.name in missing]
        if not self.space.is_connected(mask):
            self.counts.disconnected += 1
            flag = {"flag": "disconnected"}
            rows = {part.name: (np.full(len(part.metrics), np.nan), dict(flag)) for part in parts}
            self._keep(text, repeat, parts, rows, 0.0)
            return rows
        start = time.perf_counter()
        before = self.counts.compile_seconds
        rows = self._run(parts, mask, repeat)
        seconds = time.perf_counter() - start - (self.counts.compile_seconds - before)
        self.counts.scored += 1
        self.counts.run_seconds += seconds
        bad = [row for row in rows.values() if not np.isfinite(row[0]).all()]
        self.counts.non_finite += bool(bad)
        for _, diagnostics in bad:
            diagnostics["flag"] = "non_finite"
        self._keep(text, repeat, parts, rows, seconds)
        return rows

    def _run(
        self, parts: Sequence[Scorer], mask: Bool[np.ndarray, "decisions options"], repeat: int
    ) -> dict[str, Row]:
        key, batch, gates = self.keys[repeat], self.batches[repeat], self.space.gates(mask)
        scorer = combine(parts, "+".join(part.name for part in parts))
        own = self.space.program(mask) if self.space.program else None
        scorer = on_space(scorer, own, self.pieces) if own else scorer
        whole, apart = split_apart(scorer)
        observed: Any = self._run_apart(apart, key, gates, batch)
        if whole.observables:
            look = lambda key, gates, batch: observe(whole, key, gates, batch)  # noqa: E731
            program = self._program(("observe", scorer.name, own), look, key, gates, batch)
            observed |= program(key, gates, batch)
        host = jax.local_devices(backend="cpu")[0]
        with enable_x64(), jax.default_device(host):
            double = jax.tree.map(_to_host, (observed, gates, labels_only(batch)))
            finish = self._program(("finish", scorer.name, None), scorer.finish, *double)
            scores, notes = finish(*double)
        ends = np.cumsum([len(part.metrics) for part in parts])[:-1]
        return {
            part.name: (
                own,
                {
                    name.removeprefix(f"{part.name}."): np.asarray(value)
                    for name, value in notes.items()
                    if name.startswith(f"{part.name}.")
                },
            )
            for part, own in zip(parts, np.split(np.asarray(scores), ends), strict=True)
        }

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
        self, name: tuple[str, str, SearchSpace | None], function: Callable[..., Any], *args: Any
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
        self,
        text: str,
        repeat: int,
        parts: Sequence[Scorer],
        rows: dict[str, Row],
        seconds: float,
    ) -> None:
        """Keeps a row of each part; its seconds are those of the program they shared."""
        if self.store is None:
            return
        shared = {"scored_with": [part.name for part in parts]} if len(parts) > 1 else {}
        self.store.put(
            [
                Result(
                    self._request(text, repeat, part),
                    dict(zip(part.metrics, map(float, rows[part.name][0]), strict=True)),
                    rows[part.name][1] | shared,
                    seconds,
                )
                for part in parts
            ]
        )


def _to_host(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
