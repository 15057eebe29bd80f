"""Square loss in the eigenbasis of a kernel: how far each mode of the error has come.

Training of a linearised network moves its outputs by H a(t), with H the kernel of the training
examples. Under the square loss 1/(2 n) sum |f - y|^2 every eigenvalue l of H has its own response
p_t(l): a(t) = p_t(H) (f_0 - y), and what is left of the error is 1 + l p_t(l).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from saboc_jax.ntk.density import lanczos, tridiagonal
from saboc_jax.ntk.solves import Kernel

Values = Float[np.ndarray, "..."]
Response = Callable[[Values], Values]


class Modes(NamedTuple):
    """The error of every output in an eigenbasis of the kernel.

    Attributes:
        values: [modes, columns] eigenvalues.
        errors: [modes, columns] coordinates of f_0 - y.
        lift: from coordinates [modes, columns] to [size, columns].
    """

    values: Float[np.ndarray, "modes columns"]
    errors: Float[np.ndarray, "modes columns"]
    lift: Callable[[np.ndarray], np.ndarray]

    def duals(self, response: Response) -> Float[np.ndarray, "size columns"]:
        """Returns a(t), by which rows of the kernel are multiplied."""
        return self.lift(response(self.values) * self.errors)

    def squares(self, response: Response) -> float:
        """Returns the sum of squares of what is left of the error."""
        left = (1 + self.values * response(self.values)) * self.errors
        return float(np.square(left).sum())


def dense_modes(
    kernel: Float[np.ndarray, "size size"], errors: Float[np.ndarray, "size columns"]
) -> Modes:
    """Returns all modes of a kernel; eigenvalues below zero (round-off) count as zero."""
    values, vectors = np.linalg.eigh(kernel)
    values = np.broadcast_to(np.maximum(values, 0)[:, None], errors.shape)
    return Modes(values, vectors.T @ errors, lambda inside: vectors @ inside)


def krylov_modes(operator: Kernel, errors: Float[np.ndarray, "size columns"], steps: int) -> Modes:
    """Returns the modes of an operator that some steps of Lanczos' recursion see from the errors.

    A response is then exact for polynomials of degree steps - 1. The exponential of gradient flow
    needs about the root of (largest eigenvalue times t / n) steps.
    """
    lengths = np.linalg.norm(errors, axis=0)
    start = errors / np.where(lengths > 0, lengths, 1)
    basis, diagonal, beside = lanczos(operator, start, min(steps, len(errors)))
    values, vectors = np.linalg.eigh(tridiagonal(diagonal, beside))

    def lift(inside: np.ndarray) -> np.ndarray:
        steps = np.einsum("bji,ib->jb", vectors, inside)
        return np.einsum("jsb,jb->sb", basis, steps)

    return Modes(np.maximum(values, 0).T, (vectors[:, 0] * lengths[:, None]).T, lift)


def flow_response(time: float, number: int) -> Response:
    """Returns the response of gradient flow, (exp(-l t / n) - 1) / l.

    Args:
        time: t.
        number: n, examples of the mean.
    """

    def response(values: Values) -> Values:
        safe = np.where(values > 0, values, 1)
        return np.where(values > 0, np.expm1(-safe * time / number) / safe, -time / number)

    return response


def descent_response(steps: int, number: int, learning_rate: float, momentum: float) -> Response:
    """Returns the response of gradient descent with momentum, v <- m v + g, w <- w - r v.

    The state (a, v, 1) of a mode takes a step by a matrix of its own, whose power this is.

    Args:
        steps: how many.
        number: n, examples of the mean.
        learning_rate: r.
        momentum: m.
    """

    def response(values: Values) -> Values:
        step: Any = np.zeros((*values.shape, 3, 3))
        velocity = np.stack([values / number, np.full_like(values, momentum)], -1)
        step[..., 1, :2], step[..., 1, 2] = velocity, 1 / number
        step[..., 0, :] = -learning_rate * step[..., 1, :]
        step[..., 0, 0] += 1
        step[..., 2, 2] = 1
        return np.linalg.matrix_power(step, steps)[..., 0, 2]

    return response
