"""Activation-based scores of given networks on given arrays, to compare with released codes."""

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers import az_nas
from saboc_jax.scorers.naswot import naswot_value
from saboc_jax.scorers.swap import swap_value
from saboc_jax.scorers.zen import zen_value


def _az_blocks(network: Network, data: Mapping[str, Array]) -> az_nas.BlockStatistics:
    signs = az_nas.draw_signs(network, data["x1"], jax.random.key(0))
    return az_nas.block_statistics(network, data["x1"], signs)


# Functions of (network, {"x1", "y1", "x2", "y2", "x_test", "y_test", "noise"}).
PARITY_ACTIVATIONS: dict[str, Callable[[Network, Mapping[str, Array]], Float[Array, ""]]] = {
    "zen": lambda network, data: zen_value(network, data["x1"], data["x1"] + 0.01 * data["noise"]),
    "naswot": lambda network, data: naswot_value(network, data["x1"]),
    "az_expressivity": lambda network, data: az_nas.expressivity(_az_blocks(network, data)),
    "az_progressivity": lambda network, data: az_nas.progressivity(_az_blocks(network, data)),
    "swap": lambda network, data: swap_value(network, data["x1"]),
}
