"""SWAP: the number of distinct activation patterns of a network's units over the images.

Peng, Song, Fang, Yu (2024), "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-Fast NAS".
A unit (one pixel of one channel of a ReLU's output) has a pattern of n bits, one for each
image; the score is the number of distinct patterns, at most 2^n.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from saboc_jax.ntk.batches import leading
from saboc_jax.ntk.network import Network, bind
from saboc_jax.scorers.activations import (
    check_init,
    cost_rule,
    count_distinct,
    layer_costs,
    measure_relus,
    pack_bits,
    recorded,
    redraw,
)
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Passes, PRNGKey, Scorer, SearchSpace


def unit_codes(active: Bool[Array, "n units"]) -> UInt32[Array, "units words"]:
    """Returns the patterns of all units; the first bit is always set, so that no code is zero."""
    there = jnp.ones((1, active.shape[1]), bool)
    return pack_bits(jnp.concatenate([there, active]).T)


def count_patterns(network: Network, images: Any) -> tuple[Array, Float[Array, "layers 2"]]:
    """Returns (number of distinct patterns, `layer_costs`), train-mode batch norm.

    The costs are zero if no layer can be observed.
    """
    codes_of_relus, observed, sound = measure_relus(network, images, unit_codes, 0, cost_rule())
    codes = jnp.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in codes_of_relus])
    # Units of operations that did not run have zero words, which together count as one pattern.
    idle = (codes[:, 0] == 0).any()
    costs = layer_costs(observed) if recorded(observed, "cost") else jnp.zeros((1, 2))
    return sound * (count_distinct(codes) - idle).astype(jnp.float32), costs


def swap_value(network: Network, images: Any) -> Float[Array, ""]:
    """Returns the SWAP-score of a network at fixed weights; higher is better."""
    return count_patterns(network, images)[0]


def regularise(
    patterns: Float[Array, ""], params: Float[Array, ""], mu: float, sigma: float
) -> Float[Array, ""]:
    """Returns SWAP * exp(-(P - mu)^2 / sigma); P, mu in thousands; NaN without parameters."""
    value = patterns * jnp.exp(-jnp.square(params / 1e3 - mu) / sigma)
    return jnp.where(params > 0, value, jnp.nan)


@dataclass(frozen=True)
class Patterns:
    """Observable: {"patterns": their number, "costs": `layer_costs`}."""

    space: SearchSpace
    init: str | None
    images: int | None

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> dict[str, Array]:
        """Reads the first `images` training images (None: all)."""
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        patterns, costs = count_patterns(network, leading(batch.images, self.images))
        return {"patterns": patterns, "costs": costs}


def swap(
    space: SearchSpace,
    *,
    init: str | None = "standard_normal",
    images: int | None = 16,
    mu: float | None = None,
    sigma: float | None = None,
) -> Scorer:
    """The SWAP-score, regularised by size if `mu` and `sigma` are given; higher is better.

    Deviation: one draw of weights. The released code averages 32 draws; here use repeats.

    Args:
        space: the search space.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`; None: the space's own.
        images: how many of the batch's images are read (None: all).
        mu: the preferred number of parameters, in thousands.
        sigma: the tolerance around it, in squared thousands of parameters.

    Raises:
        ValueError: if an option is out of range, or only one of mu and sigma is given.
    """
    if (mu is None) != (sigma is None) or (sigma is not None and sigma <= 0):
        raise ValueError(f"mu={mu}, sigma={sigma}; allowed: both None, or sigma above 0")
    if images is not None and images < 1:
        raise ValueError(f"images={images}; allowed: 1 or more, or None")

    def finish(observed: Mapping[str, Array], batch: Batch) -> tuple[Array, Diagnostics]:
        patterns, params = observed["patterns"], observed["costs"][:, 1].sum()
        value = patterns
        if mu is not None and sigma is not None:
            value = regularise(patterns, params, mu, sigma)
        return value, {"patterns": patterns, "params": params}

    return single_metric(
        "swap",
        Patterns(space, check_init(init), images),
        finish,
        passes=Passes(1, 0),
        options={"init": init, "images": images, "mu": mu, "sigma": sigma},
    )
