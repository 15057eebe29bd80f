"""The NTK-score of SABoC-NAS: trainability, expressivity, generalisation (Eq. 5-10).

All three are read from the empirical NTK at initialisation, and lower is better for all three
(decision D1): a flat spectrum, dissimilar outputs for similar inputs, a small regression error.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import params_option
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import Batch, Diagnostics, Gates, Scorer, SearchSpace

METRICS = ("S_t", "S_e", "S_g")


def ntk_score(
    space: SearchSpace,
    *,
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "cells",
    implementation: int = 1,
    chunk: int | None = None,
    top: spectrum.Top = "ceil",
    expressivity: str | None = None,
    norm: str = "mse",
    label_encoding: str = "centred",
    jitter: float = 1e-6,
) -> Scorer:
    """The NTK-score: S_t (Eq. 5), S_e (Eq. 6-9), S_g (Eq. 10).

    Deviations: by default batch norm is frozen at the statistics of the training batch, which
    costs one backward pass instead of n and keeps the ranking; the paper's peers use
    `batch_norm="batch"`. By default the kernel is over the weights of the searched cells, because
    all candidates share stem, reductions and classifier, whose weights hide the differences
    (decision D22); `params="weights"` is the whole network, as in the paper. A candidate without
    cell weights on a path to the output then has no kernel: its score is not finite, ranked last,
    and counted.

    Args:
        space: the search space.
        engine: NTK engine, see `ntk.empirical`.
        batch_norm: "frozen" or "batch".
        params: which parameters the NTK is over: "weights", "all", "cells" or a predicate.
        implementation: of neural-tangents, 1 or 2.
        chunk: rows per pass, to bound memory.
        top: how many eigenvalues are large in S_t: "ceil" or "floor" of sqrt(n), a number, or
            a fraction.
        expressivity: what S_e's cross-entropy is, see `regression.expressivity`. None: "softmax";
            of the square loss "l2", for its outputs are no logits.
        norm: "mse" or "fro", see `regression.generalisation`.
        label_encoding: "centred" or "onehot".
        jitter: relative to the mean eigenvalue, see `regression.dual_coefficients`.

    Raises:
        ValueError: if an option does not exist.
    """
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, implementation, chunk))
    expressivity = expressivity or ("l2" if space.loss == "square" else "softmax")
    if expressivity not in regression.EXPRESSIVITIES:
        raise ValueError(
            f"expressivity={expressivity!r}; allowed: {sorted(regression.EXPRESSIVITIES)}"
        )
    if jitter < 0:
        raise ValueError(f"jitter={jitter}; allowed: 0 or more")
    _check_choices(top, norm, label_encoding)

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "3"], Diagnostics]:
        kernels = observed["kernels"]
        decomposed = spectrum.decompose(kernels["images"])
        encode = lambda labels: regression.encode_labels(  # noqa: E731
            labels, space.num_classes, label_encoding
        )
        coefficients = regression.dual_coefficients(decomposed, encode(batch.labels), jitter)
        f = kernels["test_images"] @ coefficients
        perturbed = kernels["perturbed_images"] @ coefficients
        scores = jnp.stack(
            [
                spectrum.trainability(decomposed.values, top),
                regression.expressivity(f, perturbed, expressivity),
                regression.generalisation(f, encode(batch.test_labels), norm),
            ]
        )
        alive = jnp.isfinite(scores).all() & (decomposed.values[0] > 0)
        diagnostics = {
            "eigenvalues": decomposed.values,
            "kappa": spectrum.condition_number(decomposed.values),
            "relative_change": -regression.expressivity(f, perturbed, "relative"),
        }
        return jnp.where(alive, scores, jnp.nan), diagnostics

    return Scorer(
        name="ntk_score",
        metrics=METRICS,
        higher_is_better=(False, False, False),
        needs=frozenset({"images", "labels", "test_images", "test_labels", "perturbed_images"}),
        passes=options.passes(3),
        observables={"kernels": Kernels(space, options, ("test_images", "perturbed_images"))},
        finish=finish,
        options={
            "batch_norm": batch_norm,
            "params": params_option(params),
            "top": top,
            "expressivity": expressivity,
            "norm": norm,
            "label_encoding": label_encoding,
            "jitter": jitter,
        },
    )


def trainability(
    space: SearchSpace,
    *,
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "cells",
    implementation: int = 1,
    chunk: int | None = None,
    top: spectrum.Top = "ceil",
) -> Scorer:
    """S_t alone (Eq. 5): one kernel instead of the NTK-score's three, and no labels.

    Arguments and errors as in `ntk_score`.
    """
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, implementation, chunk))
    _check_choices(top, "mse", "centred")

    def finish(kernels: Mapping[str, Array], batch: Batch) -> tuple[Array, Diagnostics]:
        values = spectrum.decompose(kernels["images"]).values
        score = jnp.where(values[0] > 0, spectrum.trainability(values, top), jnp.nan)
        return score, {"eigenvalues": values}

    return single_metric(
        "trainability",
        Kernels(space, options),
        finish,
        passes=options.passes(),
        options={"batch_norm": batch_norm, "params": params_option(params), "top": top},
        metric="S_t",
        higher_is_better=False,
    )


def _check_choices(top: spectrum.Top, norm: str, label_encoding: str) -> None:
    """Raises ValueError now for options that `finish` would reject later."""
    spectrum.number_of_top(1 << 30, top)
    regression.generalisation(jnp.ones((1, 2)), jnp.ones((1, 2)), norm)
    regression.encode_labels(jnp.zeros(1, jnp.int32), 2, label_encoding)
