"""neural-tangents behind its compatibility module: what it computes, and what it leaves alone."""

import functools
import itertools
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from saboc_jax.ntk import _neural_tangents

N, M, CLASSES = 4, 3, 3


@pytest.fixture(autouse=True)
def double_precision():
    """Float64 for one test; JAX has renamed the context manager."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64(True)
    else:
        from jax.experimental import enable_x64

        context = enable_x64()
    with context:
        yield


class SmallCNN(nn.Module):
    """A convolution, a nonlinearity, pooling and a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Conv(5, (3, 3), param_dtype=jnp.float64)(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(CLASSES, param_dtype=jnp.float64)(x)


class BatchCoupledCNN(nn.Module):
    """The same with activations centred over the batch: examples interact."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3), param_dtype=jnp.float64)(x)
        x = jnp.tanh(x - x.mean(0)).reshape(len(x), -1)
        return nn.Dense(CLASSES, param_dtype=jnp.float64)(x)


def network(module):
    """Its function, its parameters and two batches of inputs."""
    init, rows, columns = jax.random.split(jax.random.key(0), 3)
    x1 = jax.random.normal(rows, (N, 6, 6, 2), jnp.float64)
    x2 = jax.random.normal(columns, (M, 6, 6, 2), jnp.float64)
    params = module.init(init, x1)["params"]
    return (lambda params, x: module.apply({"params": params}, x)), params, x1, x2


def direct_ntk(f, params, x1, x2):
    """[n, m, k, k] from the flattened Jacobian of the whole batch, contracted by NumPy."""
    flat, restore = ravel_pytree(params)
    left, right = (
        np.asarray(jax.jacrev(lambda p: f(restore(p), x))(flat))  # noqa: B023
        for x in (x1, x2)
    )
    return np.einsum("nap,mbp->nmab", left, right)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("vmap_axes", [0, None])
@pytest.mark.parametrize("implementation", [1, 2])
def test_equals_the_direct_jacobian(implementation, vmap_axes, symmetric):
    f, params, x1, x2 = network(SmallCNN())
    expected = direct_ntk(f, params, x1, x1 if symmetric else x2)
    kernel = functools.partial(
        _neural_tangents.empirical_ntk,
        f,
        params,
        x1,
        None if symmetric else x2,
        implementation=implementation,
        vmap_axes=vmap_axes,
    )
    np.testing.assert_allclose(kernel(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        kernel(trace_axes=(-1,)), np.einsum("nmaa->nm", expected) / CLASSES, rtol=1e-10
    )


@pytest.mark.parametrize("implementation", [1, 2])
def test_interacting_examples_need_vmap_axes_none(implementation):
    f, params, x1, x2 = network(BatchCoupledCNN())
    expected = direct_ntk(f, params, x1, x2)
    kernel = functools.partial(
        _neural_tangents.empirical_ntk, f, params, x1, x2, implementation=implementation
    )
    np.testing.assert_allclose(kernel(vmap_axes=None), expected, rtol=1e-10, atol=1e-12)
    assert np.abs(kernel(vmap_axes=0) - expected).max() > 0.1 * np.abs(expected).max()


def test_works_inside_jit():
    f, params, x1, x2 = network(SmallCNN())
    compiled = jax.jit(functools.partial(_neural_tangents.empirical_ntk, f))
    np.testing.assert_allclose(
        compiled(params, x1, x2), direct_ntk(f, params, x1, x2), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("implementation", [0, 3, "AUTO"])
def test_refuses_implementations_that_fail_on_current_jax(implementation):
    f, params, x1, _ = network(SmallCNN())
    with pytest.raises(ValueError, match=f"{implementation!r}; allowed"):
        _neural_tangents.empirical_ntk(f, params, x1, implementation=implementation)


W_STD, B_STD = 1.4, 0.3


def analytic_relu_ntk(x):
    """The infinite-width kernel of two hidden ReLU layers, by neural-tangents."""
    stax = _neural_tangents.load().stax
    dense = functools.partial(stax.Dense, 1, parameterization="ntk", W_std=W_STD, b_std=B_STD)
    _, _, kernel = stax.serial(dense(), stax.Relu(), dense(), stax.Relu(), dense())
    return np.asarray(kernel(x, None, "ntk"))


def relu_ntks(x, width, keys):
    """Empirical kernels [draws, n, n] of that network, written out, at a finite width."""
    sizes = [x.shape[1], width, width, 1]

    def f(params, x):
        for i, (w, b) in enumerate(params):
            x = W_STD / x.shape[1] ** 0.5 * x @ w + B_STD * b
            x = jax.nn.relu(x) if i < len(params) - 1 else x
        return x

    def draw(key):
        params = [
            (
                jax.random.normal(jax.random.fold_in(key, 2 * i), (a, b), x.dtype),
                jax.random.normal(jax.random.fold_in(key, 2 * i + 1), (b,), x.dtype),
            )
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        ]
        return _neural_tangents.empirical_ntk(f, params, x, trace_axes=(-1,))

    return np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(keys))


def test_wide_networks_converge_to_the_analytic_kernel():
    x = jax.random.normal(jax.random.key(1), (4, 5), jnp.float64)
    limit, widths = analytic_relu_ntk(x), 2 ** np.arange(5, 12)
    errors = []
    for width in map(int, widths):
        draws = max(8, min(64, 2**14 // width))  # Narrow nets scatter more and cost less.
        kernels = relu_ntks(x, width, jax.random.split(jax.random.key(width), draws))
        errors.append(np.sqrt(np.mean((kernels - limit) ** 2)))
    # A mistake in either kernel is a floor that the error does not fall below: one of 10 % makes
    # the slope about -0.34.
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.15)


def run_python(program):
    """Runs a program in a fresh interpreter in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_leaves_jax_and_the_loaded_modules_as_they_were():
    run_python("""
        import sys
        import jax, jax.core, jax.extend.core
        from jax.interpreters import ad
        from saboc_jax.ntk import _neural_tangents
        assert "neural_tangents" not in sys.modules, "imported before it is needed"
        before = dict(vars(jax.core)), dict(vars(ad)), vars(jax.numpy)["size"]
        stand_ins = set(_neural_tangents._missing_modules())
        _neural_tangents.load()
        assert before == (dict(vars(jax.core)), dict(vars(ad)), vars(jax.numpy)["size"])
        assert not stand_ins & set(sys.modules)
        assert not {"tensorflow", "tf2jax"} & set(sys.modules)
    """)


def test_where_it_is_missing_the_error_says_how_to_install_it():
    run_python("""
        import sys
        sys.modules["neural_tangents"] = None  # as if it were not installed
        import jax
        import saboc_jax as sj
        from flax import linen as nn
        from saboc_jax.ntk import _neural_tangents
        from saboc_jax.ntk.network import from_module

        images = jax.numpy.ones((2, 3))
        network = from_module(nn.Dense(2), nn.Dense(2).init(jax.random.key(0), images))
        space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
        for run in (
            _neural_tangents.load,
            lambda: sj.empirical_ntk(network, images, None, sj.NTKOptions("neural_tangents")),
            lambda: sj.make_scorer("ntk_score", space, engine="neural_tangents"),
        ):
            try:
                run()
            except ImportError as error:
                text = str(error)
                assert text == (
                    "engine 'neural_tangents' needs neural_tangents, which the extra `reference` "
                    "brings: pip install frozendict && pip install --no-deps "
                    "neural-tangents==0.6.5"
                ), text
            else:
                raise AssertionError("nothing was raised")
        for batch_norm in ("frozen", "batch"):
            sj.empirical_ntk(network, images, None, sj.NTKOptions(batch_norm=batch_norm))
    """)


def test_the_package_and_auto_never_import_it():
    run_python("""
        import sys
        import jax
        import saboc_jax as sj
        from flax import linen as nn
        from saboc_jax.ntk.network import from_module

        module = nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.Dense(2)])
        images = jax.numpy.ones((2, 3))
        network = from_module(module, module.init(jax.random.key(0), images))
        for batch_norm in ("frozen", "batch"):
            sj.empirical_ntk(network, images, None, sj.NTKOptions(batch_norm=batch_norm))
        assert not {"neural_tangents", "tensorflow"} & set(sys.modules)
    """)


def test_threads_load_it_once():
    run_python("""
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from saboc_jax.ntk import _neural_tangents
        with ThreadPoolExecutor(8) as pool:
            loaded = list(pool.map(lambda _: _neural_tangents.load(), range(8)))
        assert {id(module) for module in loaded} == {id(sys.modules["neural_tangents"])}
    """)
