"""Programs of anybody's networks with convolutions in forms that XLA's CPU computes fast.

XLA's CPU computes convolutions of a few output places, those with a group for each channel, and
their gradients up to a hundred times slower than it multiplies matrices of that size. A traced
function is run equation by equation with such convolutions as products or sums on the CPU, and as
they are on other platforms. The function is traced as a whole, with the gradients it takes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers import convolutions as conv
from saboc_jax.layers.convolution_layouts import both, from_nhwc, to_hwio, to_nhwc
from saboc_jax.layers.jaxpr import (
    Equation,
    FlatProgram,
    evaluate,
    evaluate_all,
    flatten_jaxpr,
)
from saboc_jax.layers.program_cost import inner_jaxprs

T = TypeVar("T", bound=Callable[..., Any])
LARGEST_WINDOW = 25  # positions of patches: a gradient by the kernel has the image's
_RECOMPUTED = ("remat", "remat2", "checkpoint")
_NO_PADDING = ((0, 0), (0, 0))
LARGEST_KERNEL = 49  # positions: a sum has a term for each


def with_fast_convolutions(function: T) -> T:
    """Returns a function of trees of arrays that gives the same results to rounding."""

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if _recomputes(closed.jaxpr):  # to save memory: it would not, equation by equation
            return function(*args)
        results = _run(flatten_jaxpr(closed), jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run  # type: ignore[return-value]


def _run(program: FlatProgram, leaves: Sequence[Any]) -> list[Any]:
    known = dict(zip(program.inputs, leaves, strict=True)) | program.constants
    evaluate_all(program.equations, known, run=_evaluate)
    return [known[place] for place in program.outputs]


def _evaluate(equation: Equation, *operands: Any) -> list[Any]:
    """Runs an equation with fast convolutions, also in the body of a loop."""
    if (way := faster(equation)) is not None:
        return [way(*operands)]
    if equation.name == "scan" and _holds_faster(body := _body(equation)):
        return _run_loop(equation.params, body, operands)
    return evaluate(equation, *operands)


def _body(equation: Equation) -> FlatProgram:
    return flatten_jaxpr(equation.params["jaxpr"])


def _holds_faster(program: FlatProgram) -> bool:
    return any(
        faster(equation) is not None or (equation.name == "scan" and _holds_faster(_body(equation)))
        for equation in program.equations
    )


def _run_loop(params: dict[str, Any], body: FlatProgram, operands: Sequence[Any]) -> list[Any]:
    consts, carries = params["num_consts"], params["num_carry"]
    kept, start, steps = (
        list(operands[:consts]),
        list(operands[consts : consts + carries]),
        list(operands[consts + carries :]),
    )

    def step(carry: list[Any], own: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _run(body, [*kept, *carry, *own])
        return results[:carries], results[carries:]

    last, made = lax.scan(
        *(step, start, steps, params["length"], params["reverse"], params["unroll"])
    )
    return [*last, *made]


def _recomputes(jaxpr: Any) -> bool:
    """Does a program hold a part that is computed again in its gradient (`jax.checkpoint`)?"""
    return any(
        equation.primitive.name in _RECOMPUTED
        or any(map(_recomputes, inner_jaxprs(equation.params)))
        for equation in jaxpr.eqns
    )


def faster(equation: Equation) -> Callable[..., Array] | None:
    """Returns what computes an equation fast on the CPU; None: XLA does, or it is another one."""
    if equation.name != "conv_general_dilated" or not _is_plain(equation):
        return None
    params = equation.params
    x, kernel = (var.aval.shape for var in equation.source.invars)
    result = equation.source.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    places = math.prod(result[axis] for axis in numbers.out_spec[2:])
    window = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    groups, batch_groups = params["feature_group_count"], params["batch_group_count"]
    inner, outer = kernel[numbers.rhs_spec[1]], kernel[numbers.rhs_spec[0]]
    if groups == batch_groups == 1:
        way = _by_patches if places <= conv.FEW_PLACES and window <= LARGEST_WINDOW else None
    elif batch_groups == 1:
        depthwise = inner == 1 and outer == groups and window <= LARGEST_KERNEL
        way = _by_taps if depthwise else None
    else:  # the gradient of a depthwise convolution by its kernel
        each = x[numbers.lhs_spec[0]] == outer == batch_groups
        way = _by_channel if each and places <= LARGEST_KERNEL else None
    if way is None:
        return None
    plain = lambda *operands: evaluate(equation, *operands)[0]  # noqa: E731
    return lambda x, kernel: lax.platform_dependent(
        x, kernel, cpu=partial(_standard, equation, way), default=plain
    )


def _is_plain(equation: Equation) -> bool:
    """Has it one or two spatial axes, one floating type, and any output?"""
    x, kernel = (var.aval for var in equation.source.invars)
    result = equation.source.outvars[0].aval
    same = x.dtype == kernel.dtype == result.dtype and jnp.issubdtype(x.dtype, jnp.floating)
    return same and x.ndim in (3, 4) and math.prod(result.shape) > 0


def _standard(equation: Equation, way: Callable[..., Array], x: Array, kernel: Array) -> Array:
    """Computes an equation in the layout NHWC by HWIO, with inputs dilated and padded before."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    x, kernel = to_nhwc(numbers.lhs_spec, x), to_hwio(numbers.rhs_spec, kernel)
    between = [d - 1 for d in both(params["lhs_dilation"], 1)]
    pads = zip(both(params["padding"], (0, 0)), between, strict=True)
    around = [(*pad, inside) for pad, inside in pads]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    steps = [both(params[name], 1) for name in ("window_strides", "rhs_dilation")]
    geometry = (steps[0], _NO_PADDING, steps[1], params["feature_group_count"])
    return from_nhwc(numbers.out_spec, way(geometry, params["precision"], x, kernel))


def _by_patches(geometry: conv.Geometry, precision: Any, x: Array, kernel: Array) -> Array:
    return conv.columns_product(conv.columns(geometry, x, kernel.shape), kernel, precision)


def _by_taps(geometry: conv.Geometry, precision: Any, x: Array, kernel: Array) -> Array:
    return conv.depthwise_convolve(geometry, x, kernel)


def _by_channel(geometry: conv.Geometry, precision: Any, x: Array, kernel: Array) -> Array:
    """Computes [1, h, w, c] of x [c, ., ., n] and kernel [., ., n, c], channel by channel.

    Positions of the output are those of the other convolution's kernel: exchanging what moves and
    what is summed over gives a sum for each.
    """
    (sy, sx), _, (dy, dx), _ = geometry
    height = (x.shape[1] - dy * (kernel.shape[0] - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (kernel.shape[1] - 1) - 1) // sx + 1
    moved, channels = x.transpose(1, 2, 3, 0), kernel.shape[-1]  # [h, w, n, c]
    ends = dy * (kernel.shape[0] - 1) + 1, dx * (kernel.shape[1] - 1) + 1
    sums = [
        (moved[i * sy : i * sy + ends[0] : dy, j * sx : j * sx + ends[1] : dx] * kernel).sum(
            (0, 1, 2)
        )
        for i in range(height)
        for j in range(width)
    ]
    return jnp.stack(sums).reshape(1, height, width, channels)
