"""A kernel's products as operators of other libraries."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array

from saboc_jax.extras import needed


class Products(Protocol):
    """What is needed of `operator.NTKOperator`."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def matvec(self, v: Any) -> Array:
        """Returns H v."""

    def matmat(self, V: Any) -> Array:
        """Returns H V."""


def scipy_view(operator: Products) -> Any:
    """Returns a `scipy.sparse.linalg.LinearOperator` of NumPy arrays."""
    from scipy.sparse.linalg import LinearOperator

    def outside(function: Callable[[Any], Array]) -> Callable[[Any], np.ndarray]:
        return lambda v: np.asarray(function(v))

    vector, matrix = outside(operator.matvec), outside(operator.matmat)
    return LinearOperator(
        operator.shape,
        vector,
        rmatvec=vector,
        matmat=matrix,
        rmatmat=matrix,
        dtype=operator.dtype,
    )


def lineax_view(operator: Products) -> Any:
    """Returns a `lineax.FunctionLinearOperator`, tagged as positive semidefinite.

    Raises:
        MissingExtraError: if lineax is not installed.
    """
    with needed("lineax", "A lineax view of a kernel"):
        import lineax

    structure = jax.ShapeDtypeStruct(operator.shape[:1], operator.dtype)
    return lineax.FunctionLinearOperator(
        operator.matvec, structure, tags=lineax.positive_semidefinite_tag
    )
