"""A network of two layers without biases, which several tests of operators take."""

import jax
import jax.numpy as jnp


def layers(params, x):
    """[n, inputs] to [n, outputs]."""
    return jnp.tanh(x @ params["first"]) @ params["last"]


def weights(keys, inputs, width, outputs):
    """Its weights, the first layer's from the first key, the last one's from the second."""
    return {
        "first": jax.random.normal(keys[0], (inputs, width), float),
        "last": jax.random.normal(keys[1], (width, outputs), float),
    }
