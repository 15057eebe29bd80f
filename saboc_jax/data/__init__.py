"""Data sets by name, and batches drawn from them by PRNG key."""

from saboc_jax.data.datasets import (
    DATASETS,
    NEEDS_OF_SABOC,
    Dataset,
    Protocol,
    Split,
    all_examples,
    available,
    default_name,
    draw,
    fetch,
    load,
    one_hot,
    perturb,
    prepare,
    protocol,
    sample,
)

__all__ = [
    "DATASETS",
    "NEEDS_OF_SABOC",
    "Dataset",
    "Protocol",
    "Split",
    "all_examples",
    "available",
    "default_name",
    "draw",
    "fetch",
    "load",
    "one_hot",
    "perturb",
    "prepare",
    "protocol",
    "sample",
]
