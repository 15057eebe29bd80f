"""ZiCo: the inverse coefficient of variation of gradients (Li et al. 2023, "ZiCo").

Let g^(1..M) be the gradients of the mean cross-entropy of M batches, in train mode at the same w:

    score = sum_layers log sum_w mean_m |g_w^(m)| / std_m g_w^(m)

over the kernels of convolutions and dense layers; the standard deviation is without Bessel's
correction. Weights of zero deviation do not count, nor do layers whose sum is zero (no gradient
reaches them).

Deviation: weights come from the space's initialiser; the released code keeps PyTorch's default
("torch_default").
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.loss_gradients import bind_drawn, sum_per_layer, training_loss
from saboc_jax.scorers.observables import require
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Batch, Gates, Passes, PRNGKey, Scorer, SearchSpace


def zico_layers(
    network: Network,
    images: Float[Array, "m n height width channels"],
    labels: Int[Array, "m n"],
) -> Float[Array, " layers"]:
    """Returns each layer's sum of mean |g| / std g over M batches at the network's weights.

    Raises:
        ValueError: if there are fewer than two batches.
    """
    if images.shape[0] < 2:
        raise ValueError(f"ZiCo compares batches: got {images.shape[0]}; allowed: 2 or more")

    def gradients(batch: tuple[Array, Array]) -> list[Array]:
        loss, kernels = training_loss(network, *batch)
        return jax.grad(loss)(kernels)

    ratios = [_ratio(g) for g in lax.map(gradients, (images, labels))]
    return sum_per_layer(network, ratios, images[0])


def zico_value(
    network: Network,
    images: Float[Array, "m n height width channels"],
    labels: Int[Array, "m n"],
) -> Float[Array, ""]:
    """Returns ZiCo of a network at its weights; arguments and errors as in `zico_layers`."""
    return _score(zico_layers(network, images, labels))


@dataclass(frozen=True)
class GradientVariation:
    """Observable: `zico_layers` of `images` and `more_images` at the key's weights.

    Attributes:
        space: the search space.
    """

    space: SearchSpace

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, " layers"]:
        """Runs one forward and one backward pass for each batch."""
        network = bind_drawn(self.space, key, gates)
        images, labels = (
            jnp.concatenate([require(batch, name)[None], require(batch, f"more_{name}")])
            for name in ("images", "labels")
        )
        return zico_layers(network, images, labels)


def zico(space: SearchSpace) -> Scorer:
    """ZiCo over the batch and `more_images`; higher is better.

    Args:
        space: the search space.
    """
    return single_metric(
        "zico",
        GradientVariation(space),
        lambda layers, batch: (_score(layers), {}),
        needs=("images", "labels", "more_images", "more_labels"),
        passes=Passes(2, 2),  # with one further batch, as released
    )


def _ratio(gradients: Float[Array, "m *shape"]) -> Float[Array, "*shape"]:
    """Returns mean |g| / std g of every weight; 0 if the deviation is 0."""
    deviation = gradients.std(0)
    varies = deviation != 0  # NaN stays NaN
    return jnp.where(varies, jnp.abs(gradients).mean(0), 0.0) / jnp.where(varies, deviation, 1.0)


def _score(layers: Float[Array, " layers"]) -> Float[Array, ""]:
    """Returns the sum of logarithms over layers that a gradient reaches; -inf if there are none."""
    reached = layers != 0  # NaN stays NaN
    total = jnp.where(reached, jnp.log(jnp.where(reached, layers, 1.0)), 0.0).sum()
    return jnp.where(reached.any(), total, -jnp.inf)
