"""Kernel regression with an NTK, and scores of its predictions (SABoC-NAS Eq. 6-10)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.losses import cross_entropy
from saboc_jax.ntk.spectrum import Spectrum

Outputs = Float[Array, "n classes"]
LABEL_ENCODINGS = ("centred", "onehot")


def encode_labels(labels: Array, num_classes: int, encoding: str = "centred") -> Outputs:
    """Returns the targets of a regression, minus their mean over the batch if "centred" (D5).

    Args:
        labels: [n] classes, which become one-hot; or [n, k] floating-point targets.
        num_classes: width of one-hot targets.
        encoding: "centred" or "onehot" (nothing is taken away).
    """
    if encoding not in LABEL_ENCODINGS:
        raise ValueError(f"label_encoding={encoding!r}; allowed: {LABEL_ENCODINGS}")
    floating = jnp.issubdtype(labels.dtype, jnp.floating)
    targets = labels if floating else jax.nn.one_hot(labels, num_classes)
    return targets - targets.mean(0) if encoding == "centred" else targets


def dual_coefficients(spectrum: Spectrum, targets: Outputs, jitter: float) -> Outputs:
    """(H + jitter * tr(H)/n * I)^-1 Y, from the eigen-decomposition of H (decision D10).

    The relative jitter bounds the inverse of degenerate kernels and leaves well-conditioned
    kernels unchanged. Keep it small: conditioning is the signal. 0: the plain inverse. Negative
    eigenvalues (round-off) count as zero.
    """
    values = jnp.maximum(spectrum.values, 0) if jitter else spectrum.values
    values = values + jitter * spectrum.values.mean()
    return spectrum.vectors @ ((spectrum.vectors.T @ targets) / values[:, None])


def predict(
    rows: Float[Array, "n m"],
    spectrum: Spectrum,
    targets: Float[Array, "m classes"],
    jitter: float = 1e-6,
) -> Outputs:
    """f(X) = H_X,train H_train,train^-1 Y_train (SABoC-NAS Eq. 6 and 8).

    Args:
        rows: the NTK of X with the training images.
        spectrum: the spectrum of the training images' NTK.
        targets: encoded labels of the training images.
        jitter: see `dual_coefficients`.
    """
    return rows @ dual_coefficients(spectrum, targets, jitter)


def _softmax_cross_entropy(f: Outputs, perturbed: Outputs) -> Float[Array, ""]:
    return cross_entropy(perturbed, jax.nn.softmax(f)).mean()


def _raw_cross_entropy(f: Outputs, perturbed: Outputs) -> Float[Array, ""]:
    return cross_entropy(f, perturbed).mean()


def _entropy(f: Outputs) -> Float[Array, ""]:
    return _softmax_cross_entropy(f, f)


# Decision D8: readings of "cross-entropy of two outputs", and diagnostics.
EXPRESSIVITIES: dict[str, Callable[[Outputs, Outputs], Float[Array, ""]]] = {
    "softmax": lambda f, g: -_softmax_cross_entropy(f, g),
    "torch_raw": lambda f, g: -_raw_cross_entropy(f, g),
    "torch_raw_swapped": lambda f, g: -_raw_cross_entropy(g, f),
    "kl": lambda f, g: _entropy(f) - _softmax_cross_entropy(f, g),
    "l2": lambda f, g: -jnp.square(f - g).sum(-1).mean(),
    # An extension of ours, never the paper's S_e: the relative change of the output.
    "relative": lambda f, g: -jnp.sqrt(jnp.square(f - g).sum() / jnp.square(f).sum()),
}


def expressivity(f: Outputs, perturbed: Outputs, kind: str = "softmax") -> Float[Array, ""]:
    """S_e, minus the cross-entropy of the outputs of two similar inputs (SABoC-NAS Eq. 9).

    Args:
        f: predictions for the test images.
        perturbed: predictions for the same images with noise.
        kind: "softmax": both outputs pass a softmax, a true cross-entropy. "torch_raw": the raw
            second output is the target probabilities; with centred labels that is minus the
            mean inner product. "torch_raw_swapped": the same with f as target.
            Diagnostics: "kl" (minus the divergence), "l2" (minus the squared change),
            "relative" (minus the relative change).

    Returns:
        Lower is better for every kind.
    """
    if kind not in EXPRESSIVITIES:
        raise ValueError(f"expressivity={kind!r}; allowed: {sorted(EXPRESSIVITIES)}")
    return EXPRESSIVITIES[kind](f, perturbed)


def generalisation(f: Outputs, targets: Outputs, norm: str = "mse") -> Float[Array, ""]:
    """S_g, the distance of predictions to the true labels (SABoC-NAS Eq. 10, decision D9).

    Args:
        f: predictions for the test images.
        targets: their encoded labels.
        norm: "mse": mean over images of the squared distance (TEG-NAS); "fro": the Frobenius
            norm of Eq. 10, a monotone transform of it.

    Returns:
        Not negative; lower is better.
    """
    if norm not in ("mse", "fro"):
        raise ValueError(f"norm={norm!r}; allowed: 'mse', 'fro'")
    squares = jnp.square(f - targets).sum(-1)
    return squares.mean() if norm == "mse" else jnp.sqrt(squares.sum())
