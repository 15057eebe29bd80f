"""True accuracies of architectures, and what others measured and scored."""

from saboc_jax.benchmarks.tables import (
    load_darts_surrogate,
    load_darts_swap,
    load_nas_bench_201,
    load_published_scores,
)

__all__ = [
    "load_darts_surrogate",
    "load_darts_swap",
    "load_nas_bench_201",
    "load_published_scores",
]
