"""An interceptor that gives every layer of a network its tap: see `ntk.one_backward`.

It works for any Flax module that is built from the layers in `LAYERS`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.convolutions import convolve
from saboc_jax.layers.interceptors import Interceptor, is_call
from saboc_jax.layers.ops import ConvNorm
from saboc_jax.layers.rules import (
    batch_norm_parameters,
    batch_norm_statistics,
    conv_geometry,
    conv_parameters,
    freeze_geometry,
    is_twofold,
    kept_statistics,
    only_input,
)
from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk.gram import Columns
from saboc_jax.ntk.gram_layers import (
    AffineLayer,
    ConvLayer,
    ConvNormLayer,
    DenseLayer,
    GenericLayer,
    tapped,
)

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
_FREE = "__tapped__"  # name of a layer that runs by itself; the rule must not tap it again


def tap_rule(tap: Array, predicate: Predicate, axis: str | None = None) -> Interceptor:
    """Returns an interceptor that gives every layer its tap.

    Args:
        tap: [n, m] zeros; m is the number of columns (leading examples) on all devices.
        predicate: which parameters count, by path.
        axis: the mesh axis that divides images over devices; None: one device has all.
    """
    columns = Columns(tap.shape[1] // Columns(1, axis).number, axis)

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if is_twofold(context):
            return module.reverse_only(*args)
        if is_call(context, ConvNorm):
            x = only_input(args, kwargs)
            y = None if x is None else _tapped_conv_norm(module, x, tap, columns, predicate)
            return next_fun(*args, **kwargs) if y is None else y
        if not isinstance(module, LAYERS) or context.method_name == "setup":
            return next_fun(*args, **kwargs)
        if module.name == _FREE or module.is_initializing():
            return next_fun(*args, **kwargs)
        params = dict(module.variables.get("params", {}))
        chosen = tuple(name for name in params if predicate((*module.path, name)))
        x = only_input(args, kwargs) if is_call(context, LAYERS) else None
        if x is None or x.shape[:1] != tap.shape[:1]:  # not a call on examples
            return next_fun(*args, **kwargs)
        y = _tapped_call(module, params, chosen, x, tap, columns)
        return next_fun(*args, **kwargs) if y is None else y

    return rule


def _tapped_conv_norm(
    module: ConvNorm,
    x: Array,
    tap: Array,
    columns: Columns,
    predicate: Predicate,
) -> Array | None:
    """Runs convolution and batch norm as one layer; None: each needs its own tap."""
    conv = module.conv
    kernel = conv.variables["params"]["conv"]["kernel"]
    if module.is_mutable_collection("batch_stats"):  # the batch norm records them by itself
        return None
    if conv.groups != 1 or conv.use_bias or x.shape[:1] != tap.shape[:1] or kernel.dtype != x.dtype:
        return None
    paths = {"kernel": (*conv.path, "conv", "kernel")}
    affine = dict(module.norm.variables.get("params", {}).get("norm", {}))
    paths |= {name: (*module.norm.path, "norm", name) for name in affine}
    geometry = conv.geometry()
    normalised = partial(convolve, geometry, x, kernel)
    mean, variance = kept_statistics(module, normalised, columns.here, columns.axis)
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
    """Runs one layer with its tap by the cheapest rule that fits; None: it needs no tap."""
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
