"""Gradients of a chain with respect to its images, link by link.

A gradient through a whole network is a program for every architecture, and compiling it takes many
times longer than running it. Architectures share a chain's links (`saboc_jax.layers.chain`): each
has a forward program, and a backward program that runs forward again.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.interceptors import rules_in_force
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.rules import batch_norm_rule, fast_rules
from saboc_jax.types import PRNGKey


def image_gradients(
    chain: Chain, pieces: ProgramCache, key: PRNGKey, images: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    """Returns the gradient of the sum of all outputs, batch norms with the batch's statistics.

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        key: seeds the weights.
        images: a batch.
    """
    outputs, saved = [images], []
    drawn = chain.draw(key, images.shape[1:], images.dtype, pieces)
    for link, params in zip(chain.links, drawn, strict=True):
        xs = tuple(outputs[place] for place in link.takes)
        params = jax.device_put(link.padded(params, xs))
        run = partial(_outputs, link)
        outputs.append(pieces.run(("outputs", link.runs), run, params, *xs))
        saved.append((params, xs))
    cotangents: list[Any] = [None] * len(chain.links) + [jnp.ones_like(outputs[-1])]
    for link in reversed(chain.links):
        params, xs = saved.pop()
        back = pieces.run(
            ("pull back", link.runs), partial(_pull_back, link), params, xs, cotangents.pop()
        )
        for source, more in zip(link.takes, back, strict=True):
            before = cotangents[source]
            cotangents[source] = (
                more if before is None else pieces.run("add", jnp.add, before, more)
            )
    found: Array = cotangents[0]
    return found


def _outputs(link: Link, params: Any, *xs: Array) -> Array:
    with rules_in_force(*fast_rules(), batch_norm_rule("batch")):
        outputs: Any = link.runs.apply({"params": params}, *xs)
    return outputs


def _pull_back(link: Link, params: Any, xs: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    return jax.vjp(partial(_outputs, link, params), *xs)[1](g)
