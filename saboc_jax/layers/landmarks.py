"""Where activations, feature maps, residual additions and layers lie in anybody's program.

Scorers that look inside a network mark such places in our own spaces. In a network of another
origin they are found by what its program does, whatever the framework and however a function is
imported.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.jaxpr import (
    EXAMPLE,
    PARAMETER,
    Equation,
    FlatProgram,
    body_of,
    evaluate,
    evaluate_all,
    flatten_jaxpr,
    trace,
)

ACTIVATIONS = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish"),
        *("hard_silu", "hard_swish", "hard_sigmoid", "hard_tanh", "softplus", "soft_sign"),
        *("log_sigmoid", "sigmoid", "squareplus", "sparse_plus", "sparse_sigmoid"),
    )
)
"""Functions of `jax.nn` that leave their names in a program."""
_SAME_SIGN = frozenset(("tanh", "logistic", "erf"))
_OPPOSITE_SIGN = "erfc"
_COMPARISONS = frozenset(("gt", "ge", "lt", "le"))
_CUSTOM = frozenset(("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"))
_PASSING = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "exp", "expm1", "log1p", "abs", "min", "max"),
        *("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "integer_pow"),
    )
)
_TO_ROOT = frozenset(("add", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze"))
_ROOTS = frozenset(("rsqrt", "sqrt", "pow"))
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
_FEW_STEPS = 4  # of one-operand operations, inside of an activation


class Layer(NamedTuple):
    """A product or convolution of the example with parameters.

    Attributes:
        equation: of the program.
        output: the place of what it gives, with its bias.
        channels: the axes of its output that count channels.
        fan_in: how many weights feed a channel.
    """

    equation: Equation
    output: int
    channels: tuple[int, ...]
    fan_in: int


class Landmarks:
    """What each value of a program stands for.

    Attributes:
        program: the program, with activations of `jax.nn` as single equations.
        makers: the equation that makes a value, by place.
        users: the equations that read a value, by place.
    """

    def __init__(self, program: FlatProgram, kinds: Sequence[str]) -> None:
        """Reads a program.

        Args:
            program: of `trace(..., kept=ACTIVATIONS)`.
            kinds: of its inputs: `CONSTANT`, `PARAMETER` or `EXAMPLE`.
        """
        self.program = program
        self.makers: dict[int, Equation] = {}
        self.users: dict[int, list[Equation]] = {}
        self._examples: set[int] = set()
        self._parameters: set[int] = set()
        for place, kind in zip(program.inputs, kinds, strict=True):
            {EXAMPLE: self._examples, PARAMETER: self._parameters}.get(kind, set()).add(place)
        for equation in program.equations:
            self._read(equation)

    def _read(self, equation: Equation) -> None:
        for place in equation.inputs:
            self.users.setdefault(place, []).append(equation)
        self.makers.update(dict.fromkeys(equation.outputs, equation))
        for found in (self._examples, self._parameters):
            if not found.isdisjoint(equation.inputs):
                found.update(equation.outputs)

    def of_example(self, place: int) -> bool:
        """Does the value depend on the example?"""
        return place in self._examples

    def of_parameters(self, place: int) -> bool:
        """Does the value depend on parameters, and not on the example?"""
        return place in self._parameters and place not in self._examples

    def kind(self, place: int) -> str:
        """`EXAMPLE`, `PARAMETER` or `CONSTANT`."""
        if self.of_example(place):
            return EXAMPLE
        return PARAMETER if self.of_parameters(place) else "constant"

    def shape(self, place: int) -> tuple[int, ...]:
        """The shape of a value."""
        return tuple(self.program.shapes[place].shape)

    # --- activations ----------------------------------------------------------------------------

    def activation(self, equation: Equation) -> tuple[int, int] | None:
        """Returns (place, sign) if the equation is an activation, else None.

        A unit is active where the value at `place`, times the sign, is above zero.
        """
        name, first = equation.name, self._first_of_example(equation)
        if first is None:
            return None
        if equation.source.params.get("name") in ACTIVATIONS or name in _SAME_SIGN:
            return first, 1
        if name == _OPPOSITE_SIGN:
            return first, -1
        if name == "max" and self._is_zero_beside(equation, first):
            return None if self._is_rooted(equation.outputs[0]) else (first, 1)
        if name in _COMPARISONS:
            alike = [user for user in self.users[first] if self._is_switch(user, first)]
            return (first, 1) if alike and alike[0] is equation else None
        if name in _CUSTOM and self.shape(first) == self.shape(equation.outputs[0]):
            return (first, 1) if self._body_is_active(equation) else None
        return None

    def body(self, equation: Equation) -> "Landmarks | None":
        """Returns the landmarks of the program inside of an equation; None: it has none."""
        program = body_of(equation, ACTIVATIONS)
        if program is None:
            return None
        if len(program.inputs) != len(equation.inputs):
            return Landmarks(program, [EXAMPLE] * len(program.inputs))
        kinds = [self.kind(place) for place in equation.inputs]
        if equation.name == "scan":  # a carry may come to depend on the example
            first = equation.params["num_consts"]
            carries = range(first, first + equation.params["num_carry"])
            kinds = [EXAMPLE if p in carries else kind for p, kind in enumerate(kinds)]
        return Landmarks(program, kinds)

    def has_activation(self) -> bool:
        """Is there an activation in the program, or inside of one of its equations?"""
        return any(
            self.activation(equation) is not None or self._body_is_active(equation)
            for equation in self.program.equations
        )

    def _body_is_active(self, equation: Equation) -> bool:
        return any(body.has_activation() for body in self._bodies(equation))

    def _bodies(self, equation: Equation) -> "list[Landmarks]":
        """Returns the landmarks of every program inside of an equation."""
        own = self.body(equation)
        branches = [Landmarks(program, kinds) for program, kinds in _branches(equation)]
        return branches if own is None else [own, *branches]

    def _first_of_example(self, equation: Equation) -> int | None:
        for place in equation.inputs:
            dtype = self.program.shapes[place].dtype
            if self.of_example(place) and jnp.issubdtype(dtype, jnp.floating):
                return place
        return None

    def _is_zero_beside(self, equation: Equation, place: int) -> bool:
        others = [other for other in equation.inputs if other != place]
        return bool(others) and all(self._is_zero(other) for other in others)

    def _is_zero(self, place: int) -> bool:
        maker = self.makers.get(place)
        if maker is not None and maker.name in ("broadcast_in_dim", "convert_element_type"):
            return self._is_zero(maker.inputs[0])
        if place not in self.program.constants:
            return False
        value = self.program.constants[place]
        return not isinstance(value, jax.core.Tracer) and not np.any(np.asarray(value))

    def _is_rooted(self, place: int) -> bool:
        """Does a root follow? Then it is a variance that a norm keeps from being negative."""

        def leads_on(user: Equation) -> bool:
            others = [other for other in user.inputs if other != place]
            return user.name in _TO_ROOT and not any(map(self.of_example, others))

        return any(
            user.name in _ROOTS or (leads_on(user) and self._is_rooted(user.outputs[0]))
            for user in self.users.get(place, [])
        )

    def _is_switch(self, test: Equation, x: int) -> bool:
        """Is it `x > 0`, and chooses or scales something that comes from x?"""
        is_test = test.name in _COMPARISONS and test.inputs[0] == x
        return is_test and self._is_zero(test.inputs[1]) and self._joins(test.outputs[0], x)

    def _joins(self, place: int, x: int) -> bool:
        for user in self.users.get(place, []):
            if user.name not in ("select_n", "convert_element_type", "mul"):
                continue
            others = [other for other in user.inputs if other != place]
            if any(self._comes_from(other, x, _FEW_STEPS) for other in others):
                return True
            if user.name != "mul" and self._joins(user.outputs[0], x):
                return True
        return False

    def _comes_from(self, place: int, x: int, steps: int) -> bool:
        if place == x:
            return True
        maker = self.makers.get(place)
        if steps == 0 or maker is None or maker.name not in _PASSING:
            return False
        return any(self._comes_from(before, x, steps - 1) for before in maker.inputs)

    # --- layers, additions and features ---------------------------------------------------------

    def layers(self) -> "list[Layer]":
        """Returns every product or convolution of the example with parameters, in order.

        Its output is that after the bias, if all that reads the product is the addition of one.
        """
        found = []
        for equation in self.program.equations:
            kinds = [self.kind(place) for place in equation.inputs]
            if equation.name in _PRODUCTS and sorted(kinds) == sorted((EXAMPLE, PARAMETER)):
                weights = kinds.index(PARAMETER)
                found.append(self._layer(equation, weights))
        return found

    def _layer(self, equation: Equation, weights: int) -> "Layer":
        shape = self.shape(equation.inputs[weights])
        if equation.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            axes: tuple[int, ...] = (int(numbers.out_spec[1]),)
            outputs = shape[numbers.rhs_spec[0]]
        else:
            contracted, batched = equation.params["dimension_numbers"]
            own = len(shape) - len(contracted[weights]) - len(batched[weights])
            rank, first = len(self.shape(equation.outputs[0])), len(batched[weights])
            axes = tuple(range(first, first + own) if weights == 0 else range(rank - own, rank))
            outputs = math.prod(self.shape(equation.outputs[0])[axis] for axis in axes)
            outputs *= math.prod(shape[axis] for axis in batched[weights])
        fan_in = math.prod(shape) // max(outputs, 1)
        return Layer(equation, self._after_bias(equation.outputs[0]), axes, fan_in)

    def _after_bias(self, place: int) -> int:
        users = self.users.get(place, [])
        if len(users) != 1 or users[0].name != "add":
            return place
        others = [other for other in users[0].inputs if other != place]
        is_bias = bool(others) and all(map(self.of_parameters, others))
        return users[0].outputs[0] if is_bias else place

    def hides_layers(self) -> bool:
        """Are there layers inside of a loop, a branch or a function with its own derivative?"""
        bodies = (body for each in self.program.equations for body in self._bodies(each))
        return any(
            any(each.name in _PRODUCTS for each in body.program.equations) or body.hides_layers()
            for body in bodies
        )

    def residual_sums(self) -> list[tuple[int, tuple[int, int]]]:
        """Returns (sum, its operands) wherever two streams of feature maps are added, in order.

        Two values are of different streams if they come from different products.
        """
        behind: dict[int, frozenset[int]] = {}
        products = {id(layer.equation): number for number, layer in enumerate(self.layers())}
        found = []
        for equation in self.program.equations:
            before = [behind.get(place, frozenset()) for place in equation.inputs]
            own = products.get(id(equation))
            after = frozenset().union(*before) | (frozenset() if own is None else {own})
            behind.update(dict.fromkeys(equation.outputs, after))
            if self._adds_maps(equation) and before[0] != before[1]:
                a, b = equation.inputs
                found.append((equation.outputs[0], (a, b)))
        return found

    def _adds_maps(self, equation: Equation) -> bool:
        if equation.name not in ("add", "add_any"):
            return False
        a, b = equation.inputs
        return (
            (self.of_example(a) and self.of_example(b))
            and self.shape(a) == self.shape(b)
            and self.is_map(a)
        )

    def is_map(self, place: int) -> bool:
        """Has the value examples, positions and channels?"""
        return sum(size > 1 for size in self.shape(place)) > 2

    def features(self) -> int | None:
        """Returns the last feature map that the outputs are computed from; None: there is none."""
        needed = self._needed()
        maps = [
            place
            for equation in self.program.equations
            for place in equation.outputs
            if place in needed and self.of_example(place) and self.is_map(place)
        ]
        return maps[-1] if maps else None

    def _needed(self) -> set[int]:
        needed = set(self.program.outputs)
        for equation in reversed(self.program.equations):
            if not needed.isdisjoint(equation.outputs):
                needed.update(equation.inputs)
        return needed

    def position(self, place: int) -> int:
        """Returns when a value is made; inputs and constants are there before all."""
        return next(
            (i for i, each in enumerate(self.program.equations) if place in each.outputs), -1
        )

    def channel_axis(self, place: int) -> int:
        """Returns the axis of channels: that of the convolution before, else the last one."""
        rank = len(self.shape(place))
        seen, ahead = set(), [place]
        while ahead:
            maker = self.makers.get(ahead.pop())
            if maker is None or id(maker) in seen or len(self.shape(maker.outputs[0])) != rank:
                continue
            seen.add(id(maker))
            if maker.name == "conv_general_dilated":
                return int(maker.params["dimension_numbers"].out_spec[1])
            ahead.extend(maker.inputs)
        return rank - 1


def _branches(equation: Equation) -> list[tuple[FlatProgram, list[str]]]:
    """Returns the programs of which an equation runs one, or which it repeats unboundedly."""
    bodies = list(equation.source.params.get("branches", ()))
    bodies += [equation.source.params[name] for name in ("body_jaxpr",) if name in equation.params]
    flat = [flatten_jaxpr(body, ACTIVATIONS) for body in bodies]
    return [(program, [EXAMPLE] * len(program.inputs)) for program in flat]


# --- running a program and looking at it ----------------------------------------------------------


def read(function: Callable[..., Any], kinds: Sequence[str], *args: Any) -> Landmarks:
    """Traces a function; each argument is a tree of one kind.

    Args:
        function: of the arguments.
        kinds: one for each argument.
        *args: arrays or their shapes.
    """
    program = trace(function, *args, kept=ACTIVATIONS)
    by_leaf = [kind for kind, tree in zip(kinds, args, strict=True) for _ in jax.tree.leaves(tree)]
    return Landmarks(program, by_leaf)


def run(
    marks: Landmarks, args: Sequence[Any], changes: dict[int, Callable[[Array], Array]]
) -> dict[int, Any]:
    """Runs a program; returns its values by place.

    Args:
        marks: of the program.
        args: the leaves of its arguments.
        changes: what a value is replaced by, as a function of it, by place.
    """
    known = {**marks.program.constants, **dict(zip(marks.program.inputs, args, strict=True))}
    return evaluate_all(marks.program.equations, known, changes)


def activations_in(marks: Landmarks) -> list[tuple[int, ...]]:
    """Returns the shapes of what `run_activations` gives, in its order.

    Raises:
        ValueError: if an activation is in a branch or an unbounded loop.
    """
    shapes = []
    for equation in marks.program.equations:
        found = marks.activation(equation)
        if found is not None:
            shapes.append(marks.shape(found[0]))
        elif marks._body_is_active(equation):
            body = _scanned(marks, equation)
            shapes += [(equation.params["length"], *shape) for shape in activations_in(body)]
    return shapes


def run_activations(marks: Landmarks, args: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """Runs a program; returns (its outputs, the values that decide which units are active).

    What runs in a loop is stacked over the steps.

    Args:
        marks: of the program.
        args: the leaves of its arguments.

    Raises:
        ValueError: if an activation is in a branch or an unbounded loop.
    """
    known = {**marks.program.constants, **dict(zip(marks.program.inputs, args, strict=True))}
    seen: list[Array] = []
    for equation in marks.program.equations:
        operands = [known[place] for place in equation.inputs]
        found = marks.activation(equation)
        if found is None and marks._body_is_active(equation):
            results, inside = _run_scan(equation, _scanned(marks, equation), operands)
            seen += inside
        else:
            results = evaluate(equation, *operands)
        if found is not None:
            place, sign = found
            seen.append(sign * known[place])
        known.update(zip(equation.outputs, results, strict=True))
    return [known[place] for place in marks.program.outputs], seen


def _scanned(marks: Landmarks, equation: Equation) -> Landmarks:
    body = marks.body(equation)
    if equation.name != "scan" or body is None:
        raise ValueError(
            f"the network calls an activation in a {equation.name}"
            f"{f' of {equation.layer}' if equation.layer else ''}; allowed: in a layer, or in a "
            "loop of fixed length (scan, nn.scan, lax.map)"
        )
    return body


def _run_scan(
    equation: Equation, body: Landmarks, operands: Sequence[Any]
) -> tuple[list[Array], list[Array]]:
    params = equation.params
    consts, carried = params["num_consts"], params["num_carry"]

    def step(carry: Sequence[Array], x: Sequence[Array]) -> Any:
        outputs, seen = run_activations(body, [*operands[:consts], *carry, *x])
        return outputs[:carried], (outputs[carried:], seen)

    start, xs = operands[consts : consts + carried], operands[consts + carried :]
    last, (stacked, seen) = lax.scan(
        step, list(start), list(xs), params["length"], params["reverse"]
    )
    return [*last, *stacked], list(seen)


def example_axes(
    shapes: Iterable[tuple[int, ...]], others: Iterable[tuple[int, ...]], n: int, more: int
) -> list[int]:
    """Returns the axis of examples of each shape.

    Args:
        shapes: with n examples.
        others: the same with another number of examples.
        n: the number of examples.
        more: the other number.

    Raises:
        ValueError: if a shape has no axis of examples alone.
    """
    axes = []
    for shape, other in zip(shapes, others, strict=True):
        changed = [i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
        if len(changed) != 1 or (shape[changed[0]], other[changed[0]]) != (n, more):
            raise ValueError(
                f"a layer acts on {list(shape)} for {n} examples; allowed: arrays with an "
                "axis for the examples alone"
            )
        axes.append(changed[0])
    return axes
