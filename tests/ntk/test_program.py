"""Kernels read from programs: exact for functions and modules that no rule knows by name."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import saboc_jax as sj
from saboc_jax.api.inputs import MixedWeightsWarning
from saboc_jax.layers.jaxpr import trace
from saboc_jax.ntk import check
from saboc_jax.ntk.check import KernelWarning
from saboc_jax.precision import enable_x64

ALL = sj.NTKOptions(params="all")
N = 4
KEY = jax.random.key(0)


def moved(tree):
    """Float64 weights away from zeros and ones."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [
        jnp.asarray(leaf, jnp.float64) + 0.1 * jax.random.normal(jax.random.key(i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ])  # fmt: skip


def direct(function, params, inputs):
    """The kernel of the sum of outputs from a gradient for each example."""

    def one(params, example):
        y = function(params, jax.tree.map(lambda leaf: leaf[None], example))
        return sum(leaf.sum() for leaf in jax.tree.leaves(y))

    rows = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, inputs)
    flat = [np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(rows)]
    return sum(leaf @ leaf.T for leaf in flat)


def assert_exact(function, params, inputs):
    with enable_x64():
        params, network = moved(params), None
        network = sj.from_function(function, params)
        ours = sj.empirical_ntk(network, inputs, options=ALL)
        theirs = direct(function, params, inputs)
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())


def vectors(width=3):
    with enable_x64():
        return jax.random.normal(jax.random.key(9), (N, width), jnp.float64)


# --- functions, composed at random -------------------------------------------------------------


def dense(p, x):
    return jnp.tanh(x @ p["a"] + p["b"])


def reused(p, x):
    return jnp.tanh(x @ p["a"]) @ p["a"].T * p["b"]


def scanned(p, x):
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["stack"])[0]


def recurrent(p, x):
    step = lambda c, t: (jnp.tanh(c @ p["a"] + t * p["b"]), c.sum(-1, keepdims=True))  # noqa: E731
    c, seen = jax.lax.scan(step, x, jnp.arange(3.0))
    return c + seen.sum(0)


def mapped(p, x):
    return jax.vmap(lambda column: jnp.tanh(column[:, None] * p["b"]) @ p["a"], 1, 1)(x).sum(1)


def checkpointed(p, x):
    return jax.checkpoint(dense)(p, x) + x


def branched(p, x):
    return jax.vmap(
        lambda v: jax.lax.cond(v[0] > 0, lambda v: v @ p["a"], lambda v: v * p["b"], v)
    )(x)


def transformed(p, x):
    w = p["a"] - p["a"].mean(0)
    return jnp.tanh(x @ (w / jnp.sqrt((w**2).sum(0) + 1)))


def differentiated(p, x):
    energy = lambda v: jnp.tanh(v @ p["a"]) @ p["b"]  # noqa: E731
    return jax.vmap(jax.grad(energy))(x)


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (2 * g,))


def straight_through(p, x):
    return rounded(3 * (x @ rounded(4 * p["a"]))) * p["b"]


def called(p, x):
    return jax.jit(dense)(p, jax.jit(lambda p, x: x @ p["a"])(p, x))


BLOCKS = (
    dense, reused, scanned, recurrent, mapped, checkpointed, branched, transformed,
    differentiated, straight_through, called,
)  # fmt: skip


def weights(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"a": (3, 3), "b": (3,), "stack": (2, 3, 3)}
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(0, 1)), min_size=2, max_size=4))
def test_networks_composed_at_random(parts):
    """Two sets of weights for all blocks, so that many parameters are used in several."""

    def function(params, x):
        for block, which in parts:
            x = block(params[which], x)
        return x

    params = [weights(0), weights(1)]
    with enable_x64():  # some are saturated everywhere
        assume(np.abs(direct(function, moved(params), vectors())).max() > 1e-100)
    assert_exact(function, params, vectors())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_each_block(block):
    assert_exact(lambda p, x: block(p, x), weights(0), vectors())


def test_trees_of_inputs_and_rows():
    def function(p, x):
        return x["u"] @ p["a"] + (x["v"] * p["b"]).sum(1, keepdims=True)

    with enable_x64():
        params = moved(weights(0))
        x = {"u": vectors(), "v": vectors() ** 2}
        network = sj.from_function(function, params)
        columns = jax.tree.map(lambda leaf: leaf[:3], x)
        whole = sj.empirical_ntk(network, x, options=ALL)
        part = sj.empirical_ntk(network, x, columns, ALL)
        np.testing.assert_allclose(part, whole[:, :3], rtol=1e-12)
        chunked = sj.empirical_ntk(network, x, columns, ALL._replace(chunk=2))
        np.testing.assert_allclose(chunked, part, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2, "kernel_dilation": 2},
        {"feature_group_count": 2},
        {"feature_group_count": 4},
        {"input_dilation": 2, "padding": ((1, 2), (0, 1))},
        {"padding": ((0, 1), (2, 1))},
    ],
    ids=str,
)
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions(options, axes):
    given_padding = options.get("padding")
    if isinstance(given_padding, tuple):
        options = options | {"padding": given_padding[:axes]}
    module = nn.Conv(8, (3,) * axes, **options)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, *(6, 5)[:axes], 4)))
    params = module.init(jax.random.key(0), x)
    assert_exact(lambda p, x: module.apply(p, x).reshape(len(x), -1), params, _double(x))


def _double(x):
    with enable_x64():
        return jnp.asarray(x, jnp.float64)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_convolutions_of_tiny_images_and_transposed(size):
    module = nn.Sequential([nn.Conv(64, (3, 3)), jnp.tanh, nn.ConvTranspose(2, (3, 3), (2, 2))])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, size, size, 3)))
    params = module.init(jax.random.key(0), x)
    assert_exact(lambda p, x: module.apply(p, x).reshape(len(x), -1), params, _double(x))


def test_a_lookup_with_indices_outside():
    indices = jnp.array([[0, 5], [6, -1], [2, 2], [1, 0]])
    for mode in ("clip", "fill"):
        take = lambda p, x: jnp.tanh(jnp.take(p, x, axis=0, mode=mode, fill_value=0))  # noqa: B023, E731
        assert_exact(lambda p, x: take(p, x).sum(1), jnp.ones((6, 3)), indices)  # noqa: B023


def test_every_kind_of_call_is_read():
    """Inlined, or kept with its own derivative."""
    x = jnp.ones((N, 3))
    names = {equation.name for equation in trace(called, weights(0), x).equations}
    assert not names & {"pjit", "jit", "closed_call"}
    names = {equation.name for equation in trace(checkpointed, weights(0), x).equations}
    assert not names & {"remat2", "checkpoint", "remat"}
    kept = {equation.name for equation in trace(straight_through, weights(0), x).equations}
    assert any(name.startswith("custom_vjp_call") for name in kept)


# --- modules of other people -----------------------------------------------------------------


class StandardConv(nn.Conv):
    """Standardises its kernel in `param`."""

    def param(self, name, *args, **kwargs):
        value = super().param(name, *args, **kwargs)
        return value - value.mean((0, 1, 2)) if name == "kernel" else value


class Injected(nn.Module):
    """Somebody's arithmetic in Flax's layers, and a batch norm over another axis."""

    @nn.compact
    def __call__(self, x):
        waved = lambda *a, **k: jnp.sin(3 * jax.lax.conv_general_dilated(*a, **k))  # noqa: E731
        x = nn.Conv(4, (3, 3), conv_general_dilated=waved)(x)
        x = StandardConv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=False, axis=1)(x)
        return nn.Dense(2)(jnp.tanh(x).mean((1, 2)))


class Shared(nn.Module):
    """One layer mapped over columns, under `nn.jit`, and a tied weight."""

    @nn.compact
    def __call__(self, x):
        over = nn.vmap(
            nn.Dense, in_axes=2, out_axes=2, variable_axes={"params": None},
            split_rngs={"params": False},
        )  # fmt: skip
        h = nn.tanh(over(5, name="shared")(x)).mean((1, 2))
        h = nn.jit(nn.Dense)(5, name="tied")(h)
        return jnp.tanh(h) @ self.variables["params"]["tied"]["kernel"].T


@pytest.mark.parametrize("module", [Injected(), Shared()], ids=["injected", "shared"])
def test_modules_run_by_their_own_code(module):
    with enable_x64():
        x = jax.random.normal(jax.random.key(1), (N, 4, 4, 3), jnp.float64)
        variables = moved(module.init(jax.random.key(0), x))
        network = sj.from_module(module, {"params": variables["params"]})
        ours = sj.empirical_ntk(network, x, options=ALL)
        oracle = sj.empirical_ntk(network, x, options=ALL._replace(engine="jacobian"))
        np.testing.assert_allclose(ours, oracle, rtol=1e-9, atol=1e-9 * np.abs(oracle).max())
        assert sj.check_ntk(network, x, ALL).passed


class OwnNorm(nn.Module):
    """A batch norm that knows nothing of Flax's."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        if train and not self.is_initializing():
            mean.value = 0.7 * mean.value + 0.3 * x.mean(0)
            return x - x.mean(0)
        return x - mean.value


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(jnp.tanh(OwnNorm()(x, train)))


class NnxNormed(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.dense(x))))


@pytest.mark.parametrize("name", ["own", "nnx"])
def test_frozen_statistics_are_those_of_the_batch_in_any_module(name):
    x = jnp.asarray(vectors(), jnp.float32)
    module = Normed() if name == "own" else sj.from_nnx(NnxNormed)
    variables = module.init(jax.random.key(0), x, train=False)
    found = sj.check_ntk(sj.from_module(module, variables), x, ALL)
    assert found.passed, found.reason
    frozen, running = (
        sj.empirical_ntk(sj.from_module(module, variables), x, options=options)
        for options in (ALL, ALL._replace(batch_norm="running", check=False))
    )
    assert np.abs(frozen - running).max() > 1e-3 * np.abs(frozen).max()


class Mean(nn.Module):
    """Its examples interact."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.tanh(nn.Dense(4, name="first")(x - x.mean(0))))


def test_examples_that_interact_are_found_and_taken_as_a_batch():
    x = jnp.asarray(vectors(), jnp.float32)
    network = sj.from_module(Mean(), Mean().init(jax.random.key(0), x))
    found = sj.check_ntk(network, x, ALL)
    assert not found.passed and "interact" in found.reason
    with pytest.warns(KernelWarning, match="examples interact"):
        ours = sj.empirical_ntk(network, x, options=ALL)
    oracle = sj.empirical_ntk(network, x, options=ALL._replace(engine="jacobian"))
    np.testing.assert_allclose(ours, oracle, rtol=1e-5)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        sj.empirical_ntk(network, x, options=ALL)


def test_what_only_rounds_is_not_taken_for_wrong(monkeypatch):
    """Asked again in float64: by `empirical_ntk`, and where scores are computed."""

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(jnp.tanh(nn.Dense(5)(x.reshape(len(x), -1))))

    monkeypatch.setitem(check.TOLERANCES, "float32", 1e-30)
    x = jax.random.normal(jax.random.key(1), (6, 3, 3, 2))
    network = sj.from_module(Plain(), Plain().init(jax.random.key(0), x))
    found = sj.check_ntk(network, x, ALL)
    assert found.passed and not found.differences.passed(found.tolerance)
    score = sj.score(Plain(), sj.Batch(x, np.arange(6) % 3), KEY, "trainability", repeats=1)
    assert not score.warnings


def test_complex_parameters_are_refused():
    network = sj.from_function(lambda p, x: jnp.real(x @ p), jnp.ones((3, 2), jnp.complex64))
    with pytest.raises(ValueError, match="complex64; allowed: real"):
        sj.empirical_ntk(network, jnp.ones((2, 3)), options=ALL)


def test_dead_weights_are_told_and_drawn_anew():
    """A head that starts at zero leaves everything before it without a gradient."""

    class Zero(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
            return nn.Dense(3, kernel_init=nn.initializers.zeros)(x)

    x, y = jax.random.normal(jax.random.key(1), (6, 4, 4, 3)), np.arange(6) % 3
    batch = sj.Batch(x, y)
    score = sj.score(Zero(), batch, jax.random.key(0), "trainability", repeats=1)
    ((code, sentence),) = score.warnings
    assert code == "dead_weights" and "exactly zero gradient" in sentence
    again = sj.score(Zero(), batch, jax.random.key(0), "trainability", repeats=1, redraw_zeros=True)
    assert not again.warnings


def test_running_statistics_of_no_training_are_told():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(2)(jnp.tanh(nn.BatchNorm(use_running_average=not train)(x)))

    x = jnp.asarray(vectors(), jnp.float32)
    variables = Normed().init(jax.random.key(0), x)
    running = sj.NTKOptions(batch_norm="running")
    with pytest.warns(KernelWarning, match="are still 0 and 1"):
        kernel = sj.empirical_ntk(sj.from_module(Normed(), variables), x, options=running)
    assert np.isfinite(kernel).all()
    trained = {
        **variables,
        "batch_stats": jax.tree.map(lambda a: a + 0.5, variables["batch_stats"]),
    }
    sj.empirical_ntk(sj.from_module(Normed(), trained), x, options=running)  # no warning
    scored = sj.score(
        Normed().bind(variables), sj.Batch(x, np.arange(N) % 2), jax.random.key(0),
        "trainability:batch_norm=running",
    )  # fmt: skip
    assert "initial_statistics" in [code for code, _ in scored.warnings]


def test_networks_of_any_kind_in_one_ranking():
    """At their own weights, or drawn anew; several inputs; outputs that are reduced."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, tokens, scale):
            return {"logits": nn.Dense(3)(nn.Embed(7, 4)(tokens) * scale[:, None]), "aux": 0}

    tokens = jax.random.randint(jax.random.key(0), (6, 5), 0, 7)
    inputs, labels = (tokens, jnp.ones((6, 1))), np.arange(6) % 3

    def plain(params, inputs):
        return {"logits": jnp.tanh(params[inputs[0]]) * inputs[1][:, None] @ params[:3]}

    candidates = {
        "linen": Two(),
        "bound": Two().bind(Two().init(jax.random.key(3), *inputs)),
        "function": sj.from_function(plain, jax.random.normal(jax.random.key(4), (7, 3))),
        "drawn": sj.from_function(plain, init=lambda key: jax.random.normal(key, (7, 3))),
    }
    with pytest.warns(MixedWeightsWarning, match="2 of 4 candidates are scored at their own"):
        ranked = sj.rank(
            candidates, sj.Batch(inputs, labels), jax.random.key(0), ["trainability", "snip"],
            repeats=2, output=lambda outputs: outputs["logits"].mean(1),
        )  # fmt: skip
    values = {score.name: score.values for score in ranked.scores}
    assert all(np.isfinite(v).all() for v in values.values())
    for own in ("bound", "function"):
        np.testing.assert_array_equal(values[own][0], values[own][1])
    for drawn in ("linen", "drawn"):
        assert (values[drawn][0] != values[drawn][1]).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_tied_embedding_is_kept_as_factors(transposed, monkeypatch):
    """Looked up, and used twice as an output layer; no gradient of its size exists."""
    for name in ("program", "gram"):
        monkeypatch.setattr(f"saboc_jax.ntk.{name}.LARGE", 10)
    tokens = jnp.array([[0, 5, 2], [1, 1, 7], [2, 4, 4], [9, 0, 3]])

    def function(params, x):
        h = jnp.tanh(params["e"][x] @ params["w"])
        y = h @ params["e"].T if transposed else jnp.einsum("ntd,vd->ntv", h, params["e"])
        return jnp.tanh(y).sum(1) + jnp.tanh(h[:, 0] @ params["e"].T)

    params = {"e": jax.random.normal(jax.random.key(0), (9, 4)), "w": jnp.eye(4)}
    assert_exact(function, params, tokens)
