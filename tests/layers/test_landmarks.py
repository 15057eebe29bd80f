"""Places in programs of other origins: activations by their sign, whatever writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from saboc_jax.ntk.network import from_function
from saboc_jax.scorers.activations import activations_of
from saboc_jax.scorers.naswot import agreement, agreement_kernel

N, WIDTH = 4, 5


@jax.custom_jvp
def straight(x):
    """A step with a gradient of its own."""
    return jnp.where(x > 0, 1.0, 0.0) * x


straight.defjvps(lambda tangent, y, x: tangent)


@jax.custom_vjp
def clipped(x):
    """The identity with a clipped gradient, which is no activation."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.2),
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "hard swish": jax.nn.hard_swish,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "maximum": lambda x: jnp.maximum(x, 0),
    "clip": lambda x: jnp.clip(x, 0, 3),
    "where": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "other way": lambda x: jnp.where(x < 0, jnp.expm1(x), x),
    "quick gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "squared": lambda x: jnp.square(jax.nn.relu(x)),
    "erf": lambda x: 0.5 * x * (1 + lax.erf(x / 2**0.5)),
    "custom": straight,
    "compiled": jax.jit(jax.checkpoint(lambda x: jnp.maximum(x, 0))),
    "before a residual addition and a power": lambda x: (jnp.maximum(x, 0) + x**2 + 1) ** 0.3,
    "each example": lambda x: lax.map(jax.nn.relu, x),
    "each row": lambda x: lax.map(jax.nn.relu, x.T).T,
    "with a mask": lambda x: jax.nn.relu(jnp.where(jnp.arange(WIDTH) > 9, 0, x)),
}


def network_of(function):
    """A product with parameters, then the function."""
    return from_function(lambda w, x: function(x @ w), WEIGHTS)


WEIGHTS = jax.random.normal(jax.random.key(0), (3, WIDTH))
INPUTS = jax.random.normal(jax.random.key(1), (N, 3))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_unit_is_active_where_what_goes_in_is_positive(name):
    (seen,) = activations_of(network_of(ACTIVATIONS[name]), INPUTS)
    np.testing.assert_array_equal(seen > 0, INPUTS @ WEIGHTS > 0)
    assert 0 < (seen > 0).sum() < seen.size
    kernel = agreement_kernel(network_of(ACTIVATIONS[name]), INPUTS)
    np.testing.assert_array_equal(kernel, agreement(INPUTS @ WEIGHTS > 0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        jax.nn.softmax,
        clipped,
        lambda x: nn.LayerNorm().apply({"params": {"scale": 1 + x[0], "bias": x[0]}}, x),
        lambda x: jnp.where(x > 0, 1.0, 2.0) + x,  # chooses between constants
        lambda x: jnp.maximum(x, 1),
        jnp.abs,
    ],
)
def test_what_is_no_activation_is_not_counted(function):
    assert not activations_of(network_of(function), INPUTS)
    with pytest.raises(ValueError, match="has no activation"):
        agreement_kernel(network_of(function), INPUTS)


def test_layers_of_a_loop_count_as_those_in_a_row():
    weights = jax.random.normal(jax.random.key(2), (3, WIDTH, WIDTH))

    def scanned(w, x):
        layer = lambda x, w: (jax.nn.relu(x @ w) - 0.2, None)  # noqa: E731
        return lax.scan(layer, x @ w[0], w[1])[0]

    def in_a_row(w, x):
        x = x @ w[0]
        for layer in w[1]:
            x = jax.nn.relu(x @ layer) - 0.2
        return x

    params = (WEIGHTS, weights)
    kernels = [agreement_kernel(from_function(f, params), INPUTS) for f in (scanned, in_a_row)]
    np.testing.assert_array_equal(*kernels)
    assert kernels[0][0, 0] == 3 * WIDTH


def test_examples_may_be_any_axis_but_not_joined_with_another():
    series = jax.random.normal(jax.random.key(3), (N, N, 3))  # as many steps as examples
    by_time = from_function(lambda w, x: jax.nn.relu(x.swapaxes(0, 1) @ w)[-1], WEIGHTS)
    as_given = from_function(lambda w, x: jax.nn.relu(x @ w)[:, -1], WEIGHTS)
    np.testing.assert_array_equal(
        agreement_kernel(by_time, series), agreement_kernel(as_given, series)
    )
    joined = from_function(lambda w, x: jax.nn.relu(x.reshape(-1, 3) @ w)[:N], WEIGHTS)
    with pytest.raises(ValueError, match=r"acts on \[16, 5\] for 4 examples"):
        agreement_kernel(joined, series)


def test_an_activation_in_a_branch_is_refused():
    def branched(x):
        return lax.cond(x[0, 0] > 0, jax.nn.relu, lambda x: x, x)

    with pytest.raises(ValueError, match="an activation in a cond"):
        agreement_kernel(network_of(branched), INPUTS)
