"""TEG-NAS: condition number, linear regions, and the error of kernel regression.

Chen, Gong, Wu, Wei, Shi, Yan, Wang (2021), "Understanding and Accelerating Neural Architecture
Search with Training-Free and Theory-Grounded Metrics".
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import params_option, require
from saboc_jax.scorers.te_nas import region_observables, region_options, region_passes
from saboc_jax.types import Batch, Diagnostics, Gates, Scorer, SearchSpace


def regression_error(
    kernel: Float[Array, "n n"],
    rows: Float[Array, "m n"],
    targets: Float[Array, "n k"],
    test_targets: Float[Array, "m k"],
    jitter: float = 0.0,
) -> Float[Array, ""]:
    """Returns the mean squared distance of kernel regression to the test images' labels.

    Args:
        kernel: the NTK of the training images.
        rows: the NTK of the test images with the training images.
        targets: encoded training labels.
        test_targets: encoded test labels.
        jitter: relative to the mean eigenvalue; 0: the plain inverse, as released.

    Returns:
        Lower is better; NaN if the kernel is zero or its inverse does not exist.
    """
    decomposed = spectrum.decompose(kernel)
    prediction = regression.predict(rows, decomposed, targets, jitter)
    error = regression.generalisation(prediction, test_targets)
    usable = jnp.isfinite(error) & (decomposed.values[0] > 0)
    return jnp.where(usable, error, jnp.nan)


def teg_nas(
    space: SearchSpace,
    *,
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "weights",
    error_params: Any = "cells",
    chunk: int | None = None,
    jitter: float = 0.0,
    init: str | None = None,
    batch_size: int = 1000,
    regions: bool = True,
) -> Scorer:
    """Kappa and mse (lower is better), linear regions (higher is better).

    `regions=False` gives kappa and mse alone, for spaces without a thin cell.

    Deviations: "cells" are the searched cells; the released code selects by name and includes the
    reduction blocks between them. A singular kernel gives NaN, which ranks last; the released
    code gives -1. Batch norm as in `te_nas`.

    Args:
        space: the search space.
        engine: NTK engine, see `ntk.empirical`.
        batch_norm: "frozen", or "batch" as in the released code.
        params: which parameters kappa's NTK is over.
        error_params: which parameters the regression's NTK is over.
        chunk: rows per pass, to bound memory.
        jitter: see `regression_error`.
        init: the thin cell's initialiser, a name in `saboc_jax.layers.initialise.INITIALISERS`;
            None: the space's own.
        batch_size: crops that share batch-norm statistics.
        regions: whether to count linear regions; False: kappa and mse alone.

    Raises:
        ValueError: if an option does not exist, or regions are wanted of a space without a thin
            cell.
    """
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, 1, chunk))
    counted = region_observables(space, regions, init, batch_size)
    if jitter < 0:
        raise ValueError(f"jitter={jitter}; allowed: 0 or more")

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        values = spectrum.decompose(observed["kernels"]["images"]).values
        targets = regression.encode_labels(require(batch, "labels"), space.num_classes)
        test_targets = regression.encode_labels(require(batch, "test_labels"), space.num_classes)
        cells = observed["cell_kernels"]
        error = regression_error(
            cells["images"], cells["test_images"], targets, test_targets, jitter
        )
        kappa = spectrum.condition_number(values)
        scores = [kappa, *(observed[name] for name in counted), error]
        return jnp.stack(scores), {"eigenvalues": values}

    return Scorer(
        name="teg_nas",
        metrics=("kappa", *counted, "mse"),
        higher_is_better=(False, *(True for _ in counted), False),
        needs=frozenset(
            {"images", "labels", "test_images", "test_labels", *(["crops"] if regions else [])}
        ),
        # If the parameters are the same, one kernel of the training images serves both.
        passes=region_passes(
            options.passes(2 if error_params == params else 3), regions, batch_size
        ),
        observables={
            "kernels": Kernels(space, options),
            "cell_kernels": Kernels(space, options._replace(params=error_params), ("test_images",)),
            **counted,
        },
        finish=finish,
        options={
            "batch_norm": batch_norm,
            "params": params_option(params),
            "error_params": params_option(error_params),
            "jitter": jitter,
            **region_options(regions, init, batch_size),
        },
    )
