"""The NTK of a chain of modules, link by link: forward, then one backward, as `one_backward`.

Every link is a program of its own, and the drawing of its weights another. Backward it takes the
cotangent of its output and gives that of its input and its own part of the NTK, which is the sum
of its layers' parts. So the arithmetic is that of `one_backward` on the whole network, plus a
second forward pass of each link, and what is compiled is small and shared, also by links of other
widths, which are padded with zeros: see `saboc_jax.spaces.chain`.

Exact with frozen batch norm only, as `one_backward` is.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Predicate
from saboc_jax.ntk.one_backward import tap_rule
from saboc_jax.spaces.chain import Chain, Link, Pieces
from saboc_jax.spaces.layers import batch_norm_rule
from saboc_jax.types import PRNGKey


def piecewise_ntks(
    chain: Chain,
    pieces: Pieces,
    key: PRNGKey,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]],
    predicate: Predicate,
) -> list[Float[Array, "n m"]]:
    """The NTKs of the sum of outputs: as `empirical.empirical_ntks` gives them.

    Args:
        chain: the network.
        pieces: where compiled links are kept.
        key: seeds the weights.
        columns: images whose statistics every batch norm takes.
        rows: further batches.
        predicate: which parameters count, by their path in the whole network.
    """
    count = columns.shape[0]
    x = jnp.concatenate([columns, *rows])
    saved, own = [], jax.ShapeDtypeStruct(x.shape, x.dtype)  # own: without channels of zeros
    for place, link in enumerate(chain.links):
        drawn = pieces.run(
            ("draw", link.module, link.draw, own.shape[1:]),
            partial(link.init, x=own),
            chain.key(key, place),
        )
        params = link.padded(drawn, x)
        y = pieces.run(("forward", link.runs, count), partial(_forward, link, count), params, x)
        saved.append((params, x))
        own, x = link.output(drawn, own), y
    g = jnp.ones_like(x)
    kernel = jnp.zeros((x.shape[0], count), x.dtype)
    for link, (params, x) in zip(reversed(chain.links), reversed(saved), strict=True):
        chosen = _chosen(link.name, params, predicate)
        name = ("backward", link.runs, chosen, count)
        g, kernel = pieces.run(name, partial(_backward, link, chosen), params, x, g, kernel)
    ends = [count, *(r.shape[0] for r in rows)]
    square, *others = jnp.split(kernel, [sum(ends[:i]) for i in range(1, len(ends))])
    return [(square + square.T) / 2, *others]


def _chosen(name: str, params: Any, predicate: Predicate) -> frozenset[tuple[str, ...]]:
    """The chosen paths within a link."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    inner = [tuple(part.key for part in path) for path, _ in paths]
    return frozenset(path for path in inner if predicate((name, *path)))


def _forward(link: Link, count: int, params: Any, x: Array) -> Array:
    with nn.intercept_methods(batch_norm_rule("frozen", count)):
        output: Any = link.runs.apply({"params": params}, x)
    return output


def _backward(
    link: Link, chosen: frozenset[tuple[str, ...]], params: Any, x: Array, g: Array, kernel: Array
) -> tuple[Array, Array]:
    """(Cotangent of the input, the kernel with the link's part added)."""

    def run(x: Array, tap: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, lambda path: path in chosen)):
            output: Any = link.runs.apply({"params": params}, x)
        return output

    back, part = jax.vjp(run, x, jnp.zeros_like(kernel))[1](g)
    return back, kernel + part
