"""Search methods as init/ask/tell over choices and scores."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from saboc_jax.searchers.pruning import pruning
from saboc_jax.types import Searcher

# name -> factory(choices, higher_is_better, **options)
SEARCHERS: Mapping[str, Callable[..., Searcher]] = MappingProxyType({"pruning": pruning})

__all__ = ["SEARCHERS", "pruning"]
