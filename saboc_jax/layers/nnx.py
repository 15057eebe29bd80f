"""Wraps a flax.nnx module as a Linen module, through nnx's functional split.

The nnx module is split into its structure, its parameters, its batch statistics and the rest. The
Linen module holds the first two kinds of arrays in "params" and "batch_stats", merges them in
its call and runs the module's own code. Nothing inside is a Linen layer: what scorers need beyond
outputs and gradients they read from the program.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from saboc_jax.layers import linen
from saboc_jax.layers.tree import Named, path_names

ROOT = "nnx"  # the first name of every path


class _Part:
    """One kind of a module's variables as a tree of names."""

    def __init__(self, state: Any) -> None:
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(state)
        paths = [tuple(n for n in path_names(path) if n != "value") for path, _ in leaves]
        self.names = Named(paths)

    def named(self, state: Any) -> dict[str, Any]:
        """Returns the leaves of a state as a tree of names."""
        return self.names.tree(jax.tree.leaves(state))

    def state(self, tree: Any) -> Any:
        """Returns the state of a tree of names."""
        return jax.tree_util.tree_unflatten(self.structure, self.names.leaves(tree))


class _Definition:
    """The structure of the modules that a function makes; compared by identity."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
        self.make = make
        module = make(nnx.Rngs(0))
        if not isinstance(module, nnx.Module):
            raise ValueError(f"the function made a {type(module).__name__}; allowed: nnx.Module")
        self.kind = type(module)
        module.eval()  # no dropout
        split: Any = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
        self.graph, params, statistics, self.rest = split
        self.params, self.statistics = _Part(params), _Part(statistics)

    def draw(self, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns parameters and batch statistics of a new module, as trees of names."""
        return self.arrays(self.make(nnx.Rngs(key)))

    def arrays(self, module: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns parameters and batch statistics of a module, as trees of names."""
        params, statistics = (nnx.state(module, kind) for kind in (nnx.Param, nnx.BatchStat))
        return self.params.named(params), self.statistics.named(statistics)

    def merge(self, params: Any, statistics: Any) -> Any:
        """Returns the module with these arrays."""
        parts = self.params.state(params), self.statistics.state(statistics)
        return nnx.merge(self.graph, *parts, self.rest)


class FromNnx(nn.Module):
    """Runs nnx modules made by a function; see `from_nnx`."""

    definition: _Definition

    @nn.compact
    def __call__(self, inputs: Any, train: bool = False, **call: Any) -> Any:
        own, starting = self.definition, self.is_initializing()
        drawn = own.draw(self.make_rng("params")) if starting else ({}, {})
        params: Any = self.param(ROOT, lambda key: drawn[0])
        kept = None
        if own.statistics.names.paths:
            kept = self.variable(linen.STATISTICS, ROOT, lambda: drawn[1])
        module = own.merge(params, {} if kept is None else kept.value)
        module.set_attributes(use_running_average=not train, raise_if_not_found=False)
        given = linen.call_in_mode(own.kind.__call__, call, training=train)
        args, named = linen.arguments(own.kind.__call__, inputs)
        outputs = module(*args, **{**given, **named})
        if train and kept is not None and not starting:
            state = nnx.state(module, nnx.BatchStat)
            kept.value = jax.tree.map(jnp.asarray, own.statistics.named(state))
        return outputs


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> nn.Module:
    """Returns a Linen module that runs an nnx module in evaluation mode.

    Args:
        make: `make(rngs)` gives the nnx module. It is a function, not a module, because scorers
            draw new weights for every key.

    Returns:
        The Linen module. Its keyword `train` affects only batch norms and the module's own flag of
        that name; dropout is off.

    Raises:
        ValueError: if `make` does not return an nnx module.

    Examples:
        >>> from flax import nnx
        >>> import saboc_jax as sj
        >>> from saboc_jax.spaces.modules.space import module_space
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.dense = nnx.Linear(3, 10, rngs=rngs)
        ...     def __call__(self, images):
        ...         return self.dense(images.mean((1, 2)))
        >>> space = module_space([sj.from_nnx(lambda rngs: Net(rngs))], image_shape=(8, 8, 3))
        >>> space.num_classes, space.cost([0]).params
        (10, 40)
    """
    return FromNnx(_Definition(make))


def from_instance(module: nnx.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Returns an nnx module as a Linen module and its own variables."""
    copy = nnx.clone(module)
    definition = _Definition(lambda rngs: copy)
    params, statistics = definition.arrays(module)
    kept = {linen.STATISTICS: {ROOT: statistics}} if definition.statistics.names.paths else {}
    return FromNnx(definition), {"params": {ROOT: params}, **kept}
