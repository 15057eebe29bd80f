"""All scores by the names under which golden files hold them."""

from saboc_jax.scorers.parity_activations import PARITY_ACTIVATIONS
from saboc_jax.scorers.parity_gradients import PARITY_GRADIENTS

PARITY = {**PARITY_GRADIENTS, **PARITY_ACTIVATIONS}
