"""A gated supernet as `OneProgram`: one compiled program for every architecture."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.edges import Operation, add_edges
from saboc_jax.layers.gating import COLLECTIONS, apply_within
from saboc_jax.layers.initialise import Initialiser, draw_parameters
from saboc_jax.layers.ops import Features, Within
from saboc_jax.types import Gates, Images, OneProgram, PRNGKey, Variables, brief


def gated_networks(
    module: nn.Module,
    choices: Sequence[int],
    initialiser: Initialiser,
    *,
    image_shape: tuple[int, int, int],
    layers_per_leaf: Callable[[tuple[str, ...]], int],
    **fields: Any,
) -> OneProgram:
    """Returns the networks of a gated supernet, `module(images, gates)`.

    Args:
        module: the supernet; its parameters in the searched cells have paths that begin with
            "cells_".
        choices: number of options of each decision.
        initialiser: draws its parameters.
        image_shape: (height, width, channels) of one image.
        layers_per_leaf: see `OneProgram`.
        **fields: the other fields of `OneProgram`.
    """
    return OneProgram(
        init=partial(_init, module, choices, image_shape, initialiser, layers_per_leaf),
        apply=partial(_apply, module),
        in_cells=lambda path: path[0].startswith("cells_"),
        layers_per_leaf=layers_per_leaf,
        image_shape=image_shape,
        known_layers=True,
        **fields,
    )


def gated_edges(
    net: nn.Module,
    label: str,
    options: Mapping[int, Callable[..., nn.Module]],
    ends: Sequence[tuple[int, int]],
    nodes: Float[Array, "nodes n ..."],
    inputs: Float[Array, "k n ..."] | None,
    gates: Float[Array, "edges options"],
) -> Float[Array, "nodes n ..."]:
    """Adds the gated outputs of edges of equal shapes to nodes, within a compact method of `net`.

    The parameters of an option of all edges are one of the network's, `{label}_{option}`, with a
    leading axis of edges; `edge_parameters` takes those of one edge out again.

    Args:
        net: the bound supernet; initialising, it returns the nodes as they are.
        label: begins with "cells_".
        options: `options[option](name=...)` makes the module of an option; those that compute
            nothing are left out.
        ends: (source, target) of every edge; no edge into a node follows an edge out of it.
        nodes: the current values of the nodes.
        inputs: the arrays that sources index; None: the nodes.
        gates: of the edges; an option runs if its gate is positive.
    """
    sample = (nodes if inputs is None else inputs)[0, :1]
    params = {}
    for option, make in options.items():
        init = partial(_init_edges, make, len(ends), sample)
        if jax.eval_shape(init, jax.random.key(0)):
            params[f"{label}_{option}"] = net.param(f"{label}_{option}", init)
    if net.is_initializing():
        return nodes
    mutable = tuple(name for name in COLLECTIONS if net.is_mutable_collection(name))
    stored: Any = {name: net.get_variable("batch_stats", name, default={}) for name in params}
    operations = [
        Operation(option, partial(_run_edge, f"{label}_{option}", make))
        for option, make in options.items()
    ]
    collections = {"params": params, "batch_stats": stored}
    nodes, states = add_edges(operations, ends, nodes, inputs, gates, collections, mutable)
    for collection in mutable:
        for name, value in states.get(collection, {}).items():
            net.put_variable(collection, name, value)
    return nodes


def edge_parameters(tree: Any, label: str, option: int, edge: int) -> Any:
    """Returns the variables of one option of one edge, as its module has them; {}: it has none."""
    return jax.tree.map(lambda leaf: leaf[edge], tree.get(f"{label}_{option}", {}))


def _init_edges(make: Callable[..., nn.Module], number: int, sample: Array, key: Array) -> Any:
    """Returns parameters [edges, ...] of one option, all equal; {} if it has none."""
    params = make().init(key, sample).get("params", {})
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), params)


def _run_edge(
    label: str,
    make: Callable[..., nn.Module],
    collections: Variables,
    mutable: Sequence[str],
    x: Features,
) -> tuple[Features, Variables]:
    """Runs one option with the collections of an edge."""
    return apply_within(Within(label, make), collections, mutable, x)


def check_positive(**sizes: int) -> None:
    """Raises ValueError, which names the size, if a size is less than 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}; allowed: 1 or more")


def check_images(image_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless this is the shape of an image."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape={brief(image_shape)}; allowed: (height, width, channels), each 1 or more"
        )


def check_halved(image_shape: tuple[int, ...], times: int) -> None:
    """Raises ValueError unless both sides of the images can be halved `times` times."""
    multiple = 2**times
    if len(image_shape) != 3 or any(side < 4 or side % multiple for side in image_shape[:2]):
        raise ValueError(
            f"image_shape={brief(image_shape)}; allowed: (height, width, channels) with sides of 4 "
            f"or more that are multiples of {multiple}: the network halves them {times} times"
        )


def _init(
    module: nn.Module,
    choices: Sequence[int],
    image_shape: tuple[int, int, int],
    initialiser: Initialiser,
    layers_per_leaf: Callable[[tuple[str, ...]], int],
    key: PRNGKey,
) -> Variables:
    """Draws the variables of the supernet. `key` is consumed."""
    images, gates = jnp.zeros((1, *image_shape)), jnp.zeros((len(choices), max(choices)))
    shapes = jax.eval_shape(module.init, key, images, gates)["params"]
    return {"params": draw_parameters(key, shapes, initialiser, layers_per_leaf)}


def _apply(
    module: nn.Module,
    variables: Variables,
    gates: Gates,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    """Returns the outputs of the supernet, and the collections named in `mutable`."""
    return module.apply(variables, images, gates, mutable=list(mutable))
