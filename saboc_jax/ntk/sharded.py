"""One NTK over several devices: its images are shared out, in the order of the devices.

Every device runs the one forward and backward pass of `one_backward` on its own images: its
share of the columns, then its share of every batch of rows. Two things join the devices:

    Statistics of frozen batch norms are those of all columns: means over the devices of the
        means, then of the squared deviations from them.
    A layer's Gram matrix has the device's own images as rows and all columns as columns: the
        devices give each other the per-example gradients of their columns, layer by layer.

So the time of the passes is divided by the number of devices, and so is the memory for what they
keep; the gradients of all columns for one layer are on every device.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from saboc_jax.devices import check_divides, find_devices, unchecked_shard_map
from saboc_jax.ntk.batches import symmetric
from saboc_jax.ntk.network import Network, parameter_predicate, split_parameters
from saboc_jax.ntk.one_backward import check_supported, one_backward_kernels
from saboc_jax.ntk.options import DEFAULTS, NTKOptions, check_options

AXIS = "images"


def sharded_ntks(
    network: Network,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]] = (),
    options: NTKOptions = DEFAULTS,
    devices: Sequence[jax.Device] | None = None,
) -> list[Float[Array, "n m ..."]]:
    """The kernels of `empirical.empirical_ntks`, to rounding, with the images over devices.

    Args:
        network: the network at fixed weights, which every device has.
        columns: images of the columns; the devices divide m.
        rows: further batches; the devices divide each n.
        options: of the engine `one_backward`, which `auto` is here too. `chunk` is of all
            devices together.
        devices: to run on; None: all local ones. Under `jax.distributed` those of all hosts
            (`jax.devices()`), where each host makes the same call.

    Returns:
        [[m, m], [n_1, m], ...]; each device has the rows of its own images.

    Raises:
        ValueError: if the devices do not divide a batch, an option does not exist, or the
            engine does not apply.
    """
    devices = find_devices() if devices is None else devices
    for batch in (columns, *rows):
        check_divides(len(devices), batch.shape[0])
    options = _checked(options, len(devices))
    predicate = parameter_predicate(network, options.params)
    split_parameters(network.variables["params"], predicate)  # raises if it chooses none
    check_supported(network, columns, predicate)

    def one_device(columns: Array, rows: Sequence[Array]) -> list[Array]:
        return one_backward_kernels(network, columns, rows, predicate, options, AXIS)

    mesh, shares = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS)
    run = unchecked_shard_map(one_device, mesh, shares, shares)
    return jax.jit(lambda *args: symmetric(run(*args)))(columns, tuple(rows))


def _checked(options: NTKOptions, devices: int) -> NTKOptions:
    """The options of one device."""
    if not options.shares_images:
        raise ValueError(
            f"engine={options.engine!r}, batch_norm={options.batch_norm!r} with images over "
            "devices; allowed: engine='auto' or 'one_backward' with batch_norm='frozen'"
        )
    chunk = None if options.chunk is None else max(1, options.chunk // devices)
    return check_options(options._replace(engine="one_backward"))._replace(chunk=chunk)
