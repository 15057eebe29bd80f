"""A network whose examples do not interact, for kernels that are computed chunk by chunk.

Frozen batch norm takes the statistics of a batch. Here they are taken once, of a named batch, and
become constants of the network, so that every chunk of examples sees the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from saboc_jax.ntk.functions import record_statistics
from saboc_jax.ntk.network import (
    STATISTICS,
    Network,
    named_predicate,
    statistics_shapes,
    with_batch_statistics,
)
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.types import Variables


class Frozen(NamedTuple):
    """A network at constant statistics.

    Attributes:
        network: it can be differentiated in forward mode, and its program can be read.
        reverse: the same function, faster to differentiate in reverse mode.
        options: of its kernels; the statistics are those that it holds.
    """

    network: Network
    reverse: Network
    options: NTKOptions


def freeze(network: Network, batch: Any, options: NTKOptions) -> Frozen:
    """Returns a network with the statistics of a batch as constants.

    Args:
        network: the network at fixed weights.
        batch: its statistics are frozen, if the options ask for frozen ones.
        options: of the kernel.

    Raises:
        ValueError: if an option does not exist, or lets examples interact.
    """
    check_options(options)
    if not options.may_take_one_backward:
        raise ValueError(
            f"engine={options.engine!r}, batch_norm={options.batch_norm!r} of an operator; "
            "allowed: engine='auto' or 'one_backward' with batch_norm='frozen' or 'running'"
        )
    constant = options._replace(batch_norm="running", check=False)
    if network.source is None:
        network = network._replace(source=object())
    if options.is_frozen and _reads_statistics(network, batch):
        batch = jax.tree.map(jnp.asarray, batch)
    if network.known_layers:
        params = named_predicate(options.params, network.in_cells)
        return Frozen(*_of_known_layers(network, batch, options), constant._replace(params=params))
    if options.is_frozen and _reads_statistics(network, batch):
        network = network._replace(variables=_variables(network, batch))
    return Frozen(network._replace(forward_mode=True), network, constant)


def _reads_statistics(network: Network, batch: Any) -> bool:
    """Does the network need the batch for statistics?"""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    return network.known_layers or bool(jax.tree.leaves(statistics_shapes(network, shapes)))


def _variables(network: Network, batch: Any) -> Variables:
    """Returns the variables with the statistics of the batch."""

    def run(variables: Variables, batch: Any) -> Variables:
        return with_batch_statistics(network._replace(variables=variables), batch).variables

    frozen: Variables = jax.jit(run)(network.variables, batch)
    return frozen


def _of_known_layers(network: Network, batch: Any, options: NTKOptions) -> tuple[Network, Network]:
    """Returns the network for forward mode and for reverse mode, as networks like any other."""
    recorded = dict(network.variables).get(STATISTICS)
    if options.is_frozen:
        recorded = jax.jit(
            lambda variables, batch: record_statistics(network._replace(variables=variables), batch)
        )(network.variables, batch)
    own = {name: value for name, value in network.variables.items() if name != STATISTICS}
    variables = {**own, STATISTICS: recorded} if recorded else own
    mode = "stored" if recorded else "batch"
    plain, fast = (_like_any(network, variables, mode, forward) for forward in (True, False))
    return plain, fast


def _like_any(network: Network, variables: Variables, mode: str, forward_mode: bool) -> Network:
    """Returns a network of known layers as one whose own code runs, with its statistics stored."""
    inside = network._replace(variables={}, forward_mode=forward_mode)

    def apply(variables: Variables, inputs: Any, mutable: Sequence[str] = ()) -> Any:
        return inside.outputs(variables, inputs, mode), {}

    return Network(
        apply,
        variables,
        network.in_cells,
        name=network.name,
        source=object(),
        forward_mode=True,  # `inside` has its own rules
    )
