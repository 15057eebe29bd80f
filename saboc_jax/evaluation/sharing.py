"""One compiled program over all local devices: a chunk of jobs, shared out evenly.

A job is one architecture in one repeat. The job axis is sharded over a mesh of devices; the keys of
the weights and the images are replicated on all devices. Each device runs its own jobs one after
another, so that `lax.cond` still skips the operations that an architecture does not have
(under `vmap` all would run), and devices need not wait for each other within a chunk.

That is best on a CPU, where the arithmetic counts. On a GPU or TPU the number of launches counts:
there each device runs its jobs together, under `vmap`, by one program without branches.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from saboc_jax.devices import unchecked_shard_map
from saboc_jax.types import Batch, Gates, PRNGKey

AXIS = "jobs"


Look = Callable[[PRNGKey, Gates, Batch], Any]
"""Observes one architecture on one batch."""


def places_for(jobs: int, devices: int, most: int) -> int:
    """Returns how many places each device needs: a power of two, so that few programs are compiled.

    Args:
        jobs: how many there are.
        devices: that share them.
        most: places that a device may have.
    """
    needed = -(-jobs // devices)
    return min(most, 1 << (needed - 1).bit_length())


def share_out(jobs: int, devices: int, places: int) -> Int[np.ndarray, "devices places"]:
    """Returns which job each device runs at each of its places; -1: no job.

    The numbers of jobs of two devices differ by at most one.
    """
    table = np.arange(devices * places).reshape(places, devices).T
    return np.where(table < jobs, table, -1)


def stacked(
    keys: Sequence[PRNGKey], batches: Sequence[Batch], devices: Sequence[jax.Device]
) -> tuple[Array, Batch]:
    """Stacks keys and batches along a new axis of repeats and puts them on every device.

    Raises:
        ValueError: if the batches of two repeats differ in shape.
    """
    shapes = {str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each)) for each in batches}
    if len(shapes) > 1:
        raise ValueError(
            f"batches of {len(shapes)} different shapes; allowed on several devices: one shape"
        )
    everywhere = NamedSharding(_mesh(devices), PartitionSpec())
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return jax.device_put((jnp.stack(keys), together), everywhere)


def arranged(
    places: Int[np.ndarray, "devices places"],
    gates: Float[np.ndarray, "jobs decisions options"],
    repeats: Int[np.ndarray, " jobs"],
    devices: Sequence[jax.Device],
) -> tuple[Array, Array]:
    """Puts the gates and repeat of every place on its device; repeat -1: no job.

    Args:
        places: from `share_out`.
        gates: gates of each job.
        repeats: repeat of each job.
        devices: devices to run on.
    """
    flat = places.ravel()
    filled = np.where(flat[:, None, None] >= 0, gates[flat], 0)
    numbers = np.where(flat >= 0, repeats[flat], -1).astype(np.int32)
    return jax.device_put((filled, numbers), NamedSharding(_mesh(devices), PartitionSpec(AXIS)))


def collected(observed: Any, places: Int[np.ndarray, "devices places"]) -> list[Any]:
    """Returns the observed values of each job, on the host, in the order of the jobs."""
    on_host, flat = jax.device_get(observed), places.ravel()
    ends = np.argsort(flat)[(flat < 0).sum() :]
    return [jax.tree.map(lambda leaf: leaf[end], on_host) for end in ends]  # noqa: B023


def sharded(
    look: Look, devices: Sequence[jax.Device], together: bool = False
) -> Callable[..., Any]:
    """Returns the function, still to be compiled, that observes a chunk of jobs.

    The function takes the gates [devices * places, decisions, options] and the repeat of each
    place (-1: no job), both from `arranged`, and the keys and batches from `stacked`. It returns
    the values of `look` with a leading axis of places; places without a job hold anything.

    Args:
        look: observes one architecture.
        devices: devices to run on.
        together: a device runs its jobs under `vmap`; False: one after another.
    """
    jobs, everywhere = PartitionSpec(AXIS), PartitionSpec()
    return unchecked_shard_map(
        partial(one_device, look, together),
        _mesh(devices),
        (jobs, jobs, everywhere, everywhere),
        jobs,
    )


def one_device(
    look: Look, together: bool, gates: Array, repeats: Array, keys: Array, batches: Batch
) -> Any:
    """Runs the jobs of one device, see `sharded`; places without a job give anything."""

    @jax.jit  # so that `eval_shape` and the run share one trace
    def run(job: tuple[Array, Array]) -> Any:
        gates, repeat = job
        batch = jax.tree.map(lambda leaf: leaf[repeat], batches)
        return look(keys[repeat], gates, batch)

    if together:
        return jax.vmap(run)((gates, jnp.maximum(repeats, 0)))
    shapes = jax.eval_shape(run, (gates[0], repeats[0]))

    def nothing(job: tuple[Array, Array]) -> Any:
        return jax.tree.map(jnp.zeros_like, shapes)

    return lax.map(lambda job: lax.cond(job[1] >= 0, run, nothing, job), (gates, repeats))


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))
