"""Training-free scores of neural architectures in JAX.

The NTK-score of SABoC-NAS (trainability, expressivity, generalisation), Borda count, search
spaces as data, and search methods as init/ask/tell.

`score`, `rank`, `search`, `correlate` and `train` are the package in five functions;
`read_architecture` and `read_table` read what other tools write. The pure
score of gates is `saboc_jax.scorers.combine.score`.
"""

from typing import TYPE_CHECKING, Any

from saboc_jax.api.architectures import read_architecture
from saboc_jax.api.function_of_modules import score_function
from saboc_jax.api.functions import correlate, rank, score, search, train
from saboc_jax.api.results import Found, Ranked, Score
from saboc_jax.benchmarks.accuracies import AccuracyTable, read_table
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.frameworks.adapters import from_equinox, from_haiku, from_keras, from_torch
from saboc_jax.layers.program_cost import count_work
from saboc_jax.ntk.comparison import (
    Drift,
    kernel_alignment,
    kernel_drift,
    label_alignment,
    ntk_drift,
)
from saboc_jax.ntk.density import SpectralDensity, spectral_density
from saboc_jax.ntk.empirical import check_ntk, empirical_ntk, empirical_ntks
from saboc_jax.ntk.linearised import (
    LinearisedTraining,
    Trajectory,
    learning_rate_limit,
    linearised_training,
)
from saboc_jax.ntk.network import Network, bind, from_function, from_module
from saboc_jax.ntk.operator import NTKOperator, ntk_operator
from saboc_jax.ntk.operator_scores import (
    NTKRegression,
    ntk_regression,
    operator_scores,
    operator_trainability,
)
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.tiles import empirical_ntk_blocks
from saboc_jax.scorers import SCORERS, make_scorer
from saboc_jax.scorers.combine import combine
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.searchers import SEARCHERS, make_searcher
from saboc_jax.searching.budgets import Budget
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import SPACES, make_space
from saboc_jax.spaces.dtype import in_dtype
from saboc_jax.spaces.modules.named import from_name
from saboc_jax.spaces.trained import trained_cost
from saboc_jax.statistics.ranking import borda
from saboc_jax.types import Batch, Cost, Scorer, Searcher, SearchSpace

if TYPE_CHECKING:
    from saboc_jax.layers.nnx import from_nnx

__all__ = [
    "SCORERS",
    "SEARCHERS",
    "SPACES",
    "AccuracyTable",
    "Batch",
    "Budget",
    "Cost",
    "Draws",
    "Drift",
    "Evaluator",
    "Found",
    "LinearisedTraining",
    "NTKOperator",
    "NTKOptions",
    "NTKRegression",
    "Network",
    "Ranked",
    "Runner",
    "Score",
    "Scorer",
    "SearchSpace",
    "Searcher",
    "SpectralDensity",
    "Trajectory",
    "bind",
    "borda",
    "check_ntk",
    "combine",
    "correlate",
    "count_work",
    "draw_weights",
    "empirical_ntk",
    "empirical_ntk_blocks",
    "empirical_ntks",
    "from_equinox",
    "from_function",
    "from_haiku",
    "from_keras",
    "from_module",
    "from_name",
    "from_nnx",
    "from_torch",
    "in_dtype",
    "kernel_alignment",
    "kernel_drift",
    "label_alignment",
    "learning_rate_limit",
    "linearised_training",
    "make_scorer",
    "make_searcher",
    "make_space",
    "ntk_drift",
    "ntk_operator",
    "ntk_regression",
    "operator_scores",
    "operator_trainability",
    "rank",
    "read_architecture",
    "read_table",
    "run_search",
    "score",
    "score_function",
    "search",
    "spectral_density",
    "train",
    "trained_cost",
]


def __getattr__(name: str) -> Any:
    """Finds what would make every import slower: `from_nnx` needs flax.nnx, a fifth."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("saboc_jax")
    if name != "from_nnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from saboc_jax.layers.nnx import from_nnx

    return from_nnx
