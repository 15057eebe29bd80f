"""Layers that compute the Gram matrix of their per-example gradients, and a tap that returns it.

A layer has three functions: its output, the cotangent of its input, and the Gram matrix of the
per-example gradients of its chosen parameters. `tapped` joins them into one JAX function with an
extra argument, an array of zeros; the cotangent of this argument is the Gram matrix.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.convolutions import convolve, input_gradient, kernel_gradient_rows
from saboc_jax.ntk.gram import Columns, gram
from saboc_jax.precision import PRECISION


@dataclass(frozen=True)
class ConvLayer:
    """A 2-d convolution without bias."""

    geometry: tuple[Any, ...]
    columns: Columns
    with_kernel: bool

    def forward(self, params: Any, x: Array) -> Array:
        """[n, h, w, in] to [n, h', w', out]."""
        return convolve(self.geometry, x, params["kernel"])

    def input_gradient(self, params: Any, x: Array, g: Array) -> Array:
        """Cotangent of the input."""
        return input_gradient(self.geometry, x, params["kernel"], g)

    def gram(self, params: Any, x: Array, g: Array) -> Array:
        """Gram matrix of the kernel's per-example gradients."""
        if not self.with_kernel:
            return jnp.zeros((x.shape[0], self.columns.number), x.dtype)
        gradients = kernel_gradient_rows(self.geometry, params["kernel"].shape, x, g)
        return gram(gradients.reshape(x.shape[0], -1), self.columns)


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer on vectors: its Gram matrix needs no gradient."""

    columns: Columns
    with_kernel: bool
    with_bias: bool

    def forward(self, params: Any, x: Array) -> Array:
        """[n, in] to [n, out]."""
        y = x @ params["kernel"]
        return y + params["bias"] if "bias" in params else y

    def input_gradient(self, params: Any, x: Array, g: Array) -> Array:
        """Cotangent of the input."""
        return g @ params["kernel"].T

    def gram(self, params: Any, x: Array, g: Array) -> Array:
        """(x x' + 1) * (g g'); the 1 is for the bias."""
        inner = gram(x, self.columns) if self.with_kernel else 0.0
        return (inner + float(self.with_bias)) * gram(g, self.columns)


@dataclass(frozen=True)
class AffineLayer:
    """Frozen batch norm: scale * normalised + bias, per channel."""

    columns: Columns
    with_scale: bool
    with_bias: bool

    def forward(self, params: Any, x: Array) -> Array:
        """[n, ..., c] to [n, ..., c]."""
        y = (x - params["mean"]) * params["inverse"]
        y = y * params["scale"] if "scale" in params else y
        return y + params["bias"] if "bias" in params else y

    def input_gradient(self, params: Any, x: Array, g: Array) -> Array:
        """Cotangent of the input."""
        return g * (params["inverse"] * params.get("scale", 1.0))

    def gram(self, params: Any, x: Array, g: Array) -> Array:
        """Gram matrix of the per-example gradients of scale and bias."""
        axes = tuple(range(1, x.ndim - 1))
        kernel = jnp.zeros((x.shape[0], self.columns.number), x.dtype)
        if self.with_scale:
            normalised = (x - params["mean"]) * params["inverse"]
            kernel += gram((normalised * g).sum(axes), self.columns)
        return kernel + gram(g.sum(axes), self.columns) if self.with_bias else kernel


@dataclass(frozen=True)
class ConvNormLayer:
    """A convolution without bias and the frozen batch norm of its output.

    The gradient of the scale does not need the convolution's output, which would have to be kept
    or recomputed: the sum over positions of output times cotangent equals the inner product of
    the kernel with its own gradient.
    """

    geometry: tuple[Any, ...]
    columns: Columns
    with_kernel: bool
    with_scale: bool
    with_bias: bool

    def forward(self, params: Any, x: Array) -> Array:
        """[n, h, w, in] to [n, h', w', out]."""
        norm = AffineLayer(self.columns, self.with_scale, self.with_bias)
        return norm.forward(params, convolve(self.geometry, x, params["kernel"]))

    def input_gradient(self, params: Any, x: Array, g: Array) -> Array:
        """Cotangent of the input."""
        kernel = params["kernel"] * (params["inverse"] * params.get("scale", 1.0))
        return input_gradient(self.geometry, x, kernel, g)

    def gram(self, params: Any, x: Array, g: Array) -> Array:
        """Gram matrix of the per-example gradients of kernel, scale and bias."""
        kernel, total = params["kernel"], g.sum((1, 2))
        gradients = [total] if self.with_bias else []
        if self.with_kernel or self.with_scale:
            inverse = params["inverse"]
            per_example = kernel_gradient_rows(self.geometry, kernel.shape, x, g) * inverse[:, None]
            if self.with_scale:
                weights = kernel.reshape(-1, kernel.shape[-1])
                inner = jnp.einsum("po,nop->no", weights, per_example, precision=PRECISION)
                gradients.append(inner - params["mean"] * inverse * total)
            if self.with_kernel:
                if "scale" in params:
                    per_example = per_example * params["scale"][:, None]
                gradients.append(per_example.reshape(x.shape[0], -1))
        grams = [gram(each, self.columns) for each in gradients]
        return sum(grams, start=jnp.zeros((x.shape[0], self.columns.number), x.dtype))


@dataclass(frozen=True)
class GenericLayer:
    """Any layer that treats examples independently: per-example gradients by vmap."""

    module: nn.Module
    columns: Columns
    chosen: tuple[str, ...]

    def forward(self, params: Any, x: Array) -> Array:
        """The layer's own call."""
        output: Any = self.module.apply({"params": params}, x)
        return output

    def input_gradient(self, params: Any, x: Array, g: Array) -> Any:
        """Cotangent of the input."""
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return np.zeros(x.shape, jax.dtypes.float0)
        return jax.vjp(lambda x: self.forward(params, x), x)[1](g)[0]

    def gram(self, params: Any, x: Array, g: Array) -> Array:
        """Gram matrix of the chosen parameters' per-example gradients."""
        chosen = {name: params[name] for name in self.chosen}

        def one(x: Array, g: Array) -> Any:
            run = lambda chosen: self.forward({**params, **chosen}, x[None])  # noqa: E731
            return jax.vjp(run, chosen)[1](g[None])[0]

        gradients = jax.tree.leaves(jax.vmap(one)(x, g))
        grams = [gram(leaf.reshape(x.shape[0], -1), self.columns) for leaf in gradients]
        return jnp.stack(grams).sum(0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tapped(layer: Any, params: Any, x: Array, tap: Float[Array, "n m"]) -> Array:
    """The layer's output; the cotangent of `tap` is the layer's part of the NTK."""
    return layer.forward(params, x)


def _tapped_forward(layer: Any, params: Any, x: Array, tap: Array) -> tuple[Array, Any]:
    return layer.forward(params, x), (params, x, tap)


def _tapped_backward(layer: Any, saved: Any, g: Array) -> tuple[Any, Array, Array]:
    params, x, tap = saved
    # Parameters are constants here: their gradient, summed over examples, is not needed.
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    back = layer.input_gradient(params, x, g)
    back = back.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else back
    return no_gradient, back, layer.gram(params, x, g).astype(tap.dtype)


tapped.defvjp(_tapped_forward, _tapped_backward)
