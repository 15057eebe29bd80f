"""Zen-score: how far the last feature map moves when the input does.

Lin, Wang, Sun, Chen, Sun, Qian, Li, Jin (2021), "Zen-NAS: A Zero-Shot NAS for
High-Performance Image Recognition". With x, e and the weights drawn from N(0, 1):

    log mean_b sum |F(x) - F(x + 0.01 e)| + sum over batch norms of log sqrt(mean variance),

where F is the feature map before global pooling (in a network of another origin, the last array
with examples, positions and channels that its outputs are computed from). The second term restores
the scale that batch norm removes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.keys import Purpose, key_for
from saboc_jax.layers.channels import statistics
from saboc_jax.layers.interceptors import is_call
from saboc_jax.layers.ops import Block
from saboc_jax.ntk.network import Network, bind, soundness
from saboc_jax.scorers import foreign
from saboc_jax.scorers.activations import check_init, put, record, recorded, redraw
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Images, Passes, PRNGKey, Scorer, SearchSpace

FEATURES = "features"  # the name of the block before global pooling
MOMENTUM = 0.1  # PyTorch's, of the running variance


def _rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Records the last feature map, and (mean unbiased variance, 1) at every batch norm."""
    y = next_fun(*args, **kwargs)
    if is_call(context, nn.BatchNorm):
        count = args[0].size // args[0].shape[-1]
        variance = statistics(args[0])[1].mean() * (count / (count - 1))
        put(
            context.module,
            "variance",
            jnp.stack([variance, jnp.ones_like(variance)]),
            lambda old, new: new,
        )
    if is_call(context, Block) and context.module.name == FEATURES:
        put(context.module, FEATURES, y)
    return y


def feature_change(
    network: Network, images: Images, others: Images
) -> tuple[Float[Array, ""], Float[Array, "norms 3"]]:
    """Computes the quantities of the Zen-score.

    Args:
        network: at fixed weights; train-mode batch norm, each batch on its own.
        images: x.
        others: the perturbed x.

    Returns:
        mean_b sum |F(x) - F(x~)|; and for every batch norm (mean variance of x, of x~, 1), or
        zeros if it did not run.

    Raises:
        ValueError: if one of our own networks does not mark exactly one feature map, or another
            has none.
    """

    def run(images: Images) -> tuple[Array, Array]:
        outputs, observed = record(network, images, _rule)
        features = recorded(observed, FEATURES)
        variances = [leaf.reshape(-1, 2) for leaf in recorded(observed, "variance")]
        if not features and not network.known_layers:
            last, outputs = foreign.last_features(network, images)
            features, variances = [last], _of_statistics(network, images, variances)
        if len(features) != 1:
            raise ValueError(
                f"the network has {len(features)} blocks named {FEATURES!r}; allowed: 1, the "
                "feature map before global pooling"
            )
        seen = features[0] * soundness(outputs)
        return seen, jnp.concatenate(variances) if variances else jnp.zeros((0, 2))

    features, variances = lax.map(run, jnp.stack([images, others]))
    change = jnp.abs(features[0] - features[1])
    by_image = change.sum((1, 2, 3)).mean() if change.ndim == 4 else change.sum() / len(images)
    return by_image, jnp.concatenate([variances[:, :, 0].T, variances[0, :, 1:]], axis=1)


def _of_statistics(
    network: Network, images: Images, seen: list[Float[Array, "norms 2"]]
) -> list[Float[Array, "norms 2"]]:
    """Returns what `_rule` records, of every batch norm of a network of another origin.

    If some are not Linen's, variances are read from the running statistics that the batch gives;
    those are unbiased or not as the network keeps them.
    """
    variances = foreign.batch_variances(network, images)
    if not variances or len(variances) == len(seen):
        return seen
    return [jnp.stack([variance, jnp.ones_like(variance)])[None] for variance in variances]


def zen_score(change: Float[Array, ""], variances: Float[Array, "norms 3"]) -> Float[Array, ""]:
    """Computes the score from the values of `feature_change`.

    A batch norm's variance is PyTorch's running variance after both batches, starting from 1.
    """
    keep = 1 - MOMENTUM
    running = keep * keep + keep * MOMENTUM * variances[:, 0] + MOMENTUM * variances[:, 1]
    terms = jnp.where(variances[:, 2] > 0, 0.5 * jnp.log(running), 0.0)
    return jnp.log(change) + terms.sum()


def zen_value(network: Network, images: Images, others: Images) -> Float[Array, ""]:
    """Returns the Zen-score of a network at fixed weights and inputs; higher is better."""
    return zen_score(*feature_change(network, images, others))


@dataclass(frozen=True)
class FeatureChange:
    """Observable: `feature_change` for Gaussian inputs of the shape of the training images."""

    space: SearchSpace
    init: str | None
    perturbation: float

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> tuple[Array, Array]:
        """Returns (change, variances)."""
        foreign.check_drawable(batch.images, "zen")
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        shape, dtype = batch.images.shape, batch.images.dtype
        x = jax.random.normal(key_for(key, Purpose.ZEN_INPUTS), shape, dtype)
        e = jax.random.normal(key_for(key, Purpose.ZEN_PERTURBATION), shape, dtype)
        return feature_change(network, x, x + self.perturbation * e)


def zen(
    space: SearchSpace, *, init: str | None = "standard_normal", perturbation: float = 0.01
) -> Scorer:
    """The Zen-score; higher is better. It reads only the shape of the images.

    Deviation: the released search scores a network without its residual links; this scores the
    complete network.

    Args:
        space: the search space.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`; None: the space's own.
        perturbation: standard deviation of the perturbation.

    Raises:
        ValueError: if the initialiser is unknown or the perturbation not positive.
    """
    if perturbation <= 0:
        raise ValueError(f"perturbation={perturbation}; allowed: above 0")

    def finish(changes: tuple[Array, Array], batch: Batch) -> tuple[Array, Diagnostics]:
        change, variances = changes
        return zen_score(change, variances), {"change": change}

    return single_metric(
        "zen",
        FeatureChange(space, check_init(init), perturbation),
        finish,
        passes=Passes(2, 0),
        options={"init": init, "perturbation": perturbation},
    )
