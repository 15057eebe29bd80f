"""Scores of an NTK's eigenvalues."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Top = str | int | float
TOPS = ("ceil", "floor")


class Spectrum(NamedTuple):
    """Eigen-decomposition of a symmetric kernel.

    Attributes:
        values: [n] eigenvalues, largest first, not clipped.
        vectors: [n, n] eigenvectors in columns, in the same order.
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]


def decompose(kernel: Float[Array, "n n"]) -> Spectrum:
    """Computes the eigen-decomposition, largest first; NaN, not an error, if not finite."""
    finite = jnp.isfinite(kernel).all()
    values, vectors = jnp.linalg.eigh(jnp.where(finite, kernel, jnp.eye(kernel.shape[0])))
    return Spectrum(
        jnp.where(finite, values[::-1], jnp.nan), jnp.where(finite, vectors[:, ::-1], jnp.nan)
    )


def number_of_top(n: int, top: Top) -> int:
    """Returns how many of n eigenvalues count as large (decision D2).

    Args:
        n: the number of eigenvalues.
        top: "ceil" or "floor" of the square root of n, a number, or a fraction below 1.

    Raises:
        ValueError: if `top` is none of these.
    """
    root = np.sqrt(n)
    if isinstance(top, str):
        if top not in TOPS:
            raise ValueError(f"top={top!r}; allowed: {TOPS}, a number or a fraction below 1")
        return int(np.ceil(root) if top == "ceil" else np.floor(root))
    if isinstance(top, float) and 0 < top < 1:
        return max(1, round(top * n))
    if top != int(top) or not 1 <= top <= n:
        raise ValueError(f"top={top}; allowed: 1 to {n}, or a fraction below 1")
    return int(top)


def trainability(values: Float[Array, " n"], top: Top = "ceil") -> Float[Array, ""]:
    """S_t, the share of the largest eigenvalues in the sum of all (SABoC-NAS Eq. 5).

    Args:
        values: eigenvalues, largest first; negative ones (round-off) count as zero.
        top: how many are the largest, see `number_of_top`.

    Returns:
        Between top/n (all equal) and 1; lower is better. NaN if all are zero, or if all count as
        large (n = 1 and 2 by the square root), which makes the share 1 whatever they are.
    """
    positive = jnp.maximum(values, 0)
    total = positive.sum()
    number = number_of_top(values.shape[0], top)
    share = positive[:number].sum() / total
    return jnp.where((total > 0) & (number < values.shape[0]), share, jnp.nan)


def condition_number(
    values: Float[Array, " n"], precision: float = float(np.finfo(np.float32).eps)
) -> Float[Array, ""]:
    """kappa, the largest eigenvalue over the smallest (TE-NAS); lower is better.

    Args:
        values: eigenvalues, largest first.
        precision: relative round-off of the kernel. If the smallest eigenvalue is at most
            n * precision * the largest, it is noise and kappa is infinite. 0: no guard.
    """
    guard = values.shape[0] * precision * values[0]
    smallest = values[-1]
    kappa = values[0] / jnp.where(smallest > guard, smallest, jnp.nan)
    return jnp.where(jnp.isfinite(values[0]), jnp.where(smallest > guard, kappa, jnp.inf), jnp.nan)
