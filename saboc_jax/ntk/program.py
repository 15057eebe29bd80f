"""The exact NTK of any JAX function by one backward pass, read from its program.

The function is traced for one example. Its equations run one after another for the whole batch;
those where parameters meet an example (`ntk.frontier`) run as sites (`ntk.sites`), whose reverse
pass gives the Gram matrix of per-example gradients. No framework and no layer is known by name.

It is exact if examples do not interact, which `ntk.check` verifies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from saboc_jax.layers.jaxpr import (
    CONSTANT,
    EXAMPLE,
    PARAMETER,
    Equation,
    FlatProgram,
    evaluate,
    evaluate_all,
)
from saboc_jax.ntk.conv_rules import is_convolution
from saboc_jax.ntk.factors import Factors, can_factor, factor_taps, factors_of, gram_of_factors
from saboc_jax.ntk.frontier import Frontier, Loop, Operand, enter_loop
from saboc_jax.ntk.general_rule import batched
from saboc_jax.ntk.gram import LARGE, Columns, gram
from saboc_jax.ntk.sites import Site, joined_value, rule_for, spread, tapped

Taps = dict[str, Any]
GRAM, COLLECTED, FACTORS = "gram", "collected", "factors"
Use = tuple[Equation, Operand]


@dataclass
class Level:
    """A program, or the body of a loop in it, with what its parameters need.

    Attributes:
        frontier: its values by kind.
        collected: places of parameter-only values whose gradients are collected.
        loops: the loops that parameters enter, by the place of their first result.
        number: of examples, which decides whether gradients are too large to be collected; 0: they
            never are.
        factored: the uses of parameters whose gradients are kept as factors (`ntk.factors`).
    """

    frontier: Frontier
    number: int = 0
    collected: set[int] = field(default_factory=set)
    loops: dict[int, tuple[Loop, "Level"]] = field(default_factory=dict)
    factored: dict[int, list[Use]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for equation in self.frontier.program.equations:
            if not self.frontier.is_site(equation):
                continue
            loop = enter_loop(equation, self.kinds_of(equation))
            if loop is None:
                self._note_operands(equation)
            else:
                self._note_loop(equation, loop)
        kinds, outputs = self.frontier.kinds, self.frontier.program.outputs
        self.collected.update(place for place in outputs if kinds[place] == PARAMETER)
        for place in sorted(self.collected):
            if uses := self._uses_to_factor(place):
                self.factored[place] = uses
                self.collected.discard(place)

    def _uses_to_factor(self, place: int) -> list[Use]:
        """Returns all uses of a large parameter if each can be factored; else none."""
        program, shape = self.frontier.program, self.frontier.program.shapes[place].shape
        if place not in program.inputs or self.number * math.prod(shape) <= LARGE:
            return []
        found = []
        for equation in program.equations:
            if self.frontier.is_site(equation) and equation.outputs[0] not in self.loops:
                rule = rule_for(equation, self.kinds_of(equation))
                for operand in self.frontier.operands(equation):
                    if operand.anchors == (place,) and can_factor(rule, operand, shape):
                        found.append((equation, operand))
        return found if len(found) == self.frontier.uses[place] else []

    def _factoring(self, equation: Equation) -> dict[int, Any]:
        """Returns what gives the factors of operands of an equation, by position."""
        rule = rule_for(equation, self.kinds_of(equation))
        return {
            operand.position: partial(factors_of, rule, operand)
            for uses in self.factored.values()
            for own, operand in uses
            if own is equation
        }

    def kinds_of(self, equation: Equation) -> list[str]:
        """Returns the kinds of an equation's operands."""
        return [self.frontier.kinds[place] for place in equation.inputs]

    def _note_operands(self, equation: Equation) -> None:
        for operand in self.frontier.operands(equation):
            if not operand.at_once:
                self.collected.update(operand.anchors)

    def _note_loop(self, equation: Equation, loop: Loop) -> None:
        """Chooses which parameters of the body have their Gram matrix in each step."""
        places, complete = loop.body.program.inputs, set()
        for operand in self.frontier.operands(equation):
            stacked = operand.position >= loop.consts + loop.carries
            if stacked and operand.at_once and operand.is_plain:
                complete.add(places[operand.position])
        loop.body.complete = frozenset(complete)
        body = Level(loop.body)
        inside = {position for position, place in enumerate(places) if place in body.collected}
        for operand in self.frontier.operands(equation):
            first = loop.consts <= operand.position < loop.consts + loop.carries
            if operand.position in inside or first:
                self.collected.add(operand.value)
        self.loops[equation.outputs[0]] = (loop, body)

    # --- running ------------------------------------------------------------------------------

    def run(self, known: dict[int, Any], taps: Taps, number: int, columns: Columns) -> None:
        """Runs the program for a batch; adds all values to `known`, by place.

        Args:
            known: the inputs; those of examples with a leading axis.
            taps: "gram": the tap that all sites share; "collected": a tap for each place.
            number: the number of examples.
            columns: the columns of the kernel.
        """
        known.update(self.frontier.program.constants)
        for equation in self.frontier.program.equations:
            if not equation.outputs:  # prints and checks of the function's own
                continue
            results = self._run_equation(equation, known, taps, number, columns)
            known.update(zip(equation.outputs, results, strict=True))

    def _run_equation(
        self,
        equation: Equation,
        known: dict[int, Any],
        taps: Taps,
        number: int,
        columns: Columns,
    ) -> Sequence[Any]:
        values = [known[place] for place in equation.inputs]
        kinds = self.kinds_of(equation)
        if EXAMPLE not in kinds:
            return evaluate(equation, *values)
        if equation.outputs[0] in self.loops:
            return self._run_loop(equation, values, taps, number, columns)
        operands = self.frontier.operands(equation)
        if not operands and not is_convolution(equation, kinds):
            return batched(equation, kinds)(*values)
        ways = tuple(
            (tuple(known[p] for p in o.anchors), tuple(known[p] for p in o.extras))
            for o in operands
        )
        factored = self._factoring(equation) if self.factored else {}
        own = tuple(
            taps[FACTORS][equation.outputs[0], o.position]
            if o.position in factored
            else (taps[GRAM],)
            if o.at_once
            else tuple(taps[COLLECTED][p] for p in o.anchors)
            for o in operands
        )
        site = Site(rule_for(equation, kinds), operands, columns, factored)
        return tapped(site, tuple(values), ways, own)

    def _run_loop(
        self,
        equation: Equation,
        values: Sequence[Any],
        taps: Taps,
        number: int,
        columns: Columns,
    ) -> list[Any]:
        loop, body = self.loops[equation.outputs[0]]
        ends = (loop.consts, loop.consts + loop.carries)
        kinds, inside = self.kinds_of(equation), body.frontier.kinds
        places, results = loop.body.program.inputs, loop.body.program.outputs
        start = [
            self._as_carry(value, kind, inside[place], taps, outer, number)
            for value, kind, place, outer in zip(
                values[ends[0] : ends[1]],
                kinds[ends[0] : ends[1]],
                places[ends[0] : ends[1]],
                equation.inputs[ends[0] : ends[1]],
                strict=True,
            )
        ]
        steps = [
            jnp.moveaxis(value, 1, 0) if kind == EXAMPLE else value
            for value, kind in zip(values[ends[1] :], kinds[ends[1] :], strict=True)
        ]
        outer_of = dict(zip(places, equation.inputs, strict=True))
        collected = {p: taps[COLLECTED][outer_of[p]] for p in body.collected}
        sliced = {
            p: jnp.moveaxis(tap, 1, 0) for p, tap in collected.items() if p in places[ends[1] :]
        }
        whole = {p: tap for p, tap in collected.items() if p not in sliced}

        def step(carry: list[Any], given: tuple[list[Any], dict[int, Any]]) -> Any:
            own, own_taps = given
            known = dict(zip(places, [*values[: ends[0]], *carry, *own], strict=True))
            inner = {GRAM: taps[GRAM], COLLECTED: whole | own_taps}
            body.run(known, inner, number, columns)
            after = [
                spread(known[p], number) if inside[q] == EXAMPLE != inside[p] else known[p]
                for p, q in zip(results[: loop.carries], places[ends[0] : ends[1]], strict=True)
            ]
            made = [
                known[p] if inside[p] == EXAMPLE else spread(known[p], number)
                for p in results[loop.carries :]
            ]
            return after, made

        last, made = lax.scan(
            step, start, (steps, sliced), length=loop.length, reverse=loop.reverse
        )
        carried = [
            value if inside[place] == EXAMPLE else spread(value, number)
            for value, place in zip(last, places[ends[0] : ends[1]], strict=True)
        ]
        return [*carried, *(jnp.moveaxis(value, 0, 1) for value in made)]

    def _as_carry(
        self, value: Any, kind: str, inside: str, taps: Taps, place: int, number: int
    ) -> Any:
        """Returns the first value of a carry, spread over examples if the carry depends on them."""
        if inside != EXAMPLE or kind == EXAMPLE:
            return value
        if kind == CONSTANT:
            return spread(value, number)
        return joined_value(number, value, taps[COLLECTED][place])


@dataclass
class TappedProgram:
    """A function of parameters and one example, ready for batches.

    Attributes:
        level: its program with the parameters' needs. Its inputs are arrays that all examples
            share, the parameters among them, then those of an example.
    """

    level: Level

    @property
    def program(self) -> FlatProgram:
        """The program for one example."""
        return self.level.frontier.program

    def taps(self, number: int, columns: int, dtype: Any) -> Taps:
        """Returns the zeros that a pass needs."""
        shapes = self.program.shapes
        collected = {
            place: jnp.zeros((number, *shapes[place].shape), shapes[place].dtype)
            for place in sorted(self.level.collected)
        }
        factors = {
            (equation.outputs[0], operand.position): factor_taps(
                rule_for(equation, self.level.kinds_of(equation)), operand, number, dtype
            )
            for uses in self.level.factored.values()
            for equation, operand in uses
        }
        zeros = jnp.zeros((number, columns), dtype)
        return {GRAM: zeros, COLLECTED: collected, FACTORS: factors}

    def run(
        self, shared: Sequence[Any], inputs: Sequence[Any], taps: Taps, columns: Columns
    ) -> list[Array]:
        """Returns the function's results for a batch, each with a leading axis of examples."""
        number = len(inputs[0])
        known = dict(zip(self.program.inputs, (*shared, *inputs), strict=True))
        self.level.run(known, taps, number, columns)
        return [self._result(known, place, taps, number) for place in self.program.outputs]

    def _result(self, known: dict[int, Any], place: int, taps: Taps, number: int) -> Array:
        kind = self.level.frontier.kinds[place]
        if kind == EXAMPLE:
            return known[place]
        if kind == CONSTANT:
            return spread(known[place], number)
        return joined_value(number, known[place], taps[COLLECTED][place])

    def kernel(self, shared: Sequence[Any], cotangents: Taps, columns: Columns) -> Array:
        """Returns the kernel from the cotangents of the taps."""
        kernel = cotangents[GRAM]
        for row in self._rows(shared, cotangents[COLLECTED]):
            kernel = kernel + gram(row.reshape(len(row), -1).astype(kernel.dtype), columns)
        for uses in self.level.factored.values():
            keys = [(equation.outputs[0], operand.position) for equation, operand in uses]
            kept = [Factors(*cotangents[FACTORS][key]) for key in keys]
            kernel = kernel + gram_of_factors(kept, columns)
        return kernel

    def _rows(self, shared: Sequence[Any], collected: dict[int, Array]) -> list[Array]:
        """Pulls collected gradients back to the parameters, which adds their uses."""
        if not collected:
            return []
        frontier, places = self.level.frontier, self.program.inputs
        touched = sorted(set().union(*(frontier.feeds[place] for place in collected)))
        if set(collected) <= set(touched):  # nothing to pull back through
            return [collected[place] for place in touched]

        given = dict(zip(places, shared, strict=False))

        def before(*chosen: Any) -> list[Any]:
            known = given | self.program.constants | dict(zip(touched, chosen, strict=True))
            own = [e for e in self.program.equations if e.outputs]
            evaluate_all((e for e in own if frontier.kinds[e.outputs[0]] != EXAMPLE), known)
            return [known[place] for place in collected]

        pull = jax.vjp(before, *(given[place] for place in touched))[1]
        return list(jax.vmap(pull)(list(collected.values())))
