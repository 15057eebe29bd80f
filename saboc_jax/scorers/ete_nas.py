"""ETE-NAS: forward-only scores from the NNGP kernel of one draw of weights.

Rumiantsev, Coates (2023), "Performing Neural Architecture Search Without Gradients"
(released as ETENAS).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saboc_jax.layers.interceptors import is_call
from saboc_jax.layers.ops import Block
from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.network import Network, bind, soundness
from saboc_jax.precision import inner_products
from saboc_jax.scorers.activations import check_init, put, record, recorded, redraw
from saboc_jax.scorers.observables import require
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Images, Passes, PRNGKey, Scorer, SearchSpace

VARIANTS = ("nngp_frob", "nngp_mse")
FEATURES = "features"  # the name of the block before global pooling
RIDGES = np.logspace(-7, 2, 20)  # relative to the mean eigenvalue


def correlation_norm(outputs: Float[Array, "n k"]) -> Float[Array, ""]:
    """Returns the Frobenius norm of the images' correlations over the k outputs.

    Returns:
        Between sqrt(n) and n; NaN if an image's outputs are all equal.
    """
    rows = outputs - outputs.mean(1, keepdims=True)
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    # |R R'| = |R' R|; R' R is smaller.
    return jnp.linalg.norm(inner_products(rows.T, rows.T))


def _pool_rule(next_fun: Any, args: tuple, kwargs: dict, context: Any) -> Any:
    y = next_fun(*args, **kwargs)
    if is_call(context, Block) and context.module.name == FEATURES:
        put(context.module, FEATURES, y.mean((1, 2)))
    return y


def pooled_features(network: Network, images: Images) -> Float[Array, "n width"]:
    """Returns the last feature map, averaged over pixels; train-mode batch norm.

    Raises:
        ValueError: unless the network marks exactly one feature map.
    """
    outputs, observed = record(network, images, _pool_rule)
    features = recorded(observed, FEATURES)
    if len(features) != 1:
        raise ValueError(f"the network has {len(features)} blocks named {FEATURES!r}; allowed: 1")
    return features[0] * soundness(outputs)


def best_ridge_error(
    features: Float[Array, "n width"],
    test_features: Float[Array, "m width"],
    targets: Float[Array, "n k"],
    test_targets: Float[Array, "m k"],
) -> Float[Array, ""]:
    """Returns the test error of regression with the NNGP kernel, at the best of 20 ridges.

    The kernel is the inner product of features divided by their number: the NNGP kernel of one
    draw of weights. Lower is better.
    """
    width = features.shape[1]
    decomposed = spectrum.decompose(features @ features.T / width)
    rows = test_features @ features.T / width
    errors = [
        regression.generalisation(
            regression.predict(rows, decomposed, targets, float(ridge)), test_targets
        )
        for ridge in RIDGES
    ]
    return jnp.stack(errors).min()


@dataclass(frozen=True)
class Outputs:
    """Observable: outputs of the training batch and of each further batch, in separate passes."""

    space: SearchSpace
    init: str | None

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, "n classes"]:
        """[(1 + m) n, classes]."""
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        batches = [batch.images, *require(batch, "more_images")]
        return jnp.concatenate([record(network, images)[0] for images in batches])


@dataclass(frozen=True)
class PooledFeatures:
    """Observable: `pooled_features` of the training and the test images."""

    space: SearchSpace
    init: str | None

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> tuple[Array, Array]:
        """([n, width], [m, width])."""
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        test_images = require(batch, "test_images")
        return pooled_features(network, batch.images), pooled_features(network, test_images)


def ete_nas(
    space: SearchSpace,
    *,
    variant: str = "nngp_frob",
    init: str | None = "kaiming_normal_fan_out",
) -> Scorer:
    """ETE-NAS's NNGP scores.

    Args:
        space: the search space.
        variant: "nngp_frob", the norm of the correlation matrix of the outputs of two batches
            (higher is better); "nngp_mse", the error of NNGP regression (lower is better),
            for which the kernel of the pooled features is our reading.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`; None: the space's own.

    Raises:
        ValueError: if an option does not exist.
    """
    check_choice("variant", variant, VARIANTS)

    recorded = {"variant": variant, "init": init}
    if variant == "nngp_frob":
        return single_metric(
            "ete_nas",
            Outputs(space, check_init(init)),
            lambda outputs, batch: (correlation_norm(outputs), {}),
            needs=("images", "more_images"),
            passes=Passes(2, 0),
            options=recorded,
            metric=variant,
        )

    def finish(features: tuple[Array, Array], batch: Batch) -> tuple[Array, Diagnostics]:
        targets = regression.encode_labels(require(batch, "labels"), space.num_classes)
        test_targets = regression.encode_labels(require(batch, "test_labels"), space.num_classes)
        return best_ridge_error(*features, targets, test_targets), {}

    return single_metric(
        "ete_nas",
        PooledFeatures(space, check_init(init)),
        finish,
        needs=("images", "labels", "test_images", "test_labels"),
        passes=Passes(2, 0),
        options=recorded,
        metric=variant,
        higher_is_better=False,
    )
