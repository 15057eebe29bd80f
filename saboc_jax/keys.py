"""Keys of pseudo-random numbers, split by named purposes.

Every purpose of a key is named here, once. `key_for` splits a key by purpose, `key_numbered` by
number; a number never stands for a purpose. The whole name of a purpose is hashed, so no two
purposes share bits:

    root_key(seed) -> SCORING -> repeat r -> WEIGHTS, ZEN_INPUTS, ...   the network of a repeat
                   -> IMAGES  -> repeat r -> TRAIN_IMAGES, TEST_IMAGES, ...   its batch
                   -> SEARCH  -> SEARCH_START, SEARCH_STEP -> step      the searcher
"""

import enum
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from saboc_jax.types import PRNGKey, brief

MAX_SEED = 2**32 - 1  # JAX keeps the lower 32 bits of a seed
MOST = 2**31 - 1  # a number that JAX can count with


class Purpose(enum.StrEnum):
    """What a key is for. The text is hashed: changing it changes the random numbers."""

    # Of a run.
    SCORING = "scoring"  # networks of the repeats
    IMAGES = "images"  # batches of the repeats
    SEARCH = "search"
    # Of a repeat's network.
    WEIGHTS = "weights"
    RANDOM_SCORE = "random score"
    ZEN_INPUTS = "zen inputs"
    ZEN_PERTURBATION = "zen perturbation"
    AZ_NAS_INPUTS = "az_nas inputs"
    AZ_NAS_SIGNS = "az_nas signs"
    SPECTRUM_SIGNS = "spectrum signs"
    # Of a repeat's batch.
    TRAIN_IMAGES = "train images"
    TEST_IMAGES = "test images"
    NOISE = "noise"  # on test images
    CROPS = "crops"
    CROP_CORNERS = "crop corners"
    # Of a data set.
    HELD_OUT = "held out"
    # Of a step of training.
    DROPOUT = "dropout"
    OTHER_STREAMS = "other streams"
    # Of a search.
    SEARCH_START = "search start"
    SEARCH_STEP = "search step"


def _hash(name: str) -> int:
    """Returns a 32-bit hash of the whole name, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def root_key(seed: int) -> PRNGKey:
    """Returns the key of a seed.

    Raises:
        ValueError: if it is not a whole number from 0 to 4294967295; JAX would drop higher bits.
    """
    return jax.random.key(check_seed(seed))


def check_seed(seed: int) -> int:
    """Returns the seed unchanged; ValueError if JAX cannot tell it from another seed."""
    whole = hasattr(seed, "__index__") and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={brief(seed)}; allowed: a whole number from 0 to {MAX_SEED}")
    return int(seed)


def check_whole(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """Returns a whole number unchanged.

    Raises:
        ValueError: names the number and what is allowed.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        above = f"to {most}" if whole and value > most else "or more"
        raise ValueError(f"{name}={brief(value)}; allowed: a whole number, {least} {above}")
    return int(value)


def key_for(key: PRNGKey, purpose: Purpose) -> PRNGKey:
    """Returns the key of one purpose; `key` can also be split for other purposes."""
    return jax.random.fold_in(key, _hash(Purpose(purpose).value))


def key_numbered(key: PRNGKey, number: int | Int[Array, ""]) -> PRNGKey:
    """Returns the key of a numbered item, such as a repeat or a step."""
    return jax.random.fold_in(key, number)


def repeat_keys(key: PRNGKey, purpose: Purpose, repeats: int) -> Iterator[PRNGKey]:
    """Yields one key for each repeat of a run, all of the same purpose."""
    own = key_for(key, purpose)
    yield from (key_numbered(own, repeat) for repeat in range(repeats))
