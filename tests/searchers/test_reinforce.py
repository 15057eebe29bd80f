import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saboc_jax.searchers.reinforce import (
    Baseline,
    borda_reward,
    change_reward,
    log_probability,
    push,
    reinforce,
    update_baseline,
)
from saboc_jax.statistics.ranking import borda

CHOICES = (5, 2, 4)
DIRECTIONS = (False, True, False)
KEY = jax.random.key(3)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


class ReferenceAgent:
    """Definitions 4.2 with D16 on growing lists, with Adam written out."""

    def __init__(self, logits, learning_rate=0.04, momentum=0.9, window=10):
        self.logits = [row[:n].astype(np.float64) for row, n in zip(logits, CHOICES, strict=True)]
        self.rate, self.momentum, self.window = learning_rate, momentum, window
        self.seen = []
        self.average, self.rewards = 0.0, 0
        self.m = [np.zeros(n) for n in CHOICES]
        self.v = [np.zeros(n) for n in CHOICES]
        self.steps = 0

    def reward(self, scores):
        costs = []
        for j, (value, higher) in enumerate(zip(scores, DIRECTIONS, strict=True)):
            before = [row[j] for row in self.seen[-self.window :]]
            cost = -value if higher else value
            costs.append(cost if np.isfinite(cost) else max(before, default=0.0))
        self.seen.append(costs)
        if len(self.seen) == 1:
            return 0.0
        recent = np.array(self.seen[-self.window :])
        return -sum((recent[-1] - recent[-2]) / (np.ptp(recent, axis=0) + 1e-6))

    def learn(self, archs, scores):
        gradient = [np.zeros(n) for n in CHOICES]
        for arch, row in zip(archs, scores, strict=True):
            reward = self.reward(row)
            self.rewards += 1
            self.average = self.momentum * self.average + (1 - self.momentum) * reward
            advantage = reward - self.average / (1 - self.momentum**self.rewards)
            for d, option in enumerate(arch):
                chosen = np.eye(CHOICES[d])[option]
                gradient[d] -= advantage * (chosen - softmax(self.logits[d])) / len(archs)
        self.steps += 1
        for d, g in enumerate(gradient):
            self.m[d] = 0.9 * self.m[d] + 0.1 * g
            self.v[d] = 0.999 * self.v[d] + 0.001 * g**2
            m = self.m[d] / (1 - 0.9**self.steps)
            v = self.v[d] / (1 - 0.999**self.steps)
            self.logits[d] = self.logits[d] - self.rate * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_agent_is_that_of_the_definition(batch):
    searcher = reinforce(CHOICES, DIRECTIONS, max_evaluations=24, batch=batch)
    state = searcher.init(KEY)
    logits = np.asarray(state.inner.logits)
    assert np.abs(logits).max() < 1e-2
    assert len(np.unique(logits)) == logits.size
    agent = ReferenceAgent(logits)
    rng = np.random.default_rng(0)
    for step in range(24 // batch):
        masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
        scores = rng.normal(size=(batch, 1, 3))
        # Not at first: three changes of +-1 could cancel, and Adam would scale up round-off.
        share = 0.15 if step > 1 else 0
        scores[rng.random(scores.shape) < share] = rng.choice([np.nan, np.inf, -np.inf])
        state = searcher.tell(state, masks, scores)
        agent.learn(np.asarray(masks).argmax(-1), scores[:, 0])
        for d, n in enumerate(CHOICES):
            np.testing.assert_allclose(
                state.inner.logits[d, :n], agent.logits[d], rtol=1e-3, atol=1e-4
            )
            np.testing.assert_array_equal(state.inner.logits[d, n:], logits[d, n:])
    assert np.abs(agent.logits[0] - logits[0]).max() > 0.05


def test_the_first_score_teaches_nothing():
    searcher = reinforce(CHOICES, DIRECTIONS)
    state = searcher.init(KEY)
    masks, asked = searcher.ask(KEY, state)
    after = searcher.tell(asked, masks, np.ones((1, 1, 3)))
    np.testing.assert_array_equal(after.inner.logits, state.inner.logits)


def test_change_reward_by_hand():
    window = jnp.array([[np.nan, np.nan], [0.0, 5.0], [4.0, 5.0], [3.0, 4.0]])
    # Improvements by 1 of a spread of 4, and by 1 of 1.
    assert change_reward(window) == pytest.approx(1.25, rel=1e-5)
    assert change_reward(window[:2]) == 0


@given(hnp.arrays(np.float32, (4, 3), elements=st.integers(0, 3).map(np.float32)))
@settings(max_examples=40, deadline=None)
def test_borda_reward_is_the_borda_sum_in_the_window_scaled(costs):
    for empty in range(3):
        window = costs.copy()
        window[:empty] = np.nan
        filled = window[empty:]
        ranks, (n, k) = borda(filled, (False,) * 3), filled.shape
        expected = 1 - 2 * (ranks[-1] - k) / (k * (n - 1))
        assert borda_reward(jnp.asarray(window)) == pytest.approx(expected, abs=1e-6)


def test_borda_reward_of_the_first_score_is_zero():
    assert borda_reward(jnp.array([[np.nan], [1.0]])) == 0


def test_push_drops_the_oldest_and_replaces_what_is_not_finite_by_the_worst():
    window = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    pushed = push(window, jnp.array([np.nan, np.inf]))
    np.testing.assert_array_equal(pushed, [[3.0, 0.0], [3.0, 2.0]])
    nothing = jnp.full((2, 1), jnp.nan)
    np.testing.assert_array_equal(push(nothing, jnp.array([np.nan])), [[np.nan], [0.0]])


def test_baseline_is_the_weighted_mean_of_rewards_so_far():
    baseline, rewards = Baseline(jnp.zeros(()), jnp.zeros(())), [3.0, -1.0, 4.0, 1.0]
    for t in range(len(rewards)):
        baseline, value = update_baseline(baseline, jnp.asarray(rewards[t]), 0.9)
        weights = 0.9 ** np.arange(t, -1, -1)
        assert value == pytest.approx(np.average(rewards[: t + 1], weights=weights), rel=1e-5)


def test_log_probability_sums_to_one_over_the_space():
    searcher = reinforce(CHOICES, DIRECTIONS)
    available = np.arange(5) < np.array(CHOICES)[:, None]
    everything = np.stack(np.unravel_index(np.arange(40), CHOICES), axis=1)
    logits = 100 * searcher.init(KEY).inner.logits
    total = jnp.exp(log_probability(logits, available, jnp.asarray(everything))).sum()
    assert total == pytest.approx(1, rel=1e-5)
    # The gradient is finite although options that do not exist have the logit -inf.
    gradient = jax.grad(lambda x: log_probability(x, available, jnp.asarray(everything)).sum())
    assert jnp.isfinite(gradient(logits)).all()


def test_architectures_are_drawn_from_the_policy():
    searcher = reinforce(CHOICES, DIRECTIONS, batch=4000, max_evaluations=4000)
    state = searcher.init(KEY)
    logits = 1000 * state.inner.logits
    state = state._replace(inner=state.inner._replace(logits=logits))
    shares = np.asarray(searcher.ask(KEY, state)[0]).mean(0)
    for d, n in enumerate(CHOICES):
        expected = softmax(np.asarray(logits[d, :n]))
        tolerance = 4 * np.sqrt(expected * (1 - expected) / 4000)
        assert (np.abs(shares[d, :n] - expected) <= tolerance).all()
        assert (shares[d, n:] == 0).all()


def test_both_rewards_learn_to_choose_the_better_option():
    for reward in ("change", "borda"):
        searcher = reinforce((2, 2), (True,), reward=reward, max_evaluations=200, batch=1)
        state = searcher.init(KEY)
        for step in range(200):
            masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
            good = np.asarray(masks)[:, :, 1].sum(-1).astype(float)
            state = searcher.tell(state, masks, good[:, None, None])
        gap = np.diff(state.inner.logits, axis=1)
        assert (gap > 1).all(), reward


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="reward='rank'"):
        reinforce(CHOICES, DIRECTIONS, reward="rank")
    with pytest.raises(ValueError, match="window=1"):
        reinforce(CHOICES, DIRECTIONS, window=1)
    with pytest.raises(ValueError, match=r"momentum=1\.0"):
        reinforce(CHOICES, DIRECTIONS, momentum=1.0)
