"""Fisher: activations times their gradients, per channel (Theis et al. 2018; Turner et al. 2020).

With a the output of a convolution (before batch norm) or dense layer and L the mean
cross-entropy of one batch in train mode, a channel c is worth

    D_c = 1/2 mean_b ( sum_pixels a_bc dL/da_bc )^2
    score = sum_layers sum_c D_c * (number of weights that feed c)

As a proxy: Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS", whose code spreads
D_c over the channel's weights before it sums; ETE-NAS sums D_c itself.

Deviation: weights come from the space's initialiser; the released code keeps PyTorch's default
("torch_default").
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.loss_gradients import (
    ForeignFisher,
    LossGradients,
    foreign_fisher,
    layer_statistics,
)
from saboc_jax.scorers.single import check_choice
from saboc_jax.types import Batch, Diagnostics, Gates, Images, Labels, Passes, Scorer, SearchSpace

WEIGHTINGS = ("per_weight", "per_channel")


def fisher_value(
    network: Network, images: Images, labels: Labels, weighting: str = "per_weight"
) -> Float[Array, ""]:
    """Returns Fisher of a network at its weights.

    Raises:
        ValueError: if the weighting does not exist.
    """
    index, own = _index(weighting), foreign_fisher(network, images, labels)
    return (layer_statistics(network, images, labels).fisher if own is None else own)[index]


def fisher(space: SearchSpace, *, weighting: str = "per_weight") -> Scorer:
    """Fisher; higher is better.

    Args:
        space: the search space.
        weighting: "per_weight" (zero-cost-nas) or "per_channel" (ETE-NAS).

    Raises:
        ValueError: if the weighting does not exist.
    """
    index = _index(weighting)

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "1"], Diagnostics]:
        ours, others = observed["gradients"].fisher[index], observed["foreign"][index]
        return jnp.where(jnp.isnan(others), ours, others)[None], {}

    return Scorer(
        name="fisher",
        metrics=("fisher",),
        higher_is_better=(True,),
        needs=frozenset(("images", "labels")),
        passes=Passes(1, 1),
        observables={"gradients": LossGradients(space), "foreign": ForeignFisher(space)},
        finish=finish,
        options={"weighting": weighting},
    )


def _index(weighting: str) -> int:
    return WEIGHTINGS.index(check_choice("weighting", weighting, WEIGHTINGS))
