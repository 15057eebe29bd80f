import json
import os
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.benchmarks.parity_gradients import PARITY_GRADIENTS
from saboc_jax.layers.ops import Block
from saboc_jax.layers.tree import flatten
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import fisher, grad_norm, jacob_cov, make_scorer, snip
from saboc_jax.scorers.combine import combine
from saboc_jax.scorers.combine import score as score_one
from saboc_jax.scorers.jacob_cov import correlation, input_gradients, spectrum_score
from saboc_jax.scorers.loss_gradients import layer_statistics
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.scorers.synflow import log_score, synaptic_flows, synflow_value
from saboc_jax.scorers.zico import zico_layers
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state
from saboc_jax.types import Batch

GRADIENT_SCORERS = ("fisher", "snip", "synflow", "grasp", "grad_norm", "zico", "jacob_cov")
# Node 1 is dead (a convolution reads it), node 2 leads nowhere.
DEAD_BRANCHES = "|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
ALL_CONVOLUTIONS = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|"
    "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
SPACE = nas_bench_201(4, 1, 10, (32, 32, 3))


def golden():
    folder = os.environ.get("SABOC_GOLDEN_DIR")
    if not folder:
        pytest.skip("SABOC_GOLDEN_DIR is not set: no values of released codes to compare with")
    with np.load(Path(folder) / "nas_bench_201_c4n1.npz") as archive:
        return dict(archive)


def golden_network(file, index):
    net = json.loads(str(file["meta"]))["nets"][index]
    arch = SPACE.from_string(net["arch"])
    prefix = f"{index}/w/"
    state = {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in file.items()
        if name.startswith(prefix)
    }
    return net, arch, load_torch_state(SPACE, arch, state)


def golden_data(file):
    data = {name: jnp.asarray(file[name], jnp.float64) for name in ("x1", "x2")}
    return data | {name: jnp.asarray(file[name], jnp.int32) for name in ("y1", "y2")}


def random_data():
    """Arrays of the golden file's shapes, in NumPy."""
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal((16, 32, 32, 3)) for name in ("x1", "x2")}
    return data | {name: rng.integers(0, 10, 16).astype(np.int32) for name in ("y1", "y2")}


def values(network, data):
    """All scores, and the parts that several tests look at."""
    with shared_passes(network, data):
        x, y = data["x1"], data["y1"]
        more = {
            "gradients": jacob_cov.input_gradients(network, x),
            "global": grad_norm.grad_norm_value(network, x, y, "global"),
            "per_channel": fisher.fisher_value(network, x, y, "per_channel"),
            "log_synflow": synflow_value(network, x.shape[1:]),
        }
        return more | {name: value(network, data) for name, value in PARITY_GRADIENTS.items()}


def scores(network, data):
    with shared_passes(network, data):
        return {name: value(network, data) for name, value in PARITY_GRADIENTS.items()}


@contextmanager
def shared_passes(network, data):
    """Compiles once what several scores compute on `x1`; several times it costs a minute."""
    statistics = cache(lambda: layer_statistics(network, data["x1"], data["y1"]))
    gradients = cache(lambda: input_gradients(network, data["x1"]))
    with pytest.MonkeyPatch.context() as patch:
        for module in (fisher, grad_norm, snip):
            patch.setattr(module, "layer_statistics", lambda *args: statistics())
        patch.setattr(jacob_cov, "input_gradients", lambda *args: gradients())
        yield


@cache
def gated():
    """One program for every architecture, in float64."""
    return jax.jit(lambda variables, gates, data: values(bind(SPACE, variables, gates), data))


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def drawn(space, seed=0):
    """Weights with batch norms off their initial values, in float64."""
    variables = double(draw_weights(space, jax.random.key(seed)))
    rng = np.random.default_rng(seed)

    def jiggle(path, leaf):
        moved = jax.tree_util.keystr(path).endswith(("['scale']", "['bias']"))
        return leaf + 0.2 * rng.standard_normal(leaf.shape) if moved else leaf

    return jax.tree_util.tree_map_with_path(jiggle, variables)


# --- released codes ---------------------------------------------------------------------------


def test_gated_program_matches_released_codes():
    file = golden()
    with enable_x64():
        data, gradients = golden_data(file), 0.0
        for index in "012":
            net, arch, variables = golden_network(file, index)
            ours = gated()(variables, SPACE.gates(arch), data)
            # The released code adds up the networks' Jacobians: it never clears x.grad.
            gradients = gradients + ours["gradients"]
            ours["jacob_cov"] = spectrum_score(correlation(gradients))
            for name in GRADIENT_SCORERS:
                np.testing.assert_allclose(ours[name], net[name], 1e-10, err_msg=name)


def test_specialised_module_matches_the_gated_program_and_released_codes():
    file = golden()
    with enable_x64():
        data = golden_data(file)
        net, arch, variables = golden_network(file, "2")
        module, own = SPACE.specialise(arch), SPACE.extract(variables, arch)
        ours = jax.jit(lambda own: scores(from_module(module, own), data))(own)
        same = gated()(variables, SPACE.gates(arch), data)
        for name in ours:
            np.testing.assert_allclose(ours[name], same[name], 1e-9, 1e-12, err_msg=name)
        for name in set(GRADIENT_SCORERS) - {"jacob_cov"}:
            np.testing.assert_allclose(ours[name], net[name], 1e-10, err_msg=name)


# --- the definitions, computed without our rules ------------------------------------------------


def plain_loss(module, variables, images, labels, shifts=None):
    """Cross-entropy by its definition; `shifts` are added to the outputs of layers."""

    def shift(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        name = "/".join(context.module.path)
        return y + shifts[name] if shifts and name in shifts else y

    with nn.intercept_methods(shift):
        logits = module.apply(variables, images, train=True)
    return (jnp.log(jnp.exp(logits).sum(1)) - logits[jnp.arange(len(labels)), labels]).mean()


def layer_outputs(module, variables, images):
    """{path: output} of convolutions and dense layers."""
    _, state = module.apply(
        variables,
        images,
        train=True,
        mutable=["intermediates"],
        capture_intermediates=lambda m, _: type(m) in (nn.Conv, nn.Dense),
    )
    return {"/".join(path[:-2]): leaf for path, leaf in flatten(state["intermediates"]).items()}


def derivatives(module, variables, data):
    """What the formulas read, by JAX's own rules."""
    params, x, y = variables["params"], data["x1"], data["y1"]
    grad = jax.grad(lambda p, x, y: plain_loss(module, {"params": p}, x, y))
    g1 = grad(params, x, y)
    only_kernels = jax.tree_util.tree_map_with_path(
        lambda path, g: g if path[-1].key == "kernel" else 0 * g, g1
    )
    outputs = layer_outputs(module, variables, x)
    of_shifts = jax.grad(lambda shifts: plain_loss(module, variables, x, y, shifts))
    return {
        "g1": flatten(g1),
        "g2": flatten(grad(params, data["x2"], data["y2"])),
        # Forward over reverse, where ours is reverse over reverse.
        "h": flatten(jax.jvp(lambda p: grad(p, x, y), (params,), (only_kernels,))[1]),
        "outputs": outputs,
        "cotangents": of_shifts(jax.tree.map(jnp.zeros_like, outputs)),
        "rows": jax.grad(lambda x: module.apply(variables, x, train=True).sum())(x),
        "synflow": synflow_gradients(module, variables, x.shape[1:]),
    }


def synflow_gradients(module, variables, image_shape):
    """Batch norm is the identity in evaluation mode at mean 0, variance 1 - epsilon."""
    ones = jnp.ones((1, *image_shape))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.ones_like(leaf)
            if path[-1].key == "scale"
            else jnp.zeros_like(leaf)
            if path[-2].key == "norm"
            else jnp.abs(leaf)
        ),
        variables["params"],
    )
    stats = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, 1 - 1e-5 if path[-1].key == "var" else 0.0),
        jax.eval_shape(module.init, jax.random.key(0), ones)["batch_stats"],
    )
    total = lambda p: module.apply({"params": p, "batch_stats": stats}, ones).sum()  # noqa: E731
    return flatten(jax.grad(total)(params))


def references(module, variables, data):
    """Every score by its formula, in NumPy."""
    found = jax.jit(partial(derivatives, module))(variables, data)
    found, w = jax.tree.map(np.asarray, (found, flatten(variables["params"])))
    g1, g2 = found["g1"], found["g2"]
    kernels = [path for path in w if path[-1] == "kernel"]
    fisher = [
        reference_fisher(a, found["cotangents"][name], w[(*name.split("/"), "kernel")])
        for name, a in found["outputs"].items()
    ]
    v = np.linalg.eigvalsh(np.corrcoef(found["rows"].reshape(len(found["rows"]), -1)))
    return {
        "snip": sum(np.abs(w[p] * g1[p]).sum() for p in kernels),
        "grad_norm": sum(np.linalg.norm(np.ravel(g1[p])) for p in kernels),
        "global": np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in g1.values()])),
        "grasp": -sum((w[p] * found["h"][p]).sum() for p in kernels),
        "zico": sum(reference_zico(np.stack([g1[p], g2[p]])) for p in kernels),
        "fisher": sum(pair[0] for pair in fisher),
        "per_channel": sum(pair[1] for pair in fisher),
        "jacob_cov": -(np.log(v + 1e-5) + 1 / (v + 1e-5)).sum(),
        "synflow": sum(np.abs(w[p] * found["synflow"][p]).sum() for p in kernels),
    }


def reference_zico(g):
    sd = np.std(g, 0)
    total = (np.abs(g).mean(0)[sd != 0] / sd[sd != 0]).sum()
    return np.log(total) if total != 0 else 0.0


def reference_fisher(a, cotangent, kernel):
    product = (a * cotangent).reshape(len(a), -1, a.shape[-1]).sum(1)
    channels = 0.5 * (product**2).mean(0)
    return (channels * np.ones(kernel.shape)).sum(), channels.sum()


def test_dead_branches_match_the_definitions():
    with enable_x64():
        data, variables = random_data(), drawn(SPACE)
        arch = SPACE.from_string(DEAD_BRANCHES)
        module, own = SPACE.specialise(arch), SPACE.extract(variables, arch)
        ours = gated()(variables, SPACE.gates(arch), data)
        expected = references(module, own, data)
        expected["log_synflow"] = np.log(expected["synflow"])
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, 1e-8, err_msg=name)


def test_operations_that_are_not_selected_do_not_matter():
    with enable_x64():
        data, variables = random_data(), drawn(SPACE)
        arch = SPACE.from_string(DEAD_BRANCHES)
        other = drawn(SPACE, seed=1)
        mixed = transplant(variables, other, arch)
        first = gated()(variables, SPACE.gates(arch), data)
        second = gated()(mixed, SPACE.gates(arch), data)
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name], err_msg=name)
        assert gated()(other, SPACE.gates(arch), data)["snip"] != first["snip"]


def transplant(variables, other, arch):
    """`variables`, with those of `other` where `arch` does not select the operation."""
    chosen = {  # [6] by operation
        name: jnp.asarray([SPACE.option_names[0][o] == name for o in arch])
        for name in ("nor_conv_1x1", "nor_conv_3x3")
    }

    def mix(path, leaf, theirs):
        top = path[1].key
        if not top.startswith("cells_"):
            return leaf
        select = chosen[top[len("cells_0_") :]].reshape(1, 6, *[1] * (leaf.ndim - 2))
        return jnp.where(select, leaf, theirs)

    return jax.tree_util.tree_map_with_path(mix, variables, other)


# --- SynFlow's logarithm --------------------------------------------------------------------------


def test_log_synflow_orders_as_the_plain_value():
    with enable_x64():
        data, variables = random_data(), drawn(SPACE)
        archs = np.random.default_rng(2).integers(0, 5, (6, 6))
        found = [
            gated()(variables, SPACE.gates(a), data)
            for a in archs
            if SPACE.is_connected(np.eye(5)[a])
        ]
        plain = np.array([f["synflow"] for f in found])
        log = np.array([f["log_synflow"] for f in found])
        assert len(plain) >= 4
        np.testing.assert_array_equal(np.argsort(plain), np.argsort(log))
        np.testing.assert_allclose(log, np.log(plain), 1e-12)


def test_log_synflow_is_finite_in_float32_where_the_plain_value_is_not():
    arch = SPACE.from_string(ALL_CONVOLUTIONS)
    drawn = draw_weights(SPACE, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: leaf * 1e4, drawn)

    def run(variables):
        network = bind(SPACE, variables, SPACE.gates(arch))
        flows, log_scales = synaptic_flows(network, SPACE.image_shape)
        return flows, log_score(flows, log_scales)

    flows, (log, blocks) = jax.jit(run)(variables)
    assert not np.isfinite(flows[2])  # by definition
    assert np.isfinite(log) and blocks
    with enable_x64():
        exact = gated()(double(variables), SPACE.gates(arch), random_data())["synflow"]
        exact = np.asarray(exact)
    assert np.isfinite(exact) and exact > 1e39
    np.testing.assert_allclose(log, np.log(exact), 1e-5)


def test_synflow_of_features_wider_than_the_weights(x64):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = Block()(nn.relu(nn.Conv(3, (3, 3), use_bias=False, name="a")(x)))
            x = Block()(2 * x.astype(jnp.float64))
            return nn.Dense(2, dtype=jnp.float32, name="b")(x.mean((1, 2)))

    variables = Net().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1), jnp.float32))
    network = from_module(Net(), variables)
    plain = synflow_value(network, (4, 4, 1), "plain")
    np.testing.assert_allclose(synflow_value(network, (4, 4, 1)), jnp.log(plain), rtol=1e-5)


class Foreign(nn.Module):
    """A network with a path around a block, or with a bias before the last layer."""

    use_bias: bool
    bypass: bool

    @nn.compact
    def __call__(self, x):
        y = Block()(nn.relu(nn.Conv(4, (3, 3), use_bias=False)(x)))
        z = Block()(nn.Conv(4, (3, 3), use_bias=self.use_bias)(y))
        z = Block()(z + y if self.bypass else z)
        return nn.Dense(3)(nn.relu(z).mean((1, 2)))


@pytest.mark.parametrize(
    ("use_bias", "bypass"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_log_synflow_of_networks_that_blocks_do_not_cut(use_bias, bypass):
    module, shape = Foreign(use_bias, bypass), (8, 8, 3)
    variables = module.init(jax.random.key(0), jnp.ones((1, *shape)))
    variables = jax.tree.map(lambda leaf: leaf + 0.3, variables)
    network = from_module(module, variables)
    log, blocks = log_score(*synaptic_flows(network, shape))
    assert bool(blocks) == (not use_bias and not bypass)
    np.testing.assert_allclose(log, np.log(synflow_value(network, shape, "plain")), 1e-5)


# --- scorers ------------------------------------------------------------------------------------


@cache
def together():
    scorer = combine([make_scorer(name, SPACE) for name in GRADIENT_SCORERS])
    return scorer, jax.jit(partial(score_one, scorer))


def scored(key, arch, batch):
    scorer, run = together()
    names = [name.split(".")[0] for name in scorer.metrics]
    return dict(zip(names, np.asarray(run(key, SPACE.gates(arch), batch)[0]), strict=True))


def batch_of(data):
    data = {name: np.asarray(leaf) for name, leaf in data.items()}
    x1, x2 = (jnp.asarray(data[name], jnp.float32) for name in ("x1", "x2"))
    y1, y2 = (jnp.asarray(data[name], jnp.int32) for name in ("y1", "y2"))
    return Batch(x1, y1, more_images=x2[None], more_labels=y2[None])


def test_scorers_are_finite_on_connected_cells_and_disconnected_ones_are_seen():
    assert together()[0].higher_is_better == (True,) * len(GRADIENT_SCORERS)
    key, batch = jax.random.key(3), batch_of(random_data())
    archs = np.random.default_rng(3).integers(0, 5, (6, 6))
    for arch in archs:
        if SPACE.is_connected(np.eye(5)[arch]):
            assert np.isfinite(list(scored(key, arch, batch).values())).all()
    dead = scored(key, np.zeros(6, int), batch)
    assert np.isnan(dead["jacob_cov"]) and dead["synflow"] == -np.inf


def test_scorers_agree_with_the_values_at_the_keys_weights():
    key, data = jax.random.key(4), random_data()
    arch = SPACE.from_string(DEAD_BRANCHES)
    ours = scored(key, arch, batch_of(data))
    with enable_x64():
        variables, data = double(draw_weights(SPACE, key)), random_data()
        data |= {name: data[name].astype(np.float32).astype(float) for name in ("x1", "x2")}
        exact = gated()(variables, SPACE.gates(arch), data)
    exact["synflow"] = exact["log_synflow"]
    for name in GRADIENT_SCORERS:
        np.testing.assert_allclose(ours[name], exact[name], 2e-3, err_msg=name)


def test_one_backward_pass_serves_three_scorers():
    scorer = combine([make_scorer(name, SPACE) for name in ("fisher", "snip", "grad_norm")])
    # Beside it, what Fisher reads from networks of other origins; of our own it computes nothing.
    kinds = sorted(type(each).__name__ for each in set(scorer.observables.values()))
    assert kinds == ["ForeignFisher", "LossGradients"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fisher", {"weighting": "none"}),
        ("grad_norm", {"variant": "sum"}),
        ("synflow", {"variant": "log10"}),
        ("snip", {"variant": "log"}),
    ],
)
def test_options_that_do_not_exist_are_named(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make_scorer(name, SPACE, **options)


def test_zico_needs_two_batches():
    network = bind(SPACE, {"params": {}}, SPACE.gates(np.zeros(6, int)))
    with pytest.raises(ValueError, match="2 or more"):
        zico_layers(network, jnp.zeros((1, 4, 16, 16, 3)), jnp.zeros((1, 4), int))


# --- costs and chance -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["params", "macs", "depth"])
def test_costs_are_the_spaces_own(name):
    run = jax.jit(partial(score_one, make_scorer(name, SPACE)))
    for arch in np.random.default_rng(5).integers(0, 5, (10, 6)):
        scores, _ = run(jax.random.key(0), SPACE.gates(arch), Batch(None, None))
        np.testing.assert_allclose(scores, [getattr(SPACE.cost(arch), name)], 1e-6)


def test_cost_of_a_supernet():
    mask = np.zeros((6, 5), bool)
    mask[:, 3] = True
    mask[0, :3] = True
    archs = [(option, 3, 3, 3, 3, 3) for option in (0, 1, 2, 3)]
    score = lambda name: jax.jit(partial(score_one, make_scorer(name, SPACE)))(  # noqa: E731
        jax.random.key(0), SPACE.gates(mask), Batch(None, None)
    )[0]
    mean = np.mean([SPACE.cost(np.array(arch)).params for arch in archs])
    np.testing.assert_allclose(score("params"), [mean], 1e-6)
    assert np.isnan(score("depth")).all()


def test_chance_depends_on_key_and_architecture_alone():
    run = partial(
        jax.jit(partial(score_one, make_scorer("random", SPACE))), batch=Batch(None, None)
    )
    archs = np.unique(np.random.default_rng(6).integers(0, 5, (50, 6)), axis=0)
    first, again, other = (
        np.array([run(jax.random.key(seed), SPACE.gates(a))[0][0] for a in archs])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert len(set(first)) == len(archs) and not (first == other).any()
    assert first.min() >= 0 and first.max() < 1 and 0.3 < first.mean() < 0.7
