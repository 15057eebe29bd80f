"""Any operation of a program for a batch, and its gradients for each example.

A rule serves one equation of a program, for a batch: values of examples have a leading axis of
examples, values of parameters do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from saboc_jax.layers.jaxpr import EXAMPLE, PARAMETER, Equation, evaluate

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

    def gram(self, values: Values, cotangents: Values, columns: Any) -> Array | None:
        """Computes the Gram matrix of the only parameter's gradients; None: by its rows."""
        return None

    def _positions(self, values: Values, kind: str) -> list[int]:
        chosen = enumerate(zip(values, self.kinds, strict=True))
        return [p for p, (value, own) in chosen if own == kind and is_float(value)]
