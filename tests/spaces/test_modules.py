"""Anybody's modules as a space: every scorer that applies, errors that say what is wrong."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import saboc_jax as sj
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.layers.nnx import from_instance, from_nnx
from saboc_jax.layers.ops import Block, Relu
from saboc_jax.layers.program_cost import count_work
from saboc_jax.layers.programs import ProgramCache
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.scorers import MEASURED, SCORERS, foreign, make_scorer
from saboc_jax.scorers.combine import score
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.naswot import agreement_kernel
from saboc_jax.scorers.swap import swap_value
from saboc_jax.searchers import SEARCHERS
from saboc_jax.searching.run import run_search
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.types import Batch

SHAPE, CLASSES, N = (4, 4, 3), 3, 4


class Transformer(nn.Module):
    """A transformer with one token for each 2 x 2 patch."""

    width: int = 4

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(self.width, (2, 2), strides=(2, 2), name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        return nn.Dense(CLASSES)(nn.gelu(x).mean(1))


class ConvNet(nn.Module):
    """Everything a scorer may look for: blocks, ReLU modules, batch norm."""

    width: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = Block(name="stem")(nn.Conv(self.width, (3, 3))(images))
        x = Relu()(nn.BatchNorm(use_running_average=not train)(x))
        x = Block(name="block")(nn.Conv(2 * self.width, (3, 3))(x))
        return nn.Dense(CLASSES)(Block(name="features")(Relu()(x)).mean((1, 2)))


class NnxNet(nnx.Module):
    """A small nnx module."""

    def __init__(self, rngs, norm=nnx.LayerNorm):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = norm(4, rngs=rngs)
        self.dense = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, images):
        return self.dense(nnx.relu(self.norm(self.conv(images))).mean((1, 2)))


def make_batch():
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (N, *SHAPE))  # noqa: E731
    labels = jnp.array([0, 1, 2, 1])
    more = jnp.stack([draw(3), draw(4)])
    return Batch(draw(0), labels, draw(1), labels[::-1], draw(2), more, jnp.stack([labels] * 2))


def space_of(*modules):
    return module_space(modules, image_shape=SHAPE)


def mask(*options, width=2):
    return architecture_to_mask(np.array(options), width)


@pytest.fixture(scope="module")
def space():
    return space_of(ConvNet(), Transformer())


THIN = ("te_nas", "teg_nas")


@pytest.mark.parametrize("name", sorted(set(SCORERS) - set(THIN)))
def test_every_scorer_scores_a_convnet_and_a_transformer(space, name):
    scorer, key = make_scorer(name, space), jax.random.key(1)
    evaluator = Evaluator(Runner(space, scorer, Draws([key], [make_batch()])))
    both = np.stack([mask(0), mask(1)])
    values = evaluator.evaluate(both)[:, 0]
    assert values.shape == (2, len(scorer.metrics))
    assert np.isfinite(values).all() or name == "naswot"  # 4 images may look alike
    assert evaluator.counts.compilations == 2 * bool(scorer.observables)
    assert scorer.measured == (name in MEASURED)
    again = evaluator.with_draws(Draws([key], [make_batch()])).evaluate(both)
    # The same key gives the same bits, but of what is declared to be a measurement.
    assert scorer.measured or np.array_equal(again[:, 0], values, equal_nan=True)


@pytest.mark.parametrize("name", THIN)
def test_scorers_that_need_a_thin_cell_say_so(space, name):
    with pytest.raises(ValueError, match="no thin cell"):
        make_scorer(name, space)


def test_one_program_for_each_module_and_none_twice(space):
    draws = Draws([jax.random.key(r) for r in (0, 1)], [make_batch()] * 2)
    evaluator = Evaluator(Runner(space, make_scorer("snip", space), draws))
    first = evaluator.evaluate(np.stack([mask(0), mask(1)]))
    assert evaluator.counts.compilations == 2  # two repeats share one
    assert (first[:, 0] != first[:, 1]).all()
    two = ProgramCache(2)
    few = Evaluator(Runner(space, evaluator.scorer, draws, programs=two))
    np.testing.assert_array_equal(few.evaluate(np.stack([mask(0), mask(1)])), first)
    assert len(two._compiled) == 2
    few._memory.clear()
    np.testing.assert_array_equal(few.evaluate(mask(0)[None]), first[:1])
    assert few.counts.compilations == 3  # what was dropped is compiled again


def test_eager_and_jitted_scores_agree_and_traced_gates_are_an_error(space):
    scorer, key, batch = make_scorer("ete_nas", space), jax.random.key(1), make_batch()
    gates = space.gates(np.array([1]))
    eager = score(scorer, key, gates, batch)[0]
    jitted = jax.jit(lambda key, batch: score(scorer, key, gates, batch)[0])(key, batch)
    np.testing.assert_allclose(eager, jitted, rtol=1e-5)
    with pytest.raises(ValueError, match="gates are traced"):
        jax.jit(lambda gates: score(scorer, key, gates, batch)[0])(gates)
    with pytest.raises(ValueError, match="program for each architecture"):
        space.init(key)


@pytest.mark.parametrize("make", [Transformer, lambda: from_nnx(NnxNet)])
def test_the_kernel_agrees_with_the_jacobian_in_double_precision(x64, make):
    space = space_of(make())
    own = space.program(mask(0, width=1))
    # Drawn once: in two programs float32 weights of one key may differ in their last digits.
    variables = jax.tree.map(lambda p: p.astype(jnp.float64), own.init(jax.random.key(2)))
    wide = own._replace(networks=replace(own.networks, init=lambda key: variables))
    batch = jax.tree.map(lambda a: a.astype(jnp.float64), make_batch()._replace(labels=None))
    gates, key = space.gates(np.array([0])), jax.random.key(2)
    kernels = []
    for engine in ("auto", "jacobian"):
        see = Kernels(wide, NTKOptions(engine=engine), ("test_images",))
        kernels.append(jax.jit(lambda batch, see=see: see(key, gates, batch))(batch))
    for name, kernel in kernels[0].items():
        np.testing.assert_allclose(kernel, kernels[1][name], rtol=1e-9)


def test_nnx_parameters_are_drawn_by_key_and_give_nnx_outputs():
    space = space_of(from_nnx(NnxNet))
    own = space.program(mask(0, width=1))
    one, two = own.init(jax.random.key(0)), own.init(jax.random.key(1))
    assert (one["params"]["nnx"]["conv"]["kernel"] != two["params"]["nnx"]["conv"]["kernel"]).any()
    module = NnxNet(nnx.Rngs(7))
    ours = {
        "conv": {"kernel": module.conv.kernel, "bias": module.conv.bias},
        "norm": {"scale": module.norm.scale, "bias": module.norm.bias},
        "dense": {"kernel": module.dense.kernel, "bias": module.dense.bias},
    }
    params = {"params": {"nnx": jax.tree.map(jnp.asarray, ours)}}
    images = make_batch().images
    np.testing.assert_allclose(own.apply(params, None, images)[0], module(images), rtol=1e-6)
    own = space_of(module).program(mask(0, width=1))  # an instance keeps its weights
    kept = own.init(jax.random.key(0)), own.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    np.testing.assert_allclose(own.apply(kept[0], None, images)[0], module(images), rtol=1e-6)


class LinenNet(nn.Module):
    """What `NnxNet` is with batch norm."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), name="conv")(images)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(CLASSES, name="dense")(nn.relu(x).mean((1, 2)))


def test_batch_norm_of_nnx_is_that_of_linen():
    module, images = from_nnx(lambda rngs: NnxNet(rngs, nnx.BatchNorm)), make_batch().images
    variables = module.init(jax.random.key(0), images)
    params = jax.tree.map(lambda a: a + 0.1, variables["params"])
    theirs = from_module(LinenNet(), {**LinenNet().init(jax.random.key(0), images),
                                      "params": params["nnx"]})  # fmt: skip
    ours = from_module(module, {**variables, "params": params})
    for mode in ("frozen", "batch"):
        options = NTKOptions(engine="jacobian", batch_norm=mode)
        one, two = (empirical_ntks(network, images, (), options)[0] for network in (ours, theirs))
        np.testing.assert_allclose(one, two, rtol=1e-4)
    train = {"train": True, "mutable": ["batch_stats"]}
    (one, kept), (two, stats) = (
        network.apply({**known.variables, "params": tree}, images, **train)
        for network, known, tree in (
            (module, ours, params),
            (LinenNet(), theirs, params["nnx"]),
        )
    )
    np.testing.assert_allclose(one, two, rtol=1e-4)
    jax.tree.map(np.testing.assert_allclose, kept["batch_stats"]["nnx"], stats["batch_stats"])
    assert np.isfinite(agreement_kernel(ours, images)).all()


def test_functions_are_seen_as_relu_modules_are():
    class Net(nn.Module):
        relu: Any

        @nn.compact
        def __call__(self, images):
            x = nn.Conv(4, (3, 3), name="conv")(images)
            x = self.relu(nn.BatchNorm(use_running_average=False, name="norm")(x))
            return nn.Dense(CLASSES, name="dense")(self.relu(x - 0.2).mean((1, 2)))

    def hidden(x):
        return jax.jit(jax.checkpoint(jax.nn.relu))(x)

    def looped(x):
        return jax.lax.map(nn.relu, x)

    images = make_batch().images
    variables = Net(nn.relu).init(jax.random.key(0), images)
    kernels, patterns = [], []
    for relu in (lambda x: Relu()(x), nn.relu, hidden, looped, nn.gelu):
        network = from_module(Net(relu), variables)
        kernels.append(agreement_kernel(network, images))
        patterns.append(float(jax.jit(lambda x, own=network: swap_value(own, x))(images)))
    assert all((kernels[0] == kernel).all() for kernel in kernels[1:4])
    assert patterns[0] == patterns[1] == patterns[2] == patterns[3] > 1
    # GELU's units are active where ReLU's are; the second reads what the first gives.
    assert kernels[4][0, 0] == kernels[0][0, 0]
    assert kernels[0][0, 0] == 2 * 4 * 4 * 4  # an image agrees with itself in every unit
    with pytest.raises(ValueError, match="has no activation"):
        agreement_kernel(from_module(Net(lambda x: x), variables), images)


class Stateful(nnx.Module):
    """A batch norm whose statistics no Linen layer holds."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.gelu(self.norm(self.conv(x))).mean((1, 2)))


def test_variances_of_other_batch_norms_come_from_their_statistics():
    images = make_batch().images
    network = sj.from_module(*from_instance(Stateful(nnx.Rngs(0))))
    (variance,) = foreign.batch_variances(network, images)
    (kernel,) = (leaf for leaf in jax.tree.leaves(network.variables["params"]) if leaf.ndim == 4)
    numbers = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    np.testing.assert_allclose(variance, maps.var((0, 1, 2)).mean(), rtol=1e-5)


@pytest.mark.parametrize("scorer", ["zen", "naswot", "swap", "fisher"])
def test_scorers_that_look_inside_take_an_nnx_module(scorer):
    labels = jnp.arange(N) % CLASSES
    batch = sj.Batch(make_batch().images, labels)
    scored = sj.score(Stateful(nnx.Rngs(0)), batch, jax.random.key(0), scorer)
    assert np.isfinite(scored.values).all() and scored.values[0, 0] != 0


def test_a_function_of_the_choices_and_its_texts():
    widths, kinds = (2, 4, 6), (ConvNet, Transformer)
    space = module_space(
        lambda arch: kinds[arch[1]](widths[arch[0]]),
        choices=(3, 2),
        option_names=[["w2", "w4", "w6"], ["conv", "attention"]],
        image_shape=SHAPE,
    )
    arch = space.from_string("w6|attention")
    assert arch.tolist() == [2, 1]
    assert space.to_string(arch) == "w6|attention"
    assert space.specialise(arch) == Transformer(6)
    with pytest.raises(ValueError, match="'w9' is no option"):
        space.from_string("w9|conv")
    with pytest.raises(ValueError, match="3 parts"):
        space.from_string("w2|conv|conv")


def test_an_unknown_option_of_many_names_those_written_alike():
    texts = [f"width{width}" for width in range(40)]
    space = module_space(
        lambda arch: ConvNet(2), choices=(40,), option_names=[texts], image_shape=SHAPE
    )
    message = "'widht7' is no option; allowed: one of 40, such as width"
    with pytest.raises(ValueError, match=message) as found:
        space.from_string("widht7")
    assert len(str(found.value)) < 120


def test_costs_by_hand(space):
    conv = space.cost(np.array([0]))
    assert conv.params == (27 * 4 + 4) + 8 + (36 * 8 + 8) + (8 * 3 + 3)
    assert conv.macs == 16 * 27 * 4 + 16 * 36 * 8 + 8 * 3
    assert conv.depth == 3
    tokens, width = 4, 4
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width
    transformer = space.cost(np.array([1]))
    assert transformer.macs == tokens * 12 * width + attention + width * 3
    assert transformer.depth == 1 + 4 + 1  # patches; key or query, scores, values, out; dense


def test_work_of_loops_and_branches():
    def function(x):
        x = jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=3)[0]
        return jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert count_work(function, jnp.ones((2, 2))) == (5 * 8, 5)


def test_a_supernet_is_the_mean_of_its_members(space):
    own = space.program(np.ones((1, 2), bool))
    variables = own.init(jax.random.key(0))
    images = make_batch().images
    mean = own.apply(variables, None, images)[0]
    members = [ConvNet(), Transformer()]
    names = sorted(variables["params"])
    outputs = [
        module.apply({k: tree[name] for k, tree in variables.items() if name in tree}, images)
        for module, name in zip(members, names, strict=True)
    ]
    np.testing.assert_allclose(mean, sum(outputs) / 2, rtol=1e-5)
    big = module_space(lambda arch: ConvNet(), choices=(9, 9), image_shape=SHAPE)
    with pytest.raises(ValueError, match="holds 81 architectures"):
        big.program(np.ones((2, 9), bool))


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_every_searcher_takes_it(space, name):
    scorer = make_scorer("params", space)
    known = {"evolution": {"population_size": 3}, "aging_evolution": {"population_size": 3}}
    options = known.get(name, {})
    if name == "aging_evolution":
        options["tournament"] = 2
    if name not in ("pruning", "exhaustive"):
        options["max_evaluations"] = 6
    if name == "pruning":
        scorer = make_scorer("random", space)
    searcher = SEARCHERS[name](space.choices, scorer.higher_is_better, **options)
    evaluator = Evaluator(Runner(space, scorer, Draws([jax.random.key(0)], [make_batch()])))
    found = run_search(searcher, evaluator, jax.random.key(0))
    assert found.arch.shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": []}, "a list of modules"),
        ({"modules": ConvNet()}, "a list of modules"),
        ({"modules": [ConvNet(), 3]}, "is a int"),
        ({"modules": [nn.Conv(3, (1, 1))]}, r"allowed: \(2, classes\)"),
        ({"modules": [ConvNet(), nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(5)])]}, "3, 5"),
        ({"modules": [Transformer(5)]}, "cannot be run on"),
        ({"modules": lambda arch: ConvNet()}, "choices=None"),
        ({"modules": [ConvNet()], "choices": (2,)}, "allowed with a list of 1"),
        ({"modules": [ConvNet()], "image_shape": (4, 4)}, "image_shape"),
        ({"modules": [ConvNet()], "option_names": [["a", "b"]]}, "option_names"),
        ({"modules": [ConvNet()], "option_names": [["a|b"]]}, "names without"),
        ({"modules": [ConvNet()], "call": {"training": True}}, "cannot be run on"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        module_space(**{"image_shape": SHAPE} | arguments)
