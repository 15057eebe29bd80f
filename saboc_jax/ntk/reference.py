"""The engine `neural_tangents`: the reference for checks of the other engines."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk import _neural_tangents
from saboc_jax.ntk.batches import in_chunks, number_of
from saboc_jax.ntk.functions import Function, by_outputs, network_function
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import PRECISION

Inputs = Callable[[Array], Any]


def reference_kernels(
    network: Network,
    columns: Any,
    rows: Sequence[Any],
    predicate: Predicate,
    options: NTKOptions,
) -> list[Array]:
    """Computes kernels with neural-tangents; arguments as in `empirical.empirical_ntks`.

    Raises:
        MissingExtraError: if neural-tangents is not installed.
    """
    if options.implementation == 2:  # uses forward mode, which fast convolutions lack
        network = network._replace(forward_mode=True)
    function, leaves = network_function(network, columns, predicate, options)
    independent = options.is_independent
    kernel = partial(
        _neural_tangents.empirical_ntk,
        implementation=options.implementation,
        vmap_axes=0 if independent else None,
        trace_axes=() if options.outputs == "full" else (-1,),
    )
    chunk = options.chunk if independent else None

    def whole(f: Function, left: Inputs, right: Inputs) -> list[Array]:
        run = lambda part: kernel(f, leaves, left(part), right(columns))  # noqa: E731
        if left is right and chunk is None:
            square = kernel(f, leaves, left(columns))  # one Jacobian serves both sides
        else:
            square = in_chunks(run, columns, chunk)
        return [square, *(in_chunks(run, r, chunk) for r in rows)]

    def weighted(leaves: list[Array], pair: tuple[Array, Array]) -> Array:
        outputs = function(leaves, pair[0])
        return jnp.einsum("nk,nbk->nb", outputs, pair[1], precision=PRECISION)

    def block(weights: Array) -> list[Array]:
        inputs = _with_weights(weights)
        return whole(weighted, inputs, inputs)

    return by_outputs(
        network,
        columns,
        options,
        lambda: whole(function, _images_alone, _images_alone),
        block,
        lambda a: lambda b: whole(weighted, _with_weights(a), _with_weights(b)),
    )


def _images_alone(images: Any) -> Any:
    return images


def _with_weights(weights: Float[Array, "b k"]) -> Inputs:
    """Pairs every image with the same output weights; neural-tangents takes any tree of inputs."""
    return lambda images: (images, jnp.broadcast_to(weights, (number_of(images), *weights.shape)))
