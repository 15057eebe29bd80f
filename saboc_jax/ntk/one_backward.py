"""The exact empirical NTK in one forward and one backward pass.

For a layer with per-example parameter gradient G_i, its part of the NTK is <G_i, G_j>. Every
layer gets an extra argument, an n x m array of zeros that does not affect its output, and a
reverse rule that gives the Gram matrix of its per-example gradients as that argument's
cotangent. JAX adds cotangents, so the gradient with respect to the one array that all layers
share is the whole NTK. Nothing of size n x P is kept for more than one layer, and an operation
that `lax.cond` skips costs nothing.

Exact when examples do not interact: batch norm must take its statistics as constants
("frozen"), and each layer must be called once.

The layers are reached through Flax interceptors, so this works for anybody's module made of
the layers in `LAYERS`.

Images may be shared out over the devices of a mesh axis (`sharded`). A device then has its own
rows of every Gram matrix, for which it gets the gradients of all columns from the others, and the
statistics of the columns are means over all devices.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.convolutions import convolve, input_gradient, kernel_gradient_rows
from saboc_jax.layers.ops import ConvNorm
from saboc_jax.layers.rules import (
    Interceptor,
    batch_norm_parameters,
    batch_norm_statistics,
    conv_geometry,
    conv_parameters,
    freeze_geometry,
    is_call,
    is_twofold,
    kept_statistics,
    only_input,
)
from saboc_jax.layers.tree import flatten
from saboc_jax.ntk.network import Network, Path, Predicate, check_outputs
from saboc_jax.precision import PRECISION, inner_products

GENERIC = tuple(
    getattr(nn, name)
    for name in (
        "Conv",
        "ConvTranspose",
        "ConvLocal",
        "Dense",
        "DenseGeneral",
        "Einsum",
        "Embed",
        "LayerNorm",
        "RMSNorm",
        "GroupNorm",
        "InstanceNorm",
        "PReLU",
    )
    if hasattr(nn, name)
)
LAYERS = (nn.BatchNorm, *GENERIC)
_FREE = "__tapped__"  # name of a layer run on its own, which the rule must not tap again


class Columns(NamedTuple):
    """The leading examples of a batch: columns of the kernel, source of frozen statistics.

    Attributes:
        own: how many this device has.
        axis: of a mesh over whose devices they are shared out alike; None: all are here.
    """

    own: int
    axis: str | None = None

    @property
    def number(self) -> int:
        """How many all devices have."""
        return self.own if self.axis is None else self.own * lax.psum(1, self.axis)

    def of(self, a: Float[Array, "n p"]) -> Float[Array, "m p"]:
        """The columns' rows, those of all devices in the order of devices."""
        own = a[: self.own]
        return own if self.axis is None else lax.all_gather(own, self.axis, tiled=True)


def gram(a: Float[Array, "n p"], columns: Columns) -> Float[Array, "n m"]:
    """Inner products of all rows with those of the columns."""
    return inner_products(a, columns.of(a))


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
        """(x x' + 1) * (g g'), the 1 for the bias."""
        inner = gram(x, self.columns) if self.with_kernel else 0.0
        return (inner + float(self.with_bias)) * gram(g, self.columns)


@dataclass(frozen=True)
class AffineLayer:
    """Frozen batch norm: scale * normalised + bias, per channel."""

    columns: Columns
    with_scale: bool
    with_bias: bool

    def forward(self, params: Any, x: Array) -> Array:
        """[n, ..., c] to the same."""
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

    The gradient of the scale needs no output of the convolution, which would have to be kept or
    computed again: the sum over positions of output times cotangent is the inner product of the
    kernel with its own gradient.
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
            own = kernel_gradient_rows(self.geometry, kernel.shape, x, g) * inverse[:, None]
            if self.with_scale:
                weights = kernel.reshape(-1, kernel.shape[-1])
                inner = jnp.einsum("po,nop->no", weights, own, precision=PRECISION)
                gradients.append(inner - params["mean"] * inverse * total)
            if self.with_kernel:
                own = own * params["scale"][:, None] if "scale" in params else own
                gradients.append(own.reshape(x.shape[0], -1))
        grams = [gram(each, self.columns) for each in gradients]
        return sum(grams, start=jnp.zeros((x.shape[0], self.columns.number), x.dtype))


@dataclass(frozen=True)
class GenericLayer:
    """Any layer whose examples do not interact: per-example gradients by vmap."""

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
    # Parameters are constants here: their gradient is the sum over examples that nobody asks.
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    back = layer.input_gradient(params, x, g)
    back = back.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else back
    return no_gradient, back, layer.gram(params, x, g).astype(tap.dtype)


tapped.defvjp(_tapped_forward, _tapped_backward)


@dataclass
class Uses:
    """How a forward pass uses parameters.

    Attributes:
        calls: calls of a layer, per parameter path.
        obstacles: calls that have no tap although they need one, in words.
    """

    calls: Counter[Path] = field(default_factory=Counter)
    obstacles: list[str] = field(default_factory=list)


def tap_rule(
    tap: Array, predicate: Predicate, uses: Uses | None = None, axis: str | None = None
) -> Interceptor:
    """An interceptor that gives every layer its tap.

    Args:
        tap: [n, m] zeros; m is the number of leading examples that are columns, on all devices.
        predicate: which parameters count, by path.
        uses: takes down what the pass does, where given.
        axis: of a mesh over whose devices images are shared out; None: all are here.
    """
    columns = Columns(tap.shape[1] // Columns(1, axis).number, axis)

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if is_twofold(context):
            return module.reverse_only(*args)
        if is_call(context, ConvNorm):
            x = only_input(args, kwargs)
            y = None if x is None else _tapped_conv_norm(module, x, tap, columns, predicate, uses)
            return next_fun(*args, **kwargs) if y is None else y
        if not isinstance(module, LAYERS) or context.method_name == "setup":
            return next_fun(*args, **kwargs)
        if module.name == _FREE or module.is_initializing():
            return next_fun(*args, **kwargs)
        params = dict(module.variables.get("params", {}))
        chosen = tuple(name for name in params if predicate((*module.path, name)))
        x = only_input(args, kwargs) if is_call(context, LAYERS) else None
        obstacle = _obstacle(context.method_name, x, tap.shape[0])
        if uses is not None:
            uses.calls.update((*module.path, name) for name in params)
            if obstacle and (chosen or isinstance(module, nn.BatchNorm)):
                uses.obstacles.append(f"layer {'/'.join(module.path)} {obstacle}")
        if obstacle or x is None:
            return next_fun(*args, **kwargs)
        y = _tapped_call(module, params, chosen, x, tap, columns)
        return next_fun(*args, **kwargs) if y is None else y

    return rule


def _obstacle(method: str, x: Any, number: int) -> str | None:
    """Why one call can have no tap."""
    if x is None:
        return f"is used through {method!r} with more than its input"
    if x.shape[:1] != (number,):
        return f"gets an input of shape {x.shape}, whose first axis is not that of the images"
    return None


def _tapped_conv_norm(
    module: ConvNorm,
    x: Array,
    tap: Array,
    columns: Columns,
    predicate: Predicate,
    uses: Uses | None,
) -> Array | None:
    """Runs the two layers as one; None: each needs its own tap."""
    conv = module.conv
    kernel = conv.variables["params"]["conv"]["kernel"]
    if module.is_mutable_collection("batch_stats"):  # the batch norm by itself records them
        return None
    if conv.groups != 1 or conv.use_bias or x.shape[:1] != tap.shape[:1] or kernel.dtype != x.dtype:
        return None
    paths = {"kernel": (*conv.path, "conv", "kernel")}
    affine = dict(module.norm.variables.get("params", {}).get("norm", {}))
    paths |= {name: (*module.norm.path, "norm", name) for name in affine}
    if uses is not None:
        uses.calls.update(paths.values())
    geometry = conv.geometry()
    normalised = partial(convolve, geometry, x, kernel)
    mean, variance = kept_statistics(module, normalised, columns.own, columns.axis)
    params = {
        "kernel": kernel,
        "mean": mean,
        "inverse": lax.rsqrt(variance + module.norm.epsilon),
        **affine,
    }
    chosen = [name in paths and predicate(paths[name]) for name in ("kernel", "scale", "bias")]
    return tapped(ConvNormLayer(geometry, columns, *chosen), params, x, tap)


def _tapped_call(
    module: nn.Module,
    params: dict[str, Array],
    chosen: tuple[str, ...],
    x: Array,
    tap: Array,
    columns: Columns,
) -> Array | None:
    """Runs one layer with its tap, by the cheapest rule that fits it; None: it needs none."""
    if isinstance(module, nn.BatchNorm):
        mean, variance = batch_norm_statistics(module, x, "frozen", *columns)
        scale, bias = batch_norm_parameters(module)
        affine = {"mean": mean, "inverse": lax.rsqrt(variance + module.epsilon)}
        affine |= {} if scale is None else {"scale": scale}
        affine |= {} if bias is None else {"bias": bias}
        layer: Any = AffineLayer(columns, "scale" in chosen, "bias" in chosen)
        return tapped(layer, affine, x, tap)
    geometry = conv_geometry(module, x.ndim) if isinstance(module, nn.Conv) else None
    if isinstance(module, nn.Conv) and geometry and "bias" not in chosen:
        kernel, bias = conv_parameters(module)
        if kernel.dtype == x.dtype:  # else Flax promotes them, as the generic layer does
            layer = ConvLayer(freeze_geometry(geometry, x, kernel), columns, bool(chosen))
            y = tapped(layer, {"kernel": kernel}, x, tap)
            return y if bias is None else y + bias
    if not chosen:
        return None
    if type(module) is nn.Dense and x.ndim == 2 and module.dtype is None:
        return tapped(DenseLayer(columns, "kernel" in chosen, "bias" in chosen), params, x, tap)
    free = module.clone(parent=None, name=_FREE)
    return tapped(GenericLayer(free, columns, chosen), params, x, tap)


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


def why_not(network: Network, images: Array, predicate: Predicate) -> str | None:
    """Why the engine does not apply to a network, or None if it does."""
    uses = _uses(network, images.shape[0], images, predicate)
    # An axis of positions may be as long as the batch; it does not grow with it.
    more = _uses(network, images.shape[0] + 1, images, predicate)
    if obstacles := uses.obstacles + more.obstacles:
        return obstacles[0]
    seen = uses.calls
    for path in flatten(network.variables["params"]):
        if not predicate(path):
            continue
        if path not in seen:
            return (
                f"parameter {'/'.join(path)} belongs to no layer it knows; it knows "
                f"{', '.join(layer.__name__ for layer in LAYERS)}"
            )
        if seen[path] > 1 and not network.layers_per_leaf(path):
            return f"parameter {'/'.join(path)} is used {seen[path]} times in one forward pass"
    return None
