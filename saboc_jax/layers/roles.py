"""What a network does with each parameter, read from its program.

A parameter is a *weight* if the network multiplies it into something of the example, and a *bias*
if it only adds it. Weights have kinds: the kernel of a product or convolution, an embedding whose
rows are looked up, and a scale, which is any other.
"""

from collections.abc import Sequence
from typing import Any

from saboc_jax.layers.jaxpr import (
    CONSTANT,
    EXAMPLE,
    PARAMETER,
    Equation,
    FlatProgram,
    flatten_jaxpr,
)

KERNEL, EMBEDDING, SCALE, BIAS = "kernel", "embedding", "scale", "bias"
WEIGHTS = frozenset((KERNEL, EMBEDDING, SCALE))

_PRODUCTS = frozenset(("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"))
_LOOKUPS = frozenset(("gather", "dynamic_slice"))
_SUMS = frozenset(
    (
        *("add", "sub", "add_any", "concatenate", "select_n", "pad", "dynamic_update_slice"),
        *("scatter", "scatter-add", "scatter_add", "broadcast_in_dim", "reshape", "transpose"),
        *("convert_element_type", "copy", "squeeze", "optimization_barrier", "stop_gradient"),
    )
)
Roles = dict[int, set[str]]


def find_roles(program: FlatProgram, kinds_of_inputs: Sequence[str]) -> Roles:
    """Returns the roles of each parameter, by its position among the program's inputs.

    Args:
        program: for one example, or the body of a loop.
        kinds_of_inputs: `CONSTANT`, `PARAMETER` or `EXAMPLE`.

    Returns:
        An empty set for a parameter that never meets an example.
    """
    return _Reading(program, kinds_of_inputs).roles


class _Reading:
    """One pass over a program."""

    def __init__(self, program: FlatProgram, kinds: Sequence[str]) -> None:
        self.behind: dict[int, frozenset[int]] = {}
        self.depends = set()
        self.roles: Roles = {}
        for position, (place, kind) in enumerate(zip(program.inputs, kinds, strict=True)):
            if kind == PARAMETER:
                self.behind[place] = frozenset((position,))
                self.roles[position] = set()
            elif kind == EXAMPLE:
                self.depends.add(place)
        for equation in program.equations:
            self._read(equation)
        self.kinds_of_outputs = [self.kind(place) for place in program.outputs]

    def kind(self, place: int) -> str:
        """What the value at a place depends on."""
        if place in self.depends:
            return EXAMPLE
        return PARAMETER if place in self.behind else CONSTANT

    def _read(self, equation: Equation) -> None:
        kinds = [self.kind(place) for place in equation.inputs]
        if PARAMETER in kinds and EXAMPLE in kinds:
            for position, roles in _roles_in(equation, kinds).items():
                for parameter in self.behind[equation.inputs[position]]:
                    self.roles[parameter] |= roles
        if EXAMPLE in kinds:
            self.depends.update(equation.outputs)
        elif PARAMETER in kinds:
            behind = [self.behind.get(place, frozenset()) for place in equation.inputs]
            self.behind.update(dict.fromkeys(equation.outputs, frozenset().union(*behind)))


def _roles_in(equation: Equation, kinds: Sequence[str]) -> Roles:
    """Returns the roles of the parameter-only operands of an equation."""
    inside = _roles_inside(equation, kinds)
    if inside is not None:
        return inside
    name, own = equation.name, [p for p, kind in enumerate(kinds) if kind == PARAMETER]
    if name in _PRODUCTS:
        role = KERNEL
    elif name in _LOOKUPS:
        role = EMBEDDING
    else:
        role = BIAS if name in _SUMS else SCALE
    return {position: {role} for position in own}


def _roles_inside(equation: Equation, kinds: Sequence[str]) -> Roles | None:
    """Returns the roles in the body of a loop, a branch or a function; None: it has no body."""
    params = equation.params
    if equation.name == "scan":
        first = params["num_consts"]
        carries = range(first, first + params["num_carry"])
        return _in_body(params["jaxpr"], list(kinds), carries)
    if equation.name == "while":
        consts = params["cond_nconsts"]
        first = params["body_nconsts"]
        body = list(kinds[consts:])
        roles = _in_body(params["body_jaxpr"], body, range(first, len(body)))
        return {position + consts: role for position, role in roles.items()}
    if equation.name == "cond":
        merged: Roles = {}
        for branch in params["branches"]:
            for position, found in find_roles(flatten_jaxpr(branch), kinds[1:]).items():
                merged.setdefault(position + 1, set()).update(found)
        return merged
    for name in ("call_jaxpr", "fun_jaxpr", "jaxpr"):
        called: Any = params.get(name)
        if hasattr(called, "consts") and len(called.jaxpr.invars) == len(kinds):
            return find_roles(flatten_jaxpr(called), kinds)
    return None


def _in_body(body: object, kinds: list[str], carries: range) -> Roles:
    """Returns the roles in a loop's body, whose carries may come to depend on the example."""
    program = flatten_jaxpr(body)
    order = (CONSTANT, PARAMETER, EXAMPLE)
    given = list(kinds)
    while True:
        reading = _Reading(program, kinds)
        after = list(kinds)
        for position, kind in zip(carries, reading.kinds_of_outputs, strict=False):
            after[position] = max(after[position], kind, key=order.index)
        if after == kinds:
            break
        kinds = after
    roles = reading.roles
    for position in carries:  # handed in, then joined with something of the example
        if given[position] == PARAMETER and kinds[position] == EXAMPLE:
            roles[position] = {BIAS}
    return roles
