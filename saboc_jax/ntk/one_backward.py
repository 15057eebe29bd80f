"""The exact empirical NTK in one forward and one backward pass.

A layer with per-example parameter gradients G_i contributes <G_i, G_j> to the NTK. Every layer gets
an extra argument, an n x m array of zeros that does not affect its output, and a reverse rule that
returns the Gram matrix of its per-example gradients as that argument's cotangent. All layers share
the same array and JAX adds cotangents, so the gradient with respect to this array is the whole NTK.
Nothing of size n x P is kept for more than one layer, and an operation that `lax.cond` skips costs
nothing.

The result is exact if examples do not interact: batch norm must treat its statistics as constants
("frozen"), and each layer must be called once.

A mesh axis can divide the images over devices (`sharded`). Each device then computes its own rows
of every Gram matrix, receives the gradients of the other columns from the other devices, and takes
the statistics of the columns as means over all devices.
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
    """Computes kernels with the engine `one_backward`, a chunk of rows at a time.

    Args:
        network: one that the engine supports, see `choose_engine`.
        columns: all columns, or this device's share.
        rows: batches of rows, or this device's share of each.
        predicate: which parameters count.
        options: outputs and memory; `chunk` is that of one device.
        axis: the mesh axis that divides images over devices; None: one device has all.
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
    """Computes the NTK of all images with the first `columns` images.

    With a mesh axis: of this device's images with the columns of all devices.

    Args:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        images: the columns first.
        columns: m, or this device's share of them.
        predicate: which parameters count.
        outputs: "sum" (NTK of the sum of outputs), "trace" (mean over outputs of each
            output's NTK) or "full" (every pair of outputs).
        axis: the mesh axis that divides images over devices; None: one device has all.

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
    """Treats every output of every example as its own example: still one backward pass."""

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
    """Computes the "full" NTK with one backward pass for each pair of blocks of outputs.

    The batch holds the columns twice, once for either block.

    Args:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        images: the columns first.
        columns: m, or this device's share of them.
        predicate: which parameters count.
        size: outputs of a block.
        axis: the mesh axis that divides images over devices; None: one device has all.
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
    """Returns the kernel's type, float32 or better; images can be integers (tokens)."""
    leaves = jax.tree.leaves(network.variables["params"])
    inputs = [images] if jnp.issubdtype(images.dtype, jnp.inexact) else []
    return jnp.promote_types(jnp.result_type(*leaves, *inputs), jnp.float32)


def _uses(network: Network, number: int, images: Array, predicate: Predicate) -> Uses:
    """Traces how a forward pass of `number` images uses parameters, by shapes alone."""
    uses = Uses()

    def run(tap: Array, images: Array) -> Array:
        with nn.intercept_methods(tap_rule(tap, predicate, uses)):
            return network.apply(network.variables, images)[0]

    tap = jax.ShapeDtypeStruct((number, number), _dtype(network, images))
    jax.eval_shape(run, tap, jax.ShapeDtypeStruct((number, *images.shape[1:]), images.dtype))
    return uses


def unsupported_reason(network: Network, images: Array, predicate: Predicate) -> str | None:
    """Returns why the engine does not apply to a network; None: it applies."""
    uses = _uses(network, images.shape[0], images, predicate)
    # An axis of positions can be as long as the batch; only the batch axis grows with the batch.
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
