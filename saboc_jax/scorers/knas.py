"""KNAS: size of the Gram matrix of gradients.

Xu, Zhao, Lin, Gao, Sun, Yang (2021), "KNAS: Green Neural Architecture Search".
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.ntk.empirical import NTKOptions, check_options
from saboc_jax.ntk.network import Network, bind, parameter_predicate, split_parameters
from saboc_jax.scorers.activations import fast_rules
from saboc_jax.scorers.observables import Kernels, draw_weights, kernel_passes, params_option
from saboc_jax.types import (
    Batch,
    Diagnostics,
    Gates,
    Images,
    Observable,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

# Of the sum-of-logits NTK [n, n].
NTK_VARIANTS: Mapping[str, Callable[[Array], Array]] = {
    "ntk_fro": jnp.linalg.norm,
    "ntk_mean": jnp.mean,
}
VARIANTS = (*NTK_VARIANTS, "mgm")


def mean_gram(
    network: Network, images: Images, labels: Int[Array, " n"], params: Any = "all"
) -> Float[Array, ""]:
    """The mean of the Gram matrix of the images' loss gradients, train-mode batch norm.

    (1/n^2) sum_ij <g_i, g_j> = |mean g|^2, so one gradient of the mean cross-entropy is enough.
    """
    leaves, restore = split_parameters(
        network.variables["params"], parameter_predicate(network, params)
    )

    def loss(leaves: list[Array]) -> Array:
        with ExitStack() as stack:
            for rule in (*fast_rules(), batch_norm_rule("batch")):
                stack.enter_context(nn.intercept_methods(rule))
            variables = {**network.variables, "params": restore(leaves)}
            outputs = network.apply(variables, images)[0]
        log_p = jax.nn.log_softmax(outputs)
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()

    return sum((jnp.square(g).sum() for g in jax.grad(loss)(leaves)), jnp.array(0.0))


@dataclass(frozen=True)
class MeanGram:
    """Observable: `mean_gram` of the training images."""

    space: SearchSpace
    params: Any

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, ""]:
        """A scalar."""
        network = bind(self.space, draw_weights(self.space, key), gates)
        return mean_gram(network, batch.images, batch.labels, self.params)


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
    definition; the comparison in SABoC-NAS takes the Frobenius norm of the NTK.

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
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r}; allowed: {VARIANTS}")
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, 1, chunk))
    observable: Observable = (
        MeanGram(space, params) if variant == "mgm" else Kernels(space, options)
    )

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "1"], Diagnostics]:
        if variant == "mgm":
            return observed["gradients"][None], {}
        return NTK_VARIANTS[variant](observed["gradients"]["images"])[None], {}

    return Scorer(
        name="knas",
        metrics=("knas",),
        higher_is_better=(True,),
        needs=frozenset({"images", "labels"} if variant == "mgm" else {"images"}),
        passes=Passes(1, 1) if variant == "mgm" else kernel_passes(options),
        observables={"gradients": observable},
        finish=finish,
        options={
            "variant": variant,
            "batch_norm": batch_norm,
            "params": params_option(params),
        },
    )
