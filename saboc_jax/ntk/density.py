"""The spectral density of an NTK operator, by stochastic Lanczos quadrature.

For a vector v of random signs, k steps of Lanczos' recursion give k nodes t_i and weights w_i
with v' f(H) v / size ~ sum_i w_i f(t_i), exact for polynomials of degree 2 k - 1; its mean over v
is tr f(H) / size. One product with a block of vectors serves all v at once. Matfree has the same
for functions inside a compiled program; here the products stream over inputs from the host.

Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", 2017.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.keys import check_whole
from saboc_jax.ntk.solves import SMALL, Kernel
from saboc_jax.types import PRNGKey

RANKS = ("entropy", "participation")
Values = Float[np.ndarray, "..."]


class Estimate(NamedTuple):
    """A number and its standard error over random vectors (0: exact, NaN: one vector)."""

    value: float
    error: float


class SpectralDensity(NamedTuple):
    """The distribution of eigenvalues, as nodes with weights; `spectral_density` makes it.

    Attributes:
        nodes: [probes, steps] where eigenvalues are; those of round-off below zero are zero.
        weights: [probes, steps] the share of eigenvalues there; each row adds up to 1.
        size: the number of eigenvalues.
        is_exact: the nodes are all eigenvalues of a kernel that is held or small.
    """

    nodes: Float[np.ndarray, "probes steps"]
    weights: Float[np.ndarray, "probes steps"]
    size: int
    is_exact: bool

    def trace_of(self, function: Callable[[Values], Values]) -> Estimate:
        """Returns tr f(H), the sum of a function over all eigenvalues.

        Args:
            function: of an array of eigenvalues, elementwise.
        """
        each = self._each(function)
        return Estimate(float(each.mean()), self._error(each, np.mean))

    def effective_rank(self, kind: str = "entropy") -> Estimate:
        """Returns how many eigenvalues count, between 1 and `size`.

        Args:
            kind: "entropy": exp(-sum p log p) with p = eigenvalue / trace (Roy and Vetterli,
                2007). "participation": trace^2 / sum of squares.

        Raises:
            ValueError: if there is no such kind.
        """
        if kind not in RANKS:
            raise ValueError(f"kind={kind!r}; allowed: {RANKS}")
        total = self._each(lambda values: values)
        if kind == "participation":
            second = self._each(np.square)
            value = lambda t, s: t**2 / s  # noqa: E731
        else:
            second = self._each(lambda values: values * np.log(np.where(values > 0, values, 1)))
            value = lambda t, s: np.exp(np.log(t) - s / t)  # noqa: E731
        pairs = np.stack([total, second], -1)
        of_means = lambda pairs: value(*pairs.mean(0))  # noqa: E731
        return Estimate(float(of_means(pairs)), self._error(pairs, of_means))

    def at(self, points: Any, width: float) -> Float[np.ndarray, " p"]:
        """Returns the density at some points, smoothed; its integral is 1.

        Args:
            points: [p] eigenvalues.
            width: standard deviation of the Gaussian that stands for a node.

        Raises:
            ValueError: if the width is not above zero.
        """
        if not width > 0:
            raise ValueError(f"width={width}; allowed: above 0")
        away = (np.asarray(points, float)[:, None] - self.nodes.reshape(1, -1)) / width
        height = np.exp(-(away**2) / 2) / (width * np.sqrt(2 * np.pi))
        return height @ self.weights.reshape(-1) / len(self.nodes)

    def _each(self, function: Callable[[Values], Values]) -> Float[np.ndarray, " probes"]:
        return self.size * (self.weights * function(self.nodes)).sum(1)

    def _error(self, each: np.ndarray, statistic: Callable[[Any], Any]) -> float:
        """Returns the standard error of a statistic of probes, by leaving out one at a time."""
        number = len(each)
        if self.is_exact or number == 1:
            return 0.0 if self.is_exact else float("nan")
        others = [float(statistic(np.delete(each, i, 0))) for i in range(number)]
        return float(np.sqrt((number - 1) * np.var(others)))


def spectral_density(
    operator: Kernel, key: PRNGKey, *, probes: int = 8, steps: int = 64
) -> SpectralDensity:
    """Returns the distribution of an operator's eigenvalues without its kernel.

    It takes `steps` products with `probes` columns and keeps steps * probes vectors. A kernel
    that is held or small is decomposed instead.

    Args:
        operator: the kernel.
        key: draws the vectors; consumed.
        probes: how many; the error falls as one over its root.
        steps: of the recursion, at most the number of rows; more resolve finer details.

    Raises:
        ValueError: if a number is not allowed.

    Examples:
        >>> import jax, saboc_jax as sj
        >>> network = sj.from_function(lambda w, x: jax.numpy.tanh(x @ w), jax.numpy.ones((3, 2)))
        >>> operator = sj.ntk_operator(network, jax.numpy.eye(3))
        >>> sj.spectral_density(operator, jax.random.key(0)).size
        3
    """
    check_whole("probes", probes)
    check_whole("steps", steps)
    size = operator.shape[0]
    if operator.is_dense or size <= SMALL:
        values = np.linalg.eigvalsh(np.asarray(operator.dense(), float))
        return SpectralDensity(_positive(values)[None], np.full((1, size), 1 / size), size, True)
    signs = np.asarray(jax.random.rademacher(key, (size, probes)), float)
    diagonal, beside = lanczos(operator, signs / np.sqrt(size), min(steps, size))[1:]
    nodes, vectors = np.linalg.eigh(tridiagonal(diagonal, beside))
    return SpectralDensity(_positive(nodes), vectors[:, 0] ** 2, size, False)


def lanczos(
    operator: Kernel, start: Float[np.ndarray, "size b"], steps: int
) -> tuple[
    Float[np.ndarray, "steps size b"], Float[np.ndarray, "b steps"], Float[np.ndarray, "b rest"]
]:
    """Runs Lanczos' recursion for every column by itself, fully reorthogonalised, in float64.

    Args:
        operator: the kernel.
        start: unit vectors in columns.
        steps: of the recursion. One that ends before goes on with zeros.

    Returns:
        (orthonormal bases, diagonals of the tridiagonal matrices, what stands beside them).
    """
    basis = np.zeros((steps, *start.shape))
    diagonal, beside = np.zeros((2, steps, start.shape[1]))
    basis[0] = start
    for step in range(steps):
        image = np.array(operator.matmat(basis[step].astype(operator.dtype)), float)
        diagonal[step] = (basis[step] * image).sum(0)
        for _ in range(2):  # once more for what rounding has left
            inside = np.einsum("jsb,sb->jb", basis[: step + 1], image)
            image -= np.einsum("jsb,jb->sb", basis[: step + 1], inside)
        length = np.linalg.norm(image, axis=0)
        ended = length <= np.finfo(operator.dtype).eps * np.abs(diagonal).max(0)
        if step + 1 < steps:
            beside[step] = np.where(ended, 0, length)
            basis[step + 1] = np.where(ended, 0, image / np.where(ended, 1, length))
    return basis, diagonal.T, beside[:-1].T


def tridiagonal(
    diagonal: Float[np.ndarray, "b steps"], beside: Float[np.ndarray, "b rest"]
) -> Float[np.ndarray, "b steps steps"]:
    """Returns symmetric matrices of their diagonals and of what stands beside them."""
    steps = diagonal.shape[1]
    found = np.zeros((len(diagonal), steps, steps))
    place = np.arange(steps)
    found[:, place, place] = diagonal
    found[:, place[1:], place[:-1]] = found[:, place[:-1], place[1:]] = beside
    return found


def _positive(values: Array | np.ndarray) -> np.ndarray:
    return np.maximum(np.asarray(values), 0)
