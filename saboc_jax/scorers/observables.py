"""What several scorers observe of a network: weights drawn from a key, and its NTKs."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from saboc_jax.devices import find_devices
from saboc_jax.keys import Purpose, key_for
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.empirical import NTKOptions, empirical_ntks
from saboc_jax.ntk.network import NoParameterError, bind, parameter_predicate
from saboc_jax.ntk.piecewise import piecewise_ntks
from saboc_jax.ntk.sharded import sharded_ntks
from saboc_jax.types import (
    Batch,
    Gates,
    Images,
    Kernel,
    Passes,
    PRNGKey,
    SearchSpace,
    Variables,
)


def draw_weights(space: SearchSpace, key: PRNGKey) -> Variables:
    """The supernet's weights for a scoring key: the same for every scorer and architecture."""
    return space.init(key_for(key, Purpose.WEIGHTS))


@dataclass(frozen=True)
class Kernels:
    """Observable: the NTKs of the training images and of other images with them.

    Attributes:
        space: the search space.
        options: how they are computed.
        rows: `Batch` fields whose kernels with the training images are wanted.
        pieces: where the space is a chain: run it link by link, each compiled once and kept
            here; None: one program.
        devices: how many local devices share the images; with several it is one program.
    """

    space: SearchSpace
    options: NTKOptions
    rows: tuple[str, ...] = ()
    pieces: ProgramCache | None = field(default=None, compare=False, repr=False)
    devices: int = 1

    @property
    def runs_apart(self) -> bool:
        """Does it compile its own pieces, so that it is not to be traced with the rest?"""
        options = self.options
        return (
            self.pieces is not None
            and self.devices == 1
            and self.space.one_program.chain is not None
            and options.engine in ("auto", "one_backward")
            and (options.batch_norm, options.outputs, options.chunk) == ("frozen", "sum", None)
        )

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> dict[str, Array]:
        """{"images": [n, n], and for each name in `rows`: [n, n]}.

        A network without any of the named parameters, say without cells, has kernels of zeros.
        """
        rows = [getattr(batch, name) for name in self.rows]
        try:
            kernels = self._kernels(key, gates, batch, rows)
        except NoParameterError:
            if callable(self.options.params):
                raise
            n = len(batch.images)
            kernels = [jnp.zeros((len(each), n), each.dtype) for each in (batch.images, *rows)]
        return dict(zip(("images", *self.rows), kernels, strict=True))

    def _kernels(
        self, key: PRNGKey, gates: Gates, batch: Batch, rows: Sequence[Images]
    ) -> Sequence[Kernel]:
        if self.pieces is not None and self.runs_apart:
            predicate = parameter_predicate(bind(self.space, {}, gates), self.options.params)
            weights = key_for(key, Purpose.WEIGHTS)
            return piecewise_ntks(
                self.space.one_program.chain, self.pieces, weights, batch.images, rows, predicate
            )
        network = bind(self.space, draw_weights(self.space, key), gates)
        if self.devices == 1:
            return empirical_ntks(network, batch.images, rows, self.options)
        devices = find_devices(self.devices)
        return sharded_ntks(network, batch.images, rows, self.options, devices)

    def covers(self, other: Any) -> bool:
        """Does its value hold everything that another observable's value holds?"""
        return (
            isinstance(other, Kernels)
            and (self.space, self.options) == (other.space, other.options)
            and set(other.rows) <= set(self.rows)
        )


def kernel_passes(options: NTKOptions, batches: int = 1) -> Passes:
    """What the NTKs of that many batches cost, the training images among them.

    Where images do not interact, one backward pass of a batch gives all its gradients. With batch
    statistics, and by the engine "jacobian" always, each image has a pass of its own.
    """
    apart = options.batch_norm == "batch" or options.engine == "jacobian"
    return Passes(batches, 0, batches) if apart else Passes(batches, batches)


def params_option(params: Any) -> Any:
    """What stands for a choice of parameters in `Scorer.options`.

    A function at the top of a module is named by its place. Any other callable stands for
    itself: no text tells it from others, so a store refuses it (`check_storable`).
    """
    if not inspect.isfunction(params) or "<" in params.__qualname__:
        return params
    return f"{params.__module__}:{params.__qualname__}"


def require(batch: Batch, name: str) -> Array:
    """A field of the batch.

    Raises:
        ValueError: if it is None.
    """
    value = getattr(batch, name)
    if value is None:
        raise ValueError(f"the batch field {name!r} is needed, got None")
    return value
