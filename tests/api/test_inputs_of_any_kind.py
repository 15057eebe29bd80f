"""Mappings of inputs and tokens: scores, structure and the store take them as they take images."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.types import Batch

N = 6
LABELS = np.arange(N) % 3


class Joined(nn.Module):
    width: int = 5

    @nn.compact
    def __call__(self, inputs):
        both = nn.Dense(self.width)(inputs["a"]) + nn.Dense(self.width)(inputs["b"])
        return nn.Dense(3)(nn.tanh(both))


class Tokens(nn.Module):
    width: int = 5

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(nn.Embed(11, self.width)(tokens))).mean(1))


def tables():
    rng = np.random.default_rng(0)
    each = [
        {"a": rng.normal(size=(N, 4)).astype(np.float32), "b": rng.normal(size=(N, 2)).astype("f")}
        for _ in range(3)
    ]
    return Batch(each[0], LABELS, each[1], LABELS, each[2])


def tokens():
    rng = np.random.default_rng(1)
    each = [rng.integers(0, 11, (N, 7)).astype(np.int32) for _ in range(3)]
    return Batch(each[0], LABELS, each[1], LABELS, each[2])


@pytest.mark.parametrize(("module", "batch"), [(Joined, tables), (Tokens, tokens)])
def test_scores_structure_and_the_store(module, batch, tmp_path):
    nets = {f"width {width}": module(width) for width in (5, 9)}
    scorers, options = ["ntk_score", "paths", "params"], {"repeats": 1, "progress": False}
    first, second = (
        sj.rank(nets, batch(), jax.random.key(0), scorers, store=tmp_path / "s", **options)
        for _ in range(2)
    )
    for one, other in zip(first.scores, second.scores, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.flag is None
        assert one.mean()["params"] == one.cost.params
        assert one.mean()["paths.live_params"] == one.cost.params
    assert first.scores[1].cost.params > first.scores[0].cost.params


@pytest.mark.parametrize(("module", "batch"), [(Joined, tables), (Tokens, tokens)])
def test_consensus(module, batch):
    nets = [module(width) for width in (3, 5, 9)]
    ranked = sj.rank(nets, batch(), jax.random.key(0), "consensus", repeats=1, progress=False)
    assert sorted(ranked.order) == [0, 1, 2]
    assert all(score.flag is None for score in ranked.scores)
    likeness = {score.mean()["jacob_cov"] for score in ranked.scores}
    assert likeness == {0.0} if module is Tokens else len(likeness) == 3


def test_a_score_of_gradients_by_tokens_is_one_sentence():
    with pytest.raises(ValueError, match="jacob_cov takes gradients by the inputs"):
        sj.score(Tokens(), tokens(), jax.random.key(0), "jacob_cov", repeats=1, progress=False)
