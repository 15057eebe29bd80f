"""Search methods as init/ask/tell over choices and scores."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool

from saboc_jax.searchers.evolution import aging_evolution, evolution
from saboc_jax.searchers.exhaustive import exhaustive
from saboc_jax.searchers.local import local
from saboc_jax.searchers.pruning import pruning
from saboc_jax.searchers.random import random
from saboc_jax.searchers.reinforce import reinforce
from saboc_jax.statistics.ranking import AGGREGATIONS
from saboc_jax.types import Ranking, Searcher, SearchSpace

# name -> factory(choices, higher_is_better, **options)
SEARCHERS: Mapping[str, Callable[..., Searcher]] = MappingProxyType(
    {
        "pruning": pruning,
        "reinforce": reinforce,
        "evolution": evolution,
        "aging_evolution": aging_evolution,
        "local": local,
        "random": random,
        "exhaustive": exhaustive,
    }
)


def options_of(name: str) -> Mapping[str, Any]:
    """Returns the options of a searcher's factory with their defaults.

    Raises:
        ValueError: if there is no searcher of that name.
    """
    if name not in SEARCHERS:
        raise ValueError(f"searcher={name!r}; allowed: {', '.join(SEARCHERS)}")
    parameters = inspect.signature(SEARCHERS[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def make_searcher(
    name: str,
    space: SearchSpace,
    higher_is_better: Sequence[bool],
    *,
    ranking: Ranking | str = "borda",
    allows: Callable[[Bool[np.ndarray, "decisions options"]], bool] | None = None,
    max_evaluations: int | None = None,
    **options: Any,
) -> Searcher:
    """Makes a searcher by name, using the hints of the space.

    Pruning starts without the option `none`, as TE-NAS does, removes the bundles of options that
    the space defines, and always keeps a member within the budget. The evolutions use the start
    and the mutation of the space. Explicit options override the hints of the space.

    Args:
        name: a key of `SEARCHERS`.
        space: the space to search in.
        higher_is_better: the direction of each metric passed to `tell`.
        ranking: combines the metrics into one rank, or a key of
            `saboc_jax.statistics.ranking.AGGREGATIONS`.
        allows: the budget, see `saboc_jax.searching.budgets`. Only pruning needs it; the others
            receive NaN as the score of a forbidden architecture.
        max_evaluations: number of evaluations after which the searcher ends; None: the default of
            its factory. Pruning always ends by itself: pass the limit to `run_search` to stop it.
        **options: options of the searcher's factory.

    Raises:
        ValueError: if the searcher, its ranking or an option is unknown or out of range.
    """
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"searcher {name!r} has no option {unknown}; allowed: {sorted(known)}")
    if isinstance(ranking, str) and ranking not in AGGREGATIONS:
        raise ValueError(f"ranking={ranking!r}; allowed: {', '.join(AGGREGATIONS)}")
    ranked = AGGREGATIONS[ranking] if isinstance(ranking, str) else ranking
    limit = {} if max_evaluations is None else {"max_evaluations": max_evaluations}
    hints = _hints(space, allows) | limit | {"ranking": ranked}
    options = {key: value for key, value in hints.items() if key in known} | options
    return SEARCHERS[name](space.choices, higher_is_better, **options)


def _hints(
    space: SearchSpace, allows: Callable[[Bool[np.ndarray, "decisions options"]], bool] | None
) -> dict[str, Any]:
    """Returns what a space and a budget give to searchers, keyed by the name of the option."""
    has_none = any("none" in names for names in space.option_names)
    return {
        "initially_pruned": ("none",) * has_none,
        "option_names": space.option_names,
        "allows": allows,
        "removals": space.hints.removals(),
        **space.hints.evolution(),
    }


__all__ = [
    "SEARCHERS",
    "aging_evolution",
    "evolution",
    "exhaustive",
    "local",
    "make_searcher",
    "options_of",
    "pruning",
    "random",
    "reinforce",
]
