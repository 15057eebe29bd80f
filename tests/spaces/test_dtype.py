"""Networks in bfloat16 and float64: the same network, and how near their kernels and scores are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.ntk.empirical import empirical_ntk
from saboc_jax.ntk.network import bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64, inner_products
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.spaces import make_space
from saboc_jax.spaces.dtype import in_dtype
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics.correlation import differences
from saboc_jax.types import Batch

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def space():
    return make_space("nas_bench_201", num_classes=10, image_shape=(8, 8, 3), channels=2)


@pytest.fixture(scope="module")
def gates(space):
    return space.gates(architecture_to_mask(space.from_string(CELL), 5))


@pytest.fixture(scope="module")
def batch():
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    return Batch(images, jnp.arange(6))


def kernel(space, gates, batch):
    see = Kernels(space, NTKOptions(engine="one_backward"))
    return jax.jit(see)(jax.random.key(0), gates, batch)["images"]


def test_float64_is_the_jacobian_of_the_same_weights(space, gates, batch):
    # Given, for weights are float32: drawn within two programs they are equal to its rounding.
    weights = draw_weights(space, jax.random.key(0))
    space = space._replace(networks=replace(space.networks, init=lambda key: weights))
    with enable_x64():
        ours = kernel(in_dtype(space, "float64"), gates, batch)
        assert ours.dtype == jnp.float64
        widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), weights)
        network = bind(space, widened, np.asarray(gates, np.float64))
        images = np.asarray(batch.images, np.float64)
        direct = empirical_ntk(network, images, options=NTKOptions(engine="jacobian"))
        np.testing.assert_allclose(ours, direct, rtol=1e-10, atol=1e-10 * float(direct.max()))


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-5), ("bfloat16", 0.25)])
def test_kernels_are_float32_and_near_those_of_float64(space, gates, batch, dtype, within):
    with enable_x64():
        exact = np.asarray(kernel(in_dtype(space, "float64"), gates, batch))
    ours = kernel(in_dtype(space, dtype), gates, batch)
    assert ours.dtype == jnp.float32
    gap = np.abs(ours - exact).max() / exact.max()
    assert gap < within, gap
    assert dtype == "float32" or gap > 1e-5  # it did compute in bfloat16


def test_the_weights_are_those_of_float32_rounded(space):
    key = jax.random.key(3)
    ours, rounded = space.init(key), in_dtype(space, "bfloat16").init(key)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(rounded), strict=True):
        assert b.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a.astype(jnp.bfloat16), b)


def test_an_evaluator_scores_in_the_type_of_its_space(space, gates):
    images = data.load("digits")
    scores = {}
    for dtype in ("float64", "float32", "bfloat16"):
        typed = in_dtype(space, dtype)
        scorer = make_scorer("naswot", typed)
        batch = data.draw(images, jax.random.key(2), 6, needs=scorer.needs)
        evaluator = Evaluator(Runner(typed, scorer, Draws([jax.random.key(0)], [batch])))
        scores[dtype] = evaluator.evaluate(np.asarray(gates)[None] > 0)
    np.testing.assert_allclose(scores["float32"], scores["float64"], rtol=1e-3)
    np.testing.assert_allclose(scores["bfloat16"], scores["float64"], rtol=0.05)


def test_equal_spaces_give_one_and_the_same(space):
    assert in_dtype(space, "bfloat16") is in_dtype(space, "bfloat16")
    assert in_dtype(space, "float32") is space


def test_a_type_that_does_not_exist_is_named(space):
    with pytest.raises(ValueError, match=r"'float16'; allowed: float32, bfloat16, float64"):
        in_dtype(space, "float16")
    with pytest.raises(ValueError, match="computes in bfloat16 already"):
        in_dtype(in_dtype(space, "bfloat16"), "float64")


def test_sums_of_bfloat16_are_float32():
    # 257 ones: bfloat16 has no 257
    ones = jnp.ones((1, 257), jnp.bfloat16)
    assert inner_products(ones, ones)[0, 0] == 257


def test_differences_by_hand():
    ours, exact = np.array([1.1, 2.0, np.nan, 4.0]), np.array([1.0, 2.0, 3.0, 3.0])
    found = differences(ours, exact, higher_is_better=True)
    assert found["median difference"] == pytest.approx(0.1)
    assert found["largest"] == pytest.approx(1 / 3)
    assert found["bad"] == 1
    assert found["tau with float64"] < 1
