"""The structure of an architecture's network: by its space's formula, or from its program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from saboc_jax.layers.program_structure import read_structure
from saboc_jax.types import OneProgram, SearchSpace, Structure


def structure_of(space: SearchSpace, arch: Any) -> Structure:
    """Returns the structure of an architecture, by the space's formula or from its program.

    What is read from a program is of the scoring network; but parameters are those of the trained
    network, if the space knows them.
    """
    if space.costs.structure is not None:
        return space.costs.structure(arch)
    example = space.networks.example
    if example is None:
        example = jax.ShapeDtypeStruct(space.image_shape, jnp.float32)
    image = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), example)
    if isinstance(space.networks, OneProgram):
        module, call = space.specialise(arch), space.networks.call()
        variables = jax.eval_shape(lambda key, x: module.init(key, x, **call), _key(), image)

        def run(variables: Any, x: Array) -> Array:
            # A module that trains by default updates its collections.
            others = [name for name in variables if name != "params"]
            outputs: Any = module.apply(variables, x, mutable=others, **call)
            return outputs[0]
    else:
        program: Any = space.program(arch).networks
        variables = jax.eval_shape(program.init, _key())

        def run(variables: Any, x: Array) -> Array:
            return program.apply(variables, None, x, mutable=("batch_stats",))[0]

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), rest)
    with_rest = lambda params, x: run({**ones, "params": params}, x)  # noqa: E731
    found = read_structure(with_rest, variables["params"], image)
    trained = space.costs.trained
    return found if trained is None else found._replace(params=trained(arch).params)


def _key() -> Any:
    return jax.random.key(0)
