"""Search spaces: architectures as data, networks as Flax modules."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from saboc_jax.types import SearchSpace

# A new space is one file with a factory `f(**options) -> SearchSpace` and one line here.
SPACES = {
    "autoformer": "saboc_jax.spaces.transformers.autoformer:autoformer",
    "darts": "saboc_jax.spaces.darts.space:darts",
    "darts_genotypes": "saboc_jax.spaces.darts.genotypes:darts_genotypes",
    "nas_bench_101": "saboc_jax.spaces.nas_bench_101.space:nas_bench_101",
    "nas_bench_201": "saboc_jax.spaces.nas_bench_201.space:nas_bench_201",
    "nas_bench_macro": "saboc_jax.spaces.nas_bench_macro.space:nas_bench_macro",
    "nats_sss": "saboc_jax.spaces.nats_sss.space:nats_sss",
    "pit": "saboc_jax.spaces.transformers.pit:pit",
    "resnet": "saboc_jax.spaces.resnet.space:resnet",
    "timm": "saboc_jax.spaces.modules.timm_space:timm",
    "transnas_macro": "saboc_jax.spaces.transnas.space:transnas_macro",
    "transnas_micro": "saboc_jax.spaces.transnas.space:transnas_micro",
}

OWN_SPACES = tuple(name for name in SPACES if name != "timm")
"""Spaces that need no extra."""


def make_space(name: str, **options: Any) -> SearchSpace:
    """Makes a search space by name.

    Args:
        name: a key of `SPACES`.
        **options: options of the factory of that space.

    Raises:
        ValueError: if the name is unknown or an option is wrong.
    """
    factory = _factory(name)
    try:
        space: SearchSpace = factory(**options)
    except TypeError as error:
        raise ValueError(f"space {name!r}: {error}") from error
    return space


def known_options(name: str, **options: Any) -> dict[str, Any]:
    """Returns those options that the factory of a space knows: not each has channels and cells."""
    known = inspect.signature(_factory(name)).parameters
    return {option: value for option, value in options.items() if option in known}


def _factory(name: str) -> Callable[..., Any]:
    """Returns the factory of a space; ValueError if the name is unknown."""
    if not isinstance(name, str) or name not in SPACES:
        raise ValueError(f"space {name!r} is unknown; allowed: {', '.join(sorted(SPACES))}")
    module, function = SPACES[name].split(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return factory
