"""An interceptor that gives every layer of a network its tap: see `ntk.one_backward`.

It works for any Flax module that is built from the layers in `LAYERS`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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
from saboc_jax.layers.tree import Path, Predicate
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


@dataclass
class Uses:
    """How a forward pass uses parameters.

    Attributes:
        calls: the number of layer calls, per parameter path.
        obstacles: descriptions of calls that need a tap but cannot have one.
    """

    calls: Counter[Path] = field(default_factory=Counter)
    obstacles: list[str] = field(default_factory=list)


def tap_rule(
    tap: Array, predicate: Predicate, uses: Uses | None = None, axis: str | None = None
) -> Interceptor:
    """Returns an interceptor that gives every layer its tap.

    Args:
        tap: [n, m] zeros; m is the number of columns (leading examples) on all devices.
        predicate: which parameters count, by path.
        uses: records how the pass uses parameters; None: not recorded.
        axis: the mesh axis that divides images over devices; None: one device has all.
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
    """Returns why a call cannot have a tap; None: it can."""
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
    if uses is not None:
        uses.calls.update(paths.values())
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
