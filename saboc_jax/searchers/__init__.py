"""Search methods as init/ask/tell over choices and scores."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from saboc_jax.searchers.evolution import aging_evolution, evolution
from saboc_jax.searchers.exhaustive import exhaustive
from saboc_jax.searchers.local import local
from saboc_jax.searchers.pruning import pruning
from saboc_jax.searchers.random import random
from saboc_jax.searchers.reinforce import reinforce
from saboc_jax.types import Searcher

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

__all__ = [
    "SEARCHERS",
    "aging_evolution",
    "evolution",
    "exhaustive",
    "local",
    "pruning",
    "random",
    "reinforce",
]
