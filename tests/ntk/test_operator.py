"""The operator is the kernel of `empirical_ntk`, whatever way its products take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from two_layers import layers, weights

import saboc_jax as sj
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.products import GRADIENTS, PASSES, cheaper_way
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
N, K = 7, 3  # chunks of 3: 3, 3 and 1
pytestmark = pytest.mark.usefixtures("x64")


class Normed(nn.Module):
    """A convolution, batch norm and a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        return nn.Dense(K, param_dtype=jnp.float64)(nn.tanh(x).mean((1, 2)))


def images(seed, n, size=6):
    return jax.random.normal(jax.random.key(seed), (n, size, size, 3), jnp.float64)


def perceptron(seed=0, width=5):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = weights(keys, 4, width, K)
    return sj.from_function(layers, params), jax.random.normal(keys[2], (N, 4), jnp.float64)


def normed():
    module = Normed()
    variables = module.init(jax.random.key(0), images(0, 1))
    double = jax.tree.map(lambda a: a.astype(jnp.float64), variables)  # flax keeps float32
    return sj.from_module(module, double), images(1, N)


def cell():
    space = nas_bench_201(2, 1, 3, (8, 8, 3))
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), space.init(jax.random.key(0)))
    return sj.bind(space, variables, space.gates(space.from_string(CELL))), images(2, N, 8)


def as_matrix(kernel):
    if kernel.ndim == 2:
        return np.asarray(kernel)
    n, m, k, _ = kernel.shape
    return np.asarray(kernel.transpose(0, 2, 1, 3).reshape(n * k, m * k))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("outputs", ["sum", "trace", "full"])
@pytest.mark.parametrize("make", [perceptron, normed])
def test_every_product_is_the_kernel_times_the_block(make, outputs):
    network, x = make()
    options = NTKOptions(outputs=outputs)
    kernel = as_matrix(jax.jit(lambda x: sj.empirical_ntk(network, x, options=options))(x))
    block = jax.random.normal(jax.random.key(3), (len(kernel), 4), jnp.float64)
    for products in ("dense", "passes", "gradients"):
        operator = sj.ntk_operator(network, x, options, chunk=3, products=products)
        assert operator.shape == kernel.shape
        assert operator.dtype == np.float64
        close(operator @ block, kernel @ block)
        close(operator.matvec(block[:, 0]), kernel @ block[:, 0])
    close(operator.diagonal(), np.diag(kernel))
    close(operator.trace(), np.trace(kernel))
    width = len(kernel) // N
    rows, columns = (np.repeat(i, width) * width + np.tile(np.arange(width), len(i))
                     for i in (np.array([5, 0]), np.array([2, 3, 4])))  # fmt: skip
    close(operator.block([5, 0], slice(2, 5)), kernel[np.ix_(rows, columns)])
    close(operator.dense(), kernel)


def test_a_cell_of_our_own_layers():
    network, x = cell()
    kernel = jax.jit(lambda x: sj.empirical_ntk(network, x))(x)
    operator = sj.ntk_operator(network, x, NTKOptions(check=False), chunk=4, products="passes")
    v = jax.random.normal(jax.random.key(3), (N,), jnp.float64)
    close(operator @ v, kernel @ v)
    close(operator.block(slice(3), [6]), kernel[:3, 6:])


@pytest.mark.parametrize("outputs", ["sum", "trace", "full"])
def test_products_with_rows_of_other_inputs(outputs):
    network, x = perceptron()
    options = NTKOptions(outputs=outputs)
    other = jax.random.normal(jax.random.key(8), (5, 4), jnp.float64)
    kernel = as_matrix(sj.empirical_ntk(network, other, x, options))
    block = jax.random.normal(jax.random.key(3), (kernel.shape[1], 2), jnp.float64)
    for products in ("dense", "passes"):
        operator = sj.ntk_operator(network, x, options, chunk=3, products=products)
        close(operator.cross_matmat(other, block), kernel @ block)


def test_statistics_are_those_of_the_named_batch():
    network, x = normed()
    named = images(5, 11)
    kernel = sj.empirical_ntks(network, named, (x,))[1]
    operator = sj.ntk_operator(network, named, chunk=4, products="passes")
    ones = jnp.ones(11)
    close(operator.cross_matmat(x, ones[:, None])[:, 0], kernel @ ones)
    part = sj.ntk_operator(network, x, statistics=named, products="passes")
    close(part.dense(), sj.ntk_operator(network, jnp.concatenate([x, named]), statistics=named)
          .dense()[:N, :N])  # fmt: skip
    assert not np.allclose(part.dense(), sj.empirical_ntk(network, x))


@pytest.mark.parametrize("products", ["dense", "passes", "gradients"])
def test_products_are_parts_of_compiled_programs(products):
    network, x = perceptron()
    operator = sj.ntk_operator(network, x, NTKOptions(outputs="full"), chunk=2, products=products)
    v = jax.random.normal(jax.random.key(3), (N * K,), jnp.float64)
    close(jax.jit(operator.matvec)(v), operator.matvec(v))


def test_inputs_may_lie_on_disk_and_are_read_by_chunks(tmp_path):
    network, x = perceptron()
    np.save(tmp_path / "x.npy", np.asarray(x))

    class Source:
        """Not an array, but sliced like one; it notes what is read."""

        shape, dtype = x.shape, x.dtype
        most = 0

        def __getitem__(self, index):
            part = np.load(tmp_path / "x.npy", mmap_mode="r")[index]
            Source.most = max(Source.most, len(part))
            return part

    operator = sj.ntk_operator(network, Source(), chunk=2, products="passes")
    v = jnp.arange(N, dtype=jnp.float64)
    close(operator @ v, sj.empirical_ntk(network, x) @ v)
    assert Source.most <= 4  # those that are verified


def test_the_view_of_scipy():
    from scipy.sparse.linalg import LinearOperator

    network, x = perceptron()
    operator = sj.ntk_operator(network, x, products="passes")
    view = operator.as_scipy()
    assert isinstance(view, LinearOperator)
    close(view @ np.eye(N), sj.empirical_ntk(network, x))
    close(view.T @ np.eye(N), sj.empirical_ntk(network, x))
    assert isinstance(view @ np.ones(N), np.ndarray)


@pytest.mark.parametrize("products", ["dense", "passes"])
def test_the_view_of_lineax(products):
    lineax = pytest.importorskip("lineax", reason="the extra `lineax` is not installed")
    network, x = perceptron(width=40)
    operator = sj.ntk_operator(network, x, products=products, chunk=3)
    v = jnp.arange(N, dtype=jnp.float64)
    solver = lineax.CG(rtol=1e-12, atol=1e-12)
    solved = lineax.linear_solve(operator.as_lineax(), v, solver).value
    np.testing.assert_allclose(operator @ solved, v, atol=1e-8)


def test_it_says_whether_a_kernel_is_held(monkeypatch):
    network, x = perceptron()
    held = sj.ntk_operator(network, x)
    assert "dense kernel (not computed yet)" in repr(held)
    held.matvec(jnp.ones(N))
    assert "shape=(7, 7)" in repr(held) and "dense kernel (held)" in repr(held)
    monkeypatch.setenv("SABOC_MEMORY_GIB", str(100 / 2**30))
    assert "no kernel held" in repr(sj.ntk_operator(network, x))


def test_a_chunk_is_halved_until_a_pass_fits_in_memory(monkeypatch):
    network, x = normed()
    v = jnp.arange(N, dtype=jnp.float64)
    whole = sj.ntk_operator(network, x, products="passes")
    wanted = whole @ v
    assert whole.chunk == N
    monkeypatch.setenv("SABOC_MEMORY_GIB", str(30_000 / 2**30))
    small = sj.ntk_operator(network, x, products="passes")
    close(small @ v, wanted)
    assert small.chunk < N


def test_the_cheaper_way():
    assert cheaper_way(work=10_000, parameters=100, outputs=1, columns=1) == PASSES
    assert cheaper_way(work=10_000, parameters=100, outputs=1, columns=2) == GRADIENTS
    assert cheaper_way(work=100, parameters=100, outputs=10, columns=10) == PASSES


def test_examples_that_interact_are_refused():
    def coupled(params, x):
        return (x - x.mean(0)) @ params

    network = sj.from_function(coupled, jnp.ones((4, K)))
    with pytest.raises(ValueError, match=r"an operator of function: .*do not interact"):
        sj.ntk_operator(network, perceptron()[1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n, x: sj.ntk_operator(n, x, chunk=0), "chunk=0; allowed"),
        (lambda n, x: sj.ntk_operator(n, x, products="fast"), "products='fast'; allowed"),
        (lambda n, x: sj.ntk_operator(n, x[:0]), "at least one"),
        (lambda n, x: sj.ntk_operator(n, x, NTKOptions(batch_norm="batch")), "batch_norm='batch'"),
        (lambda n, x: sj.ntk_operator(n, x, NTKOptions(engine="jacobian")), "engine='jacobian'"),
        (lambda n, x: sj.ntk_operator(n, x) @ jnp.ones(3), r"\(3, 1\); allowed: \[7, b\]"),
        (lambda n, x: sj.ntk_operator(n, x).block(7, 0), "index 7 of 7 examples; allowed"),
        (lambda n, x: sj.ntk_operator(n, x).block([], 0), r"index \[\] of 7"),
    ],
)
def test_bad_arguments_are_one_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call(*perceptron())
