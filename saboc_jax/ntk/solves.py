"""Eigenvalues and solutions of linear systems of an NTK operator, by SciPy's iterative solvers.

Both need products alone, so the kernel is never whole in memory. Where an operator holds its
kernel, or is small, LAPACK takes it whole.
"""

import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float

SMALL = 64  # rows up to which a kernel is taken whole
RANK = 64  # examples of the preconditioner


class Kernel(Protocol):
    """What is needed of `operator.NTKOperator`."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def is_dense(self) -> bool:
        """Do products take the whole kernel?"""

    def matmat(self, V: Any) -> Array:
        """Returns H V."""

    def dense(self) -> Array:
        """Returns H."""

    def as_scipy(self) -> Any:
        """Returns a `scipy.sparse.linalg.LinearOperator`."""

    def columns(self, number: int) -> tuple[np.ndarray, Array]:
        """Returns (the places of some columns, the columns)."""


class NotConverged(RuntimeWarning):
    """Says that a solution is less exact than was asked for."""


class Solution(NamedTuple):
    """The solution X of (H + ridge) X = Y.

    Attributes:
        values: X, of the shape of Y.
        residuals: |Y - (H + ridge) X| / |Y| of each column of Y, from a product of its own.
        iterations: of conjugate gradients; 0: a direct solution.
    """

    values: Float[np.ndarray, "size ..."]
    residuals: Float[np.ndarray, " b"]
    iterations: int


def top_eigenpairs(
    kernel: Kernel, number: int, tolerance: float = 0.0
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "size k"]]:
    """Returns the largest eigenvalues, descending, and their vectors as columns.

    By ARPACK's Lanczos iterations with restarts, always from the same start; of a kernel that is
    held or small by LAPACK.

    Args:
        kernel: the operator.
        number: how many, 1 to the number of rows.
        tolerance: relative error of the eigenvalues; 0: the precision of the type.

    Raises:
        ValueError: if the number is not allowed.
    """
    import scipy.linalg  # not needed by those that import the package for scores
    from scipy.sparse.linalg import eigsh

    size = kernel.shape[0]
    if not 1 <= number <= size:
        raise ValueError(f"{number} eigenvalues of {size} rows; allowed: 1 to {size}")
    if kernel.is_dense or size <= SMALL or 2 * number > size:
        whole = np.asarray(kernel.dense())
        values, vectors = scipy.linalg.eigh(whole, subset_by_index=(size - number, size - 1))
    else:
        start = np.random.default_rng(0).standard_normal(size).astype(kernel.dtype)
        values, vectors = eigsh(kernel.as_scipy(), number, which="LA", v0=start, tol=tolerance)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


def solve(
    kernel: Kernel, Y: Any, ridge: float, tolerance: float, max_iterations: int, rank: int = RANK
) -> Solution:
    """Solves (H + ridge) X = Y; see `operator.NTKOperator.solve`."""
    import scipy.linalg

    given = np.asarray(Y, kernel.dtype)
    if given.ndim not in (1, 2) or len(given) != kernel.shape[0] or not np.isfinite(given).all():
        raise ValueError(
            f"a right side of shape {given.shape}; allowed: [{kernel.shape[0]}] or "
            f"[{kernel.shape[0]}, b], finite"
        )
    if not 0 <= ridge < np.inf or not tolerance > 0 or max_iterations < 1:
        raise ValueError(
            f"ridge={ridge}, tolerance={tolerance}, max_iterations={max_iterations}; allowed: 0 or "
            "more, above 0, 1 or more"
        )
    right = given.reshape(len(given), -1)
    if kernel.is_dense or len(right) <= SMALL:
        whole = np.asarray(kernel.dense()) + ridge * np.eye(len(right), dtype=kernel.dtype)
        values, iterations = scipy.linalg.solve(whole, right, assume_a="sym"), 0
    else:
        values, iterations = _conjugate_gradients(
            kernel, right, ridge, tolerance, max_iterations, rank
        )
    left = np.asarray(kernel.matmat(values)) + ridge * values
    norms = np.linalg.norm(right, axis=0)
    residuals = np.linalg.norm(right - left, axis=0) / np.where(norms > 0, norms, 1)
    if residuals.max() > 10 * tolerance:
        warnings.warn(
            f"the solution has a relative residual of {residuals.max():.1e}, {tolerance:.1e} was "
            f"asked for, after {iterations} iterations: a larger ridge, more iterations or float64 "
            "help",
            NotConverged,
            stacklevel=3,
        )
    return Solution(values.reshape(given.shape), residuals, iterations)


def _conjugate_gradients(
    kernel: Kernel, right: np.ndarray, ridge: float, tolerance: float, most: int, rank: int
) -> tuple[np.ndarray, int]:
    """Solves for all columns as one system, whose products are products of the block."""
    from scipy.sparse.linalg import LinearOperator, cg

    size, columns = right.shape
    precondition = _preconditioner(kernel, ridge, min(rank, size))

    def product(v: np.ndarray) -> np.ndarray:
        block = v.reshape(size, columns)
        return (np.asarray(kernel.matmat(block)) + ridge * block).reshape(-1)

    def inverse(v: np.ndarray) -> np.ndarray:
        return precondition(v.reshape(size, columns)).reshape(-1)

    shape, steps = (size * columns,) * 2, [0]

    def count(_: np.ndarray) -> None:
        steps[0] += 1

    found, _ = cg(
        LinearOperator(shape, product, dtype=kernel.dtype),
        right.reshape(-1),
        rtol=tolerance,
        maxiter=most,
        M=LinearOperator(shape, inverse, dtype=kernel.dtype),
        callback=count,
    )
    return found.reshape(size, columns), steps[0]


def _preconditioner(kernel: Kernel, ridge: float, rank: int) -> Any:
    """Returns the inverse of a Nystrom approximation of H + ridge (Frangella et al. 2023).

    With U diag(l) U' the approximation of H from some of its columns and m the smallest l, it is
    (m + ridge) U (l + ridge)^-1 U' + (1 - U U').
    """
    from scipy.linalg import solve_triangular

    places, columns = kernel.columns(rank)
    block = np.asarray(columns, np.float64)
    corner = block[places]
    shift = np.finfo(kernel.dtype).eps * np.trace(corner)
    factor = np.linalg.cholesky((corner + corner.T) / 2 + shift * np.eye(len(places)))
    root = solve_triangular(factor, block.T, lower=True).T
    U, s, _ = np.linalg.svd(root, full_matrices=False)
    values = np.maximum(s**2 - shift, 0)
    scale = (values[-1] + ridge) / np.maximum(values + ridge, np.finfo(float).tiny)

    def inverse(v: np.ndarray) -> np.ndarray:
        inside = U.T @ v
        return np.asarray(v + U @ (scale[:, None] * inside - inside), kernel.dtype)

    return inverse
