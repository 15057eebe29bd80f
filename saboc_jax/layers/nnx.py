"""Wraps a flax.nnx module as a Linen module, through nnx's functional split.

The nnx module is split into its structure, its parameters and the rest. The Linen module holds
the parameters and merges them in its call. Each batch norm normalises through a Linen batch norm,
so its statistics are in "batch_stats" and batch norm rules apply to it. Nothing else inside is a
Linen layer: scorers that read kernels, gradients, outputs and ReLUs work; scorers that look at
other layers through Flax interceptors raise an error that names the missing layers.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import Array

from saboc_jax.layers.tree import path_names

ROOT = "nnx"  # the first name of every parameter's path
LINEN = "linen"  # the attribute of an nnx batch norm that holds its Linen batch norm


class _SteeredNorm(nnx.BatchNorm):
    """A batch norm of a merged module; it exists for one call only."""

    def __call__(self, x: Any, use_running_average: Any = None, *, mask: Any = None) -> Any:
        y = vars(self)[LINEN](x, mask=mask)
        y = y if self.scale is None else y * jnp.asarray(self.scale)
        return y if self.bias is None else y + jnp.asarray(self.bias)


def _steer(norm: Any, linen: nn.Module) -> None:
    """Makes a batch norm normalise through a Linen one; bypasses nnx's attribute checks."""
    vars(norm)[LINEN] = linen
    object.__setattr__(norm, "__class__", _SteeredNorm)


class _Definition:
    """The structure of the modules that a function makes; compared by identity."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
        self.make = make
        module = make(nnx.Rngs(0))
        if not isinstance(module, nnx.Module):
            raise ValueError(f"the function made a {type(module).__name__}; allowed: nnx.Module")
        for path, norm in batch_norms(module):
            if norm.axis != -1:
                raise ValueError(f"batch norm {path} has axis={norm.axis}; allowed: -1, channels")
        module.eval()  # no dropout
        split: Any = nnx.split(module, nnx.Param, ...)
        self.graph, params, self.rest = split
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(params)
        self.paths = [tuple(n for n in path_names(path) if n != "value") for path, _ in leaves]

    def draw(self, key: Array) -> dict[str, Any]:
        """Returns the parameters of a new module as a tree of names."""
        leaves = jax.tree.leaves(nnx.state(self.make(nnx.Rngs(key)), nnx.Param))
        tree: dict[str, Any] = {}
        for path, leaf in zip(self.paths, leaves, strict=True):
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = leaf
        return tree

    def merge(self, params: Any) -> Any:
        """Returns the module with these parameters."""
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
    def __call__(self, images: Array, train: bool = False, **call: Any) -> Array:
        if self.is_initializing():
            params: Any = self.param(ROOT, self.definition.draw)
        else:
            params = self.get_variable("params", ROOT)
        module = self.definition.merge(params)
        for path, norm in batch_norms(module):
            linen = nn.BatchNorm(
                not train,
                momentum=norm.momentum,
                epsilon=norm.epsilon,
                dtype=norm.dtype,
                use_scale=False,
                use_bias=False,
                use_fast_variance=norm.use_fast_variance,
                axis_name=norm.axis_name,
                name=path,
            )
            _steer(norm, linen)
        if "train" in inspect.signature(type(module).__call__).parameters:
            call["train"] = train
        return module(images, **call)


def batch_norms(module: nnx.Module) -> list[tuple[str, Any]]:
    """Returns (path, batch norm) for every batch norm in a module."""
    return [
        ("_".join(map(str, path)) or "norm", node)
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.BatchNorm)
    ]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> nn.Module:
    """Returns a Linen module that runs an nnx module in evaluation mode.

    Args:
        make: `make(rngs)` gives the nnx module. It is a function, not a module, because scorers
            draw new weights for every key.

    Returns:
        The Linen module. Its keyword `train` affects only batch norms; it is passed on if the nnx
        module has a keyword `train` too.

    Raises:
        ValueError: if `make` does not return an nnx module, or if a batch norm normalises another
            axis than the last.

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
