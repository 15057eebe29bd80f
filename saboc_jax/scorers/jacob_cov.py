"""Jacobian covariance (Mellor et al. 2020, first version of "NAS without Training").

The gradient of the sum of outputs with respect to each image is a row J_i. With v the
eigenvalues of the correlation matrix of the rows and k = 1e-5:

    score = - sum_v ( log(v + k) + 1 / (v + k) )

The score is high if images have dissimilar gradients (all v = 1), and NaN if an image gets no
gradient. Batch norm is in train mode, as in Abdelfattah et al. 2021, "Zero-Cost Proxies for
Lightweight NAS".

Deviations: the released code reads `x.grad` without clearing it, so on a reused image tensor a
network's J also sums the gradients of all networks scored before; here J is the network's own.
Weights come from the space's initialiser; the released code keeps PyTorch's default
("torch_default").
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.links import image_gradients
from saboc_jax.ntk.network import Network
from saboc_jax.precision import inner_products
from saboc_jax.scorers.loss_gradients import bind_drawn
from saboc_jax.scorers.observables import Linked, require
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import (
    Batch,
    Gates,
    Images,
    Kernel,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

OFFSET = 1e-5  # k


def has_gradient(inputs: Any) -> bool:
    """Does any of the inputs (arrays or shapes) have a gradient, as whole numbers have not?"""
    return any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(inputs))


def input_gradients(network: Network, inputs: Any) -> Float[Array, "n numbers"]:
    """Returns the gradient of the sum of all outputs with respect to each example's floats.

    Raises:
        ValueError: if the inputs are whole numbers.
    """
    if not has_gradient(inputs):
        raise ValueError(
            "jacob_cov takes gradients by the inputs, and these are whole numbers; allowed: a "
            "network that takes their embeddings, or another scorer, such as ntk_score"
        )
    leaves, structure = jax.tree.flatten(inputs)
    moving = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def total(floats: list[Array]) -> Array:
        rest = iter(floats)
        own = [next(rest) if m else leaf for leaf, m in zip(leaves, moving, strict=True)]
        return network.outputs(network.variables, jax.tree.unflatten(structure, own)).sum()

    rows = jax.grad(total)([leaf for leaf, m in zip(leaves, moving, strict=True) if m])
    return jnp.concatenate([row.reshape(len(row), -1) for row in rows], 1)


def correlation(rows: Float[Array, "n pixels"]) -> Float[Array, "n n"]:
    """Returns the correlations of all pairs of rows; NaN for a row of zeros."""
    # Divide each row by its largest entry first, so that its sum of squares does not underflow.
    rows = rows / jnp.abs(rows).max(1, keepdims=True)
    rows = rows - rows.mean(1, keepdims=True)
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    return inner_products(rows, rows)


def jacob_cov_value(network: Network, images: Images) -> Float[Array, ""]:
    """Returns the Jacobian covariance of a network at its weights."""
    return spectrum_score(correlation(input_gradients(network, images)))


@dataclass(frozen=True)
class InputCorrelation(Linked):
    """Observable: correlations of the images' gradients at the key's weights."""

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, "n n"]:
        """Runs one forward and one backward pass."""
        images = require(batch, "images")
        links = self.links(key)
        if links is None:
            return correlation(input_gradients(bind_drawn(self.space, key, gates), images))
        _, pieces, _ = links
        rows = image_gradients(*links, images)
        found: Array = pieces.run(
            "correlation", lambda rows: correlation(rows.reshape(rows.shape[0], -1)), rows
        )
        return found


def jacob_cov(space: SearchSpace) -> Scorer:
    """Jacobian covariance; higher is better.

    Args:
        space: the search space.
    """
    return single_metric(
        "jacob_cov",
        InputCorrelation(space),
        lambda correlation, batch: (spectrum_score(correlation), {}),
        passes=Passes(1, 1),
    )


def spectrum_score(correlation: Kernel) -> Float[Array, ""]:
    """Returns the score of a correlation matrix."""
    # Rounding can put an eigenvalue of a singular matrix below -k, where the logarithm is NaN.
    shifted = jnp.maximum(jnp.linalg.eigvalsh(correlation), 0.0) + OFFSET
    return -(jnp.log(shifted) + 1 / shifted).sum()
