"""SNIP: the sensitivity of the loss to the weights (Lee et al. 2019, "SNIP").

    score = sum_w |w dL/dw|

over the kernels of convolutions and dense layers. L is the mean cross-entropy of one batch in train
mode; w dL/dw is the derivative of L with respect to a mask that multiplies the weights.

As a proxy: Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS".

Deviation: weights come from the space's initialiser; the released code keeps PyTorch's default
("torch_default").
"""

from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.loss_gradients import LossGradients, layer_statistics
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Images, Labels, Passes, Scorer, SearchSpace


def snip_value(network: Network, images: Images, labels: Labels) -> Float[Array, ""]:
    """Returns SNIP of a network at its weights."""
    return layer_statistics(network, images, labels).saliency.sum()


def snip(space: SearchSpace) -> Scorer:
    """SNIP; higher is better.

    Args:
        space: the search space.
    """
    return single_metric(
        "snip",
        LossGradients(space),
        lambda gradients, batch: (gradients.saliency.sum(), {}),
        needs=("images", "labels"),
        passes=Passes(1, 1),
    )
