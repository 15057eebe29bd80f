"""Changes the floating-point type in which the networks of a search space compute.

Weights are drawn in float32, as always, then rounded (bfloat16) or widened (float64), so that all
types use the same network. Inputs and gates are converted too. Sums over a network, its kernels,
stay in float32 or better (`saboc_jax.precision.inner_products`).
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Array

from saboc_jax.precision import as_dtype
from saboc_jax.types import Gates, OneProgram, PRNGKey, SearchSpace, Variables

DTYPES = ("float32", "bfloat16", "float64")


def check_dtype(dtype: str) -> str:
    """Returns the name unchanged; raises ValueError if there is no such type."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; allowed: {', '.join(DTYPES)}")
    return dtype


@functools.lru_cache(maxsize=256)
def in_dtype(space: SearchSpace, dtype: str) -> SearchSpace:
    """Returns the space with networks of that type; equal spaces return the same object.

    A chain of links becomes one program.

    Args:
        space: any search space in float32.
        dtype: one of `DTYPES`; float64 works only within `saboc_jax.precision.enable_x64`.

    Raises:
        ValueError: if there is no such type, or the space is not in float32 any more.
    """
    if check_dtype(dtype) == space.dtype:
        return space
    if space.dtype != "float32":
        raise ValueError(f"the space computes in {space.dtype} already; allowed: one of float32")
    networks = space.networks
    if isinstance(networks, OneProgram):
        return space._replace(networks=_program_in(networks, dtype))
    program = networks.program
    each = replace(networks, program=lambda mask: _program_in(program(mask), dtype), dtype=dtype)
    return space._replace(networks=each)


@functools.lru_cache(maxsize=256)  # masks that share a program still share it
def _program_in(program: OneProgram, dtype: str) -> OneProgram:
    thin = program.thin_cell and _program_in(program.thin_cell, dtype)

    def init(key: PRNGKey) -> Variables:
        variables: Variables = as_dtype(program.init(key), dtype)
        return variables

    def apply(
        variables: Variables, gates: Gates, images: Array, mutable: Sequence[str] = ()
    ) -> tuple[Array, Variables]:
        gates, images = as_dtype((gates, images), dtype)
        return program.apply(variables, gates, images, mutable)

    def train(
        variables: Variables, images: Array, mutable: Sequence[str] = ()
    ) -> tuple[Array, Variables]:
        given: Any = program.train
        done: tuple[Array, Variables] = given(variables, as_dtype(images, dtype), mutable)
        return done

    own = train if program.train is not None else None
    return replace(
        program, init=init, apply=apply, train=own, thin_cell=thin, chain=None, dtype=dtype
    )
