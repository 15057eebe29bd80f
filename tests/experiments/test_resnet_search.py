"""Evolution on ResNets as Table 5 runs it, with a score that costs nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper import resnets
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.scorers import make_scorer
from saboc_jax.searchers import make_searcher
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.resnet import encoding
from saboc_jax.types import Batch

WIDTH = 128


@pytest.fixture(scope="module")
def found():
    dataset = SimpleNamespace(num_classes=10, image_shape=(32, 32, 3))
    space = resnets.build_space(dataset, WIDTH, "kaiming_normal_fan_in")
    scorer = make_scorer("random", space)
    batch = Batch(jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, int))
    evaluator = Evaluator(Runner(space, scorer, Draws([jax.random.key(0)], [batch])))
    searcher = make_searcher(
        "evolution", space, scorer.higher_is_better, max_evaluations=60, population_size=8
    )
    allows = resnets.zen_budget(space, 150_000, 9)
    return space, allows, run_search(searcher, evaluator, jax.random.key(0), allows=allows)


def test_it_starts_where_zen_nas_does_and_stays_in_the_space(found):
    space, _, result = found
    archs = np.concatenate([masks.argmax(2) for masks, _ in result.history])
    assert space.to_string(archs[0]) == encoding.START
    texts = [space.to_string(arch) for arch in archs]
    assert all((space.from_string(t) == a).all() for t, a in zip(texts, archs, strict=True))
    assert len(set(texts)) > 40


def test_what_exceeds_the_budget_is_not_scored_and_not_returned(found):
    space, allows, result = found
    for masks, scores in result.history:
        for mask, score in zip(masks, scores, strict=True):
            size = resnets.size_of(space, mask.argmax(1))
            within = size.params <= 150_000 and size.depth <= 9
            assert allows(mask) == within == bool(np.isfinite(score).all())
    assert 0 < result.rejected < 59
    assert allows(architecture_to_mask(result.arch, max(space.choices)))


def changed(one, other):
    """How many of stem, super-blocks and tail differ; None: a super-block was split."""
    one, other = encoding.decode(one), encoding.decode(other)
    if len(one.blocks) != len(other.blocks):
        return None
    pairs = [*zip(one.blocks, other.blocks, strict=True)]
    return sum(a != b for a, b in [(one.stem, other.stem), *pairs, (one.tail, other.tail)])


def test_the_start_is_mutated_in_one_block_and_later_members_in_two():
    space = make_space("resnet", slots=6, max_width=WIDTH)
    searcher = make_searcher("evolution", space, (True,), max_evaluations=200, population_size=200)
    state, members, counts = searcher.init(jax.random.key(0)), [], []
    for step in range(60):
        masks, state = searcher.ask(jax.random.fold_in(jax.random.key(1), step), state)
        state = searcher.tell(state, masks, np.full((1, 1, 1), float(step)))
        child = np.asarray(masks)[0].argmax(1)
        distances = [changed(member, child) for member in (members[:1] if step < 10 else members)]
        counts.append(min((d for d in distances if d is not None), default=0))
        members.append(child)
    assert set(counts[:10]) == {0, 1}
    assert set(counts[10:]) <= {0, 1, 2} and 2 in counts
