"""The input of an NTK engine: a network at fixed weights, and a choice of parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.tree import path_names
from saboc_jax.types import Gates, SearchSpace, Variables

Path = tuple[str, ...]
Predicate = Callable[[Path], bool]
WEIGHT_NAMES = ("kernel", "scale", "embedding")  # what PyTorch calls "weight"
PARAMETERS = ("weights", "all", "cells")


class Network(NamedTuple):
    """A network at fixed weights.

    Attributes:
        apply: `apply(variables, images, mutable=())` gives (outputs [n, k], state).
        variables: {"params": ...}.
        in_cells: does a parameter path lie in the searched cells? None: the network has no cells.
        layers_per_leaf: how many leading axes of a parameter count layers.
    """

    apply: Callable[..., tuple[Float[Array, "n k"], Variables]]
    variables: Variables
    in_cells: Predicate | None = None
    layers_per_leaf: Callable[[Path], int] = lambda path: 0


def bind(space: SearchSpace, variables: Variables, gates: Gates) -> Network:
    """Returns the network of one architecture or supernet of a space."""
    program = space.one_program

    def apply(variables: Variables, images: Array, mutable: Sequence[str] = ()) -> Any:
        outputs, state = program.apply(variables, gates, images, mutable)
        return observed(outputs), state

    return Network(apply, variables, program.in_cells, program.layers_per_leaf)


def from_module(module: nn.Module, variables: Variables, **kwargs: Any) -> Network:
    """Returns the network of any Flax module; `kwargs` go to its call."""

    def apply(variables: Variables, images: Array, mutable: Sequence[str] = ()) -> Any:
        outputs, state = module.apply(variables, images, mutable=list(mutable), **kwargs)
        return observed(outputs), state

    return Network(apply, variables)


def soundness(*values: Array) -> Float[Array, ""]:
    """Returns 1 if all values are finite, else NaN: a factor that leaves bad networks no value."""
    finite = jnp.stack([jnp.isfinite(value).all() for value in values]).all()
    return jnp.where(finite, 1.0, jnp.nan).astype(jnp.result_type(*values))


def observed(outputs: Array) -> Array:
    """Returns the outputs; if one of an example is not finite, all become NaN with their gradients.

    A bias adds to the outputs and leaves the gradients of other parameters alone. Without this a
    network that gives NaN would have the gradients, and the scores, of a healthy one.
    """
    if not jnp.issubdtype(outputs.dtype, jnp.floating) or not outputs.ndim:
        return outputs
    each = jnp.isfinite(outputs).all(tuple(range(1, outputs.ndim)), keepdims=True)
    return outputs * lax.stop_gradient(jnp.where(each, 1.0, jnp.nan).astype(outputs.dtype))


def check_outputs(y: Array) -> Array:
    """Returns the outputs unchanged.

    Raises:
        ValueError: unless they are [n, k].
    """
    if y.ndim != 2:
        raise ValueError(
            f"the network's outputs have shape {y.shape}; allowed: [n, k], k outputs for each image"
        )
    return y


def parameter_predicate(network: Network, params: str | Predicate) -> Predicate:
    """Returns which parameters of a network the NTK is over; see `named_predicate`."""
    return named_predicate(params, network.in_cells)


def named_predicate(params: str | Predicate, in_cells: Predicate | None) -> Predicate:
    """Returns a predicate that tells which parameters the NTK is over.

    Args:
        params: "weights" (kernels and scales, no biases, as in the peers' codes), "all", "cells"
            (weights inside the searched cells), or a predicate of a path.
        in_cells: tells which paths lie in cells; None: the network has no cells.

    Raises:
        ValueError: if the name is unknown, or if "cells" is asked of a network without cells.
    """
    if callable(params):
        return params
    if params == "all":
        return lambda path: True
    if params == "weights":
        return lambda path: path[-1] in WEIGHT_NAMES
    if params != "cells":
        raise ValueError(f"params={params!r}; allowed: {PARAMETERS} or a predicate of a path")
    if in_cells is None:
        raise ValueError("params='cells', but this network does not say where its cells are")
    return lambda path: in_cells(path) and path[-1] in WEIGHT_NAMES


class NoParameterError(ValueError):
    """Raised if a predicate chooses no parameter of a network."""


def split_parameters(
    params: Mapping[str, Any], predicate: Predicate
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """Returns the chosen leaves, and a function that puts (other) leaves back in their places.

    Raises:
        NoParameterError: if no parameter is chosen.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = [predicate(path_names(path)) for path, _ in leaves]
    if not any(chosen):
        names = sorted("/".join(path_names(path)) for path, _ in leaves)
        raise NoParameterError(f"the predicate chooses no parameter; there are {names[:6]}…")

    def restore(chosen_values: list[Array]) -> Any:
        values = iter(chosen_values)
        return jax.tree_util.tree_unflatten(
            structure,
            [next(values) if c else leaf for c, (_, leaf) in zip(chosen, leaves, strict=True)],
        )

    return [leaf for c, (_, leaf) in zip(chosen, leaves, strict=True) if c], restore
