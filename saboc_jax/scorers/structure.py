"""The structure of the network that will be trained: its paths, what lives on them, activations.

A network is a graph of layers. `paths` reads from it the convolutions and dense layers on the
longest and on the mean path from the input to the output, and in a row between two concatenations,
the number of paths without a pooling,
the parameters that lie on a path at all, and the sum of the logarithms of the widths of the layers
that do; `activations` their outputs, which go with speed and memory better than
multiply-accumulates (Radosavovic et al. 2020, "Designing Network Design Spaces"). They need no
images, and no weights.

Spaces give them by formula (`Costs.structure`); any other network's are read from its program
(`saboc_jax.layers.program_structure`). A supernet has no one structure and scores NaN.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.layers.structures import structure_of
from saboc_jax.layers.tree import Remembered
from saboc_jax.types import (
    Batch,
    Cost,
    Diagnostics,
    Gates,
    Passes,
    Scorer,
    SearchSpace,
    Structure,
)

KEPT = 4096  # architectures whose structure is remembered, for further draws and scorers
DIGITS = 1 << 26  # two whole numbers below this hold the 52 digits of a float64
PATHS = ("longest", "mean", "pool_free", "live_params", "volume", "chain")


def paths(space: SearchSpace) -> Scorer:
    """Layers on the longest and on the mean path, paths without pooling, what lives on paths.

    Higher is better for all.

    Args:
        space: the search space.
    """
    return _structure_scorer(space, "paths", PATHS)


def activations(space: SearchSpace) -> Scorer:
    """The outputs of live convolutions and dense layers for one image; higher is better.

    Args:
        space: the search space.
    """
    return _structure_scorer(space, "activations", ("activations",))


def _structure_scorer(space: SearchSpace, name: str, metrics: tuple[str, ...]) -> Scorer:
    structures = structures_of(space)

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        return ask(structures, metrics, gates), {}

    return Scorer(
        name=name,
        metrics=metrics,
        higher_is_better=(True,) * len(metrics),
        needs=frozenset(),
        passes=Passes(0, 0),
        observables={},
        finish=finish,
        options={},
    )


def structures_of(space: SearchSpace) -> Remembered[Structure]:
    """Returns what remembers the structures of a space, the same for all scorers that ask.

    To read one from a program takes seconds, about as long as a kernel of a small network.
    """
    return _remembered(of_choices, space)


def costs_of(space: SearchSpace) -> Remembered[Cost]:
    """Returns what remembers the costs of the networks that will be trained."""
    return _remembered(_cost_of_choices, space)


def _remembered(of: Callable[..., Any], space: SearchSpace) -> Remembered[Any]:
    try:
        return _shared(of, space)
    except TypeError:  # inputs that are a mapping cannot be hashed
        return Remembered(partial(of, space), KEPT)


@lru_cache(16)
def _shared(of: Callable[..., Any], space: SearchSpace) -> Remembered[Any]:
    return Remembered(partial(of, space), KEPT)


def _cost_of_choices(space: SearchSpace, arch: tuple[int, ...]) -> Cost:
    return (space.costs.trained or space.costs.of)(np.array(arch, np.int32))


def of_choices(space: SearchSpace, arch: tuple[int, ...]) -> Structure:
    """Returns `structure_of` the architecture of these choices."""
    return structure_of(space, np.array(arch, np.int32))


def ask(structures: Any, fields: tuple[str, ...], gates: Gates) -> Float[Array, " k"]:
    """Asks for a structure or a cost on the host; NaN unless every decision has one option.

    The numbers return as whole numbers of 32 bits: JAX runs the callback in another thread, where
    our x64 mode is not set, and a double would be rounded.
    """

    def host(gates: Any) -> np.ndarray:
        active = np.asarray(gates) > 0
        if (active.sum(-1) != 1).any():
            return np.full((len(fields), 3), -1, np.int32)
        found = structures(tuple(active.argmax(-1).tolist()))
        return np.array([_split(getattr(found, name)) for name in fields], np.int32)

    shape = jax.ShapeDtypeStruct((len(fields), 3), jnp.int32)
    high, low, power = jax.pure_callback(host, shape, gates, vmap_method="sequential").T
    dtype = jnp.result_type(float)
    value = jnp.ldexp(high.astype(dtype) / DIGITS + low.astype(dtype) / DIGITS / DIGITS, power)
    return jnp.where(low < 0, jnp.nan, value)


def _split(value: float) -> tuple[int, int, int]:
    """Returns (first digits, last digits, power) of a number that is not negative."""
    if not np.isfinite(value):
        return DIGITS // 2, 0, 1 << 20  # too large: an infinity
    fraction, power = np.frexp(float(value))
    high, rest = divmod(float(fraction) * DIGITS, 1)
    return int(high), int(rest * DIGITS), int(power)
