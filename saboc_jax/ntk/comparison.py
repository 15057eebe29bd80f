"""Comparisons of kernels of the same examples: alignment, alignment with labels, drift.

Sums are taken in float64 on the host, so that kernels of many examples, memory-mapped ones too,
lose nothing.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from saboc_jax.ntk.empirical import empirical_ntk
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.options import DEFAULTS, NTKOptions

Kernel = Float[Array, "n n"] | Float[np.ndarray, "n n"]


class Drift(NamedTuple):
    """How far a kernel moved.

    Attributes:
        distance: 1 - <A, B> / (|A| |B|), the kernel distance of Fort et al. 2020; 0: the same up
            to a factor.
        relative_change: |B - A| / |A|, Frobenius norms: what laziness of training is measured by
            (Chizat, Oyallon and Bach 2019).
        alignment: `kernel_alignment`, centred.
    """

    distance: float
    relative_change: float
    alignment: float


def centred_kernel(kernel: Kernel) -> Float[np.ndarray, "n n"]:
    """Returns the kernel of features whose mean over the examples is taken away.

    Raises:
        ValueError: unless the kernel is [n, n].
    """
    given = _square(kernel)
    rows = given.mean(0)
    return given - rows - given.mean(1)[:, None] + rows.mean()


def kernel_alignment(a: Kernel, b: Kernel, *, centre: bool = True) -> float:
    """Returns the alignment <A, B> / (|A| |B|) of two kernels of the same examples, at most 1.

    Centred, it is that of Cortes, Mohri and Rostamizadeh 2012, which is also the linear CKA of
    Kornblith et al. 2019.

    Args:
        a: [n, n].
        b: [n, n].
        centre: take the mean of the features away, see `centred_kernel`.

    Returns:
        NaN if a kernel is zero.

    Raises:
        ValueError: if the shapes are others.
    """
    left, right = _pair(a, b)
    if centre:
        left, right = centred_kernel(left), centred_kernel(right)
    return _cosine(left, right)


def label_alignment(kernel: Kernel, targets: Any, *, centre: bool = True) -> float:
    """Returns the alignment of a kernel with that of the labels, Y Y'.

    Args:
        kernel: [n, n].
        targets: [n, classes], see `regression.encode_labels`, or [n] numbers.
        centre: as in `kernel_alignment`.

    Raises:
        ValueError: if the shapes are others.
    """
    given = np.asarray(targets, float)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim != 2 or len(given) != len(kernel):
        raise ValueError(
            f"targets of shape {given.shape}; allowed: [{len(kernel)}] or [{len(kernel)}, classes]"
        )
    return kernel_alignment(kernel, given @ given.T, centre=centre)


def kernel_drift(before: Kernel, after: Kernel) -> Drift:
    """Returns how far a kernel moved, e.g. from initial to trained weights.

    Args:
        before: [n, n].
        after: [n, n].

    Raises:
        ValueError: if the shapes are others.
    """
    left, right = _pair(before, after)
    change = np.linalg.norm(right - left) / np.linalg.norm(left)
    return Drift(1 - _cosine(left, right), float(change), kernel_alignment(left, right))


def ntk_drift(network: Network, after: Any, inputs: Any, options: NTKOptions = DEFAULTS) -> Drift:
    """Returns how far the NTK of some inputs moved from a network's weights to others.

    Args:
        network: at the weights before.
        after: its variables with the weights after, of the structure of `network.variables`.
        inputs: a batch.
        options: of both kernels, with outputs "sum" or "trace".

    Raises:
        ValueError: if an option is not allowed, or the structures differ.
    """
    if options.outputs == "full":
        raise ValueError("outputs='full' of a drift; allowed: 'sum' or 'trace'")
    before = empirical_ntk(network, inputs, options=options)
    return kernel_drift(
        before, empirical_ntk(network._replace(variables=after), inputs, options=options)
    )


def _square(kernel: Kernel) -> Float[np.ndarray, "n n"]:
    given = np.asarray(kernel, float)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not len(given):
        raise ValueError(f"a kernel of shape {given.shape}; allowed: [n, n]")
    return given


def _pair(a: Kernel, b: Kernel) -> tuple[np.ndarray, np.ndarray]:
    left, right = _square(a), _square(b)
    if left.shape != right.shape:
        raise ValueError(
            f"kernels of shapes {left.shape} and {right.shape}; allowed: those of the same examples"
        )
    return left, right


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / norms) if norms > 0 else float("nan")
