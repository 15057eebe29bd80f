"""Gradient-based scores of given networks on given arrays, to compare with released codes."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.ntk.network import Network
from saboc_jax.scorers.fisher import fisher_value
from saboc_jax.scorers.grad_norm import grad_norm_value
from saboc_jax.scorers.grasp import grasp_value
from saboc_jax.scorers.jacob_cov import jacob_cov_value
from saboc_jax.scorers.snip import snip_value
from saboc_jax.scorers.synflow import synflow_value
from saboc_jax.scorers.zico import zico_value

# Functions of (network, {"x1", "y1", "x2", "y2", "x_test", "y_test", "noise"}).
PARITY_GRADIENTS: dict[str, Callable[[Network, Mapping[str, Array]], Float[Array, ""]]] = {
    "grad_norm": lambda network, data: grad_norm_value(network, data["x1"], data["y1"]),
    "snip": lambda network, data: snip_value(network, data["x1"], data["y1"]),
    "grasp": lambda network, data: grasp_value(network, data["x1"], data["y1"]),
    "fisher": lambda network, data: fisher_value(network, data["x1"], data["y1"]),
    "synflow": lambda network, data: synflow_value(network, data["x1"].shape[1:], "plain"),
    "jacob_cov": lambda network, data: jacob_cov_value(network, data["x1"]),
    "zico": lambda network, data: zico_value(
        network, jnp.stack([data["x1"], data["x2"]]), jnp.stack([data["y1"], data["y2"]])
    ),
}
