"""A network's program for one example, and the parameters in it that a kernel is over."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from saboc_jax.layers.jaxpr import CONSTANT, EXAMPLE, PARAMETER, FlatProgram, trace
from saboc_jax.layers.roles import WEIGHTS, Roles, find_roles
from saboc_jax.layers.tree import Path, Predicate, path_names
from saboc_jax.ntk.network import (
    STATISTICS,
    Network,
    check_outputs,
    named_predicate,
    observed,
    statistics_shapes,
)


@dataclass(frozen=True, eq=False)
class ReadNetwork:
    """A network as a program from its arrays and one example to its outputs [k].

    Attributes:
        program: takes the parameters, the network's other arrays, and the example's, leaf by leaf.
        paths: the path of each parameter.
        others: the number of other arrays.
    """

    program: FlatProgram
    paths: tuple[Path, ...]
    others: int

    def kinds(self, chosen: Sequence[bool] | None = None) -> list[str]:
        """Returns the kind of each of the program's inputs.

        Args:
            chosen: which parameters count; None: all that can have a gradient.
        """
        own = [True] * len(self.paths) if chosen is None else chosen
        shapes = [self.program.shapes[place] for place in self.program.inputs]
        parameters = [
            PARAMETER if take and jnp.issubdtype(shape.dtype, jnp.inexact) else CONSTANT
            for take, shape in zip(own, shapes, strict=False)
        ]
        examples = len(self.program.inputs) - len(self.paths) - self.others
        return [*parameters, *[CONSTANT] * self.others, *[EXAMPLE] * examples]

    @cached_property
    def roles(self) -> dict[Path, set[str]]:
        """What the network does with each parameter, by path; see `layers.roles`."""
        found: Roles = find_roles(self.program, self.kinds())
        return {path: found.get(place, set()) for place, path in enumerate(self.paths)}

    def with_roles(self, roles: frozenset[str]) -> frozenset[Path]:
        """Returns the parameters that have one of these roles."""
        return frozenset(path for path, own in self.roles.items() if own & roles)

    @property
    def number_of_outputs(self) -> int:
        """The width of the outputs."""
        (place,) = self.program.outputs
        return int(self.program.shapes[place].shape[0])


def read_network(network: Network, inputs: Any) -> ReadNetwork:
    """Traces a network for one example of a batch (arrays or shapes).

    Raises:
        ValueError: if its outputs are not [n, k], or a parameter is complex.
    """
    others = dict(network.variables)
    leaves, structure = jax.tree_util.tree_flatten_with_path(others.pop("params"))
    _refuse_complex(leaves)
    rest, rest_structure = jax.tree.flatten(others)
    shapes, inputs_structure = jax.tree.flatten(inputs)
    example = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in shapes]

    def function(params: list[Any], rest: list[Any], example: list[Any]) -> Any:
        variables = {
            **jax.tree.unflatten(rest_structure, rest),
            "params": jax.tree_util.tree_unflatten(structure, params),
        }
        one = jax.tree.unflatten(inputs_structure, [leaf[None] for leaf in example])
        outputs = network.apply(variables, one)[0]
        if getattr(outputs, "ndim", 0) != 2:  # the error shows the whole batch's shape
            check_outputs(jax.eval_shape(lambda: network.apply(network.variables, inputs)[0]))
        return observed(outputs)[0]

    program = trace(function, [leaf for _, leaf in leaves], rest, example)
    paths = tuple(path_names(path) for path, _ in leaves)
    return ReadNetwork(program, paths, len(rest))


def _refuse_complex(leaves: Sequence[tuple[Any, Any]]) -> None:
    for path, leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"parameter {'/'.join(path_names(path))} is {leaf.dtype}; allowed: real numbers "
                "(a complex parameter as two real ones, its real and its imaginary part)"
            )


def choose_parameters(
    network: Network, params: str | Predicate, read: ReadNetwork | None
) -> Predicate:
    """Returns which parameters of a network the NTK is over.

    Args:
        network: the network.
        params: as in `named_predicate`.
        read: the network's program: "weights" are then what it multiplies into the example, by
            role, whatever they are called. None: they are known by name.
    """
    if read is None or callable(params) or params not in ("weights", "cells"):
        return named_predicate(params, network.in_cells)
    if params == "cells":
        named_predicate(params, network.in_cells)  # raises if the network has no cells
    weights, in_cells = read.with_roles(WEIGHTS), network.in_cells
    everywhere = params == "weights" or in_cells is None
    return lambda path: path in weights and (everywhere or in_cells(path))  # type: ignore[misc]


def predicate_for(network: Network, inputs: Any, params: str | Predicate) -> Predicate:
    """Returns which parameters a choice names, for scorers that differentiate by themselves.

    Args:
        network: the network.
        inputs: a batch; only shapes matter.
        params: as in `named_predicate`, or a set of roles (`layers.roles`).
    """
    if network.known_layers or callable(params) or params == "all":
        return named_predicate(params, network.in_cells)
    return choose_parameters(network, params, read_statically(network, inputs))


def read_statically(network: Network, inputs: Any) -> ReadNetwork:
    """Reads a network for its structure alone; running statistics may be missing.

    Args:
        network: at weights or shapes of weights.
        inputs: a batch or its shapes.
    """
    statistics = statistics_shapes(network, inputs)
    kept = {STATISTICS: statistics} if jax.tree.leaves(statistics) else {}
    return read_network(network._replace(variables={**network.variables, **kept}), inputs)
