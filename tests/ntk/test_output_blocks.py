"""Kernels of many outputs, some at a time: the direct Jacobian's values, in bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from saboc_jax.ntk import output_blocks
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64

N, M, SIDE, CLASSES = 3, 2, 4, 5
ENGINES = ("one_backward", "neural_tangents", "jacobian")


class Net(nn.Module):
    """A convolution, batch norm with the statistics of the columns, a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), use_bias=False)(x)
        x = jnp.tanh(nn.BatchNorm(use_running_average=False, epsilon=1e-3)(x))
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


def images(seed, n):
    return np.random.default_rng(seed).normal(size=(n, SIDE, SIDE, 2))


def drawn():
    shapes = jax.eval_shape(Net().init, jax.random.key(0), images(0, 1))["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.5 + 0.3 * random.normal(size=s.shape), shapes)


def direct_jacobian(params, x, statistics_of):
    """[n, k, P] of the network written out, batch norm's statistics as constants."""

    def convolve(kernel, x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [padded[:, i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]
        return sum(w @ k for w, k in zip(windows, kernel.reshape(9, 2, 3), strict=True))

    hidden = convolve(params["Conv_0"]["kernel"], statistics_of)
    mean, variance = hidden.mean((0, 1, 2)), hidden.var((0, 1, 2))

    def run(params):
        y = (convolve(params["Conv_0"]["kernel"], x) - mean) / jnp.sqrt(variance + 1e-3)
        y = jnp.tanh(y * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"])
        dense = params["Dense_0"]
        return y.reshape(x.shape[0], -1) @ dense["kernel"] + dense["bias"]

    flat, restore = ravel_pytree(params)
    return jax.jacrev(lambda flat: run(restore(flat)))(flat)


@pytest.fixture(scope="module")
def expected():
    """The kernels of every pair of outputs: columns with themselves, rows with columns."""
    with enable_x64():
        params, x, y = drawn(), images(1, N), images(2, M)
        right, left = jax.jit(lambda p, x, y: (direct_jacobian(p, x, x), direct_jacobian(p, y, x)))(
            params, x, y
        )
        return [np.einsum("iap,jbp->ijab", rows, right) for rows in (right, left)]


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_of_outputs_give_the_direct_jacobian(engine, expected):
    """Blocks of two of five outputs: the last is half empty."""
    with enable_x64():
        network, x, y = from_module(Net(), {"params": drawn()}), images(1, N), images(2, M)
        options = NTKOptions(engine, "all", outputs_chunk=2)

        def kernels(x, y):
            each = [options._replace(outputs=outputs) for outputs in ("full", "trace")]
            return [empirical_ntks(network, x, (y,), option) for option in each]

        for full, trace, oracle in zip(*jax.jit(kernels)(x, y), expected, strict=True):
            np.testing.assert_allclose(full, oracle, rtol=1e-10, atol=1e-12)
            mean = np.einsum("ijaa->ij", oracle) / CLASSES
            np.testing.assert_allclose(trace, mean, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("asked", "images", "width", "size"),
    [(None, 64, 100, 4), (None, 300, 10, 1), (None, 4, 10, 10), (7, 64, 10, 5), (50, 2, 10, 10)],
)
def test_blocks_are_of_equal_size_and_at_most_so_large(asked, images, width, size):
    assert output_blocks.block_size(width, images, asked) == size
    assert output_blocks.block_weights(width, size).sum() == width


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_hundred_classes_need_no_jacobian_of_all_outputs(engine, outputs):
    """By the compiler's count of temporary memory; all at once does not stay within it."""
    images, classes, hidden = 8, 100, 100

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(classes)(jnp.tanh(nn.Dense(hidden)(x)))

    x = jax.ShapeDtypeStruct((images, hidden), jnp.float32)
    variables = jax.eval_shape(Wide().init, jax.random.key(0), x)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))

    def temporary(outputs_chunk):
        options = NTKOptions(engine, "all", outputs, outputs_chunk=outputs_chunk)
        run = lambda v, x: empirical_ntks(from_module(Wide(), v), x, (), options)  # noqa: E731
        return jax.jit(run).lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * images * classes * parameters
    assert temporary(1) < whole / 4
    if (engine, outputs) in (("jacobian", "full"), ("jacobian", "trace")):
        assert temporary(classes) > whole
