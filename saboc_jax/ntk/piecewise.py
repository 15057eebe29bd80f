"""The NTK of a chain of modules, link by link: a forward and a backward pass as in `one_backward`.

Each link has its own forward and backward program. The backward program takes the cotangent of its
output and returns the cotangents of its inputs and its part of the NTK (the sum over its layers).
Links before the first link with a chosen parameter do not run backward. The arithmetic is that of
`one_backward` on the whole network plus a second forward pass of each link. The compiled programs
are small and shared, also by links of other widths, which are padded with zeros: see
`saboc_jax.layers.chain`.

As for `one_backward`, the result is exact with frozen batch norm only.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.links import add_cotangents, run_forward
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.layers.tree import Path, Predicate, flatten
from saboc_jax.ntk.batches import split_batches, symmetric
from saboc_jax.ntk.network import NoParameterError, observed
from saboc_jax.ntk.taps import tap_rule
from saboc_jax.types import PRNGKey


def piecewise_ntks(
    chain: Chain,
    pieces: ProgramCache,
    key: PRNGKey,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]],
    predicate: Predicate,
) -> list[Float[Array, "n m"]]:
    """Computes the NTKs of the sum of outputs, in the order of `empirical.empirical_ntks`.

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        key: seeds the weights.
        columns: images that give the statistics of every batch norm.
        rows: further batches.
        predicate: which parameters count, by their path in the whole network.

    Raises:
        NoParameterError: if the predicate chooses no parameter.
    """
    count = columns.shape[0]
    images = jnp.concatenate([columns, *rows])
    run = partial(_forward, count)
    last, saved = run_forward(chain, pieces, key, images, run, "forward", count)
    pairs = zip(chain.links, saved, strict=True)
    chosen_of = [_chosen(link, params, predicate) for link, (params, _) in pairs]
    if not any(chosen_of):
        raise NoParameterError("the predicate chooses no parameter of the chain")
    # As `network.observed`: what is not finite has no gradient.
    cotangents: list[Any] = [None] * len(chain.links) + [observed(last) * 0 + 1]
    kernel = jnp.zeros((images.shape[0], count), last.dtype)
    first = next(place for place, chosen in enumerate(chosen_of) if chosen)
    for place in reversed(range(first, len(chain.links))):
        link, chosen, (params, xs) = chain.links[place], chosen_of[place], saved.pop()
        backward, g = partial(_backward, link, chosen), cotangents.pop()
        name = ("backward", link.runs, chosen, count)
        back, kernel = pieces.run(name, backward, params, xs, g, kernel)
        add_cotangents(link, back, cotangents, pieces)
    return symmetric(split_batches(kernel, [columns, *rows]))


def _chosen(link: Link, params: Any, predicate: Predicate) -> frozenset[Path]:
    """Returns the chosen paths within a link."""
    return frozenset(path for path in flatten(params) if predicate(link.path(path)))


def _forward(count: int, link: Link, params: Any, *xs: Array) -> Array:
    with nn.intercept_methods(batch_norm_rule("frozen", count)):
        output: Any = link.runs.apply({"params": params}, *xs)
    return output


def _backward(
    link: Link, chosen: frozenset[Path], params: Any, xs: tuple[Array, ...], g: Array, kernel: Array
) -> tuple[tuple[Array, ...], Array]:
    """Returns (cotangents of the inputs, the kernel plus the link's part)."""

    def run(xs: tuple[Array, ...], tap: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, lambda path: path in chosen)):
            output: Any = link.runs.apply({"params": params}, *xs)
        return output

    back, part = jax.vjp(run, xs, jnp.zeros_like(kernel))[1](g)
    return back, kernel + part
