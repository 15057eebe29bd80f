"""Which engine applies to which module: none may be wrong in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from saboc_jax.ntk.empirical import empirical_ntk, empirical_ntks, engine_of
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.spaces.masks import architecture_to_mask, mask_to_gates
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201

pytestmark = pytest.mark.usefixtures("x64")
N, M, LENGTH, WIDTH = 4, 3, 4, 5  # as many positions as images: shapes alone do not tell


class Tokens(nn.Module):
    """Embedded integers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Embed(7, 4)(x)).mean(1))


class TiedEmbedding(nn.Module):
    """The embedding is used once more as the output layer, through another method."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(7, 4)
        return embed.attend(jnp.tanh(nn.Dense(4)(embed(x)))).mean(1)


class Folded(nn.Module):
    """A dense layer sees positions as if they were images."""

    @nn.compact
    def __call__(self, x):
        y = jnp.tanh(nn.Dense(4)(x.reshape(-1, WIDTH))).reshape(*x.shape[:2], 4)
        return nn.Dense(2)(y.mean(1))


class Positions(nn.Module):
    """A layer whose input does not depend on the images."""

    @nn.compact
    def __call__(self, x):
        y = x + nn.Embed(LENGTH, WIDTH)(jnp.arange(LENGTH))
        return nn.Dense(2)(jnp.tanh(nn.Dense(4)(y)).mean(1))


class PositionsFirst(nn.Module):
    """The images are the second axis."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Dense(4)(x.swapaxes(0, 1))).mean(0))


class CalledByName(nn.Module):
    """One layer called by position and by name."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(WIDTH)
        return nn.Dense(2)(layer(inputs=jnp.tanh(layer(x))).mean(1))


class Recurrent(nn.Module):
    """Flax's own scan over positions, with the same parameters at each."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.SimpleCell(4, dtype=x.dtype, param_dtype=x.dtype))(x)[:, -1])


class Owner(nn.Module):
    """A parameter that belongs to no layer."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(), (WIDTH, 3))
        return nn.Dense(2)(jnp.tanh(x @ kernel).mean(1))


class NormCall(nn.Module):
    """Batch norm told by name what to do; without parameters of its own."""

    average: bool
    affine: bool = False

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_scale=self.affine, use_bias=self.affine)
        y = norm(nn.Dense(4)(x), use_running_average=self.average)
        return nn.Dense(2)(jnp.tanh(y).mean(1))


def sequences(seed, n):
    return jax.random.normal(jax.random.key(seed), (n, LENGTH, WIDTH), jnp.float64)


def tokens(seed, n):
    return jax.random.randint(jax.random.key(seed), (n, LENGTH), 0, 7)


def make(module, draw=sequences):
    """The network at double-precision weights away from their initial values."""
    leaves, structure = jax.tree.flatten(module.init(jax.random.key(0), draw(0, N)))
    noise = [
        jax.random.uniform(jax.random.key(i), leaf.shape, jnp.float64)
        for i, leaf in enumerate(leaves)
    ]
    moved = [leaf + 0.2 * extra for leaf, extra in zip(leaves, noise, strict=True)]
    return from_module(module, jax.tree.unflatten(structure, moved))


def assert_equal(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        assert np.abs(two).max() > 0
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10 * np.abs(two).max())


@pytest.mark.parametrize(
    ("module", "draw"),
    [
        (Tokens(), tokens),
        (TiedEmbedding(), tokens),
        (Folded(), sequences),
        (Positions(), sequences),
        (PositionsFirst(), sequences),
        (CalledByName(), sequences),
        (Recurrent(), sequences),
        (Owner(), sequences),
        (NormCall(average=True), sequences),
        (NormCall(average=False), sequences),
        (NormCall(average=True, affine=True), sequences),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_one_backward_is_right_for_any_module(module, draw):
    network, x, y = make(module, draw), draw(1, N), draw(2, M)
    oracle = empirical_ntks(network, x, (y,), NTKOptions("jacobian"))
    assert_equal(empirical_ntks(network, x, (y,)), oracle)
    assert_equal(empirical_ntks(network, x)[:1], oracle[:1])  # no rows: nothing to stumble over


def test_rows_and_columns_of_a_direct_jacobian():
    """Frozen statistics are the columns'; written out with them as constants."""
    network, x1, x2 = make(NormCall(average=False)), sequences(1, M), sequences(2, N)
    params = network.variables["params"]
    first = params["Dense_0"]
    hidden = x2 @ first["kernel"] + first["bias"]
    mean, variance = hidden.mean((0, 1)), hidden.var((0, 1))

    def summed(params, x):
        first, last = params["Dense_0"], params["Dense_1"]
        y = (x @ first["kernel"] + first["bias"] - mean) / jnp.sqrt(variance + 1e-5)
        return (jnp.tanh(y).mean(1) @ last["kernel"] + last["bias"]).sum(1)

    rows, columns = (
        np.stack([ravel_pytree(jax.grad(lambda p: summed(p, x)[i])(params))[0] for i in range(n)])  # noqa: B023
        for x, n in ((x1, M), (x2, N))
    )
    for engine in ("one_backward", "neural_tangents", "jacobian"):
        ours = empirical_ntk(network, x1, x2, NTKOptions(engine, "all"))
        np.testing.assert_allclose(ours, rows @ columns.T, rtol=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 9])
def test_chunks_change_nothing(chunk):
    network, x, y = make(NormCall(average=False, affine=True)), sequences(1, N), sequences(2, M)
    for options in (
        NTKOptions("one_backward"),
        NTKOptions("neural_tangents"),
        NTKOptions("jacobian"),
        NTKOptions("jacobian", batch_norm="batch"),
        NTKOptions("one_backward", outputs="full"),
    ):
        whole = empirical_ntks(network, x, (y,), options)
        assert_equal(empirical_ntks(network, x, (y,), options._replace(chunk=chunk)), whole)


@pytest.mark.parametrize("outputs", ["sum", "trace", "full"])
@pytest.mark.parametrize("engine", ["auto", "one_backward", "neural_tangents", "jacobian"])
def test_outputs_must_be_a_matrix(engine, outputs):
    for module, shape in (
        (nn.Sequential([nn.Dense(1), lambda y: y.sum((1, 2))]), r"\(4,\)"),
        (nn.Dense(3), r"\(4, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=f"outputs have shape {shape}"):
            empirical_ntk(make(module), sequences(1, N), None, NTKOptions(engine, outputs=outputs))


def test_parameters_of_another_precision_than_the_images():
    module = nn.Sequential([nn.Conv(3, (3, 3)), jnp.tanh, lambda y: y.mean((1, 2)), nn.Dense(2)])
    x = jax.random.normal(jax.random.key(0), (N, 6, 6, 2), jnp.float64)
    network = from_module(module, module.init(jax.random.key(1), x))
    assert jax.tree.leaves(network.variables)[0].dtype == jnp.float32
    double = network._replace(
        variables=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.variables)
    )
    oracle = empirical_ntk(double, x, None, NTKOptions("jacobian"))
    for engine in ("one_backward", "neural_tangents", "jacobian"):
        for images, bound in ((network, x), (double, x.astype(jnp.float32))):
            ours = empirical_ntk(images, bound, None, NTKOptions(engine))
            np.testing.assert_allclose(ours, oracle, rtol=1e-4)


def test_the_engine_that_auto_chooses():
    assert engine_of(NTKOptions()) == "one_backward"
    assert engine_of(NTKOptions(batch_norm="running")) == "one_backward"
    assert engine_of(NTKOptions(batch_norm="batch")) == "jacobian"
    assert engine_of(NTKOptions("jacobian")) == "jacobian"
    assert engine_of(NTKOptions("neural_tangents")) == "neural_tangents"


def test_the_weights_of_the_cells_of_a_supernet():
    """Only they, for every engine, with one program for both gates."""
    space = nas_bench_201(2, 1, 2, (4, 4, 3))
    variables = jax.tree.map(lambda p: p.astype(jnp.float64), space.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 3), jnp.float64)
    arch = np.array([3, 2, 1, 4, 3, 2])
    supernet = mask_to_gates(architecture_to_mask(arch, 5) | (np.arange(5) == 2))
    kernels = []
    for engine in ("jacobian", "one_backward"):
        options = NTKOptions(engine, "cells")
        run = jax.jit(lambda g, o=options: empirical_ntk(bind(space, variables, g), x, None, o))
        kernels.append([run(space.gates(arch)), run(supernet)])
    assert_equal(kernels[1], kernels[0])
    whole = empirical_ntk(
        bind(space, variables, space.gates(arch)), x, None, NTKOptions("one_backward")
    )
    assert np.trace(kernels[0][0]) < np.trace(whole)


class MinusMeanOfTheBatch(nn.Module):
    """A module whose images interact, without a batch norm."""

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        return nn.Dense(2)(jnp.tanh(nn.Dense(3)(x - x.mean(0))))


def test_the_jacobian_by_name_sees_images_that_interact():
    """It is the oracle: the whole batch at once, whatever images have to do with each other."""
    module = MinusMeanOfTheBatch()
    x = jax.random.normal(jax.random.key(1), (4, 2, 2, 1), jnp.float64)
    variables = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), module.init(jax.random.key(0), x)
    )
    rows = jax.jacrev(lambda v: module.apply(v, x).sum(-1))(variables)
    flat = jnp.concatenate([leaf.reshape(4, -1) for leaf in jax.tree.leaves(rows)], 1)
    ours = empirical_ntk(from_module(module, variables), x, None, NTKOptions("jacobian", "all"))
    np.testing.assert_allclose(ours, flat @ flat.T, rtol=1e-10)
