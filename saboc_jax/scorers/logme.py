r"""LogME: how likely the labels are under linear models of a pretrained network's features.

You, Liu, Wang, Long (2021), "LogME: Practical Assessment of Pre-trained Models for Transfer
Learning". With F [n, d] the features of n images and y the indicator of a class:

    log p(y | F) = log N(y; 0, I / beta + F F' / alpha), the largest over alpha and beta,

divided by n, and its mean over the classes that the batch has. F is the mean over positions of the
feature map before pooling: in our own spaces the block that is marked so, in any other network the
last array with examples, positions and channels that its outputs are computed from.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.ntk import regression
from saboc_jax.ntk.network import Network, bind, soundness
from saboc_jax.ntk.options import BATCH_NORMS
from saboc_jax.precision import inner_products
from saboc_jax.scorers import foreign
from saboc_jax.scorers.ete_nas import pooled_features
from saboc_jax.scorers.observables import draw_weights, require
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Kernel, Passes, PRNGKey, Scorer, SearchSpace

STEPS = 200  # of the fixed point; it settles in about ten, but where a precision runs away
RATIOS = 1e-12, 1e12  # of alpha to beta times the largest eigenvalue, where it runs away


def features(network: Network, inputs: Any) -> Float[Array, "n d"]:
    """Returns the mean over positions of the last feature map; NaN where outputs are not finite.

    Raises:
        ValueError: if there is no feature map.
    """
    if network.known_layers:
        return pooled_features(network, inputs)
    found, outputs = foreign.pooled_features(network, inputs)
    return found * soundness(outputs)


def evidence(gram: Kernel, targets: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Returns the largest log evidence of each column of targets, divided by n.

    Args:
        gram: F F', the inner products of features.
        targets: what the features shall tell.
    """
    n = len(gram)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, 0)
    squares = jnp.square(vectors.T @ targets)  # [n, k]
    low, high = (ratio * values[-1] for ratio in RATIOS)

    def of_one(squares: Float[Array, " n"]) -> Float[Array, ""]:
        def moments(ratio: Array) -> tuple[Array, Array, Array]:
            """Returns (effective dimensions, |m|^2, |y - F m|^2) at alpha / beta."""
            shrunk = values + ratio
            return (
                (values / shrunk).sum(),
                (values * squares / jnp.square(shrunk)).sum(),
                (squares * jnp.square(ratio / shrunk)).sum(),
            )

        def step(_: int, ratio: Array) -> Array:
            used, weights, rest = moments(ratio)
            alpha, beta = used / weights, (n - used) / rest
            return jnp.clip(alpha / beta, low, high)

        ratio = lax.fori_loop(0, STEPS, step, values[-1] / n)
        # beta = n / y' (I + F F' / ratio)^-1 y is the best at this ratio.
        variances = 1 + values / ratio
        mean = (squares / variances).sum() / n
        return -0.5 * (jnp.log(2 * jnp.pi * mean) + 1 + jnp.log(variances).mean())

    return jax.vmap(of_one, 1)(squares)


def logme_value(gram: Kernel, labels: Array, num_classes: int) -> Float[Array, ""]:
    """Returns LogME of features with these inner products; NaN if they are all zero.

    Args:
        gram: [n, n] inner products.
        labels: [n] classes, or [n, k] floating-point targets.
        num_classes: how many classes there are.
    """
    targets = regression.encode_labels(labels, num_classes, "onehot").astype(gram.dtype)
    there = targets.any(0)
    found = evidence(gram, targets)
    value = jnp.where(there, found, 0).sum() / there.sum()
    return jnp.where(jnp.trace(gram) > 0, value, jnp.nan)


@dataclass(frozen=True)
class FeatureGram:
    """Observable: inner products of the training images' features at the key's weights.

    Attributes:
        space: the search space.
        running: at the statistics of batch norm that the network holds; else at the batch's.
    """

    space: SearchSpace
    running: bool

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, "n n"]:
        """Runs one forward pass."""
        network = bind(self.space, draw_weights(self.space, key), gates)
        if self.running and not network.known_layers:
            network = network._replace(train=None)
        found = features(network, batch.images)
        return inner_products(found, found)


def logme(space: SearchSpace, *, batch_norm: str = "frozen") -> Scorer:
    """LogME, for networks with trained weights; higher is better.

    Deviation: the features are those before pooling, averaged over positions, whatever the head
    does between them and the logits.

    Args:
        space: the search space.
        batch_norm: "running" for trained weights: the statistics that a network holds; "frozen" or
            "batch": the batch's. Networks of our own spaces hold none.

    Raises:
        ValueError: if the mode does not exist.
    """
    mode = check_choice("batch_norm", batch_norm, BATCH_NORMS)

    def finish(gram: Array, batch: Batch) -> tuple[Array, Diagnostics]:
        return logme_value(gram, require(batch, "labels"), space.num_classes), {}

    return single_metric(
        "logme",
        FeatureGram(space, mode == "running"),
        finish,
        passes=Passes(1, 0),
        needs=("images", "labels"),
        options={"batch_norm": "running" if mode == "running" else "batch"},
    )
