"""KNAS: size of the Gram matrix of gradients.

Xu, Zhao, Lin, Gao, Sun, Yang (2021), "KNAS: Green Neural Architecture Search".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from saboc_jax.ntk.network import Network
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.ntk.reading import predicate_for
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.loss_gradients import bind_drawn, training_loss
from saboc_jax.scorers.observables import params_option, require
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import (
    Batch,
    Gates,
    Images,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

# Functions of the NTK [n, n] of the sum of logits.
NTK_VARIANTS: Mapping[str, Callable[[Array], Array]] = {
    "ntk_fro": jnp.linalg.norm,
    "ntk_mean": jnp.mean,
}
VARIANTS = (*NTK_VARIANTS, "mgm")


def mean_gram(
    network: Network, images: Images, labels: Int[Array, " n"], params: Any = "all"
) -> Float[Array, ""]:
    """Returns the mean of the Gram matrix of the images' loss gradients, train-mode batch norm.

    (1/n^2) sum_ij <g_i, g_j> = |mean g|^2, so one gradient of the mean cross-entropy is enough.
    """
    predicate = predicate_for(network, images, params)
    loss, leaves = training_loss(network, images, labels, predicate)
    return sum((jnp.square(g).sum() for g in jax.grad(loss)(leaves)), jnp.array(0.0))


@dataclass(frozen=True)
class MeanGram:
    """Observable: `mean_gram` of the training images."""

    space: SearchSpace
    params: Any

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, ""]:
        """Returns a scalar."""
        network = bind_drawn(self.space, key, gates)
        return mean_gram(network, batch.images, require(batch, "labels"), self.params)


def knas(
    space: SearchSpace,
    *,
    variant: str = "ntk_fro",
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "weights",
    chunk: int | None = None,
) -> Scorer:
    """KNAS; higher is better.

    Deviation: the released code computes none of the three (single images, the first 100
    coordinates of the first layers, a centred cross-covariance). "mgm" is the paper's
    definition; the comparison in SABoC-NAS uses the Frobenius norm of the NTK.

    Args:
        space: the search space.
        variant: "ntk_fro", the Frobenius norm of the NTK; "ntk_mean", its mean; "mgm", the
            mean of the Gram matrix of loss gradients (always train-mode batch norm).
        engine: NTK engine, see `ntk.empirical`.
        batch_norm: of the NTK, "frozen" or "batch".
        params: which parameters the gradients are over.
        chunk: rows per pass, to bound memory.

    Raises:
        ValueError: if an option does not exist.
    """
    check_choice("variant", variant, VARIANTS)
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, 1, chunk))
    recorded = {"variant": variant, "batch_norm": batch_norm, "params": params_option(params)}
    if variant == "mgm":
        return single_metric(
            "knas",
            MeanGram(space, params),
            lambda mean, batch: (mean, {}),
            needs=("images", "labels"),
            passes=Passes(1, 1),
            options=recorded,
        )
    return single_metric(
        "knas",
        Kernels(space, options),
        lambda kernels, batch: (NTK_VARIANTS[variant](kernels["images"]), {}),
        passes=options.passes(),
        options=recorded,
    )
