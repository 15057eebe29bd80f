"""Passes over a chain, link by link, and gradients with respect to its images.

A gradient through a whole network is a program for every architecture, and compiling it takes many
times longer than running it. Architectures share a chain's links (`saboc_jax.layers.chain`): each
has a forward program, and a backward program that runs forward again.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.interceptors import Interceptor, rules_in_force
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.rules import batch_norm_rule, fast_rules
from saboc_jax.types import PRNGKey

Saved = list[tuple[Any, tuple[Array, ...]]]  # parameters and inputs of every link


def run_forward(
    chain: Chain,
    pieces: ProgramCache,
    key: PRNGKey,
    images: Float[Array, "n ..."],
    run: Callable[..., Array],
    *name: Hashable,
) -> tuple[Array, Saved]:
    """Runs a chain at weights of a key; returns (its outputs, what every link was given).

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        key: seeds the weights.
        images: a batch.
        run: (link, parameters, *inputs) gives the outputs of a link.
        *name: names `run` in the cache, beside the link's module.
    """
    outputs, saved = [images], []
    drawn = chain.draw(key, images.shape[1:], images.dtype, pieces)
    for link, params in zip(chain.links, drawn, strict=True):
        xs = tuple(outputs[place] for place in link.takes)
        params = jax.device_put(link.padded(params, xs))
        named = (name[0], link.runs, *name[1:])
        outputs.append(pieces.run(named, partial(run, link), params, *xs))
        saved.append((params, xs))
    return outputs[-1], saved


def add_cotangents(
    link: Link, back: Sequence[Array], cotangents: list[Any], pieces: ProgramCache
) -> None:
    """Adds the cotangents of a link's inputs to those of the outputs that they are."""
    for source, more in zip(link.takes, back, strict=True):
        before = cotangents[source]
        cotangents[source] = more if before is None else pieces.run("add", jnp.add, before, more)


def run_backward(
    chain: Chain,
    pieces: ProgramCache,
    saved: Saved,
    g: Array,
    pull: Callable[..., tuple[tuple[Array, ...], Any]],
    *name: Hashable,
) -> tuple[Array, list[Any]]:
    """Runs a chain backward; returns (cotangent of the images, what each link found, last first).

    Args:
        chain: the network.
        pieces: the cache of compiled links.
        saved: of `run_forward`; emptied.
        g: cotangent of the outputs.
        pull: (link, parameters, inputs, cotangent) gives (cotangents of the inputs, what it finds).
        *name: names `pull` in the cache, beside the link's module.
    """
    cotangents: list[Any] = [None] * len(chain.links) + [g]
    found = []
    for link in reversed(chain.links):
        params, xs = saved.pop()
        named, own = (name[0], link.runs, *name[1:]), partial(pull, link)
        back, value = pieces.run(named, own, params, xs, cotangents.pop())
        found.append(value)
        add_cotangents(link, back, cotangents, pieces)
    return cotangents[0], found


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
    last, saved = run_forward(chain, pieces, key, images, outputs_of, "outputs")
    return run_backward(chain, pieces, saved, jnp.ones_like(last), _pull_back, "pull back")[0]


def outputs_of(link: Link, params: Any, *xs: Array, rules: Sequence[Interceptor] = ()) -> Array:
    """Returns the outputs of a link, batch norms with the batch's statistics, under rules."""
    with rules_in_force(*rules, *fast_rules(), batch_norm_rule("batch")):
        outputs: Any = link.runs.apply({"params": params}, *xs)
    return outputs


def _pull_back(
    link: Link, params: Any, xs: tuple[Array, ...], g: Array
) -> tuple[tuple[Array, ...], None]:
    return jax.vjp(partial(outputs_of, link, params), *xs)[1](g), None
