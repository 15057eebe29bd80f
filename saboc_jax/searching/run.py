"""Runs a searcher over a space with a scorer, and returns the result.

Candidates that a budget forbids are not scored; the searcher is told NaN. They count as
evaluations, are ranked last, and are never the result.

A search is a pure function of its key and the scores, so a run with its scores in a store resumes
when it is run again. This also holds for a run stopped by a time budget: its scores are kept, the
result records the stop, and the same run with more time ends with the same bits as a run without
a stop. Only the point of the stop depends on the clock.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.evaluation.evaluator import Evaluator, StoppedError
from saboc_jax.keys import Purpose, key_for, key_numbered
from saboc_jax.searching.budgets import Allows
from saboc_jax.searching.result import SearchResult, Step, evaluations
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture, PRNGKey, Searcher


def expected_evaluations(
    searcher: Searcher, allows: Allows | None = None, most: int | None = None
) -> int | None:
    """Returns how many candidates a search will score; None: not known beforehand.

    Args:
        searcher: any searcher.
        allows: the budget; how many candidates it forbids is not known beforehand.
        most: most evaluations; the search stops there.
    """
    planned = searcher.planned() if searcher.planned and not allows else None
    return min(filter(None, (planned, most)), default=None)


def run_search(
    searcher: Searcher,
    evaluator: Evaluator,
    key: PRNGKey,
    on_step: Callable[[int, int], None] | None = None,
    *,
    on_told: Callable[[list[Step], Callable[[], Architecture | None]], None] | None = None,
    allows: Allows | None = None,
    costs: Callable[[Bool[np.ndarray, "b d o"]], Float[np.ndarray, "b m"]] | None = None,
    max_evaluations: int | None = None,
    time_budget: float | None = None,
) -> SearchResult:
    """Asks, evaluates and tells until the searcher is done or a limit is reached.

    Args:
        searcher: any searcher over the evaluator's space.
        evaluator: scores the candidates.
        key: seeds the searcher; consumed.
        on_step: called as `on_step(step, candidates)` before a step is evaluated.
        on_told: called after every step as `on_told(history, best)`; `best()` is what the
            searcher would return now, None if it cannot say yet.
        allows: see `saboc_jax.searching.budgets.budget_check`; None: no budget.
        costs: costs that are told to the searcher after the scores, as further metrics for a
            multi-objective search; they are not in the history.
        max_evaluations: most evaluations; a step that would exceed them does not start.
        time_budget: seconds from now after which nothing more is scored; the step under way is
            not told to the searcher, but its finished scores stay in the store.

    Raises:
        ValueError: if a limit leaves nothing to return.
    """
    state = searcher.init(key_for(key, Purpose.SEARCH_START))
    steps = key_for(key, Purpose.SEARCH_STEP)
    history: list[Step] = []
    rejected, asked_for, stopped = 0, 0, None
    deadline = None if time_budget is None else time.monotonic() + time_budget
    while not searcher.done(state):
        asked, state = searcher.ask(key_numbered(steps, len(history)), state)
        masks = np.array(asked, bool)  # a copy: a view would keep every step's buffer on the device
        if max_evaluations is not None and evaluations(history) + len(masks) > max_evaluations:
            stopped = "max_evaluations"
            asked_for = len(masks)
            break
        if on_step:
            on_step(len(history), len(masks))
        allowed = np.array([allows is None or allows(mask) for mask in masks])
        try:
            scores = _evaluate(evaluator, masks, allowed, deadline)
        except StoppedError:
            stopped = "time_budget" if _is_over(deadline) else "stop"
            break
        told = scores[..., : evaluator.scorer.votes]
        if costs:
            further = np.repeat(costs(masks)[:, None], scores.shape[1], axis=1)
            told = np.concatenate([told, np.where(allowed[:, None, None], further, np.nan)], 2)
        state = searcher.tell(state, asked, told)
        history.append((masks, scores))
        rejected += int((~allowed).sum())
        if on_told:
            on_told(history, partial(_returned, searcher, state))
    arch = _best(searcher, state, allows, history, rejected, _reason(searcher, stopped, asked_for))
    mask = architecture_to_mask(arch, max(evaluator.space.choices))
    repeats = [evaluator.score(mask, repeat) for repeat in range(evaluator.repeats)]
    return SearchResult(
        arch, np.stack([s for s, _ in repeats]), repeats[0][1], history, rejected, stopped
    )


def _returned(searcher: Searcher, state: Any) -> Architecture | None:
    """Returns what a searcher would return now; None: nothing yet."""
    try:
        return np.asarray(searcher.best(state))
    except ValueError:
        return None


def _evaluate(
    evaluator: Evaluator,
    masks: Bool[np.ndarray, "b d o"],
    allowed: Bool[np.ndarray, " b"],
    deadline: float | None,
) -> Float[np.ndarray, "b repeats k"]:
    """Scores the allowed masks, NaN for the others; raises StoppedError after the deadline."""
    scores = np.full((len(masks), evaluator.repeats, len(evaluator.scorer.metrics)), np.nan)
    earlier_stop = evaluator.stop
    evaluator.stop = lambda: _is_over(deadline) or (earlier_stop is not None and earlier_stop())
    try:
        if allowed.any():
            scores[allowed] = evaluator.evaluate(masks[allowed])
    finally:
        evaluator.stop = earlier_stop
    return scores


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _reason(searcher: Searcher, stopped: str | None, asked_for: int) -> tuple[str, str] | None:
    """Returns which limit stopped a search, and the step that it did not allow, in words."""
    if stopped is None:
        return None
    planned = searcher.planned() if searcher.planned else None
    of = f" of {planned}" if planned else ""
    step = f" before a step of {asked_for}{of} evaluations" if asked_for else ""
    return stopped, step


def _best(
    searcher: Searcher,
    state: Any,
    allows: Allows | None,
    history: list[Step],
    rejected: int,
    stopped: tuple[str, str] | None,
) -> Architecture:
    """Returns the searcher's best; raises ValueError if there is none within the budget."""
    count = evaluations(history)
    try:
        arch = np.asarray(searcher.best(state))
    except ValueError as error:
        why = f"stopped by {stopped[0]} after {count} evaluations" if stopped else f"{count} done"
        why += stopped[1] if stopped else ""
        raise ValueError(
            f"the search found nothing to return: {why}, {rejected} of them over budget; {error}"
        ) from error
    options = history[0][0].shape[-1] if history else int(arch.max()) + 1
    if allows and not allows(architecture_to_mask(arch, options)):
        raise ValueError(
            f"{searcher.name} ended with an architecture over budget, {rejected} of {count} "
            "candidates were; allowed: larger limits, or another searcher"
        )
    return arch
