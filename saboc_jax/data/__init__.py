"""Data sets by name or of one's own, and batches drawn from them by PRNG key."""

from saboc_jax.data.archives import convert_archive
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
from saboc_jax.data.elsewhere import from_folder, from_huggingface, from_iterable, from_npz
from saboc_jax.data.own import from_arrays
from saboc_jax.data.resizing import resized

__all__ = [
    "DATASETS",
    "NEEDS_OF_SABOC",
    "Dataset",
    "Protocol",
    "Split",
    "all_examples",
    "available",
    "convert_archive",
    "default_name",
    "draw",
    "fetch",
    "from_arrays",
    "from_folder",
    "from_huggingface",
    "from_iterable",
    "from_npz",
    "load",
    "one_hot",
    "perturb",
    "prepare",
    "protocol",
    "resized",
    "sample",
]
