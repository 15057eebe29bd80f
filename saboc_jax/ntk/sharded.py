"""One NTK over several devices: the images are divided in the order of the devices.

Every device runs the forward and backward pass of `one_backward` on its own images: its share of
the columns, then its share of every batch of rows. The devices communicate twice:

    Statistics of frozen batch norms are those of all columns: means over the devices of the
        means, then of the squared deviations from them.
    A layer's Gram matrix has the device's own images as rows and all columns as columns: the
        devices exchange the per-example gradients of their columns, layer by layer.

This divides the time of the passes and the memory for residuals by the number of devices; every
device holds the gradients of all columns for one layer.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from saboc_jax.devices import check_divides, find_devices, unchecked_shard_map
from saboc_jax.ntk.batches import number_of, symmetric
from saboc_jax.ntk.compute import prepare
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.one_backward import one_backward_kernels
from saboc_jax.ntk.options import DEFAULTS, NTKOptions, check_options
from saboc_jax.precision import products_at

AXIS = "images"


def sharded_ntks(
    network: Network,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]] = (),
    options: NTKOptions = DEFAULTS,
    devices: Sequence[jax.Device] | None = None,
) -> list[Float[Array, "n m ..."]]:
    """Computes the kernels of `empirical.empirical_ntks`, to rounding, on several devices.

    Args:
        network: the network at fixed weights, copied to every device.
        columns: images of the columns; m is a multiple of the number of devices.
        rows: further batches; so is each n.
        options: for the engine `one_backward`; `auto` means `one_backward` here. `chunk` is the
            total of all devices.
        devices: the devices to run on; None: all local ones. Under `jax.distributed`: those of
            all hosts (`jax.devices()`), and each host makes the same call.

    Returns:
        [[m, m], [n_1, m], ...]; each device has the rows of its own images.

    Raises:
        ValueError: if the number of devices does not divide a batch, an option does not exist, or
            the engine does not apply.
    """
    devices = find_devices() if devices is None else devices
    for batch in (columns, *rows):
        check_divides(len(devices), number_of(batch))
    options = _checked(options, len(devices))
    with products_at():
        passes = prepare(network, columns, options, AXIS)

    def one_device(columns: Any, rows: Sequence[Any]) -> list[Array]:
        with products_at():
            return one_backward_kernels(passes, columns, rows, options)

    mesh, shares = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS)
    run = unchecked_shard_map(one_device, mesh, shares, shares)
    return jax.jit(lambda *args: symmetric(run(*args)))(columns, tuple(rows))


def _checked(options: NTKOptions, devices: int) -> NTKOptions:
    """Returns the options for one device."""
    if not options.shares_images:
        raise ValueError(
            f"engine={options.engine!r}, batch_norm={options.batch_norm!r} with images over "
            "devices; allowed: engine='auto' or 'one_backward' with batch_norm='frozen'"
        )
    chunk = None if options.chunk is None else max(1, options.chunk // devices)
    return check_options(options._replace(engine="one_backward"))._replace(chunk=chunk)
