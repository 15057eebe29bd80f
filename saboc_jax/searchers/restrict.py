"""Searches part of a space: excludes one option of every decision."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.types import Architecture, PRNGKey, Searcher


def without_options(
    factory: Callable[..., Searcher],
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    excluded: Sequence[int],
    **options: Any,
) -> Searcher:
    """Makes a searcher that never asks for the excluded option of each decision.

    The inner searcher sees one option fewer in each decision; masks and architectures are
    translated. Pruning does not need this: use its option `initially_pruned`.

    Args:
        factory: factory of the searcher.
        choices: number of options of each decision of the whole space.
        higher_is_better: the direction of each metric.
        excluded: [decisions] the excluded option of each decision.
        **options: options of the factory.

    Raises:
        ValueError: if an excluded option does not exist or is the only one.
    """
    if len(excluded) != len(choices) or not all(
        0 <= option < n and n > 1 for option, n in zip(excluded, choices, strict=True)
    ):
        raise ValueError(
            f"excluded={tuple(excluded)}; allowed: an option of each of {tuple(choices)}, not the "
            "only one"
        )
    inner = factory([n - 1 for n in choices], higher_is_better, **options)
    width = max(choices)
    # kept[d, o] is the option of the whole space for option o of the inner searcher.
    kept = np.array([[o for o in range(width) if o != out][: width - 1] for out in excluded])

    def widen(masks: Bool[Any, "b d o"]) -> Bool[np.ndarray, "b d options"]:
        wide = np.zeros((len(masks), len(choices), width), bool)
        for decision, row in enumerate(kept):
            wide[:, decision, row] = np.asarray(masks)[:, decision]
        return wide

    def narrow(masks: Bool[Any, "b d options"]) -> Bool[np.ndarray, "b d o"]:
        return np.stack([np.asarray(masks)[:, d, row] for d, row in enumerate(kept)], axis=1)

    def ask(key: PRNGKey, state: Any) -> tuple[Any, Any]:
        masks, state = inner.ask(key, state)
        return widen(masks), state

    def tell(state: Any, masks: Any, scores: Float[Any, "b repeats k"]) -> Any:
        return inner.tell(state, jnp.asarray(narrow(masks)), scores)

    def best(state: Any) -> Architecture:
        return kept[np.arange(len(choices)), np.asarray(inner.best(state))]

    return Searcher(inner.name, inner.init, ask, tell, inner.done, best, inner.planned)
