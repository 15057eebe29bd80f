"""S_t, S_e, S_g and kernel regression of an NTK operator: scores at any number of images.

The equations are those of `ntk.spectrum` and `ntk.regression`; eigenvalues and linear systems are
found by products alone, so no kernel is in memory.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.ntk import regression
from saboc_jax.ntk.operator import NTKOperator
from saboc_jax.ntk.spectrum import Top, number_of_top

Outputs = Float[Array, "n classes"]


class Trainability(NamedTuple):
    """S_t of an operator.

    Attributes:
        value: the share of the largest eigenvalues in the trace (SABoC-NAS Eq. 5); NaN where
            `spectrum.trainability` is.
        error: what the residuals |H v - value v| of the eigenvalues allow it to be wrong by: the
            sum of them over the trace. It does not count rounding of the trace.
        eigenvalues: [number] those that count as large, descending.
    """

    value: float
    error: float
    eigenvalues: Float[np.ndarray, " number"]


class NTKRegression(NamedTuple):
    """A kernel regression at any number of examples; `ntk_regression` makes it.

    Attributes:
        operator: the kernel of the training examples.
        coefficients: [size, columns] what H + ridge takes to the targets.
        classes: columns of the targets.
        residuals: relative residual of each column, from a product of its own.
        iterations: of conjugate gradients; 0: a direct solution.
    """

    operator: NTKOperator
    coefficients: Float[np.ndarray, "size columns"]
    classes: int
    residuals: Float[np.ndarray, " columns"]
    iterations: int

    def predict(self, inputs: Any) -> Outputs:
        """Returns f(X) = H_X,train (H + ridge)^-1 Y for other inputs (SABoC-NAS Eq. 6 and 8).

        Args:
            inputs: a batch, like that of the operator; read by chunks.
        """
        rows = self.operator.cross_matmat(inputs, self.coefficients)
        return rows.reshape(-1, self.classes)


class OperatorScores(NamedTuple):
    """The NTK-score of an operator (SABoC-NAS Eq. 5 to 10); lower is better for all three.

    Attributes:
        trainability: S_t with its error.
        expressivity: S_e.
        generalisation: S_g.
        residual: the largest relative residual of the regression's linear system.
    """

    trainability: Trainability
    expressivity: float
    generalisation: float
    residual: float


def operator_trainability(operator: NTKOperator, top: Top = "ceil") -> Trainability:
    """Returns S_t with its error: the largest eigenvalues over the exact trace.

    Args:
        operator: the kernel.
        top: how many are the largest, see `spectrum.number_of_top`.

    Raises:
        ValueError: if `top` is not allowed.
    """
    size = operator.shape[0]
    number, total = number_of_top(size, top), operator.trace()
    if not total > 0:
        return Trainability(float("nan"), float("nan"), np.full(number, np.nan))
    values, vectors = operator.top_eigenpairs(number)
    images = np.asarray(operator.matmat(vectors), float)
    residuals = np.linalg.norm(images - np.asarray(vectors, float) * values, axis=0)
    share = np.maximum(np.asarray(values, float), 0).sum() / total
    share = share if number < size else np.nan
    return Trainability(float(share), float(residuals.sum() / total), values)


def ntk_regression(
    operator: NTKOperator, targets: Any, *, jitter: float = 1e-6, tolerance: float = 1e-4
) -> NTKRegression:
    """Solves (H + jitter tr(H)/size) a = Y for kernel regression (SABoC-NAS Eq. 6).

    Args:
        operator: the kernel of the training examples. With outputs="full" it couples outputs.
        targets: [n, classes], see `regression.encode_labels`; with outputs="full" as many
            classes as outputs.
        jitter: relative to the mean eigenvalue, see `regression.dual_coefficients` (decision
            D10). The smaller, the more iterations.
        tolerance: relative residual of the linear system.

    Raises:
        ValueError: if an argument is not allowed.

    Warns:
        NotConverged: if a residual stays above 10 times the tolerance.
    """
    given = np.asarray(targets, operator.dtype)
    coupled = operator.outputs == "full"
    fits = given.shape[:1] == (operator.number,) and (
        not coupled or given.size == operator.shape[0]
    )
    if given.ndim != 2 or not fits:
        raise ValueError(
            f"targets of shape {given.shape}; allowed: [{operator.number}, classes], with "
            "outputs='full' one class for each output"
        )
    if not 0 <= jitter < np.inf:
        raise ValueError(f"jitter={jitter}; allowed: 0 or more")
    ridge = jitter * operator.trace() / operator.shape[0]
    found = operator.solve(given.reshape(operator.shape[0], -1), ridge, tolerance=tolerance)
    return NTKRegression(operator, found.values, given.shape[1], found.residuals, found.iterations)


def operator_scores(
    operator: NTKOperator,
    targets: Any,
    test_inputs: Any,
    test_targets: Any,
    perturbed_inputs: Any,
    *,
    top: Top = "ceil",
    expressivity: str = "softmax",
    norm: str = "mse",
    jitter: float = 1e-6,
    tolerance: float = 1e-4,
) -> OperatorScores:
    """Returns S_t, S_e and S_g at any number of images, without a kernel.

    Args:
        operator: the kernel of the training images.
        targets: [n, classes] their encoded labels.
        test_inputs: images that are predicted.
        test_targets: [m, classes] their encoded labels.
        perturbed_inputs: the same images with noise.
        top: see `operator_trainability`.
        expressivity: see `regression.expressivity`.
        norm: see `regression.generalisation`.
        jitter: see `ntk_regression`.
        tolerance: see `ntk_regression`.

    Raises:
        ValueError: if an argument is not allowed.

    Warns:
        NotConverged: if a residual stays above 10 times the tolerance.
    """
    fitted = ntk_regression(operator, targets, jitter=jitter, tolerance=tolerance)
    f, perturbed = fitted.predict(test_inputs), fitted.predict(perturbed_inputs)
    return OperatorScores(
        operator_trainability(operator, top),
        float(regression.expressivity(f, perturbed, expressivity)),
        float(regression.generalisation(f, jnp.asarray(test_targets), norm)),
        float(fitted.residuals.max()),
    )
