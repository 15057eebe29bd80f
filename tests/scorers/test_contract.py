"""The contract of every registered scorer on every registered space, at the smallest sizes.

All scorers of a space are scored together, so one that is registered is tested the day it is added.
A gated space has a second program, the plain module with the supernet's weights; a space whose
kernels run link by link has the same in one piece.
"""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from other_programs import in_double, plain

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import MEASURED, SCORERS, make_scorer
from saboc_jax.scorers.combine import combine, load_factory
from saboc_jax.scorers.consensus import SIZE, STRUCTURE
from saboc_jax.scorers.jacob_cov import InputCorrelation
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.scorers.loss_gradients import LossGradients
from saboc_jax.scorers.structure import PATHS
from saboc_jax.scorers.synflow import SynapticFlows
from saboc_jax.scorers.te_nas import thin_cell
from saboc_jax.spaces import OWN_SPACES, make_space
from saboc_jax.spaces.darts import space as darts
from saboc_jax.spaces.darts.cells import make_genotype
from saboc_jax.spaces.darts.codec import write_genotype
from saboc_jax.spaces.darts.costs import NetworkSize
from saboc_jax.spaces.darts.trained import ENCODINGS
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics.ranking import borda
from saboc_jax.types import Batch, OneProgram

N, CLASSES, SHAPE = 5, 3, (4, 4, 3)
KEY = jax.random.key(7)
NAMES = sorted(set(SCORERS) - MEASURED)
PIT = '{"base_dim":16,"mlp_ratio":2,"depth":[1,4,2],"num_heads":[2,2,4]}'
AUTOFORMER = (
    '{"hidden_dim":192,"mlp_ratio":[3.5,4.0,3.5,3.5,3.5,4.0,4.0,4.0,3.5,4.0,3.5,4.0],"depth":12,'
    '"num_heads":[4,3,3,3,4,3,3,3,3,3,4,3]}'
)
RESNET = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperConvK1BNRELU(16,8,1,1)"


def genotype(*operations, inputs=(0, 1)):
    """The text of a genotype whose nodes all read the same inputs, by default both of the cell."""
    edges = tuple((name, inputs[place % 2]) for place, name in enumerate(operations))
    return write_genotype(make_genotype(edges, edges))


LINKED = Kernels | InputCorrelation | LossGradients | SynapticFlows  # have two ways to run

# In NAS-Bench-201 the gradients' second program is compared in `test_gradients`.
ELSEWHERE = {"fisher", "snip", "synflow", "grasp", "grad_norm", "zico", "jacob_cov"}

# Spaces that are tested with few scorers: their networks are made of the modules of the spaces that
# are tested with all, and tests/spaces looks at what else they show.
BRIEFLY = ("autoformer", "nas_bench_101", "nas_bench_macro", "nats_sss", "pit", "transnas_macro",
           "transnas_micro")  # fmt: skip
SEEING = ("ntk_score", "swap", "params")

# Options of the space, and architectures: one, where each is compiled. The first is also run as
# the second program.
SMALL = {
    "nas_bench_201": (
        {"channels": 2, "num_cells": 1},
        "|none~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
        "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_1x1~2|",
    ),
    "darts": (
        {"channels": 2, "num_cells": 1},
        genotype("sep_conv_3x3", "none", "skip_connect", "max_pool_3x3", *["none"] * 4),
        genotype(*["dil_conv_5x5", "avg_pool_3x3", "sep_conv_5x5", "dil_conv_3x3"] * 2),
    ),
    # A node with one convolution twice, and one with none.
    "darts_genotypes": (
        {"channels": 2, "num_cells": 1},
        genotype(*["dil_conv_3x3"] * 2, "skip_connect", *["none"] * 5, inputs=(1, 1)),
    ),
    "autoformer": ({"channels": 1, "least_layers": 1}, AUTOFORMER),
    # A vertex that is cut, a pool, a projection to the output.
    "nas_bench_101": (
        {"channels": 3, "num_cells": 1},
        "(0,1,0,0,0,0,1,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,"
        "0,0,0,0,0,4,2,2,2,2,1)",
    ),
    "pit": ({"channels": 1, "least_layers": (1, 1, 1)}, PIT),
    "nas_bench_macro": ({"channels": 2}, "01011012"),
    "nats_sss": ({"channels": 8}, "16:24:16:24:16"),
    "resnet": (
        {"slots": 1, "max_width": 16},
        RESNET,
    ),
    "transnas_micro": ({"channels": 2}, "(1,0,3,2,0,1)"),
    "transnas_macro": ({"channels": 2}, "(1,1,4,1)"),
}


def small_space(name):
    """A registered space; those of DARTS with one cell: reduction, which has both kinds of edges,
    or normal, which compiles in half the time."""
    space = make_space(name, num_classes=CLASSES, image_shape=SHAPE, **SMALL[name][0])
    if name in ENCODINGS:
        size = NetworkSize(
            channels=2,
            layers=1,
            stem_multiplier=1,
            num_classes=CLASSES,
            image_shape=SHAPE,
            reduction_cells=(0,) if name == "darts" else (),
            last_activation=True,
        )
        initialiser = find_initialiser("kaiming_normal_fan_in")
        networks = darts.networks(ENCODINGS[name], size, SHAPE, initialiser)
        space = space._replace(networks=replace(networks, thin_cell=thin_cell(space)))
    return space


def has_one_program(space):
    return isinstance(space.networks, OneProgram)


def make_batch():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape, float)  # noqa: E731
    labels, more = jnp.array([0, 1, 2, 1, 0]), draw(3, 2, N, *SHAPE)
    images = [draw(seed, N, *SHAPE) for seed in range(3)]
    return Batch(images[0], labels, images[1], labels[::-1], images[2], more,
                 jnp.stack([labels] * 2), draw(4, 20, 3, 3, 1))  # fmt: skip


def scorers_of(space):
    """Every scorer with the space's weights, so that other programs have the same."""
    wanted = {"init": None, "regions": thin_cell(space) is not None}
    found = []
    for name in SEEING if space.name in BRIEFLY else NAMES:
        known = inspect.signature(load_factory(SCORERS, name)).parameters
        options = {key: value for key, value in wanted.items() if key in known}
        found.append(make_scorer(name, space, **options))
    return found


def grouped(scorers):
    """Those that look alike together, which share a pass; all in one program compile longer."""
    groups = {}
    for scorer in scorers:
        kinds = sorted(type(see).__name__ for see in scorer.observables.values())
        groups.setdefault(next(iter(kinds), ""), []).append(scorer)
    return [combine(group, "+".join(s.name for s in group)) for group in groups.values()]


def evaluators_of(space, scorers, key=KEY, **options):
    draws = Draws([key], [make_batch()])
    return [Evaluator(Runner(space, s, draws, **options)) for s in grouped(scorers)]


def scores_of(evaluators, masks):
    """{scorer.metric: [architectures]}."""
    found = {}
    for evaluator in evaluators:
        values = evaluator.evaluate(masks)[:, 0].T
        found |= dict(zip(evaluator.scorer.metrics, values, strict=True))
    return found


@pytest.fixture(scope="module", params=sorted(OWN_SPACES))
def case(request):
    _, *texts = SMALL[request.param]
    with enable_x64():
        space = small_space(request.param)
        space = in_double(space) if has_one_program(space) else space
        archs = [space.from_string(text) for text in texts]
        nothing = np.zeros_like(archs[0])
        masks = architecture_to_mask(np.stack([*archs, nothing]), max(space.choices))
        masks = masks[: len(archs) + (not space.is_connected(masks[-1]))]
        scorers = scorers_of(space)
        evaluators = evaluators_of(space, scorers)
        scores = scores_of(evaluators, masks)
        yield SimpleNamespace(
            space=space, archs=archs, masks=masks, scorers=scorers, evaluators=evaluators,
            scores=scores,
        )  # fmt: skip


def test_every_space_has_a_small_size():
    assert set(SMALL) == set(OWN_SPACES)


def test_connected_architectures_have_finite_scores_by_one_program(case):
    number = len(case.archs)
    assert {n for n, v in case.scores.items() if not np.isfinite(v[:number]).all()} == set()
    assert len(case.scores) == sum(len(scorer.metrics) for scorer in case.scorers)
    if has_one_program(case.space):
        programs = [evaluator.counts.compilations for evaluator in case.evaluators]
        assert programs == [bool(e.scorer.observables) for e in case.evaluators]


def with_key(case, key):
    return [e.with_draws(replace(e.runner.draws, keys=[key])) for e in case.evaluators]


def test_the_same_key_gives_the_same_bits_and_another_key_others(case):
    again = with_key(case, KEY)
    for metric, values in scores_of(again, case.masks).items():
        np.testing.assert_array_equal(values, case.scores[metric], err_msg=metric)
    other = scores_of(with_key(case, jax.random.key(8)), case.masks[:1])
    structure = {f"paths.{name}" for name in PATHS} | {
        f"consensus.{name}" for name in (*SIZE, *STRUCTURE)
    }
    counted = structure | {
        "activations", "az_nas.complexity", "depth", "macs", "params", "swap", "te_nas.regions",
        "teg_nas.regions",
    }  # fmt: skip
    assert {m for m, (value,) in other.items() if value == case.scores[m][0]} <= counted
    assert sum(e.counts.compilations for e in again) == 0


def test_another_program_of_the_network_gives_the_same_scores(case):
    if not has_one_program(case.space):
        scorers = [
            scorer
            for scorer in case.scorers
            if any(isinstance(see, LINKED) for see in scorer.observables.values())
        ]
        space, options, rtol = case.space, {"pieces": None}, 1e-4  # weights are float32
    else:
        space, options, rtol = plain(case.space, case.archs[0]), {}, 1e-6
        known = ELSEWHERE if case.space.name == "nas_bench_201" else ()
        scorers = [scorer for scorer in scorers_of(space) if scorer.name not in known]
    others = scores_of(evaluators_of(space, scorers, **options), case.masks[:1])
    for metric, (value,) in others.items():
        np.testing.assert_allclose(value, case.scores[metric][0], rtol=rtol, err_msg=metric)


def test_an_architecture_that_joins_nothing_is_flagged_and_ranked_last(case):
    if len(case.masks) == len(case.archs):
        pytest.skip("every network of this space joins its input and output")
    for evaluator in case.evaluators:
        assert evaluator.counts.disconnected == 1
        directions = dict(
            zip(evaluator.scorer.metrics, evaluator.scorer.higher_is_better, strict=True)
        )
        for metric, up in directions.items():
            assert np.isnan(case.scores[metric][-1]), metric
            ranks = borda(case.scores[metric][:, None], (up,))
            assert ranks[-1] > ranks[:-1].max(), metric
