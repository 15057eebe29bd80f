"""The contract of every registered scorer on every registered space, at the smallest sizes.

All scorers of a space are scored together, so one that is registered is tested the day it is added.
A gated space has a second program, the plain module with the supernet's weights; a space whose
kernels run link by link has the same in one piece.
"""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.evaluate import Evaluator
from saboc_jax.precision import enable_x64
from saboc_jax.ranking import borda
from saboc_jax.scorers import MEASURED, SCORERS, make_scorer
from saboc_jax.scorers.base import Kernels, combine, load_factory
from saboc_jax.spaces import SPACES, make_space
from saboc_jax.spaces.base import architecture_to_mask
from saboc_jax.spaces.darts_cells import from_genotype, make_genotype
from saboc_jax.spaces.darts_codec import to_string
from saboc_jax.types import Batch

N, CLASSES, SHAPE = 5, 3, (4, 4, 3)
KEY = jax.random.key(7)
NAMES = sorted(set(SCORERS) - MEASURED)
RESNET = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperConvK1BNRELU(16,8,1,1)"


def genotype(*operations):
    """A DARTS architecture whose nodes all read both inputs of the cell."""
    edges = tuple((name, place % 2) for place, name in enumerate(operations))
    return to_string(from_genotype(make_genotype(edges, edges)))


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
    "resnet": (
        {"slots": 1, "max_width": 16},
        RESNET,
    ),
}


def make_batch():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape, float)  # noqa: E731
    labels, more = jnp.array([0, 1, 2, 1, 0]), draw(3, 2, N, *SHAPE)
    images = [draw(seed, N, *SHAPE) for seed in range(3)]
    return Batch(images[0], labels, images[1], labels[::-1], images[2], more,
                 jnp.stack([labels] * 2), draw(4, 20, 3, 3, 1))  # fmt: skip


def in_double(space):
    def init(key):
        return jax.tree.map(lambda leaf: leaf.astype(float), space.init(key))

    thin = space.thin_cell and (lambda own=space.thin_cell(): in_double(own))
    return space._replace(init=init, thin_cell=thin)


def plain(space, arch):
    """A space with the one network, which is the plain module with the supernet's weights."""
    module = space.specialise(arch)

    def apply(variables, gates, images, mutable=()):
        y = module.apply(variables, images, train=True, mutable=list(mutable) or False)
        return y if mutable else (y, {})

    return space._replace(
        init=lambda key: space.extract(space.init(key), arch),
        apply=apply,
        layers_per_leaf=lambda path: 0,
        thin_cell=space.thin_cell and (lambda: plain(space.thin_cell(), arch)),
    )


def scorers_of(space):
    """Every scorer with the space's weights, so that other programs have the same."""
    wanted = {"init": None, "regions": space.thin_cell is not None}
    found = []
    for name in NAMES:
        known = inspect.signature(load_factory(SCORERS, name)).parameters
        options = {key: value for key, value in wanted.items() if key in known}
        found.append(make_scorer(name, space, **options))
    return found


def looked(space, scorers, masks, **options):
    evaluator = Evaluator(space, combine(scorers, "all"), [KEY], [make_batch()], **options)
    return evaluator, evaluator.evaluate(masks)[:, 0]


@pytest.fixture(scope="module", params=sorted(SPACES))
def case(request):
    options, *texts = SMALL[request.param]
    with enable_x64():
        space = make_space(request.param, num_classes=CLASSES, image_shape=SHAPE, **options)
        space = space if space.program else in_double(space)
        archs = [space.from_string(text) for text in texts]
        nothing = np.zeros_like(archs[0])
        masks = architecture_to_mask(np.stack([*archs, nothing]), max(space.choices))
        masks = masks[: len(archs) + (not space.is_connected(masks[-1]))]
        scorers = scorers_of(space)
        evaluator, scores = looked(space, scorers, masks)
        yield SimpleNamespace(
            space=space, archs=archs, masks=masks, scorers=scorers, evaluator=evaluator,
            scores=scores,
        )  # fmt: skip


def test_every_space_has_a_small_size():
    assert set(SMALL) == set(SPACES)


def test_connected_architectures_have_finite_scores_by_one_program(case):
    bad = np.array(case.evaluator.scorer.metrics)[
        ~np.isfinite(case.scores[: len(case.archs)]).all(0)
    ]
    assert not bad.size, bad
    assert case.space.program or case.evaluator.counts.compilations == 1


def test_the_same_key_gives_the_same_bits_and_another_key_others(case):
    again = case.evaluator.with_draws([KEY], case.evaluator.batches, ["0"])
    np.testing.assert_array_equal(again.evaluate(case.masks)[:, 0], case.scores)
    assert again.counts.compilations == 0
    other = case.evaluator.with_draws([jax.random.key(8)], case.evaluator.batches, ["1"])
    same = (other.evaluate(case.masks[:1])[0, 0] == case.scores[0]).tolist()
    counted = {"az_nas.complexity", "depth", "macs", "params", "swap", "te_nas.regions",
               "teg_nas.regions"}  # fmt: skip
    assert {m for m, s in zip(case.evaluator.scorer.metrics, same, strict=True) if s} <= counted


def test_another_program_of_the_network_gives_the_same_scores(case):
    if case.space.program:
        scorers = [
            scorer
            for scorer in case.scorers
            if any(isinstance(see, Kernels) for see in scorer.observables.values())
        ]
        space, options, rtol = case.space, {"pieces": None}, 1e-4  # weights are float32
    else:
        space, options, rtol = plain(case.space, case.archs[0]), {}, 1e-6
        scorers = scorers_of(space)
    other, scores = looked(space, scorers, case.masks[:1], **options)
    first = dict(zip(case.evaluator.scorer.metrics, case.scores[0], strict=True))
    for metric, value in zip(other.scorer.metrics, scores[0], strict=True):
        np.testing.assert_allclose(value, first[metric], rtol=rtol, err_msg=metric)


def test_an_architecture_that_joins_nothing_is_flagged_and_ranked_last(case):
    if len(case.masks) == len(case.archs):
        pytest.skip("every network of this space joins its input and output")
    assert np.isnan(case.scores[2]).all()
    assert case.evaluator.score(case.masks[2], 0)[1]
    assert case.evaluator.counts.disconnected == 1
    directions = case.evaluator.scorer.higher_is_better
    for metric, values in zip(case.evaluator.scorer.metrics, case.scores.T, strict=True):
        place = case.evaluator.scorer.metrics.index(metric)
        ranks = borda(values[:, None], directions[place : place + 1])
        assert ranks[2] > ranks[:2].max(), metric
