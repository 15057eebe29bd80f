"""A function as a flat list of equations, read from its jaxpr.

Calls (`jax.jit`, `jax.checkpoint` and the like) are inlined. Loops, branches and functions with
their own derivative stay single equations. Everything that differs between versions of JAX is
here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend import core as jax_core

CONSTANT, PARAMETER, EXAMPLE = "constant", "parameter", "example"  # what a value depends on
INLINED = frozenset(
    ("pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "core_closed_call")
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # names of an inlined call's program


@dataclass(frozen=True)
class Equation:
    """One operation of a program.

    Attributes:
        source: the equation of the jaxpr.
        inputs: places of its operands in the program's list of values.
        outputs: places of its results.
    """

    source: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its primitive."""
        return str(self.source.primitive.name)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of its primitive."""
        return dict(self.source.params)

    @property
    def layer(self) -> str:
        """The path of the layer that it belongs to, as the framework names it; maybe empty."""
        return str(self.source.source_info.name_stack)


@dataclass
class FlatProgram:
    """A function as equations over numbered values.

    Attributes:
        inputs: places of the function's arguments, leaf by leaf.
        outputs: places of its results.
        equations: the equations in order.
        constants: values that are known before any argument is.
        shapes: shape and type of each value.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    equations: list[Equation] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    shapes: list[Any] = field(default_factory=list)

    def new_value(self, aval: Any) -> int:
        """Adds a value; returns its place."""
        self.shapes.append(aval)
        return len(self.shapes) - 1


def trace(
    function: Callable[..., Any], *args: Any, kept: frozenset[str] = frozenset()
) -> FlatProgram:
    """Traces a function of trees of arrays (or shapes) to a flat program of their leaves.

    Args:
        function: of the arguments.
        *args: its arguments, or their shapes.
        kept: names of compiled functions whose calls stay single equations.
    """
    return flatten_jaxpr(jax.make_jaxpr(function)(*args), kept)


def flatten_jaxpr(closed: Any, kept: frozenset[str] = frozenset()) -> FlatProgram:
    """Returns a closed jaxpr as a flat program; calls are inlined, but for the names in `kept`."""
    program = FlatProgram()
    program.inputs = tuple(program.new_value(var.aval) for var in closed.jaxpr.invars)
    program.outputs = tuple(_inline(program, closed.jaxpr, closed.consts, program.inputs, kept))
    return program


def body_of(equation: Equation, kept: frozenset[str] = frozenset()) -> FlatProgram | None:
    """Returns the program that an equation runs once, or a loop at each step; None: it has none."""
    body = _body(equation.source)
    return None if body is None else flatten_jaxpr(body, kept)


def _inline(
    program: FlatProgram,
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[int],
    kept: frozenset[str],
) -> list[int]:
    """Appends a jaxpr's equations to the program; returns the places of its results."""
    places: dict[Any, int] = dict(zip(jaxpr.invars, args, strict=True))

    def constant(aval: Any, value: Any) -> int:
        place = program.new_value(aval)
        program.constants[place] = value
        return place

    for var, value in zip(jaxpr.constvars, consts, strict=True):
        places[var] = constant(var.aval, value)

    def place_of(atom: Any) -> int:
        if isinstance(atom, jax_core.Literal):
            return constant(atom.aval, atom.val)
        return places[atom]

    for source in jaxpr.eqns:
        inputs = tuple(place_of(atom) for atom in source.invars)
        is_inlined = source.primitive.name in INLINED and source.params.get("name") not in kept
        body = _body(source) if is_inlined else None
        if body is None:
            outputs = tuple(program.new_value(var.aval) for var in source.outvars)
            program.equations.append(Equation(source, inputs, outputs))
        else:
            outputs = tuple(_inline(program, body.jaxpr, body.consts, inputs, kept))
        places.update(zip(source.outvars, outputs, strict=True))
    return [place_of(atom) for atom in jaxpr.outvars]


def _body(source: Any) -> Any:
    """Returns the closed jaxpr of a call; None: it has none."""
    for name in _BODIES:
        if name in source.params:
            body = source.params[name]
            return body if hasattr(body, "consts") else jax_core.ClosedJaxpr(body, ())
    return None


def evaluate(equation: Equation, *operands: Any) -> list[Any]:
    """Runs one equation; returns its results as a list."""
    primitive = equation.source.primitive
    bound = primitive.get_bind_params(equation.source.params)
    # Before JAX 0.9 the functions of a call are returned apart from the other parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = primitive.bind(*functions, *operands, **params)
    return list(results) if primitive.multiple_results else [results]


def evaluate_all(
    equations: Iterable[Equation],
    known: dict[int, Any],
    changes: Mapping[int, Callable[[Any], Any]] | None = None,
    run: Callable[..., Sequence[Any]] = evaluate,
) -> dict[int, Any]:
    """Runs equations in order; adds their results to the known values, by place.

    Args:
        equations: in order.
        known: values by place; changed.
        changes: what a result is replaced by, as a function of it, by place.
        run: runs one equation, as `evaluate` does.
    """
    changes = changes or {}
    for equation in equations:
        results = run(equation, *(known[place] for place in equation.inputs))
        known.update(zip(equation.outputs, results, strict=True))
        for place in changes.keys() & set(equation.outputs):
            known[place] = changes[place](known[place])
    return known
