"""Training-free scores of neural architectures in JAX.

The NTK-score of SABoC-NAS (trainability, expressivity, generalisation), Borda count, search
spaces as data, and search methods as init/ask/tell.
"""

from saboc_jax.evaluate import Evaluator
from saboc_jax.ntk.empirical import NTKOptions, empirical_ntk, empirical_ntks
from saboc_jax.ntk.network import Network, bind, from_module
from saboc_jax.ranking import borda
from saboc_jax.scorers import SCORERS, make_scorer
from saboc_jax.scorers.base import combine, score
from saboc_jax.search import run_search
from saboc_jax.searchers import SEARCHERS
from saboc_jax.spaces import SPACES, make_space
from saboc_jax.types import Batch, Cost, Scorer, Searcher, SearchSpace

__all__ = [
    "SCORERS",
    "SEARCHERS",
    "SPACES",
    "Batch",
    "Cost",
    "Evaluator",
    "NTKOptions",
    "Network",
    "Scorer",
    "SearchSpace",
    "Searcher",
    "bind",
    "borda",
    "combine",
    "empirical_ntk",
    "empirical_ntks",
    "from_module",
    "make_scorer",
    "make_space",
    "run_search",
    "score",
]
