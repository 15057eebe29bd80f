"""Convolutions of any layout, brought to NHWC by HWIO and back.

A layout is a specification of `jax.lax.ConvDimensionNumbers`. One spatial axis gets another one of
size 1 before it. Arrays may have further axes in front, which stay.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Spec = Sequence[int]


def to_nhwc(spec: Spec, x: Array) -> Float[Array, "*lead n h w c"]:
    """Returns inputs or outputs (specification: batch, channel, spatial axes) as NHWC."""
    batch, channel, *spatial = spec
    moved = _moved((batch, *spatial, channel), x)
    return jnp.expand_dims(moved, -3) if len(spatial) == 1 else moved


def to_hwio(spec: Spec, kernel: Array) -> Float[Array, "*lead h w i o"]:
    """Returns a kernel (specification: outputs, inputs, spatial axes) as HWIO."""
    outer, inner, *spatial = spec
    moved = _moved((*spatial, inner, outer), kernel)
    return jnp.expand_dims(moved, -4) if len(spatial) == 1 else moved


def from_nhwc(spec: Spec, y: Float[Array, "*lead n h w c"]) -> Array:
    """Returns NHWC in another layout (specification: batch, channel, spatial axes)."""
    batch, channel, *spatial = spec
    y = y.squeeze(-3) if len(spatial) == 1 else y
    return _moved(np.argsort([batch, *spatial, channel]).tolist(), y)


def both(values: Sequence[Any], filler: Any) -> tuple[Any, ...]:
    """Returns values of two spatial axes; a single one gets a first one."""
    return (filler, *values) if len(values) == 1 else tuple(values)


def _moved(axes: Sequence[int], x: Array) -> Array:
    lead = x.ndim - len(axes)
    return x.transpose(*range(lead), *(lead + axis for axis in axes))
