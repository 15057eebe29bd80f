"""A search space whose networks compute in another floating-point type.

Weights are drawn in float32, as always, then rounded (bfloat16) or widened (float64), so that all
types look at the same network. Inputs and gates follow. What is summed over a network, its
kernels, stays in float32 or better (`saboc_jax.precision.inner_products`).
"""

import functools
from collections.abc import Sequence

from jaxtyping import Array

from saboc_jax.precision import as_dtype
from saboc_jax.types import Gates, PRNGKey, SearchSpace, Variables

DTYPES = ("float32", "bfloat16", "float64")


def check_dtype(dtype: str) -> str:
    """The name as it is; ValueError if there is no such type."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; allowed: {', '.join(DTYPES)}")
    return dtype


@functools.lru_cache(maxsize=256)
def in_dtype(space: SearchSpace, dtype: str) -> SearchSpace:
    """The space with networks of that type; equal spaces give one and the same.

    A network that is a chain of links becomes one program.

    Args:
        space: any.
        dtype: one of `DTYPES`; float64 counts only within `saboc_jax.precision.enable_x64`.

    Raises:
        ValueError: if there is no such type, or the space has another than float32 already.
    """
    if check_dtype(dtype) == space.dtype:
        return space
    if space.dtype != "float32":
        raise ValueError(f"the space computes in {space.dtype} already; allowed: one of float32")

    def init(key: PRNGKey) -> Variables:
        variables: Variables = as_dtype(space.init(key), dtype)
        return variables

    def apply(
        variables: Variables, gates: Gates, images: Array, mutable: Sequence[str] = ()
    ) -> tuple[Array, Variables]:
        gates, images = as_dtype((gates, images), dtype)
        return space.apply(variables, gates, images, mutable)

    thin, program = space.thin_cell, space.program
    return space._replace(
        init=init,
        apply=apply,
        thin_cell=thin and (lambda: in_dtype(thin(), dtype)),
        program=program and (lambda mask: in_dtype(program(mask), dtype)),
        chain=None,
        dtype=dtype,
    )
