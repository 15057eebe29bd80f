"""The edges of a gated cell: every edge adds the gated outputs of its operations to a node.

There are two forms with the same values:

    plain: a scan over edges. JAX can differentiate it in any mode, and its operations can record
        collections.
    reverse only: the same scan with a custom reverse rule, for passes that record nothing. JAX's
        own rule fills, copies and adds an array of zeros of the size of all nodes for every edge,
        and more zeros for every operation that did not run; on a CPU that costs more than the
        operations of a small network. The custom rule reads the final nodes (a node is complete
        before an edge leaves it), runs the reverse rule of an operation only if its gate is
        positive, and adds to the existing cotangents.

The second form is used if a rule in force (`saboc_jax.layers.rules`) supports only reverse mode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.gating import gated, merge
from saboc_jax.layers.ops import Features
from saboc_jax.layers.rules import KEPT, Twofold
from saboc_jax.types import Variables

Run = Callable[[Variables, Sequence[str], Features], tuple[Features, Variables]]


@dataclass(frozen=True)
class Operation:
    """One option of every edge.

    Attributes:
        option: its index among the gates of an edge.
        run: `run(collections, mutable, x)` gives its output and the recorded collections.
    """

    option: int
    run: Run


def add_edges(
    operations: Sequence[Operation],
    ends: Sequence[tuple[int, int]],
    nodes: Float[Array, "nodes n ..."],
    inputs: Float[Array, "k n ..."] | None,
    gates: Float[Array, "edges options"],
    collections: Variables,
    mutable: Sequence[str] = (),
) -> tuple[Float[Array, "nodes n ..."], Variables]:
    """Adds the outputs of the edges to their target nodes.

    Args:
        operations: the options that compute anything.
        ends: (source, target) of every edge; no edge into a node follows an edge out of it.
        nodes: the current values of the nodes.
        inputs: the arrays that sources index; None: the nodes.
        gates: an operation runs if its gate is positive.
        collections: those of all operations, as `run` takes them, with a leading axis of edges.
        mutable: collections that the operations record.

    Returns:
        The nodes, and the recorded collections with a leading axis of edges.
    """
    plain = partial(_plain, operations, ends, mutable)
    if mutable:
        return plain(nodes, inputs, gates, collections)
    both = Twofold(lambda *args: plain(*args)[0], partial(_reverse_only, operations, ends))
    added: Any = both.apply({}, nodes, inputs, gates, collections)
    return added, {}


# --- plain ------------------------------------------------------------------------------------


def _plain(
    operations: Sequence[Operation],
    ends: Sequence[tuple[int, int]],
    mutable: Sequence[str],
    nodes: Array,
    inputs: Array | None,
    gates: Array,
    collections: Variables,
) -> tuple[Array, Variables]:
    # The reverse pass recomputes an edge instead of keeping its residuals: a scan would keep an
    # array for each operation, whether it ran or not.
    run_edge = jax.checkpoint(partial(_run_edge, operations, mutable), prevent_cse=False)

    def body(nodes: Array, edge: Any) -> tuple[Array, Variables]:
        (source, target), gate, variables = edge
        y, state = run_edge((nodes if inputs is None else inputs)[source], gate, variables)
        return nodes.at[target].add(y), state

    return lax.scan(body, nodes, (_columns(ends), gates, collections))


def _columns(ends: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Splits the ends of edges into sources and targets."""
    array = np.asarray(ends, np.int32)
    return array[:, 0], array[:, 1]


def _run_edge(
    operations: Sequence[Operation],
    mutable: Sequence[str],
    x: Features,
    gate: Array,
    collections: Variables,
) -> tuple[Features, Variables]:
    """Computes the gated sum of the operations; only operations with a positive gate run."""
    outputs, states = [], []
    for operation in operations:
        run = partial(operation.run, collections, mutable)
        y, state = gated(run, gate[operation.option], x)
        outputs.append(y)
        states.append(state)
    return sum(outputs[1:], start=outputs[0]), merge(*states)


# --- reverse only -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pure:
    """An operation as pure functions of arrays.

    Arrays that an interceptor brings in (such as a tap) are arguments: JAX does not let a function
    with a custom reverse rule close over arrays that are differentiated.

    Attributes:
        option: its index among the gates of an edge.
        forward: maps (collections, x, *constants) to the output and the constant statistics.
        again: maps (collections, kept statistics, x, *constants) to the output.
    """

    option: int
    forward: Callable[..., tuple[Features, Variables]]
    again: Callable[..., Features]


def _reverse_only(
    operations: Sequence[Operation],
    ends: Sequence[tuple[int, int]],
    nodes: Array,
    inputs: Array | None,
    gates: Array,
    collections: Variables,
) -> Array:
    """Computes the nodes of `_plain`. Gates are constants: they have no gradient."""
    x = (nodes if inputs is None else inputs)[0]
    variables = jax.tree.map(lambda leaf: leaf[0], collections)
    made = [_pure(operation, variables, x) for operation in operations]
    pure, constants = zip(*made, strict=True)
    config = (pure, tuple(map(tuple, ends)))
    return _edges(config, nodes, inputs, lax.stop_gradient(gates), collections, constants)


def _pure(operation: Operation, variables: Variables, x: Features) -> tuple[_Pure, tuple[Any, Any]]:
    """Returns an operation as pure functions, and the constants of both functions."""

    def first(variables: Variables, x: Features) -> tuple[Features, Variables]:
        y, state = operation.run(variables, (KEPT,), x)
        return y, state.get(KEPT, {})

    def second(variables: Variables, kept: Variables, x: Features) -> Features:
        return operation.run({**variables, KEPT: kept}, (), x)[0]

    forward, one = jax.closure_convert(first, variables, x)
    shapes = jax.eval_shape(forward, variables, x, *one)[1]
    again, two = jax.closure_convert(second, variables, jax.tree.map(jnp.zeros_like, shapes), x)
    return _Pure(operation.option, forward, again), (one, two)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _edges(
    config: Any, nodes: Array, inputs: Any, gates: Array, collections: Variables, constants: Any
) -> Array:
    return _edges_forward(config, nodes, inputs, gates, collections, constants)[0]


def _edges_forward(
    config: Any, nodes: Array, inputs: Any, gates: Array, collections: Variables, constants: Any
) -> tuple[Array, Any]:
    operations, ends = config

    def body(nodes: Array, edge: Any) -> tuple[Array, Any]:
        (source, target), gate, variables = edge
        x, y, kept = (nodes if inputs is None else inputs)[source], nodes[target], []
        for operation, known in zip(operations, constants, strict=True):
            y, statistics = _forward(operation, known[0], variables, gate, x, y)
            kept.append(statistics)
        return nodes.at[target].set(y), kept

    nodes, kept = lax.scan(body, nodes, (_columns(ends), gates, collections))
    return nodes, (nodes, inputs, gates, collections, constants, kept)


def _forward(
    operation: _Pure, known: Any, variables: Variables, gate: Array, x: Features, y: Features
) -> tuple[Features, Variables]:
    """Adds the gated output to y; kept statistics are zero if the operation does not run."""
    weight = gate[operation.option].astype(y.dtype)
    kept = jax.eval_shape(operation.forward, variables, x, *known)[1]

    def run(y: Features, x: Features) -> Any:
        output, statistics = operation.forward(variables, x, *known)
        return y + weight * output, statistics

    def skip(y: Features, x: Features) -> Any:
        return y, jax.tree.map(jnp.zeros_like, kept)

    result: tuple[Features, Variables] = lax.cond(weight > 0, run, skip, y, x)
    return result


def _edges_backward(config: Any, saved: Any, g: Array) -> tuple[Any, ...]:
    operations, ends = config
    nodes, inputs, gates, collections, constants, kept = saved
    sources = nodes if inputs is None else inputs
    back_edge = jax.checkpoint(partial(_back_edge, operations), prevent_cse=False)

    def body(carry: Any, edge: Any) -> tuple[Any, Any]:
        g, back, totals = carry
        (source, target), gate, variables, statistics = edge
        held = g if inputs is None else back
        # A node's cotangent is complete before the reverse scan reaches an edge into it.
        total, totals, gradients = back_edge(
            sources[source], g[target], held[source], gate, variables, statistics, constants, totals
        )
        held = held.at[source].set(total)
        return ((held, None, totals) if inputs is None else (g, held, totals)), gradients

    zeros = jax.tree.map(jnp.zeros_like, (inputs, constants))
    layers = (_columns(ends), gates, collections, kept)
    (g, back, totals), gradients = lax.scan(body, (g, *zeros), layers, reverse=True)
    return g, back, jnp.zeros_like(gates), gradients, totals


def _back_edge(
    operations: Sequence[_Pure],
    x: Features,
    g: Features,
    total: Features,
    gate: Array,
    variables: Variables,
    kept: Sequence[Variables],
    constants: Sequence[Any],
    totals: Sequence[Any],
) -> tuple[Features, Any, Variables]:
    """Adds cotangents of an edge's input and constants to the totals; returns its gradients too."""
    gradients, done = jax.tree.map(jnp.zeros_like, variables), []
    for operation, mine, known, (first, sums) in zip(
        operations, kept, constants, totals, strict=True
    ):
        weight = gate[operation.option].astype(g.dtype)
        pull = partial(_pull, operation, mine, known[1], variables, weight)
        carry = (gradients, total, sums)
        carry = lax.cond(weight > 0, pull, lambda carry, x, g: carry, carry, x, g)
        gradients, total, sums = carry
        done.append((first, sums))
    return total, tuple(done), gradients


def _pull(
    operation: _Pure,
    kept: Variables,
    constants: Any,
    variables: Variables,
    weight: Array,
    carry: Any,
    x: Features,
    g: Features,
) -> Any:
    """Adds an operation's cotangents of collections, input and constants to the carry."""

    def run(variables: Variables, x: Features, constants: Any) -> Features:
        return operation.again(variables, kept, x, *constants)

    return jax.tree.map(jnp.add, carry, jax.vjp(run, variables, x, constants)[1](weight * g))


_edges.defvjp(_edges_forward, _edges_backward)
