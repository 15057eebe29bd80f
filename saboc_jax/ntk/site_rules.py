"""How one operation pulls cotangents back, and the gradients of its parameters for each example.

A rule serves one equation of a program, for a batch: values of examples have a leading axis of
examples, values of parameters do not. `GeneralRule` is right for every operation. The others
compute the same faster.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.jaxpr import EXAMPLE, PARAMETER, Equation, evaluate
from saboc_jax.ntk.gram import Columns, gram
from saboc_jax.precision import PRECISION

Values = Sequence[Any]


def batched(equation: Equation, kinds: Sequence[str]) -> Callable[..., list[Any]]:
    """Returns the equation for a batch: examples' values have a leading axis of examples."""
    axes = [0 if kind == EXAMPLE else None for kind in kinds]
    return jax.vmap(lambda *operands: evaluate(equation, *operands), in_axes=axes)


def is_float(value: Any) -> bool:
    """Can the value have a cotangent?"""
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


@dataclass(frozen=True, eq=False)
class GeneralRule:
    """Any operation, by its own derivative for one example under `jax.vmap`.

    Attributes:
        equation: the operation.
        kinds: the kind of each operand.
    """

    equation: Equation
    kinds: tuple[str, ...]

    def forward(self, values: Values) -> list[Any]:
        """Computes the results of a batch."""
        return batched(self.equation, self.kinds)(*values)

    def backward(
        self, values: Values, cotangents: Values, with_rows: bool
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """Pulls cotangents back.

        Args:
            values: the operands.
            cotangents: of the results.
            with_rows: compute gradients of parameter-only operands, too?

        Returns:
            The cotangents of examples' operands, and the gradients [n, ...] of parameter-only
            operands for each example, both by position.
        """
        moving = self._positions(values, EXAMPLE)
        fixed = self._positions(values, PARAMETER) if with_rows else []
        whole = [p for p, kind in enumerate(self.kinds) if kind == EXAMPLE]

        def one(own: Values, cotangents: Values) -> Any:
            operands = list(values)
            for position, value in zip(whole, own, strict=True):
                operands[position] = value

            def run(*varied: Any) -> list[Any]:
                for position, value in zip((*moving, *fixed), varied, strict=True):
                    operands[position] = value
                return [y for y in evaluate(self.equation, *operands) if is_float(y)]

            at = [operands[position] for position in (*moving, *fixed)]
            return jax.vjp(run, *at)[1](list(cotangents))

        floats = [y for y in cotangents if y.dtype != jax.dtypes.float0]
        pulled = jax.vmap(one)([values[p] for p in whole], floats)
        count = len(moving)
        return (
            dict(zip(moving, pulled[:count], strict=True)),
            dict(zip(fixed, pulled[count:], strict=True)),
        )

    def gram(self, values: Values, cotangents: Values, columns: Columns) -> Array | None:
        """Computes the Gram matrix of the only parameter's gradients; None: by its rows."""
        return None

    def _positions(self, values: Values, kind: str) -> list[int]:
        chosen = enumerate(zip(values, self.kinds, strict=True))
        return [p for p, (value, own) in chosen if own == kind and is_float(value)]


class ProductRule(GeneralRule):
    """A matrix product without batch axes: inner products of inputs times those of cotangents."""

    def gram(self, values: Values, cotangents: Values, columns: Columns) -> Array | None:
        """Takes whichever costs less: products of inner products, or of gradients."""
        x, g = self._matrices(values, cotangents[0])
        n, places, inner, outer = len(x), x.shape[1], x.shape[2], g.shape[2]
        if places == 1:
            return gram(x[:, 0], columns) * gram(g[:, 0], columns)
        pairs = columns.number * places * places * (inner + outer)
        if pairs > places * inner * outer + columns.number * inner * outer:
            return None
        here, there = x.reshape(n, -1), g.reshape(n, -1)
        x2 = columns.of(here).reshape(-1, places, inner)
        g2 = columns.of(there).reshape(-1, places, outer)
        product = partial(jnp.einsum, "itd,jsd->ijts", precision=PRECISION)
        return jnp.einsum("ijts,ijts->ij", product(x, x2), product(g, g2), precision=PRECISION)

    def _matrices(self, values: Values, g: Array) -> tuple[Array, Array]:
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
        table, indices = values
        n, width = len(indices), table.shape[1]
        indices, g = indices.reshape(n, -1), cotangents[0].reshape(n, -1)
        if self.equation.params["mode"] == lax.GatherScatterMode.CLIP:
            indices = jnp.clip(indices, 0, len(table) - 1)
        else:  # an index outside reads no row
            outside = (indices < 0) | (indices >= len(table))
            g = jnp.where(outside[..., None], 0, g.reshape(*indices.shape, width)).reshape(n, -1)
        places = indices.shape[1]
        same = indices.reshape(-1, 1) == columns.of(indices).reshape(1, -1)
        inner = jnp.matmul(
            g.reshape(-1, width), columns.of(g).reshape(-1, width).T, precision=PRECISION
        )
        return jnp.where(same, inner, 0).reshape(n, places, -1, places).sum((1, 3))


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
