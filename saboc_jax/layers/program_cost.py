"""The cost of any network, read from its traced program.

A jaxpr lists every matrix product and convolution with its shapes, for networks of any library.
Multiply-accumulates count all of them for one image (including attention's products); depth is
their number on the longest path.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Work(NamedTuple):
    """Multiply-accumulates, and matrix products and convolutions on the longest path."""

    macs: int
    depth: int


def count_work(function: Callable[..., Any], *args: Any) -> Work:
    """Counts the work of one call of a function.

    Args:
        function: traced, not run.
        *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> Work:
    depths: dict[Any, int] = {}
    macs = 0
    for equation in jaxpr.eqns:
        work = _equation(equation)
        macs += work.macs
        before = max((_depth(depths, var) for var in equation.invars), default=0)
        depths.update(dict.fromkeys(equation.outvars, before + work.depth))
    return Work(macs, max((_depth(depths, var) for var in jaxpr.outvars), default=0))


def _depth(depths: dict[Any, int], var: Any) -> int:
    return 0 if hasattr(var, "val") else depths.get(var, 0)  # only literals have a value


def _equation(equation: Any) -> Work:
    name = equation.primitive.name
    if name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        shape = equation.invars[0].aval.shape
        summed = math.prod(shape[axis] for axis in contracted)
        return Work(math.prod(equation.outvars[0].aval.shape) * summed, 1)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        weights = math.prod(kernel) // outputs  # of one output channel
        return Work(math.prod(equation.outvars[0].aval.shape) * weights, 1)
    inner = [_count(jaxpr) for jaxpr in inner_jaxprs(equation.params)]
    if not inner:
        return Work(0, 0)
    times = equation.params.get("length", 1) if name == "scan" else 1
    # Count the most expensive branch of a cond; other equations hold one jaxpr.
    return Work(times * max(work.macs for work in inner), times * max(w.depth for w in inner))


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
