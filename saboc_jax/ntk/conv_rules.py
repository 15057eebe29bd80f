"""Convolutions of one and two spatial axes, in forms that XLA computes fast.

Any layout is brought to NHWC by HWIO. Strides, dilations of kernel and input (transposed
convolutions) and feature groups are taken. Convolutions of more axes, and those that ask for a
precision of their own, are left to the general rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers import convolutions as conv
from saboc_jax.layers.convolution_layouts import both, from_nhwc, to_hwio, to_nhwc
from saboc_jax.layers.jaxpr import EXAMPLE, PARAMETER, Equation
from saboc_jax.ntk.general_rule import GeneralRule, Values
from saboc_jax.ntk.gram import Columns, gram, gram_of_places
from saboc_jax.precision import MATMUL_PRECISIONS, PRECISION, current_precision


@dataclass(frozen=True, eq=False)
class ConvRule(GeneralRule):
    """A convolution of examples with a kernel."""

    @cached_property
    def geometry(self) -> conv.Geometry:
        """Strides, padding, dilation and groups, for two spatial axes."""
        params = self.equation.params
        return (
            both(params["window_strides"], 1),
            both(params["padding"], (0, 0)),
            both(params["rhs_dilation"], 1),
            params["feature_group_count"],
        )

    def forward(self, values: Values) -> list[Any]:
        """Computes the results of a batch."""
        x, kernel = self._standard(*values)
        return [self._from_standard(self._convolve(x, kernel), values[0])]

    def backward(
        self, values: Values, cotangents: Values, with_rows: bool
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """Pulls cotangents back; see `GeneralRule.backward`."""
        back = jax.linear_transpose(self._standard_input, values[0])
        x, kernel = self._standard(*values)
        g = self._cotangent(cotangents[0])
        (own,) = back(self._input_gradient(x, kernel, g))
        if not with_rows or self.kinds[1] != PARAMETER:
            return {0: own}, {}
        gradients = self._gradients(x, kernel.shape, g)
        rows = gradients.reshape(len(values[0]), -1, *kernel.shape).sum(1)
        back_kernel = jax.linear_transpose(self._standard_kernel, values[1])
        return {0: own}, {1: jax.vmap(lambda row: back_kernel(row)[0])(rows)}

    def gram(self, values: Values, cotangents: Values, columns: Columns) -> Array | None:
        """Computes it from gradients in whatever order they come."""
        x, kernel = self._standard(*values)
        if len(x) != len(values[0]):
            return None
        g = self._cotangent(cotangents[0])
        if self._has_few_places:
            patches = conv.unfold(self.geometry, kernel.shape, x)
            return gram_of_places(patches, g.reshape(len(g), -1, g.shape[-1]), columns)
        if self._is_grouped(kernel.shape):
            rows = grouped_gradients(self.geometry, kernel.shape, x, g)
        else:
            rows = conv.kernel_gradient_rows(self.geometry, kernel.shape, x, g)
        return gram(rows.reshape(len(x), -1), columns)

    def _gradients(self, x: Array, shape: tuple[int, ...], g: Array) -> Array:
        if self._has_few_places:
            patches = conv.unfold(self.geometry, shape, x)
            rows = jnp.einsum(
                "npi,npo->nio", patches, g.reshape(len(g), -1, shape[-1]), precision=PRECISION
            )
            return rows.reshape(len(x), *shape)
        if self._is_grouped(shape):
            return grouped_gradients(self.geometry, shape, x, g)
        return conv.kernel_gradients(self.geometry, shape, x, g)

    def _convolve(self, x: Array, kernel: Array) -> Array:
        if not self._has_few_places:
            return conv.convolve(self.geometry, x, kernel)
        patches = conv.held(self.geometry[0], conv.columns(self.geometry, x, kernel.shape))
        return conv.columns_product(patches, kernel)

    def _input_gradient(self, x: Array, kernel: Array, g: Array) -> Array:
        if self._has_few_places:
            patches = partial(conv.columns, self.geometry, kernel_shape=kernel.shape)
            run = lambda x: conv.columns_product(patches(x), kernel)  # noqa: E731
            return jax.linear_transpose(run, x)(g)[0]
        return conv.input_gradient(self.geometry, x, kernel, g)

    # --- layouts ------------------------------------------------------------------------------

    @cached_property
    def _has_few_places(self) -> bool:
        """Is it a convolution without groups of so few outputs that a product is faster?"""
        shape, spec = self.equation.source.outvars[0].aval.shape, self._numbers.out_spec
        places = math.prod(shape[axis] for axis in spec[2:])
        return places <= conv.FEW_PLACES and self.geometry[3] == 1

    def _is_grouped(self, kernel_shape: tuple[int, ...]) -> bool:
        """Has it feature groups that are not single channels?"""
        return self.geometry[3] != 1 and not conv.is_depthwise(self.geometry, kernel_shape)

    @property
    def _numbers(self) -> Any:
        return self.equation.params["dimension_numbers"]

    def _standard(self, x: Array, kernel: Array) -> tuple[Array, Array]:
        return self._standard_input(x), self._standard_kernel(kernel)

    def _standard_input(self, x: Array) -> Array:
        """Returns NHWC of an operand with a leading axis of examples, dilated if it is to be."""
        x = _merged(to_nhwc(self._numbers.lhs_spec, x))
        dilation = both(self.equation.params["lhs_dilation"], 1)
        if dilation == (1, 1):
            return x
        between = [(0, 0, d - 1) for d in dilation]
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *between, (0, 0, 0)])

    def _standard_kernel(self, kernel: Array) -> Array:
        """Returns HWIO."""
        return to_hwio(self._numbers.rhs_spec, kernel)

    def _cotangent(self, g: Array) -> Array:
        """Returns NHWC of a result's cotangent with a leading axis of examples."""
        return _merged(to_nhwc(self._numbers.out_spec, g))

    def _from_standard(self, y: Array, x: Array) -> Array:
        """Returns NHWC in the equation's own layout, with a leading axis of examples."""
        return from_nhwc(self._numbers.out_spec, y.reshape(len(x), -1, *y.shape[1:]))


def _merged(x: Array) -> Array:
    """Returns [n, b, h, w, c] as [n b, h, w, c]."""
    return x.reshape(-1, *x.shape[2:])


def grouped_gradients(geometry: conv.Geometry, shape: tuple[int, ...], x: Array, g: Array) -> Array:
    """Returns the kernel's gradients [n, k, k, in, out] of a convolution with feature groups."""
    strides, padding, dilation, groups = geometry
    *window, inner, outer = shape
    g = g.reshape(len(g), -1, groups, outer // groups)
    rows = []
    for tap in conv.held(strides, conv.shifted(strides, padding, dilation, window, x)):
        tap = tap.reshape(len(x), -1, groups, inner)
        if inner == 1:  # a sum, for products of single channels are slow
            rows.append((tap[..., None] * g[..., None, :]).sum(1))
        else:
            rows.append(jnp.einsum("npgi,npgo->ngio", tap, g, precision=PRECISION))
    stacked = jnp.stack(rows, 1)  # [n, positions, groups, in, out of a group]
    return stacked.transpose(0, 1, 3, 2, 4).reshape(len(x), *shape)


def is_convolution(equation: Equation, kinds: Sequence[str]) -> bool:
    """Does `ConvRule` compute this equation?"""
    if equation.name != "conv_general_dilated" or kinds[0] != EXAMPLE or kinds[1] == EXAMPLE:
        return False
    params, (x, kernel) = equation.params, (var.aval for var in equation.source.invars)
    result = equation.source.outvars[0].aval
    plain = params["batch_group_count"] == 1 and not asks_for_precision(params)
    same = x.dtype == kernel.dtype == result.dtype and jnp.issubdtype(x.dtype, jnp.floating)
    padded = all(low >= 0 and high >= 0 for low, high in params["padding"])
    return plain and same and padded and x.ndim in (3, 4)


def asks_for_precision(params: dict[str, Any]) -> bool:
    """Does an equation name a precision other than the one that products have here?"""
    precision = params.get("precision")
    named = precision if isinstance(precision, tuple) else (precision,)
    usual: set[Any] = {None, lax.Precision.DEFAULT}
    if (setting := current_precision()) in [*MATMUL_PRECISIONS, "float32"]:
        usual = {lax.Precision(setting)}
    return any(each not in usual for each in named)
