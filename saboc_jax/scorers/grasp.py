"""GraSP: how a gradient step changes the gradient's norm (Wang et al. 2020, "GraSP").

    score = - sum_w w * (H g)_w,    g = dL/dw,    H = d^2 L / dw^2

over the kernels of convolutions and dense layers. L is the mean cross-entropy of one batch in train
mode. H g is the gradient of ||g||^2 / 2, so two reverse passes over one forward pass give it.

As a proxy: Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS"; the minus sign,
which makes higher better, is theirs.

Deviation: weights come from the space's initialiser; the released code keeps PyTorch's default
("torch_default").
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.loss_gradients import bind_drawn, sum_per_layer, training_loss
from saboc_jax.scorers.observables import require
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import (
    Batch,
    Gates,
    Images,
    Labels,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)


def grasp_layers(network: Network, images: Images, labels: Labels) -> Float[Array, " layers"]:
    """Returns each layer's part of GraSP at the network's weights."""
    loss, kernels = training_loss(network, images, labels)

    def half_squared_norm(kernels: list[Array]) -> Array:
        squares = [jnp.square(g).sum() for g in jax.grad(loss)(kernels)]
        return 0.5 * jnp.stack(squares).sum()

    products = jax.grad(half_squared_norm)(kernels)
    return sum_per_layer(network, [-w * h for w, h in zip(kernels, products, strict=True)], images)


def grasp_value(network: Network, images: Images, labels: Labels) -> Float[Array, ""]:
    """Returns GraSP of a network at its weights."""
    return grasp_layers(network, images, labels).sum()


@dataclass(frozen=True)
class HessianGradient:
    """Observable: `grasp_layers` of the training images at the key's weights.

    Attributes:
        space: the search space.
    """

    space: SearchSpace

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, " layers"]:
        """Runs two nested reverse passes."""
        network = bind_drawn(self.space, key, gates)
        return grasp_layers(network, require(batch, "images"), require(batch, "labels"))


def grasp(space: SearchSpace) -> Scorer:
    """GraSP; higher is better.

    Args:
        space: the search space.
    """
    return single_metric(
        "grasp",
        HessianGradient(space),
        lambda layers, batch: (layers.sum(), {}),
        needs=("images", "labels"),
        passes=Passes(1, 3),
    )
