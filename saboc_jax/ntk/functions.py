"""A network as a function of its chosen parameters, for engines that differentiate all of it."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk import output_blocks as blocks_of
from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.network import (
    STATISTICS,
    Network,
    check_outputs,
    observed,
    output_shape,
    split_parameters,
)
from saboc_jax.ntk.options import NTKOptions

Function = Callable[[list[Array], Any], Array]


def network_function(
    network: Network, columns: Any, predicate: Predicate, options: NTKOptions
) -> tuple[Function, list[Array]]:
    """Returns f(parameters, inputs) -> [n, k], with the chosen batch norm, and the parameters."""
    variables = dict(network.variables)
    leaves, restore = split_parameters(variables.pop("params"), predicate)
    mode = "batch" if options.batch_norm == "batch" else "stored"
    if network.known_layers and options.is_frozen:
        recorded = record_statistics(network, columns)
        mode = "stored" if recorded else "batch"
        variables |= {STATISTICS: recorded} if recorded else {}

    def function(leaves: list[Array], inputs: Any) -> Array:
        given = {**variables, "params": restore(leaves)}
        outputs = observed(check_outputs(network.outputs(given, inputs, mode)))
        return outputs.sum(-1, keepdims=True) if options.outputs == "sum" else outputs

    return function, leaves


def record_statistics(network: Network, images: Array) -> Any:
    """Records the statistics of a batch at every batch norm of known layers, as a collection."""
    with nn.intercept_methods(batch_norm_rule("frozen")):
        state = network.apply(network.variables, images, ("batch_stats",))[1]
    return lax.stop_gradient(state.get("batch_stats", {}))


def by_outputs(
    network: Network,
    images: Any,
    options: NTKOptions,
    whole: Callable[[], list[Array]],
    block: Callable[[Array], list[Array]],
    pairs: blocks_of.Pairs,
) -> list[Array]:
    """Computes kernels of all outputs at once if they are few, else block by block."""
    if options.outputs == "sum":
        return whole()
    width = output_shape(network, images).shape[-1]
    size = blocks_of.block_size(width, number_of(images), options.outputs_chunk)
    if size >= width:
        return whole()
    if options.outputs == "trace":
        return blocks_of.trace(block, width, size)
    return blocks_of.full(pairs, width, size)
