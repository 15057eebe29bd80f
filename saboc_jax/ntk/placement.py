"""Places the work of kernels: one program, several devices, or link by link."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from saboc_jax.devices import find_devices
from saboc_jax.layers.chain import Chain
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk.compute import compute_kernels
from saboc_jax.ntk.network import Network, named_predicate
from saboc_jax.ntk.options import DEFAULTS, NTKOptions, check_options
from saboc_jax.ntk.piecewise import piecewise_ntks
from saboc_jax.ntk.sharded import sharded_ntks
from saboc_jax.types import PRNGKey


class LinkedNetwork(NamedTuple):
    """A network that runs link by link.

    Attributes:
        chain: its links.
        pieces: the cache of compiled links.
        key: seeds the weights; consumed.
        in_cells: as in `Network`.
    """

    chain: Chain
    pieces: ProgramCache
    key: PRNGKey
    in_cells: Predicate | None = None


def place_ntks(
    network: Network | LinkedNetwork,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]] = (),
    options: NTKOptions = DEFAULTS,
    devices: int = 1,
) -> list[Float[Array, "n m ..."]]:
    """Computes the NTKs of the columns with themselves and of each batch of rows with the columns.

    Args:
        network: at fixed weights; a `LinkedNetwork` runs link by link.
        columns: images that give the statistics of frozen batch norms.
        rows: further batches.
        options: how the kernels are computed.
        devices: how many local devices share the images; 1: one device has all.

    Returns:
        [[m, m], [n_1, m], ...]: first the columns' own kernel.

    Raises:
        ValueError: if an option does not exist, or the options do not allow the placement.
    """
    check_options(options)
    if isinstance(network, LinkedNetwork):
        if not options.runs_by_links or devices != 1:
            raise ValueError(
                f"{options} on {devices} devices, link by link; allowed: one device, "
                "batch_norm='frozen', outputs='sum', engine 'auto' or 'one_backward', no chunk"
            )
        chain, pieces, key, in_cells = network
        predicate = named_predicate(options.params, in_cells)
        return piecewise_ntks(chain, pieces, key, columns, rows, predicate)
    if devices == 1:
        return compute_kernels(network, columns, rows, options)
    return sharded_ntks(network, columns, rows, options, find_devices(devices))
