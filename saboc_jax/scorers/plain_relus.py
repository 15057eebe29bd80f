"""Finds ReLUs that any module calls as functions, in its traced program.

`nn.relu`, `nnx.relu` and `jax.nn.relu` are the same function, which leaves its name in the program.
So its calls are found however the module imports it. Programs inside loops and branches are not
evaluated here: a ReLU in one is an error, because it would be counted wrongly.
"""

from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array

from saboc_jax.types import Images

NAME = "relu"
INLINE = ("jit", "pjit", "closed_call", "custom_jvp_call", "checkpoint", "remat2")
"""Primitives whose inner program runs exactly once, as if it were inlined."""


def plain_relus(run: Any, images: Images) -> list[Array]:
    """Returns the output of every ReLU function that a forward pass calls, in order.

    Args:
        run: a function of the images.
        images: its argument.

    Raises:
        ValueError: if a ReLU runs in a loop or a branch.
    """
    traced, relu_outputs = jax.make_jaxpr(run)(images), []  # type: ignore[var-annotated]
    _evaluate(traced.jaxpr, traced.consts, [images], relu_outputs)
    return relu_outputs


def _evaluate(program: Any, consts: Any, inputs: Any, relu_outputs: list[Array]) -> list[Any]:
    """Runs a program's equations and appends the outputs of its ReLUs."""
    known: dict[Any, Any] = {}
    read = lambda v: known[v] if _is_variable(v) else v.val  # noqa: E731
    known.update(zip(program.constvars, consts, strict=True))
    known.update(zip(program.invars, inputs, strict=True))
    for equation in program.eqns:
        values = [read(v) for v in equation.invars]
        outputs = _call(program, equation, values, relu_outputs)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in program.outvars]


def _call(program: Any, equation: Any, values: list[Any], relu_outputs: list[Array]) -> list[Any]:
    name, inner = equation.primitive.name, list(_programs(equation.params))
    is_relu = equation.params.get("name") == NAME and len(values) == 1
    if not is_relu and name in INLINE and len(inner) == 1:
        return _evaluate(*inner[0], values, relu_outputs)
    if not is_relu and any(_has_relu(other) for other, _ in inner):
        raise ValueError(
            f"the network calls a ReLU function in a {name}; allowed there: "
            "`saboc_jax.layers.ops.Relu` modules"
        )
    given = {v: value for v, value in zip(equation.invars, values, strict=True) if _is_variable(v)}
    alone = program.replace(
        constvars=[], invars=list(given), outvars=equation.outvars, eqns=[equation]
    )
    outputs = jax.core.eval_jaxpr(alone, [], *given.values())
    relu_outputs.extend(outputs if is_relu else [])
    return outputs


def _is_variable(v: Any) -> bool:
    return not hasattr(v, "val")  # only literals have a value


def _programs(params: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yields the programs among an equation's parameters, with their constants."""
    for value in params.values():
        for program in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(program, "jaxpr") and hasattr(program, "consts"):
                yield program.jaxpr, program.consts
            elif hasattr(program, "eqns"):
                yield program, ()


def _has_relu(program: Any) -> bool:
    return any(
        equation.params.get("name") == NAME
        or any(_has_relu(inner) for inner, _ in _programs(equation.params))
        for equation in program.eqns
    )
