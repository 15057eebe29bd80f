"""Scores of given networks on given arrays, for comparison with released codes."""

from collections.abc import Callable, Mapping

from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.naswot import naswot_value
from saboc_jax.scorers.swap import swap_value
from saboc_jax.scorers.zen import zen_value

# From (network, {"x1", "y1", "x2", "y2", "x_test", "y_test", "noise"}) to the value.
PARITY_ACTIVATIONS: dict[str, Callable[[Network, Mapping[str, Array]], Float[Array, ""]]] = {
    "zen": lambda network, data: zen_value(
        network, data["x1"], data["x1"] + 0.01 * data["noise"]
    ),
    "naswot": lambda network, data: naswot_value(network, data["x1"]),
    "swap": lambda network, data: swap_value(network, data["x1"]),
}
