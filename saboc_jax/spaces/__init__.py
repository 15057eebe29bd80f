"""Search spaces: architectures as data, networks as Flax modules."""

import importlib
from typing import Any

from saboc_jax.types import SearchSpace

# A new space is one file with a factory `f(**options) -> SearchSpace` and one line here.
SPACES = {
    "darts": "saboc_jax.spaces.darts.space:darts",
    "darts_genotypes": "saboc_jax.spaces.darts.genotypes:darts_genotypes",
    "nas_bench_201": "saboc_jax.spaces.nas_bench_201.space:nas_bench_201",
    "resnet": "saboc_jax.spaces.resnet.space:resnet",
}


def make_space(name: str, **options: Any) -> SearchSpace:
    """Makes a search space by name.

    Args:
        name: a key of `SPACES`.
        **options: options of the factory of that space.

    Raises:
        ValueError: if the name is unknown or an option is wrong.
    """
    if name not in SPACES:
        raise ValueError(f"space {name!r} is unknown; allowed: {', '.join(sorted(SPACES))}")
    module, function = SPACES[name].split(":")
    try:
        return getattr(importlib.import_module(module), function)(**options)
    except TypeError as error:
        raise ValueError(f"space {name!r}: {error}") from error
