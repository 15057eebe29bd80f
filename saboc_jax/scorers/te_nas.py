"""TE-NAS: condition number of the NTK, and the number of linear regions.

Chen, Gong, Wang (2021), "Neural Architecture Search on ImageNet in Four GPU Hours: A
Theoretically Inspired Perspective".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from saboc_jax.ntk import spectrum
from saboc_jax.ntk.network import Network, bind
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.scorers.activations import (
    check_init,
    count_distinct,
    pack_bits,
    record,
    recorded,
    redraw,
    relu_rule,
    soundness_of,
)
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import params_option, require
from saboc_jax.types import (
    Batch,
    Diagnostics,
    Gates,
    Observable,
    OneProgram,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

Crops = Float[Array, "r size size 1"]
MIN_CROPS = 2  # batch norm of one crop is constant
CROPS = 3000  # of `data.draw` and of the paper


def activation_codes(
    network: Network, crops: Crops
) -> tuple[Bool[Array, "r units"], Float[Array, ""]]:
    """Returns which ReLU units on feature maps are above zero, and `soundness_of` the pass.

    Units that do not run are False.

    Train-mode batch norm over all crops.
    """
    # Crops last: in a supernet the leading axes count cells and edges.
    rule = relu_rule("active", lambda active: active.T, axis=0)
    outputs, observed = record(network, crops, rule)
    units = [leaf.reshape(-1, crops.shape[0]) for leaf in recorded(observed, "active")]
    codes = jnp.concatenate(units).T if units else jnp.zeros((crops.shape[0], 1), bool)
    return codes, soundness_of(outputs, observed)


def linear_regions(network: Network, crops: Crops, batch_size: int = 1000) -> Float[Array, ""]:
    """Counts the linear regions of a network that contain crops; higher is better.

    Args:
        network: at fixed weights.
        crops: the inputs.
        batch_size: the number of crops per batch norm batch (all crops if there are fewer).

    Returns:
        Between 1 and the number of crops.

    Raises:
        ValueError: if the batches are not of equal size.
    """
    number = crops.shape[0]
    size = min(batch_size, number)
    if size < MIN_CROPS or number % size:
        raise ValueError(
            f"{number} crops in batches of {batch_size}; allowed: a multiple of the batch size, "
            f"at least {MIN_CROPS}"
        )
    batches = crops.reshape(-1, size, *crops.shape[1:])

    # Units that did not run are zero for every crop, so they do not change the count.
    def look(batch: Crops) -> tuple[Array, Array]:
        codes, sound = activation_codes(network, batch)
        return pack_bits(codes), sound

    codes, sound = lax.map(look, batches)
    return sound.prod() * count_distinct(codes.reshape(number, -1)).astype(jnp.float32)


@dataclass(frozen=True)
class LinearRegions:
    """Observable: `linear_regions` of the space's thin cell on the crops."""

    space: SearchSpace
    init: str | None
    batch_size: int

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> Float[Array, ""]:
        """Draws the thin cell's weights from the key."""
        thin = thin_space(self.space)
        network = bind(thin, redraw(thin, key, self.init), gates)
        return linear_regions(network, require(batch, "crops"), self.batch_size)


def thin_space(space: SearchSpace) -> SearchSpace:
    """Returns the space with its tiny network.

    Raises:
        ValueError: if the space has no tiny network.
    """
    thin = thin_cell(space)
    if thin is None:
        raise ValueError(
            f"space {space.name!r} has no thin cell to count linear regions of; allowed: spaces "
            "whose networks have one, or regions=False"
        )
    return space._replace(networks=thin)


def thin_cell(space: SearchSpace) -> OneProgram | None:
    """Returns the space's tiny network of one cell, or None."""
    return space.networks.thin_cell if isinstance(space.networks, OneProgram) else None


def region_passes(others: Passes, wanted: bool, batch_size: int) -> Passes:
    """Adds the passes of `CROPS` crops through the thin cell, in batches, to other passes."""
    more = max(1, CROPS // batch_size) if wanted else 0
    return others._replace(forward=others.forward + more)


def region_observables(
    space: SearchSpace, wanted: bool, init: str | None, batch_size: int
) -> dict[str, Observable]:
    """Returns {"regions": the observable}, or {} if linear regions are not wanted.

    Raises:
        ValueError: if they are wanted and the space has no thin cell, or if the initialiser is
            unknown.
    """
    init = check_init(init)
    if not wanted:
        return {}
    thin_space(space)
    return {"regions": LinearRegions(space, init, batch_size)}


def region_options(wanted: bool, init: str | None, batch_size: int) -> dict[str, Any]:
    """Returns the options of linear regions for the record; {"regions": False} if not counted."""
    return {"init": init, "batch_size": batch_size} if wanted else {"regions": False}


def te_nas(
    space: SearchSpace,
    *,
    engine: str = "auto",
    batch_norm: str = "frozen",
    params: Any = "weights",
    chunk: int | None = None,
    init: str | None = None,
    batch_size: int = 1000,
    precision: float | None = None,
    regions: bool = True,
) -> Scorer:
    """Kappa (lower is better) and linear regions (higher is better).

    `regions=False` gives kappa alone, for spaces without a thin cell; Zen-NAS's search by TE-NAS
    also uses kappa alone.

    Deviations: batch norm in the NTK is frozen by default, see `ntk_score`. If the smallest
    eigenvalue is noise, kappa is infinite; in the released code a negative kappa ranks best.

    Args:
        space: the search space.
        engine: NTK engine, see `ntk.empirical`.
        batch_norm: "frozen", or "batch" as in the released code.
        params: which parameters the NTK is over.
        chunk: rows per pass, to bound memory.
        init: the thin cell's initialiser, a name in `saboc_jax.layers.initialise.INITIALISERS`;
            None: the space's own.
        batch_size: crops that share batch-norm statistics.
        precision: see `spectrum.condition_number`; None: its default.
        regions: whether to count linear regions; False: kappa alone.

    Raises:
        ValueError: if an option does not exist, or regions are wanted of a space without a thin
            cell.
    """
    options = check_options(NTKOptions(engine, params, "sum", batch_norm, 1, chunk))
    counted = region_observables(space, regions, init, batch_size)
    guard = {} if precision is None else {"precision": precision}

    def finish(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, " k"], Diagnostics]:
        values = spectrum.decompose(observed["kernels"]["images"]).values
        kappa = spectrum.condition_number(values, **guard)
        return jnp.stack([kappa, *(observed[name] for name in counted)]), {"eigenvalues": values}

    return Scorer(
        name="te_nas",
        metrics=("kappa", *counted),
        higher_is_better=(False, *(True for _ in counted)),
        needs=frozenset({"images", "crops"} if regions else {"images"}),
        passes=region_passes(options.passes(), regions, batch_size),
        observables={"kernels": Kernels(space, options), **counted},
        finish=finish,
        options={
            "batch_norm": batch_norm,
            "params": params_option(params),
            **region_options(regions, init, batch_size),
            **guard,
        },
    )
