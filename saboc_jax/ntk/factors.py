"""Large parameters that meet examples in several products and lookups, such as tied embeddings.

The gradient of a matrix [rows, columns] in one use is a sum over places t of outer products
left_t x right_t; of a lookup, left_t picks one row. So the inner product of two gradients is a sum
over pairs of places of products of inner products, and no gradient [n, rows, columns] exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.frontier import Operand
from saboc_jax.ntk.gram import Columns
from saboc_jax.ntk.site_rules import LookupRule, ProductRule
from saboc_jax.precision import PRECISION


@dataclass(frozen=True, eq=False)
class Factors:
    """The gradients of one use, as factors.

    Attributes:
        left: [n, places, rows], or the looked up rows [n, places] as floats.
        right: [n, places, columns].
    """

    left: Array
    right: Array

    @property
    def looks_up(self) -> bool:
        """Does `left` hold the numbers of rows?"""
        return self.left.ndim == 2


def row_axis(operand: Operand) -> int | None:
    """Returns which axis of the operand's value is the parameter's first; None: no such axis.

    It is one if the parameter is a matrix that reaches the value through transposes alone.
    """
    if len(operand.anchors) != 1:
        return None
    axes = [0, 1]
    for equation in operand.chain:
        if equation.name == "transpose":
            axes = [axes[axis] for axis in equation.params["permutation"]]
        elif equation.name not in ("convert_element_type", "copy"):
            return None
    return axes.index(0)


def can_factor(rule: Any, operand: Operand, shape: tuple[int, ...]) -> bool:
    """Are the gradients of this use sums of outer products, for a parameter of this shape?"""
    axis = row_axis(operand) if len(shape) == 2 else None
    if axis is None:
        return False
    if isinstance(rule, LookupRule):
        return axis == 0
    if not isinstance(rule, ProductRule):
        return False
    contracted, _ = rule.equation.params["dimension_numbers"]
    return len(contracted[operand.position]) == 1


def factors_of(
    rule: Any, operand: Operand, values: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[Array, Array]:
    """Returns left and right factors of the gradients of a use; see `Factors`."""
    if isinstance(rule, LookupRule):
        indices, g = rule.seen(values, cotangents[0])
        return indices.astype(g.dtype), g.reshape(*indices.shape, -1)
    x, g = rule.matrices(values, cotangents[0])
    (contracted,) = rule.equation.params["dimension_numbers"][0][operand.position]
    return (x, g) if contracted == row_axis(operand) else (g, x)


def factor_taps(rule: Any, operand: Operand, number: int, dtype: Any) -> tuple[Array, Array]:
    """Returns zeros of the shapes of `factors_of`."""
    source = rule.equation.source
    result = source.outvars[0].aval
    value = source.invars[operand.position].aval
    if isinstance(rule, LookupRule):
        places = result.size // value.shape[1]
        shapes: tuple[tuple[int, ...], ...] = ((number, places), (number, places, value.shape[1]))
    else:
        (contracted,) = rule.equation.params["dimension_numbers"][0][operand.position]
        places = result.size // value.shape[1 - contracted]
        rows, columns = (value.shape[a] for a in (row_axis(operand), 1 - (row_axis(operand) or 0)))  # type: ignore[index]
        shapes = ((number, places, rows), (number, places, columns))
    return jnp.zeros(shapes[0], dtype), jnp.zeros(shapes[1], dtype)


def gram_of_factors(uses: Sequence[Factors], columns: Columns) -> Float[Array, "n m"]:
    """Computes the Gram matrix of the gradients that the uses add up to."""
    there = [Factors(*(_of_columns(each, columns) for each in (u.left, u.right))) for u in uses]
    parts = [_cross(one, two) for one in uses for two in there]
    return sum(parts[1:], start=parts[0])


def _of_columns(value: Array, columns: Columns) -> Array:
    return columns.of(value.reshape(len(value), -1)).reshape(-1, *value.shape[1:])


def _cross(one: Factors, two: Factors) -> Float[Array, "n m"]:
    right = jnp.einsum("itk,jsk->itjs", one.right, two.right, precision=PRECISION)
    return (_left(one, two) * right).sum((1, 3))


def _left(one: Factors, two: Factors) -> Float[Array, "n t m s"]:
    """Returns the inner products of the left factors of all pairs of places."""
    if one.looks_up and two.looks_up:
        return (one.left[:, :, None, None] == two.left[None, None]).astype(one.right.dtype)
    if two.looks_up:
        return jnp.take(one.left, two.left.astype(jnp.int32), axis=-1)
    if one.looks_up:
        picked = jnp.take(two.left, one.left.astype(jnp.int32), axis=-1)  # [m, s, n, t]
        return picked.transpose(2, 3, 0, 1)
    return jnp.einsum("itk,jsk->itjs", one.left, two.left, precision=PRECISION)
