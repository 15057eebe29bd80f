"""Layer rules: batch-norm statistics and fast convolution gradients, switched from outside.

A rule is a Flax interceptor (`flax.linen.intercept_methods`). It acts on `nn.BatchNorm` and
`nn.Conv` wherever they stand: in a supernet under scan and cond, in a specialised module, in
anybody's Flax module. While a module initialises, rules do nothing.

Batch-norm modes:
    batch: statistics of the whole batch, gradients flow through them (the peers' protocol).
    frozen: statistics of the first `num_statistics` examples, no gradient through them; the
        examples then do not interact.
    stored: statistics from the collection "batch_stats" (as `batch` or `frozen` records them
        when that collection is mutable).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Interceptor = Callable[..., Any]
BATCH_NORM_MODES = ("batch", "frozen", "stored")
KEPT = "kept_statistics"  # constants of a forward pass, so that its reverse pass need not run it
CACHE = 1 << 20  # bytes of patches that a core works on at a time


class Twofold(nn.Module):
    """A computation with a second form that is faster and for reverse mode only.

    A rule that is for reverse mode only itself switches to the second.

    Attributes:
        plain: differentiable in any way.
        reverse_only: the same values.
    """

    plain: Callable[..., Any]
    reverse_only: Callable[..., Any]

    @nn.compact  # both forms make modules
    def __call__(self, *args: Any) -> Any:
        return self.plain(*args)


def is_twofold(context: Any) -> bool:
    """Is this the call of a `Twofold`?"""
    return isinstance(context.module, Twofold) and context.method_name == "__call__"


def statistics(x: Float[Array, "... c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and (biased) variance of each channel, in two passes: exact to rounding."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - mean).mean(axes)


def batch_norm_parameters(module: nn.BatchNorm) -> tuple[Any, Any]:
    """Scale and bias of a bound batch norm, None where it has none."""
    scale = module.get_variable("params", "scale") if module.use_scale else None
    bias = module.get_variable("params", "bias") if module.use_bias else None
    return scale, bias


def batch_norm_statistics(
    module: nn.BatchNorm, x: Float[Array, "... c"], mode: str, num_statistics: int | None
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """The statistics a batch norm uses in a mode; recorded where "batch_stats" is mutable."""
    if mode == "stored":
        mean: Any = module.get_variable("batch_stats", "mean")
        return mean, module.get_variable("batch_stats", "var")
    if mode == "batch":
        mean, variance = statistics(x)
    else:
        mean, variance = _frozen_statistics(module, x, num_statistics)
    if module.is_mutable_collection("batch_stats"):
        module.put_variable("batch_stats", "mean", mean)
        module.put_variable("batch_stats", "var", variance)
    return mean, variance


def _frozen_statistics(module: nn.BatchNorm, x: Array, number: int | None) -> tuple[Any, Any]:
    """Of the leading examples; those kept by a forward pass where there are."""
    if module.has_variable(KEPT, "mean"):
        return module.get_variable(KEPT, "mean"), module.get_variable(KEPT, "var")
    mean, variance = lax.stop_gradient(statistics(x[:number]))
    if module.is_mutable_collection(KEPT):
        module.put_variable(KEPT, "mean", mean)
        module.put_variable(KEPT, "var", variance)
    return mean, variance


def is_call(context: Any, kinds: Any) -> bool:
    """Is this the forward call of a module of these types, after initialisation?"""
    module: Any = context.module
    return (
        isinstance(module, kinds)
        and context.method_name == "__call__"
        and not module.is_initializing()
    )


def only_input(args: tuple, kwargs: dict) -> Any:
    """The input of a layer's call, by position or by name; None if other arguments count.

    Whether a batch norm should use running averages does not count: the rules decide that.
    """
    rest = {k: v for k, v in kwargs.items() if v is not None and k != "use_running_average"}
    values = [*(v for v in args if not (v is None or isinstance(v, bool))), *rest.values()]
    return values[0] if len(values) == 1 and set(rest) <= {"x", "inputs"} else None


def batch_norm_rule(mode: str, num_statistics: int | None = None) -> Interceptor:
    """An interceptor that sets the statistics of every `nn.BatchNorm`.

    Args:
        mode: "batch", "frozen" or "stored", see the module's docstring.
        num_statistics: for "frozen", how many leading examples give the statistics
            (None: all).

    Raises:
        ValueError: if the mode is unknown.
    """
    if mode not in BATCH_NORM_MODES:
        raise ValueError(f"batch-norm mode {mode!r} is unknown; allowed: {BATCH_NORM_MODES}")

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if not is_call(context, nn.BatchNorm):
            return next_fun(*args, **kwargs)
        x, module = only_input(args, kwargs), context.module
        if x is None:
            raise ValueError(f"batch norm {'/'.join(module.path)} has a mask; allowed: none")
        mean, variance = batch_norm_statistics(module, x, mode, num_statistics)
        scale, bias = batch_norm_parameters(module)
        y = (x - mean) * lax.rsqrt(variance + module.epsilon)
        y = y if scale is None else y * scale
        return y if bias is None else y + bias

    return rule


# --- convolutions -----------------------------------------------------------------------------


def conv_geometry(module: nn.Conv, ndim: int) -> dict[str, Any] | None:
    """`lax.conv_general_dilated`'s arguments for a 2-d `nn.Conv`, or None if it is exotic."""

    def pair(value: Any) -> tuple[int, int]:
        return (1, 1) if value is None else (value,) * 2 if isinstance(value, int) else tuple(value)

    if ndim != 4 or isinstance(module.kernel_size, int) or len(module.kernel_size) != 2:
        return None
    if module.mask is not None or module.dtype is not None:
        return None
    padding: Any = module.padding
    if padding in ("CIRCULAR", "REFLECT", "CAUSAL"):
        return None
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    elif not isinstance(padding, str):
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
    if pair(module.input_dilation) != (1, 1):
        return None
    return {
        "window_strides": pair(module.strides),
        "padding": padding,
        "rhs_dilation": pair(module.kernel_dilation),
        "feature_group_count": module.feature_group_count,
    }


def freeze_geometry(geometry: dict[str, Any], x: Array, kernel: Array) -> tuple[Any, ...]:
    """A hashable geometry with explicit padding."""
    padding = geometry["padding"]
    if isinstance(padding, str):
        dilated = [
            d * (k - 1) + 1 for k, d in zip(kernel.shape[:2], geometry["rhs_dilation"], strict=True)
        ]
        padding = lax.padtype_to_pads(x.shape[1:3], dilated, geometry["window_strides"], padding)
    return (
        tuple(geometry["window_strides"]),
        tuple(map(tuple, padding)),
        tuple(geometry["rhs_dilation"]),
        geometry["feature_group_count"],
    )


def convolve(geometry: tuple[Any, ...], x: Array, kernel: Array) -> Array:
    """A 2-d convolution, NHWC by HWIO."""
    if is_depthwise(geometry, kernel.shape):
        return depthwise_convolve(geometry, x, kernel)
    strides, padding, dilation, groups = geometry
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def is_depthwise(geometry: tuple[Any, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Has every channel its own kernel and one output?"""
    return kernel_shape[2] == 1 and kernel_shape[3] == geometry[3]


def _taps(geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array) -> list[Array]:
    """What each position of the kernel sees of x, [n, h', w', channels], row by row."""
    (sy, sx), padding, (dy, dx), _ = geometry
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height = (x.shape[1] - dy * (kernel_shape[0] - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (kernel_shape[1] - 1) - 1) // sx + 1
    return [
        x[
            :,
            i * dy : i * dy + sy * (height - 1) + 1 : sy,
            j * dx : j * dx + sx * (width - 1) + 1 : sx,
        ]
        for i in range(kernel_shape[0])
        for j in range(kernel_shape[1])
    ]


def depthwise_convolve(geometry: tuple[Any, ...], x: Array, kernel: Array) -> Array:
    """A depthwise convolution as a sum over the kernel's positions.

    XLA on the CPU fuses the sum into one loop, up to a hundred times faster than its
    convolution with feature groups.
    """
    patches = _taps(geometry, kernel.shape, x)
    weights = kernel.reshape(len(patches), kernel.shape[-1])
    return sum(
        (patch * weight for patch, weight in zip(patches[1:], weights[1:], strict=True)),
        start=patches[0] * weights[0],
    )


def _depthwise_input_gradient(
    geometry: tuple[Any, ...], x: Array, kernel: Array, g: Array
) -> Array:
    """The cotangent, spread by the stride, with the flipped kernel."""
    strides, padding, dilation, groups = geometry
    back = [(0, 0, 0)]
    for axis in (0, 1):
        stride, reach = strides[axis], dilation[axis] * (kernel.shape[axis] - 1)
        low = padding[axis][0]
        unseen = x.shape[1 + axis] + low - stride * (g.shape[1 + axis] - 1) - 1
        back.append((reach - low, unseen, stride - 1))
    spread = lax.pad(g, jnp.zeros((), g.dtype), [*back, (0, 0, 0)])
    flipped = jnp.flip(kernel, (0, 1))
    return depthwise_convolve(((1, 1), ((0, 0), (0, 0)), dilation, groups), spread, flipped)


def input_gradient(geometry: tuple[Any, ...], x: Array, kernel: Array, g: Array) -> Array:
    """The gradient with respect to the input of `convolve`.

    At stride 1 it is written as a forward convolution with the flipped kernel: XLA on the
    CPU has a fast routine for that form and not for the one its own rule makes inside cond.
    """
    if is_depthwise(geometry, kernel.shape):
        return _depthwise_input_gradient(geometry, x, kernel, g)
    strides, padding, dilation, groups = geometry
    plain = lambda: jax.vjp(lambda x: convolve(geometry, x, kernel), x)[1](g)[0]  # noqa: E731
    if strides != (1, 1) or groups != 1:
        return plain()
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    reach = [d * (k - 1) for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    back = tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))
    if any(p < 0 for pair in back for p in pair):
        return plain()
    return fast_convolve((strides, back, dilation, 1), g, flipped)


def unfold(geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array) -> Array:
    """Patches of x, [n, positions, k * k * channels], in the order of the kernel's axes."""
    taps = _taps(geometry, kernel_shape, x)
    positions = taps[0].shape[1] * taps[0].shape[2]
    return jnp.concatenate(taps, -1).reshape(x.shape[0], positions, -1)


def kernel_gradients(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "n k k in out"]:
    """Per-example gradients with respect to the kernel, one example at a time.

    One example is one matrix product of its cotangent with its patches (the narrow matrix first:
    up to 1.8 times faster); XLA's own batch-grouped convolution for the same is ten times slower
    on the CPU.
    """

    def one(pair: tuple[Array, Array]) -> Array:
        x, g = pair
        patches = unfold(geometry, kernel_shape, x[None])[0]
        return g.reshape(-1, g.shape[-1]).T @ patches

    if geometry[3] != 1 and is_depthwise(geometry, kernel_shape):
        taps = [(patch * g).sum((1, 2)) for patch in _taps(geometry, kernel_shape, x)]
        return jnp.stack(taps, 1).reshape(x.shape[0], *kernel_shape)
    if geometry[3] != 1:
        return jax.vmap(partial(_one_kernel_gradient, geometry, kernel_shape))(x, g)
    gradients = lax.map(one, (x, g))
    return gradients.swapaxes(1, 2).reshape(x.shape[0], *kernel_shape)


def _one_kernel_gradient(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Array:
    kernel = jnp.zeros(kernel_shape, x.dtype)
    return jax.vjp(lambda k: convolve(geometry, x[None], k), kernel)[1](g[None])[0]


def summed_kernel_gradient(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "k k in out"]:
    """The gradient with respect to the kernel, some examples at a time.

    One matrix product of as many patches as stay in a core's cache: up to four times faster
    on the CPU than one product of all, and twenty times faster than XLA's own rule.
    """
    size = x.dtype.itemsize * math.prod((*g.shape[1:3], *kernel_shape[:3]))
    chunk = max(d for d in range(1, len(x) + 1) if len(x) % d == 0 and d * size <= max(CACHE, size))

    def add(total: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
        part, cotangent = pair
        patches = unfold(geometry, kernel_shape, part)
        rows = patches.reshape(-1, patches.shape[-1])
        return total + rows.T @ cotangent.reshape(len(rows), -1), None

    zeros = jnp.zeros((math.prod(kernel_shape[:3]), kernel_shape[3]), jnp.result_type(x, g))
    pairs = [a.reshape(len(x) // chunk, chunk, *a.shape[1:]) for a in (x, g)]
    return lax.scan(add, zeros, tuple(pairs))[0].reshape(kernel_shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def kernel_gradient(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array, g: Array
) -> Float[Array, "k k in out"]:
    """The gradient with respect to the kernel of `convolve`.

    It is linear in x and in g, and its own gradients are convolutions: fast again.
    """
    return summed_kernel_gradient(geometry, kernel_shape, x, g)


def _kernel_gradient_forward(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], x: Array, g: Array
) -> tuple[Array, Any]:
    return kernel_gradient(geometry, kernel_shape, x, g), (x, g)


def _kernel_gradient_backward(
    geometry: tuple[Any, ...], kernel_shape: tuple[int, ...], saved: Any, v: Array
) -> tuple[Array, Array]:
    x, g = saved
    return input_gradient(geometry, x, v, g), fast_convolve(geometry, x, v)


kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fast_convolve(geometry: tuple[Any, ...], x: Array, kernel: Array) -> Array:
    """`convolve` whose reverse rule is fast on the CPU inside scan and cond.

    Reverse mode only, as many times as need be; no forward mode.
    """
    return convolve(geometry, x, kernel)


def _fast_forward(geometry: tuple[Any, ...], x: Array, kernel: Array) -> tuple[Array, Any]:
    return fast_convolve(geometry, x, kernel), (x, kernel)


def _fast_backward(geometry: tuple[Any, ...], saved: Any, g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    if geometry[3] != 1 and is_depthwise(geometry, kernel.shape):
        gradients = kernel_gradients(geometry, kernel.shape, x, g)
        return input_gradient(geometry, x, kernel, g), gradients.sum(0)
    if geometry[3] != 1:
        return jax.vjp(partial(convolve, geometry), x, kernel)[1](g)
    back = input_gradient(geometry, x, kernel, g)
    return back, kernel_gradient(geometry, kernel.shape, x, g)


fast_convolve.defvjp(_fast_forward, _fast_backward)


def conv_parameters(module: nn.Conv) -> tuple[Array, Array | None]:
    """Kernel and bias of a bound convolution."""
    bias = module.get_variable("params", "bias") if module.use_bias else None
    return module.get_variable("params", "kernel"), bias


def fast_conv_rule() -> Interceptor:
    """An interceptor that gives every 2-d `nn.Conv` the reverse rule of `fast_convolve`.

    For reverse mode only, as the second form of a `Twofold`, which it switches on.
    """

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if is_twofold(context):
            return context.module.reverse_only(*args)
        if not is_call(context, nn.Conv) or type(context.module) is not nn.Conv:
            return next_fun(*args, **kwargs)
        x, module = only_input(args, kwargs), context.module
        geometry = None if x is None else conv_geometry(module, x.ndim)
        if geometry is None:
            return next_fun(*args, **kwargs)
        kernel, bias = conv_parameters(module)
        if kernel.dtype != x.dtype:  # Flax promotes them, XLA does not
            return next_fun(*args, **kwargs)
        y = fast_convolve(freeze_geometry(geometry, x, kernel), x, kernel)
        return y if bias is None else y + bias

    return rule
