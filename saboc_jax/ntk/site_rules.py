"""Rules of products and lookups: Gram matrices without gradients, where that costs less."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.jaxpr import EXAMPLE, PARAMETER, Equation
from saboc_jax.ntk.general_rule import GeneralRule, Values
from saboc_jax.ntk.gram import Columns, gram_of_places
from saboc_jax.precision import PRECISION


class ProductRule(GeneralRule):
    """A matrix product without batch axes: inner products of inputs times those of cotangents."""

    def gram(self, values: Values, cotangents: Values, columns: Columns) -> Array | None:
        """Takes whichever costs less: products of inner products, or of gradients."""
        x, g = self.matrices(values, cotangents[0])
        return gram_of_places(x, g, columns)

    def matrices(self, values: Values, g: Array) -> tuple[Array, Array]:
        """Returns inputs [n, places, contracted] and cotangents [n, places, outputs]."""
        side = self.kinds.index(EXAMPLE)
        contracted, _ = self.equation.params["dimension_numbers"]
        x, axes = values[side], [1 + axis for axis in contracted[side]]
        kept = [axis for axis in range(1, x.ndim) if axis not in axes]
        places = math.prod(x.shape[axis] for axis in kept)
        x = x.transpose(0, *kept, *axes).reshape(len(x), places, -1)
        if side == 0:  # the example's free axes come first in the result
            return x, g.reshape(len(g), places, -1)
        return x, g.reshape(len(g), -1, places).swapaxes(1, 2)


class LookupRule(GeneralRule):
    """Rows of a table by index: only equal indices have inner products."""

    def gram(self, values: Values, cotangents: Values, columns: Columns) -> Array | None:
        """Masks the inner products of cotangents where indices differ."""
        indices, g = self.seen(values, cotangents[0])
        n, places, width = len(indices), indices.shape[1], values[0].shape[1]
        same = indices.reshape(-1, 1) == columns.of(indices).reshape(1, -1)
        inner = jnp.matmul(
            g.reshape(-1, width), columns.of(g).reshape(-1, width).T, precision=PRECISION
        )
        return jnp.where(same, inner, 0).reshape(n, places, -1, places).sum((1, 3))

    def seen(self, values: Values, g: Array) -> tuple[Array, Array]:
        """Returns the rows that are read [n, places] and their cotangents [n, places * width]."""
        table, indices = values
        n, width = len(indices), table.shape[1]
        indices, g = indices.reshape(n, -1), g.reshape(n, -1)
        if self.equation.params["mode"] == lax.GatherScatterMode.CLIP:
            return jnp.clip(indices, 0, len(table) - 1), g
        outside = (indices < 0) | (indices >= len(table))  # an index outside reads no row
        g = jnp.where(outside[..., None], 0, g.reshape(*indices.shape, width)).reshape(n, -1)
        return jnp.clip(indices, 0, len(table) - 1), g


def is_product(equation: Equation, kinds: Sequence[str]) -> bool:
    """Is it a matrix product of an example's value with a parameter's, without batch axes?"""
    if equation.name != "dot_general" or set(kinds) != {EXAMPLE, PARAMETER}:
        return False
    _, (left, right) = equation.params["dimension_numbers"]
    return not (left or right)


def is_lookup(equation: Equation, kinds: Sequence[str]) -> bool:
    """Does it read whole rows of a parameter [rows, width] by an example's indices?"""
    if equation.name != "gather" or tuple(kinds) != (PARAMETER, EXAMPLE):
        return False
    params, table = equation.params, equation.source.invars[0].aval
    numbers, result = params["dimension_numbers"], equation.source.outvars[0].aval
    if table.ndim != 2 or getattr(numbers, "operand_batching_dims", ()):
        return False
    rows = tuple(numbers.collapsed_slice_dims) == tuple(numbers.start_index_map) == (0,)
    whole = tuple(params["slice_sizes"]) == (1, table.shape[1])
    return rows and whole and tuple(numbers.offset_dims) == (result.ndim - 1,)
