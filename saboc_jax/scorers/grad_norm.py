"""GradNorm: the norm of the loss gradient at initialisation.

    layer_sum: sum over layers of ||dL/dW||_2, W the kernel of a convolution or dense layer
        (Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS").
    global: ||dL/dp||_2 over all parameters p, batch norm and biases too (Lin et al. 2021,
        "Zen-NAS", its comparison).

L is the mean cross-entropy of one batch in train mode.

Deviations: "global" reads the batch's images and labels (the released code draws both at random);
weights come from the space's initialiser.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.loss_gradients import LayerStatistics, LossGradients, layer_statistics
from saboc_jax.scorers.single import check_choice, single_metric
from saboc_jax.types import Images, Labels, Passes, Scorer, SearchSpace

VARIANTS = ("layer_sum", "global")


def grad_norm_value(
    network: Network, images: Images, labels: Labels, variant: str = "layer_sum"
) -> Float[Array, ""]:
    """Returns GradNorm of a network at its weights.

    Raises:
        ValueError: if the variant does not exist.
    """
    check_choice("variant", variant, VARIANTS)
    return _norm(layer_statistics(network, images, labels), variant)


def grad_norm(space: SearchSpace, *, variant: str = "layer_sum") -> Scorer:
    """GradNorm; higher is better.

    Args:
        space: the search space.
        variant: "layer_sum" or "global".

    Raises:
        ValueError: if the variant does not exist.
    """
    check_choice("variant", variant, VARIANTS)

    return single_metric(
        "grad_norm",
        LossGradients(space),
        lambda gradients, batch: (_norm(gradients, variant), {}),
        needs=("images", "labels"),
        passes=Passes(1, 1),
        options={"variant": variant},
    )


def _norm(statistics: LayerStatistics, variant: str) -> Float[Array, ""]:
    if variant == "global":
        return jnp.sqrt(statistics.squared_norm_all)
    return jnp.sqrt(statistics.squared_norm).sum()
