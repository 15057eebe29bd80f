"""The observable that most scorers share: NTKs of the training images and of further images."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from saboc_jax.keys import Purpose, key_for
from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.network import Network, NoParameterError, bind
from saboc_jax.ntk.placement import LinkedNetwork, place_ntks
from saboc_jax.scorers.observables import KernelRequest, draw_weights
from saboc_jax.types import Batch, Gates, PRNGKey


@dataclass(frozen=True)
class Kernels(KernelRequest):
    """Observable: the requested NTKs; attributes as in `KernelRequest`."""

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> dict[str, Array]:
        """Returns {"images": [n, n], and for each name in `rows`: [n, n]}.

        A network without any of the named parameters (such as one without cells) has zero kernels.
        """
        rows = [getattr(batch, name) for name in self.rows]
        network = self._network(key, gates)
        kernels: Sequence[Array]
        try:
            kernels = place_ntks(network, batch.images, rows, self.options, self.devices)
        except NoParameterError:
            if callable(self.options.params):
                raise
            n = number_of(batch.images)
            kernels = [jnp.zeros((number_of(each), n)) for each in (batch.images, *rows)]
        return dict(zip(("images", *self.rows), kernels, strict=True))

    def _network(self, key: PRNGKey, gates: Gates) -> Network | LinkedNetwork:
        if self.pieces is None or not self.runs_apart:
            return bind(self.space, draw_weights(self.space, key), gates)
        weights = key_for(key, Purpose.WEIGHTS)
        program = self.space.one_program
        return LinkedNetwork(program.chain, self.pieces, weights, program.in_cells)
