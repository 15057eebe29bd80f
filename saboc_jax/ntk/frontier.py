"""Where the parameters of a program meet an example.

A value of a program for one example depends on parameters only, on the example, or on neither. The
equations that take values of both kinds are the frontier: there, and only there, the gradients
of parameters begin. Before the frontier a parameter may be transformed (standardised, transposed,
shared): that part of the program is the same for all examples.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from saboc_jax.layers.jaxpr import (
    CONSTANT,
    EXAMPLE,
    PARAMETER,
    Equation,
    FlatProgram,
    evaluate_all,
    flatten_jaxpr,
)

# A view gives every entry of its operand a place of its own, so it keeps inner products.
VIEWS = frozenset(
    ("reshape", "transpose", "squeeze", "expand_dims", "copy", "copy_p", "convert_element_type")
)
# Views, and operations that are linear and cheap to pull back for every example.
_LINEAR = VIEWS | {"broadcast_in_dim"}


@dataclass(frozen=True, eq=False)
class Operand:
    """A parameter-only value where it meets an example.

    Attributes:
        position: its position among the operands of the equation.
        value: its place in the program.
        anchors: the places that gradients are pulled back to.
        chain: the equations from the anchors to the value.
        extras: places of other values that the chain reads.
        at_once: nothing else uses the parameters behind it, so the Gram matrix of its gradients
            is complete; otherwise gradients are collected at the anchors.
    """

    position: int
    value: int
    anchors: tuple[int, ...]
    chain: tuple[Equation, ...]
    extras: tuple[int, ...]
    at_once: bool

    @property
    def is_plain(self) -> bool:
        """Does the chain keep inner products, so that it need not be pulled back through?"""
        return all(equation.name in VIEWS for equation in self.chain)

    def run_chain(self, anchors: Sequence[Any], extras: Sequence[Any]) -> Any:
        """Computes the value from its anchors."""
        known = dict(zip((*self.anchors, *self.extras), (*anchors, *extras), strict=True))
        return evaluate_all(self.chain, known)[self.value]


@dataclass
class Frontier:
    """A program whose values are sorted by what they depend on.

    Attributes:
        program: the program for one example.
        kinds: `CONSTANT`, `PARAMETER` or `EXAMPLE` for each value.
        to_inputs: pull gradients back to the program's inputs (a loop's body), not to the nearest
            value behind views.
        complete: the parameters that nothing outside the program uses; None: all of them.
    """

    program: FlatProgram
    kinds: list[str]
    to_inputs: bool = False
    complete: frozenset[int] | None = None
    feeds: dict[int, frozenset[int]] = field(default_factory=dict)
    makers: dict[int, Equation] = field(default_factory=dict)
    _operands: dict[int, tuple[Operand, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place in self.program.inputs:
            if self.kinds[place] == PARAMETER:
                self.feeds[place] = frozenset((place,))
        for equation in self.program.equations:
            self.makers.update(dict.fromkeys(equation.outputs, equation))
            if equation.outputs and self.kinds[equation.outputs[0]] == PARAMETER:
                behind = [self.feeds.get(place, frozenset()) for place in equation.inputs]
                self.feeds.update(dict.fromkeys(equation.outputs, frozenset().union(*behind)))

    def is_site(self, equation: Equation) -> bool:
        """Do parameters meet an example in this equation?"""
        kinds = {self.kinds[place] for place in equation.inputs}
        return {PARAMETER, EXAMPLE} <= kinds

    @cached_property
    def uses(self) -> Counter[int]:
        """How often each parameter meets an example, by place."""
        counted: Counter[int] = Counter()
        for equation in self.program.equations:
            if self.is_site(equation):
                for place in equation.inputs:
                    counted.update(self.feeds.get(place, ()))
        for place in self.program.outputs:
            counted.update(self.feeds.get(place, ()))
        return counted

    def operands(self, equation: Equation) -> tuple[Operand, ...]:
        """Returns the parameter-only operands of an equation; found once, used in every pass."""
        first = equation.outputs[0]
        if first not in self._operands:
            self._operands[first] = tuple(
                self.operand(position, place)
                for position, place in enumerate(equation.inputs)
                if self.kinds[place] == PARAMETER
            )
        return self._operands[first]

    def operand(self, position: int, value: int) -> Operand:
        """Returns a parameter-only value with the way back to where its gradients belong."""
        roots = self.feeds[value]
        at_once = all(self._is_complete(root) for root in roots)
        chain = self._chain(value, roots if at_once or self.to_inputs else self._anchors(value))
        made = {place for equation in chain for place in equation.outputs}
        read = {place for equation in chain for place in equation.inputs} - made
        anchors = tuple(sorted(p for p in read | {value} if self._stops(p, chain)))
        extras = tuple(sorted(read - set(anchors)))
        return Operand(position, value, anchors, chain, extras, at_once)

    def _is_complete(self, root: int) -> bool:
        return self.uses[root] == 1 and (self.complete is None or root in self.complete)

    def _stops(self, place: int, chain: Sequence[Equation]) -> bool:
        made = any(place in equation.outputs for equation in chain)
        return self.kinds[place] == PARAMETER and not made

    def _anchors(self, value: int) -> frozenset[int]:
        """Returns the nearest value that is more than a view of another."""
        while value in self.makers and self.makers[value].name in _LINEAR:
            (value,) = (p for p in self.makers[value].inputs if self.kinds[p] == PARAMETER)
        return frozenset((value,))

    def _chain(self, value: int, stops: Iterable[int]) -> tuple[Equation, ...]:
        """Returns the parameter-only equations from the stops to the value, in order."""
        needed, wanted, seen = [], [value], set(stops)
        while wanted:
            place = wanted.pop()
            if place in seen or self.kinds[place] != PARAMETER:
                continue
            equation = self.makers[place]
            seen.update(equation.outputs)
            needed.append(equation)
            wanted.extend(equation.inputs)
        # Places are numbered in the order of the program.
        return tuple(sorted(needed, key=lambda equation: equation.outputs[0]))


def find_frontier(
    program: FlatProgram, kinds_of_inputs: Sequence[str], to_inputs: bool = False
) -> Frontier:
    """Sorts the values of a program; see `Frontier`.

    Args:
        program: for one example.
        kinds_of_inputs: the kind of each of its inputs.
        to_inputs: see `Frontier`.
    """
    kinds = [CONSTANT] * len(program.shapes)
    for place, kind in zip(program.inputs, kinds_of_inputs, strict=True):
        kinds[place] = kind
    for equation in program.equations:
        kind = joined(kinds[place] for place in equation.inputs)
        if kind == PARAMETER and not _carries_gradient(equation, program):
            kind = CONSTANT
        for place in equation.outputs:
            kinds[place] = kind
    return Frontier(program, kinds, to_inputs)


def joined(kinds: Iterable[str]) -> str:
    """Returns the kind of a result of values of these kinds."""
    present = set(kinds)
    return next((kind for kind in (EXAMPLE, PARAMETER) if kind in present), CONSTANT)


def _carries_gradient(equation: Equation, program: FlatProgram) -> bool:
    if equation.name == "stop_gradient":
        return False
    types = (program.shapes[place].dtype for place in equation.outputs)
    return any(jnp.issubdtype(dtype, jnp.inexact) for dtype in types)


@dataclass(frozen=True, eq=False)
class Loop:
    """A scan whose body has a frontier of its own.

    Attributes:
        body: the frontier of one step.
        consts: the number of operands that every step sees whole.
        carries: the number of values that one step hands to the next.
        length: the number of steps.
        reverse: does it run from the last step to the first?
    """

    body: Frontier
    consts: int
    carries: int
    length: int
    reverse: bool


def enter_loop(equation: Equation, kinds: Sequence[str]) -> Loop | None:
    """Returns the loop of a scan that parameters enter; None: it must be taken as one operation.

    A step may take parameters as constants or as its slice of stacked ones. Parameters that
    are handed from step to step without meeting an example cannot be followed.

    Args:
        equation: any equation.
        kinds: the kinds of its operands.
    """
    if equation.name != "scan":
        return None
    params = equation.params
    consts, carries = params["num_consts"], params["num_carry"]
    first, last = consts, consts + carries
    body = flatten_jaxpr(params["jaxpr"])
    kinds = list(kinds)
    while True:
        frontier = find_frontier(body, kinds, to_inputs=True)
        after = [frontier.kinds[place] for place in body.outputs[:carries]]
        merged = [joined(pair) for pair in zip(kinds[first:last], after, strict=True)]
        if merged == kinds[first:last]:
            break
        kinds[first:last] = merged
    if PARAMETER in merged or PARAMETER in [frontier.kinds[place] for place in body.outputs]:
        return None
    return Loop(frontier, consts, carries, params["length"], params["reverse"])
