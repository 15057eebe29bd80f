"""A flax.nnx module as a Linen module, through nnx's functional split.

The nnx module is split into its structure, its parameters and the rest; the Linen module holds
the parameters and merges them in its call. Batch norms normalise by a Linen batch norm, so that
their statistics are in "batch_stats" and steered as everywhere. Nothing else inside is a Linen
layer: scorers that read kernels, gradients, outputs and ReLUs apply, those that look at other
layers through Flax interceptors say what they lack.
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
LINEN = "linen"  # the attribute of a batch norm that holds its Linen one


class _SteeredNorm(nnx.BatchNorm):
    """A batch norm of a merged module, which is there for one call."""

    def __call__(self, x: Any, use_running_average: Any = None, *, mask: Any = None) -> Any:
        y = vars(self)[LINEN](x, mask=mask)
        y = y if self.scale is None else y * jnp.asarray(self.scale)
        return y if self.bias is None else y + jnp.asarray(self.bias)


def _steer(norm: Any, linen: nn.Module) -> None:
    """Has a batch norm normalise by a Linen one (past nnx's checks of attributes)."""
    vars(norm)[LINEN] = linen
    object.__setattr__(norm, "__class__", _SteeredNorm)


class _Definition:
    """The structure of the modules that a function makes; equal to itself only."""

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
    """(Path, batch norm) of every batch norm in a module."""
    return [
        ("_".join(map(str, path)) or "norm", node)
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.BatchNorm)
    ]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> nn.Module:
    """A Linen module that runs an nnx module in evaluation mode.

    Args:
        make: `make(rngs)` gives the nnx module. A function and not a module, because scorers
            draw weights anew for every key.

    Returns:
        It has a keyword `train`, of its batch norms only (and handed on to a module that has one).

    Raises:
        ValueError: if it makes no nnx module, or one whose batch norm is over another axis than
            the last.

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
