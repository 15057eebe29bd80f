"""The exact empirical NTK in one forward and one backward pass.

A layer with per-example parameter gradients G_i contributes <G_i, G_j> to the NTK. Every layer gets
an extra argument, an n x m array of zeros that does not affect its output, and a reverse rule that
returns the Gram matrix of its per-example gradients as that argument's cotangent. All layers share
the same array and JAX adds cotangents, so the gradient with respect to this array is the whole NTK.
Nothing of size n x P is kept for more than one layer, and an operation that `lax.cond` skips costs
nothing.

That is how networks of our own spaces run: their layers are known. Of any other network the program
is read (`ntk.program`). The result is exact if examples do not interact: batch norm must treat its
statistics as constants.

A mesh axis can divide the images over devices (`sharded`). Each device then computes its own rows
of every Gram matrix, receives the gradients of the other columns from the other devices, and takes
the statistics of the columns as means over all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk import output_blocks as blocks_of
from saboc_jax.ntk.batches import (
    concatenated,
    in_chunks,
    leading,
    number_of,
    repeated,
    split_batches,
)
from saboc_jax.ntk.frontier import find_frontier
from saboc_jax.ntk.gram import Columns
from saboc_jax.ntk.network import Network, check_outputs, output_shape
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.program import Level, TappedProgram
from saboc_jax.ntk.reading import ReadNetwork
from saboc_jax.ntk.taps import tap_rule

Pull = Callable[[Array], Array]
"""From a cotangent of the outputs to the kernel [n, m]."""


class Passes(NamedTuple):
    """A network whose reverse pass gives its kernel.

    Attributes:
        network: at fixed weights; batch norm is frozen at the statistics of the columns.
        predicate: which parameters count.
        read: its program; None: its layers are known.
        axis: the mesh axis that divides images over devices; None: one device has all.
    """

    network: Network
    predicate: Predicate
    read: ReadNetwork | None = None
    axis: str | None = None

    def forward(self, inputs: Any, columns: int) -> tuple[Array, Pull]:
        """Returns the outputs [n, k], and the reverse pass.

        Args:
            inputs: the columns first.
            columns: how many of them this device has.
        """
        run = self._by_layers if self.read is None else self._by_program
        return run(inputs, Columns(columns, self.axis))

    def _by_layers(self, inputs: Array, columns: Columns) -> tuple[Array, Pull]:
        def run(tap: Array) -> Array:
            with nn.intercept_methods(tap_rule(tap, self.predicate, axis=self.axis)):
                return check_outputs(self.network.apply(self.network.variables, inputs)[0])

        dtype = _dtype(self.network, inputs)
        y, pull = jax.vjp(run, jnp.zeros((len(inputs), columns.number), dtype))
        return y, lambda g: pull(g)[0]

    def _by_program(self, inputs: Any, columns: Columns) -> tuple[Array, Pull]:
        read: Any = self.read
        others = dict(self.network.variables)
        leaves = jax.tree.leaves(others.pop("params"))
        rest, examples = jax.tree.leaves(others), jax.tree.leaves(inputs)
        number = number_of(inputs)
        chosen = [self.predicate(path) for path in read.paths]
        program = TappedProgram(Level(find_frontier(read.program, read.kinds(chosen)), number))
        taps = program.taps(number, columns.number, _dtype(self.network, inputs))

        def run(taps: Any) -> Array:
            return program.run((*leaves, *rest), examples, taps, columns)[0]

        y, pull = jax.vjp(run, taps)
        return y, lambda g: program.kernel((*leaves, *rest), pull(g)[0], columns)


def one_backward_kernels(
    passes: Passes,
    columns: Any,
    rows: Sequence[Any],
    options: NTKOptions,
) -> list[Array]:
    """Computes kernels with the engine `one_backward`, a chunk of rows at a time.

    Args:
        passes: of a network that the engine supports, see `choose_engine`.
        columns: all columns, or this device's share.
        rows: batches of rows, or this device's share of each.
        options: outputs and memory; `chunk` is that of one device.
    """

    def run(columns: Any, others: Sequence[Any]) -> Array:
        inputs, count = concatenated([columns, *others]), number_of(columns)
        if options.outputs == "full":
            width = output_shape(passes.network, inputs).shape[-1]
            size = blocks_of.block_size(width, number_of(inputs), options.outputs_chunk)
            if size < width:
                return _full_in_blocks(passes, inputs, count, size)
        return one_backward(passes, inputs, count, options.outputs)

    if options.chunk is None:
        return split_batches(run(columns, rows), [columns, *rows])

    def blocks(columns: Any, batch: Any) -> Array:
        chunked = lambda part: run(columns, [part])[number_of(columns) :]  # noqa: E731
        return in_chunks(chunked, batch, options.chunk)

    if passes.read is None or passes.axis is not None:  # statistics need all columns in a pass
        return [blocks(columns, batch) for batch in (columns, *rows)]
    return [
        in_chunks(
            lambda some: blocks(some, batch).swapaxes(0, 1),  # noqa: B023
            columns,
            options.chunk,
        ).swapaxes(0, 1)
        for batch in (columns, *rows)
    ]


def one_backward(
    passes: Passes, inputs: Any, columns: int, outputs: str = "sum"
) -> Float[Array, "n m"]:
    """Computes the NTK of all inputs with the first `columns` inputs.

    With a mesh axis: of this device's inputs with the columns of all devices.

    Args:
        passes: of the network.
        inputs: the columns first.
        columns: m, or this device's share of them.
        outputs: "sum" (NTK of the sum of outputs), "trace" (mean over outputs of each
            output's NTK) or "full" (every pair of outputs).

    Returns:
        [n, m], or [n, m, k, k] for "full".
    """
    if outputs == "full":
        return _full(passes, inputs, columns)
    y, pull = passes.forward(inputs, columns)
    if outputs == "sum":
        return pull(jnp.ones_like(y))
    one_hot = jnp.eye(y.shape[-1], dtype=y.dtype)
    kernels = lax.map(lambda row: pull(jnp.broadcast_to(row, y.shape)), one_hot)
    return kernels.mean(0)


def _full(passes: Passes, inputs: Any, columns: int) -> Array:
    """Treats every output of every example as its own example: still one backward pass."""
    number, width = number_of(inputs), output_shape(passes.network, inputs).shape[-1]
    y, pull = passes.forward(repeated(inputs, width), columns * width)
    kernel = pull(jnp.tile(jnp.eye(width, dtype=y.dtype), (number, 1)))
    return kernel.reshape(number, width, -1, width).transpose(0, 2, 1, 3)


def _full_in_blocks(
    passes: Passes, inputs: Any, columns: int, size: int
) -> Float[Array, "n m k k"]:
    """Computes the "full" NTK with one backward pass for each pair of blocks of outputs.

    The batch holds the columns twice, once for either block.

    Args:
        passes: of the network.
        inputs: the columns first.
        columns: m, or this device's share of them.
        size: outputs of a block.
    """
    shape, number = output_shape(passes.network, inputs), number_of(inputs)
    batch = repeated(concatenated([leading(inputs, columns), inputs]), size)
    y, pull = passes.forward(batch, columns * size)

    def pairs(left: blocks_of.Weights) -> Callable[[blocks_of.Weights], list[Array]]:
        def with_right(right: blocks_of.Weights) -> list[Array]:
            cotangent = jnp.concatenate(
                [jnp.tile(right, (columns, 1)), jnp.tile(left, (number, 1))]
            )
            kernel = pull(cotangent.astype(y.dtype))[columns * size :]
            return [kernel.reshape(number, size, -1, size).transpose(0, 2, 1, 3)]

        return with_right

    return blocks_of.full(pairs, shape.shape[-1], size)[0]


def _dtype(network: Network, inputs: Any) -> Any:
    """Returns the kernel's type, float32 or better; inputs can be integers (tokens)."""
    leaves = [*jax.tree.leaves(network.variables["params"]), *jax.tree.leaves(inputs)]
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.promote_types(jnp.result_type(*floats), jnp.float32)
