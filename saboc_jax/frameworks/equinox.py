"""Equinox modules as candidates.

A module is called for one example, as Equinox's layers are, and mapped over the batch. Its
parameters are its floating-point arrays (`eqx.is_inexact_array`). Batch norms in training mode
run without momentum, so their state is the statistics of the batch.
"""

import inspect
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from saboc_jax.extras import needed
from saboc_jax.frameworks.common import (
    check_has_parameters,
    check_layout,
    refuse,
    turned,
    with_collections,
)
from saboc_jax.layers import linen
from saboc_jax.layers.linen import STATISTICS
from saboc_jax.layers.tree import Named, path_names
from saboc_jax.ntk.network import Network

with needed("equinox", "An Equinox network"):
    import equinox as eqx

ALLOWED = (
    "an equinox.Module, a pair (module, state) of equinox.nn.make_with_state, or a function "
    "make(key) of one of these"
)


def network_of(given: Any, layout: str, axis_name: Hashable) -> Network:
    """Returns a network as a candidate; see `adapters.from_equinox`."""
    turns = check_layout(layout)
    own = _as_pair(given)
    make = None if own is not None else given
    if own is None:
        if not callable(given) or isinstance(given, type):
            raise refuse(given, ALLOWED)
        own = _as_pair(given(jax.random.key(0)))
        if own is None:
            raise refuse(given(jax.random.key(0)), ALLOWED)
    code = _Code(*own, turns, axis_name)
    check_has_parameters(code.own["params"], code.name)

    def init(key: Any) -> dict[str, Any]:
        drawn: Any = _as_pair(given(key))
        # Equinox draws in float64 wherever it is enabled, for which images may not be.
        typed = lambda leaf, own: leaf.astype(own.dtype)  # noqa: E731
        return jax.tree.map(typed, code.arrays(*drawn), code.own)

    return Network(
        code.apply,
        {} if make is not None else code.own,
        train=code.train,
        name=code.name,
        source=code,
        init=None if make is None else init,
    )


def _as_pair(given: Any) -> tuple[Any, Any] | None:
    """Returns (module, state or None); None if it is no module."""
    if isinstance(given, eqx.Module) and not isinstance(given, eqx.nn.State):
        return given, None
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], eqx.nn.State):
        return given[0], given[1]
    return None


class _Code:
    """A network without its arrays; compared by identity."""

    def __init__(self, module: Any, state: Any, turns: bool, axis_name: Hashable) -> None:
        self.name, self.turns = type(module).__name__, turns
        params, self.static = eqx.partition(module, eqx.is_inexact_array)
        self.params = _Part(params)
        floats, self.rest = eqx.partition(_plain_state(module, state), eqx.is_inexact_array)
        self.floats, self.has_state = _Part(floats), state is not None
        named = [norm.axis_name for norm in _norms(module)]
        names = {n for each in named for n in (each if isinstance(each, list | tuple) else (each,))}
        if len(names) > 1:
            raise ValueError(f"batch norms over the axes {sorted(map(str, names))}; allowed: one")
        self.axis_name = names.pop() if names else axis_name
        self.own = self.arrays(module, state)

    def arrays(self, module: Any, state: Any) -> dict[str, Any]:
        """Returns the variables of a module with this code, maybe at other weights."""
        params = eqx.filter(module, eqx.is_inexact_array)
        floats = eqx.filter(_plain_state(module, state), eqx.is_inexact_array)
        return with_collections(
            params=self.params.tree(params), **{STATISTICS: self.floats.tree(floats)}
        )

    def apply(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it in evaluation mode; returns (outputs, {})."""
        return self._run(variables, inputs, training=False)[0], {}

    def train(self, variables: Any, inputs: Any, mutable: Any = ()) -> Any:
        """Runs it with the statistics of the batch; returns (outputs, state)."""
        outputs, state = self._run(variables, inputs, training=True)
        floats = eqx.filter(state, eqx.is_inexact_array)
        return outputs, {STATISTICS: self.floats.tree(floats)} if self.has_state else {}

    def _run(self, variables: Any, inputs: Any, training: bool) -> tuple[Any, Any]:
        params = self.params.values(variables["params"])
        module = _in_mode(eqx.combine(params, self.static), training)
        args, named = linen.arguments(
            type(module).__call__, turned(inputs) if self.turns else inputs
        )
        named = {**named, **_key_of(module)}
        if not self.has_state:
            mapped = jax.vmap(lambda args, named: module(*args, **named), axis_name=self.axis_name)
            return mapped(args, named), None
        floats = self.floats.values(variables[STATISTICS]) if self.floats.names.paths else None
        over_batch: Any = jax.vmap(
            lambda args, named, state: module(*args, state, **named),
            in_axes=(0, 0, None),
            out_axes=(0, None),
            axis_name=self.axis_name,
        )
        return over_batch(args, named, eqx.combine(floats, self.rest))


class _Part:
    """The arrays of a tree of a module or a state, by name."""

    def __init__(self, tree: Any) -> None:
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(tree)
        self.names = Named([path_names(path) for path, _ in leaves])

    def tree(self, tree: Any) -> dict[str, Any]:
        """Returns the arrays of a tree of this kind by name."""
        return self.names.tree(jax.tree.leaves(tree))

    def values(self, named: Any) -> Any:
        """Returns named arrays as such a tree."""
        return jax.tree.unflatten(self.structure, self.names.leaves(named))


def _is_norm(node: Any) -> bool:
    return isinstance(node, eqx.nn.BatchNorm)


def _norms(module: Any) -> list[Any]:
    return [node for node in jax.tree.leaves(module, is_leaf=_is_norm) if _is_norm(node)]


def _in_mode(module: Any, training: bool) -> Any:
    """Returns a module in evaluation mode, its batch norms without momentum in either mode."""

    def set_norm(node: Any) -> Any:
        if not _is_norm(node):
            return node
        copy = jax.tree.map(lambda leaf: leaf, node)
        object.__setattr__(copy, "momentum", 0.0)
        object.__setattr__(copy, "inference", not training)
        return copy

    return jax.tree.map(set_norm, eqx.nn.inference_mode(module), is_leaf=_is_norm)


def _plain_state(module: Any, state: Any) -> Any:
    """Returns a state whose running statistics need no correction for their first steps.

    `BatchNorm(mode="batch")` keeps sums that evaluation divides by 1 - momentum^count.
    """
    if state is None:
        return None
    leaves, structure = jax.tree.flatten(state)  # a copy: reading does not use up the user's
    state = jax.tree.unflatten(structure, leaves)
    for norm in _norms(module):
        if norm.mode == "batch":
            count = state.get(norm.batch_counter)
            scale = jnp.where(count == 0, 1, 1 - norm.momentum**count)
            mean, variance = state.get(norm.batch_state_index)
            state = state.set(norm.batch_state_index, (mean / scale, variance / scale))
    return state


def _key_of(module: Any) -> dict[str, Any]:
    """Returns a key for a module that must be given one; in evaluation mode nothing is drawn."""
    parameters: Any = inspect.signature(type(module).__call__).parameters
    key = parameters.get("key")
    needs = key is not None and key.default is inspect.Parameter.empty
    return {"key": None} if needs else {}
