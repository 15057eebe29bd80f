"""A flax.nnx module as a Linen module, through nnx's functional split.

The nnx module is split into its structure, its parameters and the rest; the Linen module holds
the parameters and merges them in its call. Nothing inside is a Linen layer, so scorers that
look at layers through Flax interceptors see none: those that read kernels, gradients and outputs
apply, the others say what they lack.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from jaxtyping import Array

from saboc_jax.spaces.base import path_names

ROOT = "nnx"  # the first name of every parameter's path


class _Definition:
    """The structure of the modules that a function makes; equal to itself only."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
        self.make = make
        module = make(nnx.Rngs(0))
        if not isinstance(module, nnx.Module):
            raise ValueError(f"the function made a {type(module).__name__}; allowed: nnx.Module")
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.BatchNorm):
                raise ValueError(
                    "the nnx module has a BatchNorm, whose statistics cannot be set from outside; "
                    "allowed: norms that see one image (LayerNorm, GroupNorm, RMSNorm), or a "
                    "Linen module"
                )
        module.eval()  # no dropout
        split: Any = nnx.split(module, nnx.Param, ...)
        self.graph, params, self.rest = split
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(params)
        self.paths = [tuple(n for n in path_names(path) if n != "value") for path, _ in leaves]

    def draw(self, key: Array) -> dict[str, Any]:
        """Parameters of a new module, by their names."""
        leaves = jax.tree.leaves(nnx.state(self.make(nnx.Rngs(key)), nnx.Param))
        tree: dict[str, Any] = {}
        for path, leaf in zip(self.paths, leaves, strict=True):
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = leaf
        return tree

    def merge(self, params: Any) -> Any:
        """The module with these parameters."""
        leaves = []
        for path in self.paths:
            leaf = params
            for name in path:
                leaf = leaf[name]
            leaves.append(leaf)
        state = jax.tree_util.tree_unflatten(self.structure, leaves)
        return nnx.merge(self.graph, state, self.rest)


class FromNnx(nn.Module):
    """Runs nnx modules made by a function; see `from_nnx`."""

    definition: _Definition

    @nn.compact
    def __call__(self, images: Array, **call: Any) -> Array:
        if self.is_initializing():
            params: Any = self.param(ROOT, self.definition.draw)
        else:
            params = self.get_variable("params", ROOT)
        return self.definition.merge(params)(images, **call)


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> nn.Module:
    """A Linen module that runs an nnx module in evaluation mode.

    Args:
        make: `make(rngs)` gives the nnx module. A function and not a module, because scorers
            draw weights anew for every key.

    Raises:
        ValueError: if it makes no nnx module, or one with batch norm.

    Examples:
        >>> from flax import nnx
        >>> from saboc_jax.spaces.module import module_space
        >>> from saboc_jax.spaces.nnx import from_nnx
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.dense = nnx.Linear(3, 10, rngs=rngs)
        ...     def __call__(self, images):
        ...         return self.dense(images.mean((1, 2)))
        >>> space = module_space([from_nnx(lambda rngs: Net(rngs))], image_shape=(8, 8, 3))
        >>> space.num_classes, space.cost([0]).params
        (10, 40)
    """
    return FromNnx(_Definition(make))
