"""NASWOT: how differently the ReLUs see the images of a batch.

Mellor, Turner, Storkey, Crowley (2021), "Neural Architecture Search without Training". With
c_i the binary code of image i at every ReLU, K_ij counts the units on which images i and j agree;
the score is log |det K|.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.network import Network, bind
from saboc_jax.precision import inner_products
from saboc_jax.scorers.activations import check_init, measure_relus, redraw
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Batch, Gates, Passes, PRNGKey, Scorer, SearchSpace


def agreement(active: Bool[Array, "n units"]) -> Float[Array, "n n"]:
    """Counts the units on which two images agree: c c' + (1 - c)(1 - c)'. Exact: small integers."""
    c = active.astype(jnp.float32)
    both = inner_products(c, c)
    on = c.sum(1)
    return 2 * both + c.shape[1] - on[:, None] - on[None, :]


def agreement_kernel(network: Network, images: Any) -> Float[Array, "n n"]:
    """Sums `agreement` over all activations, see `measure_relus`; train-mode batch norm."""
    n = number_of(images)
    kernels, _, sound = measure_relus(network, images, agreement, None)
    return sound * sum((leaf.reshape(-1, n, n).sum(0) for leaf in kernels), jnp.zeros((n, n)))


def log_determinant(kernel: Float[Array, "n n"]) -> Float[Array, ""]:
    """Returns log |det K|; minus infinity if K is singular."""
    value = jnp.linalg.slogdet(kernel)[1]
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


def naswot_value(network: Network, images: Any) -> Float[Array, ""]:
    """Returns NASWOT of a network at fixed weights; higher is better."""
    return log_determinant(agreement_kernel(network, images))


@dataclass(frozen=True)
class AgreementKernel:
    """Observable: `agreement_kernel` of the training images."""

    space: SearchSpace
    init: str | None

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, "n n"]:
        """Returns [n, n]."""
        network = bind(self.space, redraw(self.space, key, self.init), gates)
        return agreement_kernel(network, batch.images)


def naswot(space: SearchSpace, *, init: str | None = "torch_default") -> Scorer:
    """NASWOT (the version of the released `hook_logdet`): higher is better.

    Deviation: the released code leaves out ReLUs that no gradient reaches. In NAS-Bench-201 there
    are none: every node feeds the output, and `none` multiplies by zero, which passes a (zero)
    gradient. So every ReLU that runs is counted here, without a backward pass.

    Args:
        space: the search space.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`; None: the space's own.

    Raises:
        ValueError: if the initialiser is unknown.
    """
    return single_metric(
        "naswot",
        AgreementKernel(space, check_init(init)),
        lambda kernel, batch: (log_determinant(kernel), {}),
        passes=Passes(1, 0),
        options={"init": init},
    )
