"""The structure of any network, read from its traced program by dynamic programming over its graph.

A jaxpr says what every value is computed from. Each value that depends on the inputs has a
`flows.Flow`; what a network is made of shows in its equations:

- a **layer** is a convolution or a matrix product of what depends on the inputs with what depends
  on parameters: one more layer on every path;
- branches **meet** where values that depend on the inputs are added, concatenated, or compared by
  a maximum: their paths add up. Products, quotients and selections are gates and norms: the larger
  operand (or the one with more paths) is followed alone;
- a **pooling** is a `reduce_window` that leaves more than one position, or a sum of shifted copies
  of one value;
- an elementwise function or a norm may read a value several times (x * sigmoid(x), x - mean(x)):
  what comes from one value and has been bent on the way does not meet, it is followed once.

What is multiplied by zeros is not on a path, nor is a layer that reads zeros (an edge without an
operation before it). A parameter or a layer is live if it lies on a path to the output.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from saboc_jax.layers.flows import START, Flow, summary
from saboc_jax.layers.program_cost import inner_jaxprs
from saboc_jax.types import Structure

LAYERS = ("conv_general_dilated", "dot_general")
MEETINGS = ("add", "sub", "add_any", "concatenate", "max", "min")
GATES = ("mul", "div", "select_n", "pow", "atan2", "rem", *LAYERS)
SHIFTS = ("slice", "dynamic_slice", "pad", "gather", "rev")
SHAPES = ("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "copy", "neg")
STRAIGHT = (*SHIFTS, *SHAPES, *MEETINGS, "mul", "div", "convert_element_type", "stop_gradient")
KEEPS_ZERO = (*SHIFTS, *SHAPES, "convert_element_type", "stop_gradient", "reduce_sum", "reduce_max")


@dataclass(eq=False)
class Value:
    """A value of the program.

    Attributes:
        flow: the paths from the inputs; None: it does not depend on them.
        parents: the values that it is computed from.
        params: its size, if it is a parameter.
        activations: its size for one example, if it is the output of a layer.
        width: its output features, if it is the output of a layer.
        learned: whether it depends on parameters.
        zero: whether it is zero everywhere.
        dead: whether it comes from a layer that reads zeros.
        origin: the last value before elementwise functions; None: itself.
        bent: whether a function that is not affine lies between the origin and it.
        shifted: whether it is a part of its origin that is cut out at some place.
        pooled: whether it is a sum of such parts.
    """

    flow: Flow | None = None
    parents: Sequence["Value"] = ()
    params: int = 0
    activations: int = 0
    width: int = 0
    learned: bool = False
    zero: bool = False
    dead: bool = False
    origin: "Value | None" = None
    bent: bool = False
    shifted: bool = False
    pooled: bool = False
    size: int = field(default=0)

    def source(self) -> "Value":
        """Returns the last value before elementwise functions."""
        return self if self.origin is None else self.origin


def read_structure(function: Callable[..., Any], params: Any, *inputs: Any) -> Structure:
    """Reads the structure of a network from its program.

    Args:
        function: `function(params, *inputs)` gives the outputs; traced, not run.
        params: tree of arrays or `jax.ShapeDtypeStruct`s; its leaves are the parameters.
        *inputs: trees of one example each, [1, ...].
    """
    closed = jax.make_jaxpr(function)(params, *inputs)
    leaves = [
        Value(params=math.prod(leaf.shape), learned=True, size=math.prod(leaf.shape))
        for leaf in jax.tree.leaves(params)
    ]
    rest = closed.jaxpr.invars[len(leaves) :]
    arguments = leaves + [Value(START, size=_size(var)) for var in rest]
    outputs = _run(closed.jaxpr, closed.consts, arguments)
    everything = sum(leaf.params for leaf in leaves)
    reached = [value for value in outputs if value.flow is not None]
    if not reached:
        return summary(None, 0, 0, (), everything)
    live = list(_live(reached))
    last = max(reached, key=lambda value: value.flow or START)
    sizes = (sum(v.params for v in live), sum(v.activations for v in live))
    return summary(last.flow, *sizes, [v.width for v in live if v.width], everything)


def _live(outputs: Sequence[Value]) -> Iterator[Value]:
    """Yields every value that an output is computed from, once."""
    waiting, seen = list(outputs), set()
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen.add(id(value))
            yield value
            waiting.extend(value.parents)


def _size(var: Any) -> int:
    return math.prod(var.aval.shape)


def _constant(value: Any) -> Value:
    """Returns the value of a constant of the program."""
    if jax.dtypes.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        return Value(size=np.size(value))  # a key
    array = np.asarray(value)
    return Value(zero=not array.any(), size=array.size)


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
    """Follows a jaxpr on values."""
    known = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(var: Any) -> Value:
        return _constant(var.val) if hasattr(var, "val") else known[var]

    for equation in jaxpr.eqns:
        values = [read(var) for var in equation.invars]
        known.update(zip(equation.outvars, _equation(equation, values), strict=True))
    return [read(var) for var in jaxpr.outvars]


def _equation(equation: Any, values: list[Value]) -> list[Value]:
    """Returns the outputs of an equation."""
    name, inner = equation.primitive.name, list(inner_jaxprs(equation.params))
    if name == "scan":
        return _scan(equation, inner[0], values)
    if name == "while":
        offset = equation.params["cond_nconsts"]
        return _called(inner[1] if len(inner) > 1 else inner[0], values[offset:])
    if name == "cond":
        found = [_called(branch, values[1:]) for branch in inner]
        return max(found, key=lambda outputs: max(_most(v) for v in outputs))
    if inner and name not in ("reduce_window", "reduce", "scatter", "scatter-add", "custom_root"):
        return _function(inner[0], values)
    return [_primitive(equation, name, var, values) for var in equation.outvars]


def _most(value: Value) -> tuple[int, ...]:
    return (0, 0) if value.flow is None else (value.flow.longest, value.flow.paths)


def _called(closed: Any, values: list[Value]) -> list[Value]:
    jaxpr = getattr(closed, "jaxpr", closed)
    return _run(jaxpr, getattr(closed, "consts", ()), values[: len(jaxpr.invars)])


def _function(closed: Any, values: list[Value]) -> list[Value]:
    """Follows a called function; one of a single value that holds no layer is elementwise."""
    outputs = _called(closed, values)
    inputs = {id(value): value for value in values if value.flow is not None}
    if len(inputs) == 1 and not _holds_layers(getattr(closed, "jaxpr", closed)):
        (only,) = inputs.values()
        for value in outputs:
            if value.flow is not None and value.flow != only.flow:
                value.flow, value.origin, value.bent = only.flow, only.source(), True
    return outputs


def _holds_layers(jaxpr: Any) -> bool:
    """Tells whether a program has layers, pools, or parts that are cut out."""
    structural = (*LAYERS, "slice", "dynamic_slice", "pad")
    return any(
        equation.primitive.name in structural
        or equation.primitive.name.startswith("reduce_window")
        or any(_holds_layers(getattr(i, "jaxpr", i)) for i in inner_jaxprs(equation.params))
        for equation in jaxpr.eqns
    )


def _scan(equation: Any, closed: Any, values: list[Value]) -> list[Value]:
    """Follows every turn of a loop; stacked inputs and parameters are one value each."""
    consts, carried = equation.params["num_consts"], equation.params["num_carry"]
    carry, stacked = values[consts : consts + carried], values[consts + carried :]
    collected: list[Value] = []
    for _ in range(equation.params["length"]):
        outputs = _called(closed, [*values[:consts], *carry, *stacked])
        carry, turn = outputs[:carried], outputs[carried:]
        # What is stacked lies on paths by every turn.
        collected = [
            Value(value.flow, [value, *before], learned=value.learned, size=value.size)
            for value, *before in zip(turn, *([collected] if collected else []), strict=True)
        ]
    return [*carry, *collected]


def _primitive(equation: Any, name: str, var: Any, values: list[Value]) -> Value:
    """Returns one output of an equation without a program inside."""
    flowing = [value for value in values if value.flow is not None]
    learned, size = any(value.learned for value in values), _size(var)
    if _is_zero(name, values):
        return Value(zero=True, size=size)
    if not flowing:
        dead = any(v.dead for v in values) or (name in LAYERS and any(v.zero for v in values))
        return Value(None, () if dead else values, learned=learned, dead=dead, size=size)
    if name in LAYERS and len(flowing) == 1:
        other = next((v for v in values if v.flow is None), None)
        if other is not None and other.learned:
            flow, width = _flow(flowing[0]).through(), _width(equation, values)
            return Value(flow, values, 0, size, width, learned=True, size=size)
    if name.startswith("reduce_window"):
        return _pool(equation, values, flowing[0], size)
    result = _followed(name, values, flowing)
    result.learned, result.size = learned, size
    return result


def _width(equation: Any, values: list[Value]) -> int:
    """Returns the output features of a layer: what its weights add beside what is summed."""
    if equation.primitive.name == "conv_general_dilated":
        axes = equation.params["dimension_numbers"].out_spec
        return int(equation.outvars[0].aval.shape[axes[1]])
    side = 0 if values[0].flow is None else 1
    shape = equation.invars[side].aval.shape
    contracted, batched = (pair[side] for pair in equation.params["dimension_numbers"])
    return math.prod(n for axis, n in enumerate(shape) if axis not in (*contracted, *batched))


def _flow(value: Value) -> Flow:
    return START if value.flow is None else value.flow


def _is_zero(name: str, values: list[Value]) -> bool:
    zeros = [value.zero for value in values]
    if name in ("mul", *LAYERS):
        return (
            any(zeros)
            and not any(v.dead for v in values)
            and (name == "mul" or any(v.flow is not None for v in values))
        )
    if name in ("add", "sub", "add_any", "concatenate", "max", "min", "pad", "select_n"):
        return bool(zeros) and all(zeros)
    if name == "div" or name.startswith("reduce_window"):
        return bool(zeros) and zeros[0]
    return name in KEEPS_ZERO and bool(zeros) and zeros[0]


def _pool(equation: Any, values: list[Value], flowing: Value, size: int) -> Value:
    """Returns the output of a window; one that covers the whole image is the global pool."""
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    window = equation.params["window_dimensions"]
    moved = [axis for axis, width in enumerate(window) if width > 1]
    everything = all(after[axis] == 1 and before[axis] >= 1 for axis in moved)
    flow = _flow(flowing) if everything else _flow(flowing).through(0, pooled=True)
    return Value(flow, values, learned=flowing.learned, size=size)


def _beside(flowing: list[Value]) -> Flow:
    flow, *others = map(_flow, flowing)
    for other in others:
        flow = flow.beside(other)
    return flow


def _followed(name: str, values: list[Value], flowing: list[Value]) -> Value:
    """Returns the value of an elementwise function, a meeting, a gate or a change of shape."""
    first = max(flowing, key=lambda value: (value.size, _flow(value).paths))
    same = len({id(value.source()) for value in flowing}) == 1
    if name == "concatenate" and len(values) > 1 and (len(flowing) == 1 or not same):
        return Value(_beside(flowing).gathered(), values)
    if name in MEETINGS and len(flowing) > 1:
        if not same:
            return Value(_beside(flowing), values)
        if name == "concatenate" or any(value.bent for value in flowing):
            return Value(first.flow, values, origin=first.source(), bent=True)
        if all(value.shifted or value.pooled for value in flowing):
            pooled = _flow(first).through(0, pooled=True)
            return Value(pooled, values, origin=first.source(), pooled=True)
        return Value(_beside(flowing), values)
    if first.pooled:  # the sum of a pooling is complete
        return Value(first.flow, values)
    straight = name in STRAIGHT and len(flowing) == 1 and name not in ("max", "min")
    return Value(
        first.flow,
        values,
        origin=first.source(),
        bent=first.bent or not straight,
        shifted=first.shifted or name in SHIFTS,
    )
