"""Label-gradient alignment: do the NTK and the labels agree on which images are alike?

Mok, Na, Kim, Han, Yoon (2022), "Demystifying the Neural Tangent Kernel from a Practical
Perspective: Can it be trusted for Neural Architecture Search without training?"
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import params_option, require
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Scorer, SearchSpace


def alignment(kernel: Float[Array, "n n"], labels: Array) -> Float[Array, ""]:
    """Returns the correlation, over all pairs of images, of the NTK with +1 (same class) or -1.

    Of [n, k] floating-point targets: with the inner products of the centred targets.

    Returns:
        Between -1 and 1; higher is better. NaN if the kernel or the labels are constant.
    """
    if jnp.issubdtype(labels.dtype, jnp.floating):
        centred = labels - labels.mean(0)
        same = (centred @ centred.T).astype(kernel.dtype)
    else:
        same = jnp.where(labels[:, None] == labels[None, :], 1.0, -1.0).astype(kernel.dtype)
    a, b = kernel - kernel.mean(), same - same.mean()
    # Divide by the largest entry first: squares of large kernels overflow float32.
    a = a / jnp.abs(a).max()
    return (a * b).sum() / jnp.sqrt(jnp.square(a).sum() * jnp.square(b).sum())


def lga(
    space: SearchSpace,
    *,
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "weights",
    chunk: int | None = None,
) -> Scorer:
    """LGA; higher is better.

    Deviation: the paper evaluates it after some epochs of training; here it is evaluated at
    initialisation, as in SABoC-NAS's comparison. Batch norm as in `te_nas`. No code was released.

    Args:
        space: the search space.
        engine: NTK engine, see `ntk.empirical`.
        batch_norm: "frozen" or "batch".
        params: which parameters the NTK is over.
        chunk: rows per pass, to bound memory.

    Raises:
        ValueError: if an option does not exist.
    """
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, 1, chunk))

    return single_metric(
        "lga",
        Kernels(space, options),
        lambda kernels, batch: (alignment(kernels["images"], require(batch, "labels")), {}),
        needs=("images", "labels"),
        passes=options.passes(),
        options={"batch_norm": batch_norm, "params": params_option(params)},
    )
