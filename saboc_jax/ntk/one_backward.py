"""The exact empirical NTK in one forward and one backward pass.

For a layer with per-example parameter gradient G_i, its part of the NTK is <G_i, G_j>. Every
layer gets an extra argument, an n x m array of zeros that does not affect its output, and a
reverse rule that gives the Gram matrix of its per-example gradients as that argument's
cotangent. JAX adds cotangents, so the gradient with respect to the one array that all layers
share is the whole NTK. Nothing of size n x P is kept for more than one layer, and an operation
that `lax.cond` skips costs nothing.

Exact when examples do not interact: batch norm must take its statistics as constants
("frozen"), and each layer must be called once.

Images may be shared out over the devices of a mesh axis (`sharded`). A device then has its own
rows of every Gram matrix, for which it gets the gradients of all columns from the others, and the
statistics of the columns are means over all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.tree import flatten
from saboc_jax.ntk import output_blocks as blocks_of
from saboc_jax.ntk.batches import in_chunks, split_batches
from saboc_jax.ntk.gram_layers import Columns
from saboc_jax.ntk.network import Network, Predicate, check_outputs
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.taps import LAYERS, Uses, tap_rule


def one_backward_kernels(
    network: Network,
    columns: Array,
    rows: Sequence[Array],
    predicate: Predicate,
    options: NTKOptions,
    axis: str | None = None,
) -> list[Array]:
    """The kernels of the engine `one_backward`, a chunk of rows at a time.

    Args:
        network: that the engine applies to, see `choose_engine`.
        columns: all, or this device's share of them.
        rows: of each batch all, or this device's share of them.
        predicate: which parameters count.
        options: outputs and memory; their chunk is that of one device.
        axis: of a mesh over whose devices images are shared out; None: all are here.
    """
    count = columns.shape[0]

    def run(images: Array) -> Array:
        if options.outputs == "full":
            size, width = blocks_of.block_size(network, images, options.outputs_chunk)
            if size < width:
                return _full_in_blocks(network, images, count, predicate, size, axis)
        return one_backward(network, images, count, predicate, options.outputs, axis)

    if options.chunk is None:
        return split_batches(run(jnp.concatenate([columns, *rows])), [columns, *rows])

    def blocks(batch: Array) -> Array:
        chunked = lambda part: run(jnp.concatenate([columns, part]))[count:]  # noqa: E731
        return in_chunks(chunked, batch, options.chunk)

    return [blocks(batch) for batch in (columns, *rows)]


def one_backward(
    network: Network,
    images: Float[Array, "n ..."],
    columns: int,
    predicate: Predicate,
    outputs: str = "sum",
    axis: str | None = None,
) -> Float[Array, "n m"]:
    """The NTK of all images with the first `columns` of them.

    Where images are shared out over devices: of this device's images with the columns of all.

    Args:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        images: the columns first.
        columns: m, or this device's share of them.
        predicate: which parameters count.
        outputs: "sum" (NTK of the sum of outputs), "trace" (mean over outputs of each
            output's NTK) or "full" (every pair of outputs).
        axis: of a mesh over whose devices images are shared out; None: all are here.

    Returns:
        [n, m], or [n, m, k, k] for "full".
    """
    if outputs == "full":
        return _full(network, images, Columns(columns, axis), predicate)

    def run(tap: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, axis=axis)):
            return check_outputs(network.apply(network.variables, images)[0])

    shape = (images.shape[0], Columns(columns, axis).number)
    y, pull = jax.vjp(run, jnp.zeros(shape, _dtype(network, images)))
    if outputs == "sum":
        return pull(jnp.ones_like(y))[0]
    one_hot = jnp.eye(y.shape[-1], dtype=y.dtype)
    kernels = lax.map(lambda row: pull(jnp.broadcast_to(row, y.shape))[0], one_hot)
    return kernels.mean(0)


def _full(network: Network, images: Array, columns: Columns, predicate: Predicate) -> Array:
    """Every output of every example becomes an example of its own: still one backward pass."""

    def run(tap: Array, images: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, axis=columns.axis)):
            return network.apply(network.variables, images)[0]

    dtype = _dtype(network, images)
    tap = jax.ShapeDtypeStruct((images.shape[0], columns.number), dtype)
    width = check_outputs(jax.eval_shape(run, tap, images)).shape[-1]
    repeated = jnp.repeat(images, width, axis=0)
    taps = jnp.zeros((images.shape[0] * width, columns.number * width), dtype)
    y, pull = jax.vjp(lambda tap: run(tap, repeated), taps)
    kernel = pull(jnp.tile(jnp.eye(width, dtype=y.dtype), (images.shape[0], 1)))[0]
    kernel = kernel.reshape(images.shape[0], width, columns.number, width)
    return kernel.transpose(0, 2, 1, 3)


def _full_in_blocks(
    network: Network,
    images: Float[Array, "n ..."],
    columns: int,
    predicate: Predicate,
    size: int,
    axis: str | None = None,
) -> Float[Array, "n m k k"]:
    """`one_backward` of every pair of outputs: a backward pass for each pair of blocks.

    The columns stand in the batch twice, once for either block.

    Args:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        images: the columns first.
        columns: m, or this device's share of them.
        predicate: which parameters count.
        size: outputs of a block.
        axis: of a mesh over whose devices images are shared out; None: all are here.
    """
    shape, number = blocks_of.output_shape(network, images), images.shape[0]
    all_columns = Columns(columns, axis).number
    batch = jnp.repeat(jnp.concatenate([images[:columns], images]), size, axis=0)
    dtype = jnp.result_type(shape.dtype, *jax.tree.leaves(network.variables["params"]))

    def run(tap: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, axis=axis)):
            return network.apply(network.variables, batch)[0]

    y, pull = jax.vjp(run, jnp.zeros((len(batch), all_columns * size), dtype))

    def pairs(left: blocks_of.Weights) -> Callable[[blocks_of.Weights], list[Array]]:
        def with_right(right: blocks_of.Weights) -> list[Array]:
            cotangent = jnp.concatenate(
                [jnp.tile(right, (columns, 1)), jnp.tile(left, (number, 1))]
            )
            kernel = pull(cotangent.astype(y.dtype))[0][columns * size :]
            return [kernel.reshape(number, size, all_columns, size).transpose(0, 2, 1, 3)]

        return with_right

    return blocks_of.full(pairs, shape.shape[-1], size)[0]


def _dtype(network: Network, images: Array) -> Any:
    """Of the kernel, float32 or better; images may be integers (tokens)."""
    leaves = jax.tree.leaves(network.variables["params"])
    inputs = [images] if jnp.issubdtype(images.dtype, jnp.inexact) else []
    return jnp.promote_types(jnp.result_type(*leaves, *inputs), jnp.float32)


def _uses(network: Network, number: int, images: Array, predicate: Predicate) -> Uses:
    """What a forward pass of `number` images does, by its shapes alone."""
    uses = Uses()

    def run(tap: Array, images: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, uses)):
            return network.apply(network.variables, images)[0]

    tap = jax.ShapeDtypeStruct((number, number), _dtype(network, images))
    jax.eval_shape(run, tap, jax.ShapeDtypeStruct((number, *images.shape[1:]), images.dtype))
    return uses


def unsupported_reason(network: Network, images: Array, predicate: Predicate) -> str | None:
    """Why the engine does not apply to a network; None: it applies."""
    uses = _uses(network, images.shape[0], images, predicate)
    # An axis of positions may be as long as the batch; it does not grow with it.
    more = _uses(network, images.shape[0] + 1, images, predicate)
    if obstacles := uses.obstacles + more.obstacles:
        return obstacles[0]
    calls = uses.calls
    for path in flatten(network.variables["params"]):
        if not predicate(path):
            continue
        if path not in calls:
            return (
                f"parameter {'/'.join(path)} belongs to no layer it knows; it knows "
                f"{', '.join(layer.__name__ for layer in LAYERS)}"
            )
        if calls[path] > 1 and not network.layers_per_leaf(path):
            return f"parameter {'/'.join(path)} is used {calls[path]} times in one forward pass"
    return None


def check_supported(network: Network, images: Array, predicate: Predicate) -> None:
    """Raises ValueError if the engine does not apply to a network."""
    if reason := unsupported_reason(network, images, predicate):
        raise ValueError(f"engine 'one_backward' does not apply: {reason}")
