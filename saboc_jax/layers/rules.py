"""Layer rules: batch norm statistics and fast convolution gradients, switched from outside.

A rule is a Flax interceptor (`flax.linen.intercept_methods`). It acts on every `nn.BatchNorm` and
`nn.Conv`: in a supernet under scan and cond, in a specialised module, or in any other Flax
module. Rules do nothing while a module initialises.

Batch-norm modes:
    batch: statistics of the whole batch; gradients flow through them (the peers' protocol).
    frozen: statistics of the first `num_statistics` examples, without gradient; the examples
        then do not interact.
    stored: statistics from the collection "batch_stats" (as `batch` or `frozen` records them
        when that collection is mutable).
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.channels import statistics
from saboc_jax.layers.convolutions import Geometry, fast_convolve
from saboc_jax.layers.interceptors import Interceptor, is_call

BATCH_NORM_MODES = ("batch", "frozen", "stored")
KEPT = "kept_statistics"  # constants of a forward pass; the reverse pass reuses them


class Twofold(nn.Module):
    """A computation with a second, faster form that supports only reverse mode.

    Rules that support only reverse mode switch to the second form.

    Attributes:
        plain: differentiable in any mode.
        reverse_only: computes the same values.
    """

    plain: Callable[..., Any]
    reverse_only: Callable[..., Any]

    @nn.compact  # both forms make modules
    def __call__(self, *args: Any) -> Any:
        return self.plain(*args)


def is_twofold(context: Any) -> bool:
    """Is this the call of a `Twofold`?"""
    return isinstance(context.module, Twofold) and context.method_name == "__call__"


def batch_norm_parameters(module: nn.BatchNorm) -> tuple[Any, Any]:
    """Returns scale and bias of a bound batch norm; None for a missing one."""
    scale = module.get_variable("params", "scale") if module.use_scale else None
    bias = module.get_variable("params", "bias") if module.use_bias else None
    return scale, bias


def batch_norm_statistics(
    module: nn.BatchNorm,
    x: Float[Array, "... c"],
    mode: str,
    num_statistics: int | None,
    axis: str | None = None,
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Returns the statistics of a batch norm in a mode; records them if "batch_stats" is mutable.

    If a mesh axis is given, the mode "frozen" computes them over all devices of that axis.
    """
    if mode == "stored":
        mean: Any = module.get_variable("batch_stats", "mean")
        return mean, module.get_variable("batch_stats", "var")
    if mode == "batch":
        mean, variance = statistics(x)
    else:
        mean, variance = kept_statistics(module, lambda: x, num_statistics, axis)
    if module.is_mutable_collection("batch_stats"):
        module.put_variable("batch_stats", "mean", mean)
        module.put_variable("batch_stats", "var", variance)
    return mean, variance


def kept_statistics(
    module: nn.Module,
    normalised: Callable[[], Array],
    number: int | None,
    axis: str | None = None,
) -> tuple[Any, Any]:
    """Returns constant statistics of the input of a batch norm.

    Args:
        module: statistics kept in it are reused; new ones are kept if it is mutable.
        normalised: gives the input of the batch norm.
        number: how many leading examples count; None: all.
        axis: the mesh axis that divides the examples over devices, see `statistics`.
    """
    if module.has_variable(KEPT, "mean"):
        return module.get_variable(KEPT, "mean"), module.get_variable(KEPT, "var")
    mean, variance = lax.stop_gradient(statistics(normalised()[:number], axis))
    if module.is_mutable_collection(KEPT):
        module.put_variable(KEPT, "mean", mean)
        module.put_variable(KEPT, "var", variance)
    return mean, variance


def only_input(args: tuple, kwargs: dict) -> Any:
    """Returns the input of a layer's call, by position or name; None if it has other arguments.

    A batch norm's `use_running_average` is ignored: the rules decide that.
    """
    rest = {k: v for k, v in kwargs.items() if v is not None and k != "use_running_average"}
    values = [*(v for v in args if not (v is None or isinstance(v, bool))), *rest.values()]
    return values[0] if len(values) == 1 and set(rest) <= {"x", "inputs"} else None


def batch_norm_rule(mode: str, num_statistics: int | None = None) -> Interceptor:
    """Returns an interceptor that sets the statistics of every `nn.BatchNorm`.

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
    """Returns `lax.conv_general_dilated`'s arguments for a 2-d `nn.Conv`; None if unsupported."""

    def pair(value: Any) -> tuple[int, int]:
        return (1, 1) if value is None else (value,) * 2 if isinstance(value, int) else tuple(value)

    if ndim != 4 or isinstance(module.kernel_size, int) or len(module.kernel_size) != 2:
        return None
    if module.mask is not None or module.dtype is not None or _is_injected(module):
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


def _is_injected(module: nn.Conv) -> bool:
    """Does the convolution compute by somebody's function in place of JAX's, or in another type?"""
    own = [getattr(module, f"conv_general_dilated{end}", None) for end in ("", "_cls")]
    fields = type(module).__dataclass_fields__
    others = [n for n in ("promote_dtype", "preferred_element_type") if n in fields]
    changed = any(getattr(module, name) is not fields[name].default for name in others)
    return changed or any(each not in (None, lax.conv_general_dilated) for each in own)


def freeze_geometry(geometry: dict[str, Any], x: Array, kernel: Array) -> Geometry:
    """Returns a hashable geometry with explicit padding."""
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


def conv_parameters(module: nn.Conv) -> tuple[Array, Array | None]:
    """Returns kernel and bias (or None) of a bound convolution."""
    bias = module.get_variable("params", "bias") if module.use_bias else None
    return module.get_variable("params", "kernel"), bias


def fast_conv_rule() -> Interceptor:
    """Returns an interceptor that gives every 2-d `nn.Conv` the reverse rule of `fast_convolve`.

    It supports only reverse mode, and switches every `Twofold` to its second form.
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


def fast_rules() -> tuple[Interceptor, ...]:
    """Returns `fast_conv_rule` on the CPU, where it beats XLA's own rules; elsewhere no rule."""
    return (fast_conv_rule(),) if jax.default_backend() == "cpu" else ()
