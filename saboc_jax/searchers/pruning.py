"""Supernet pruning: remove, round by round, the options whose removal does least harm.

The supernet starts with every option of every decision. In a round each removable option is
left out in turn, and the supernet without it is compared with the current supernet. With
S_j the metrics, oriented so that lower is better,

    delta_j = (S_j(before) - S_j(after)) / |S_j(before)|,

averaged over repeats that share weights and images. All candidate removals of the round are
ranked by every metric, largest delta first, then by the sum of ranks. The search walks down that
list until every decision has lost `prune_number` options. It ends with one option per decision.

If a metric is NaN after a removal, the removal destroys the network and is ranked last. If a
metric is infinite, the removal is the worst by that metric.

References:
    Schedule: TE-NAS (Chen, Gong and Wang, ICLR 2021). Three metrics and Borda count:
    SABoC-NAS, Section 4.2 and Eq. 12.

Deviation: TE-NAS scores the unpruned supernet again for each candidate; we score it once per
round and repeat, which gives the same numbers because weights and images are shared.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.searchers import base
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Architecture, PRNGKey, Ranking, Removals, Searcher

# Prevents division by zero: too small to change a delta, large enough to avoid overflow.
_TINY = 1e-30


class PruningState(NamedTuple):
    """The state of a pruning search.

    Attributes:
        active: [decisions, options] the supernet's options.
        removed_in: [decisions, options] the round (from 1) that removed an option; 0 if the option
            is active, -1 if it never was.
        round: [] rounds done.
        evaluations: [] masks scored so far, including the unpruned supernet of each round.
        noise: [decisions, options] Gumbel noise of this round; zeros without temperature.
    """

    active: Bool[np.ndarray, "decisions options"]
    removed_in: Int[np.ndarray, "decisions options"]
    round: Any
    evaluations: Any
    noise: Float[np.ndarray, "decisions options"]


def one_by_one(decisions: int, options: int) -> Removals:
    """Returns bundles of one option each, with all decisions in the same phase."""
    bundles = np.repeat(np.eye(options, dtype=bool)[None], decisions, axis=0)
    return Removals(np.zeros(decisions, int), bundles)


def removable(
    active: Bool[np.ndarray, "decisions options"], removals: Removals | None = None
) -> Int[np.ndarray, "m 2"]:
    """Returns (decision, bundle) of every bundle that can be removed without emptying a decision.

    Args:
        active: the supernet's options.
        removals: the bundles; None: one option each.
    """
    phases, bundles = removals or one_by_one(*active.shape)
    left = active[:, None] & ~bundles
    goes = left.any(-1) & (left != active[:, None]).any(-1)
    first = phases[active.sum(1) > 1].min(initial=phases.max())
    return np.argwhere(goes & (phases == first)[:, None])


def removal_masks(
    active: Bool[np.ndarray, "decisions options"], removals: Removals | None = None
) -> Bool[np.ndarray, "b d o"]:
    """Returns the mask of the supernet, then the masks without each removable bundle."""
    bundles = (removals or one_by_one(*active.shape)).bundles
    decisions, numbers = removable(active, removals).T
    masks = np.repeat(active[None], 1 + len(decisions), axis=0)
    masks[1 + np.arange(len(decisions)), decisions] &= ~bundles[decisions, numbers]
    return masks


def _check_removals(
    removals: Removals, available: Bool[np.ndarray, "decisions options"]
) -> Removals:
    """Raises ValueError unless every decision can be brought down to each of its options."""
    decisions, options = available.shape
    shapes = (np.shape(removals.phases), np.shape(removals.bundles))
    if shapes != ((decisions,), (decisions, options, options)):
        raise ValueError(
            f"removals have shapes {shapes}; allowed: {(decisions,), (decisions, options, options)}"
        )
    bundles = removals.bundles
    parted = (bundles[..., :, None] & ~bundles[..., None, :]).any(1)
    wanted = available[:, :, None] & available[:, None, :] & ~np.eye(options, dtype=bool)
    if (wanted & ~parted).any():
        bad = np.flatnonzero((wanted & ~parted).any((1, 2))).tolist()
        raise ValueError(
            f"removals of decisions {bad} have options that no bundle parts; allowed: for any two "
            "options a bundle that holds one and not the other"
        )
    return removals


def _stand_in_for_before(
    before: Float[np.ndarray, "repeats k"], after: Float[np.ndarray, "m repeats k"]
) -> Float[np.ndarray, "repeats k"]:
    """Returns `before` where finite, else the median of the finite `after` of its repeat.

    All candidates share `before`: it sets the scale of a repeat, not the order within it.
    """
    filled = before.copy()
    for repeat, metric in np.argwhere(~np.isfinite(before)):
        finite = after[:, repeat, metric]
        finite = finite[np.isfinite(finite)]
        filled[repeat, metric] = np.median(finite) if finite.size else 1.0
    return filled


def _round_significant(values: np.ndarray, digits: int) -> np.ndarray:
    return np.array([float(f"{value:.{digits}g}") for value in values.flat]).reshape(values.shape)


def improvements(
    scores: Float[np.ndarray, "b repeats k"],
    higher_is_better: Sequence[bool],
    rounding: int | None = None,
) -> Float[np.ndarray, "m k"]:
    """Returns delta: how much each removal improves each metric, relative to before.

    Args:
        scores: [1 + m, repeats, k] metrics of the supernet before and after each removal.
        higher_is_better: the direction of each metric.
        rounding: None, or as TE-NAS: round deltas to this many decimals and their means to this
            many significant digits, so that near-equal removals tie.

    Returns:
        [m, k]; positive if the removal improves the metric; NaN if a repeat is NaN after the
        removal, minus infinity if one is infinite.
    """
    signs = np.where(np.asarray(higher_is_better, dtype=bool), -1.0, 1.0)
    costs = np.asarray(scores, dtype=np.float64) * signs
    after = np.where(np.isinf(costs[1:]), np.inf, costs[1:])  # the worst, whatever its sign
    before = _stand_in_for_before(costs[0], after)
    delta = (before - after) / (np.abs(before) + _TINY)
    if rounding is None:
        return delta.mean(axis=1)
    return _round_significant(np.round(delta, rounding).mean(axis=1), rounding)


def take_by_quota(
    order: Int[np.ndarray, " m"],
    groups: Int[np.ndarray, " m"],
    quotas: Int[np.ndarray, " g"],
    may_take: Callable[[list[int]], bool] | None = None,
) -> Int[np.ndarray, " taken"]:
    """Takes candidates in order until each group has reached its quota.

    Args:
        order: [m] candidates, the first is taken first.
        groups: [m] the group of each candidate, here its decision.
        quotas: [g] number of candidates to take from each group.
        may_take: `may_take(candidates)` tells whether they may all be taken together. None: any.
    """
    left = np.array(quotas)
    taken: list[int] = []
    for candidate in order:
        if left[groups[candidate]] > 0 and (may_take is None or may_take([*taken, candidate])):
            left[groups[candidate]] -= 1
            taken.append(candidate)
    return np.array(taken, dtype=int)


def removal_order(
    delta: Float[np.ndarray, "m k"],
    ranking: Ranking,
    temperature: float = 0.0,
    noise: Float[np.ndarray, " m"] | None = None,
) -> Int[np.ndarray, " m"]:
    """Returns the candidates in the order of their removal.

    Args:
        delta: [m, k] improvements.
        ranking: combines k metrics into one rank S_r.
        temperature: 0 sorts by S_r. Above 0, candidates are drawn without replacement with
            probabilities softmax(-S_r / temperature), by adding Gumbel noise and sorting.
        noise: [m] standard Gumbel noise, for a temperature above 0.
    """
    directions = (True,) * delta.shape[1]
    if temperature == 0:
        return ranks.best_first(delta, directions, ranking=ranking)
    return ranks.order(ranking(delta, directions) / temperature - noise)


def _starting_mask(
    choices: Sequence[int],
    initially_pruned: Bool[Any, "decisions options"] | Sequence[str],
    option_names: Sequence[Sequence[str]] | None,
) -> Bool[np.ndarray, "decisions options"]:
    active = base.available_options(choices)
    named = isinstance(initially_pruned, str) or all(
        isinstance(name, str) for name in initially_pruned
    )
    if named and len(initially_pruned):
        if isinstance(initially_pruned, str) or option_names is None:
            raise ValueError(
                f"initially_pruned={initially_pruned!r}; allowed: a mask, or a sequence of "
                "names together with option_names"
            )
        active &= ~base.options_named(initially_pruned, option_names)
    elif not named:
        mask = np.asarray(initially_pruned, dtype=bool)
        if mask.shape != active.shape:
            raise ValueError(f"initially_pruned is {mask.shape}; allowed: {active.shape}")
        active &= ~mask
    if not active.any(axis=1).all():
        raise ValueError(
            f"initially_pruned leaves decisions {np.flatnonzero(~active.any(axis=1)).tolist()} "
            "without options; allowed: at least one each"
        )
    return active


def _best(state: PruningState) -> Architecture:
    open_decisions = np.flatnonzero(np.sum(state.active, axis=1) > 1)
    if open_decisions.size:
        raise ValueError(f"decisions {open_decisions.tolist()} still have several options")
    return base.architectures_of(np.asarray(state.active))


def pruning(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    initially_pruned: Bool[Any, "decisions options"] | Sequence[str] = (),
    option_names: Sequence[Sequence[str]] | None = None,
    prune_number: int = 1,
    rounding: int | None = None,
    temperature: float = 0.0,
    ranking: Ranking = ranks.borda,
    allows: Callable[[Bool[np.ndarray, "decisions options"]], bool] | None = None,
    removals: Removals | None = None,
) -> Searcher:
    """Prunes a supernet with any metrics (decision D15).

    `ask` returns [1 + m, decisions, options]: the supernet, then the supernet without each of
    the m removable options; m shrinks from round to round. NAS-Bench-201 without "none" takes
    3 rounds and 57 evaluations.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        initially_pruned: options excluded from the start, as a mask or, with `option_names`,
            as names: TE-NAS excludes ("none",).
        option_names: names of the options of each decision.
        prune_number: options a decision loses per round; the last one always stays. TE-NAS
            uses 1 for NAS-Bench-201 and 3 for DARTS on CIFAR-10.
        rounding: see `improvements`; TE-NAS: 3, with `ties="dense"` in the ranking.
        temperature: see `removal_order`; 0 is deterministic.
        ranking: combines the improvements of the metrics into one rank.
        allows: `allows(mask)` tells whether the search may continue with this supernet. A removal
            is skipped if, together with those already chosen in the round, it leaves a forbidden
            mask. If it allows a mask, it must allow every larger one. None: all are allowed.
        removals: bundles of options that are removed together and count as one in
            `prune_number`, and the phase of each decision; None: one option each, one phase.

    Raises:
        ValueError: if an argument is out of range, a decision has no option left, or the
            supernet at the start is not allowed.
    """
    base.check_choices(choices, higher_is_better)
    if prune_number < 1 or temperature < 0:
        raise ValueError(
            f"prune_number={prune_number}, temperature={temperature}; allowed: >= 1 and >= 0"
        )
    start = _starting_mask(choices, initially_pruned, option_names)
    if allows and not allows(start):
        raise ValueError("the supernet to start from is not allowed; allowed: larger limits")

    steps = one_by_one(*start.shape) if removals is None else removals
    steps = _check_removals(steps, base.available_options(choices))

    def init(key: PRNGKey) -> PruningState:
        del key  # Nothing is random before the first round.
        removed_in = np.where(start, 0, -1).astype(np.int32)
        return PruningState(
            start, removed_in, np.array(0, np.int32), np.array(0, np.int32), np.zeros(start.shape)
        )

    def ask(key: PRNGKey, state: PruningState) -> tuple[Bool[Array, "b d o"], PruningState]:
        noise = np.zeros(start.shape)
        if temperature > 0:
            noise = np.asarray(jax.random.gumbel(key, start.shape), dtype=np.float64)
        masks = removal_masks(np.asarray(state.active), steps)
        return jnp.asarray(masks), state._replace(noise=noise)

    searcher = Searcher(
        name="pruning",
        init=init,
        ask=ask,
        tell=partial(
            _tell,
            higher_is_better=tuple(higher_is_better),
            prune_number=prune_number,
            rounding=rounding,
            temperature=temperature,
            ranking=ranking,
            allows=allows,
            removals=steps,
        ),
        done=lambda state: bool((np.sum(state.active, axis=1) <= 1).all()),
        best=_best,
    )
    # With a budget the number of rounds is unknown in advance: it depends on the scores.
    rehearsed = None if allows else partial(_rehearse, searcher, len(higher_is_better))
    return searcher._replace(planned=rehearsed)


def _rehearse(searcher: Searcher, metrics: int) -> int:
    """Counts the masks that pruning asks for, using equal scores: scores do not change it."""
    key = jax.random.key(0)  # Any key: only the number of removed options matters.
    state = searcher.init(key)
    while not searcher.done(state):
        masks, state = searcher.ask(key, state)
        state = searcher.tell(state, masks, np.ones((len(masks), 1, metrics)))
    return int(state.evaluations)


def _tell(
    state: PruningState,
    masks: Bool[Any, "b decisions options"],
    scores: Float[Any, "b repeats k"],
    *,
    higher_is_better: tuple[bool, ...],
    prune_number: int,
    rounding: int | None,
    temperature: float,
    ranking: Ranking,
    allows: Callable[[Bool[np.ndarray, "decisions options"]], bool] | None,
    removals: Removals,
) -> PruningState:
    active = np.array(state.active)
    if not np.array_equal(masks, removal_masks(active, removals)):
        raise ValueError(f"masks {np.shape(masks)} are not those the last `ask` gave")
    base.check_scores(scores, len(masks), len(higher_is_better))
    decisions, numbers = removable(active, removals).T
    bundles = removals.bundles[decisions, numbers]
    delta = improvements(np.asarray(scores), higher_is_better, rounding)
    noise = np.asarray(state.noise)[decisions, numbers]
    order = removal_order(delta, ranking, temperature, noise)

    def without(candidates: Sequence[int]) -> Bool[np.ndarray, "decisions options"]:
        left = active.copy()
        for candidate in candidates:
            left[decisions[candidate]] &= ~bundles[candidate]
        return left

    def may_take(candidates: list[int]) -> bool:
        left = without(candidates)
        return bool(left.any(1).all()) and (allows is None or allows(left))

    quotas = np.full(len(active), prune_number)
    left = without(take_by_quota(order, decisions, quotas, may_take).tolist())
    removed_in = np.where(active & ~left, state.round + 1, state.removed_in).astype(np.int32)
    return PruningState(
        left,
        removed_in,
        np.asarray(state.round + 1, np.int32),
        np.asarray(state.evaluations + len(masks), np.int32),
        np.zeros(active.shape),
    )
