"""Baselines without a network: parameters, multiply-accumulates, depth, and chance.

The costs come from the space's formulas. If the cost of an architecture is a sum over its decisions
(parameters and multiply-accumulates of NAS-Bench-201), the scorer holds one number for each option,
and a supernet scores the mean of its architectures. For other costs (depth, the longest path) the
scorer calls the space's formula on the host, and a supernet scores NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.keys import Purpose, key_for
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import (
    Batch,
    Diagnostics,
    Gates,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

HALF = 1 << 24  # a float32 holds whole numbers up to here
CHECKS = 32  # random architectures on which a sum over decisions is checked


def params(space: SearchSpace) -> Scorer:
    """The number of trainable parameters; higher is better, as in the literature's baseline."""
    return _cost_scorer(space, "params")


def macs(space: SearchSpace) -> Scorer:
    """Multiply-accumulates for one image; higher is better."""
    return _cost_scorer(space, "macs")


def depth(space: SearchSpace) -> Scorer:
    """Convolutions and dense layers on the longest path; higher is better."""
    return _cost_scorer(space, "depth")


def _cost_scorer(space: SearchSpace, quantity: str) -> Scorer:
    table = additive_table(space, quantity)

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "1"], Diagnostics]:
        if table is None:
            return _ask(space, quantity, gates)[None], {}
        base, increments = table
        value = base + (gates * jnp.asarray(increments, jnp.result_type(float))).sum()
        return value[None], {}

    return Scorer(
        name=quantity,
        metrics=(quantity,),
        higher_is_better=(True,),
        needs=frozenset(),
        passes=Passes(0, 0),
        observables={},
        finish=finish,
        options={},
    )


def additive_table(
    space: SearchSpace, quantity: str
) -> tuple[float, Float[np.ndarray, "decisions options"]] | None:
    """Returns a cost as (base, the increment of each option); None if it is not such a sum.

    None, too, of networks that are made when they are needed: asking for all would make all, and
    some may be refused.

    Args:
        space: its formula is called once for each option, and for some random architectures.
        quantity: a field of `Cost`.
    """
    if not space.networks.checked:
        return None
    cost = partial(_cost, space, quantity)
    zero = np.zeros(len(space.choices), np.int32)
    base = cost(zero)
    increments = np.zeros((len(space.choices), max(space.choices)))
    for decision, number in enumerate(space.choices):
        for option in range(1, number):
            changed = zero.copy()
            changed[decision] = option
            increments[decision, option] = cost(changed) - base
    decisions = np.arange(len(space.choices))
    random = np.random.default_rng(0)
    for arch in random.integers(0, space.choices, (CHECKS, len(space.choices)), np.int32):
        if cost(arch) != base + increments[decisions, arch].sum():
            return None
    return base, increments


def _cost(space: SearchSpace, quantity: str, arch: Any) -> float:
    return float(getattr(space.cost(arch), quantity))


def _ask(space: SearchSpace, quantity: str, gates: Gates) -> Float[Array, ""]:
    """Calls the space's formula on the host; NaN unless every decision has one option.

    The integer is returned as two 32-bit integers: JAX runs the callback in another thread, where
    our x64 mode is not set, and a double would be rounded.
    """

    def host(gates: Any) -> np.ndarray:
        active = np.asarray(gates) > 0
        if (active.sum(-1) != 1).any():
            return np.full(2, -1, np.int32)
        value = int(_cost(space, quantity, active.argmax(-1)))
        return np.array(divmod(value, HALF), np.int32)

    shape = jax.ShapeDtypeStruct((2,), jnp.int32)
    high, low = jax.pure_callback(host, shape, gates, vmap_method="sequential")
    dtype = jnp.result_type(float)
    return jnp.where(low < 0, jnp.nan, high.astype(dtype) * HALF + low.astype(dtype))


@dataclass(frozen=True)
class RandomNumber:
    """Observable: a uniform number on [0, 1) from the key and the active options."""

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, ""]:
        """Folds every decision's active options into the key."""
        bits = jnp.uint32(1) << jnp.arange(gates.shape[-1], dtype=jnp.uint32)
        codes = jnp.where(gates > 0, bits, 0).sum(-1, dtype=jnp.uint32)
        fold: Callable = lambda key, code: (jax.random.fold_in(key, code), None)  # noqa: E731
        key = jax.lax.scan(fold, key_for(key, Purpose.RANDOM_SCORE), codes)[0]
        return jax.random.uniform(key, dtype=jnp.float32)


def random(space: SearchSpace) -> Scorer:
    """Chance: what any scorer must beat. The same key gives an architecture the same score.

    Args:
        space: ignored.
    """
    return single_metric(
        "random", RandomNumber(), lambda number, batch: (number, {}), needs=(), passes=Passes(0, 0)
    )
