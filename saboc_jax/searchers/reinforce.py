"""REINFORCE: a policy of free logits learns from rewards computed from the metrics.

The policy draws every decision independently, a_d ~ Categorical(softmax(logits_d)). With a
reward r and a baseline b (an exponential moving average of rewards, corrected for its start
at zero, and updated with r before it is used), Adam descends

    -(r - b) * sum_d log softmax(logits_d)[a_d].

Two rewards, both from a window of the last W scores, oriented so that lower is better:

    change: -sum_j (S_j(t) - S_j(t-1)) / (max_W S_j - min_W S_j + 1e-6), 0 for the first;
    borda:  the Borda sum of S(t) in the window, mapped linearly to 1 (first by every metric)
            ... -1 (last by every metric), 0 if it is alone.

A metric that is not finite takes the worst value in its window.

References:
    Agent and "change": TEG-NAS (Chen, Huang and Wang, AutoML 2023). Decision D16.

Deviation: TEG-NAS's released code fails at its first step (the first reward is a tuple); here
that reward is 0. Its joint choice of the edges of a DARTS cell is not implemented: decisions
are independent.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.searchers import base
from saboc_jax.searchers.history import SearchState, best_in_history, history_searcher
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import PRNGKey, Ranking, Searcher

Reward = Literal["change", "borda"]


class Baseline(NamedTuple):
    """Exponential moving average of rewards.

    Attributes:
        average: [] moving average, not corrected for its start at zero.
        weight: [] 1 - momentum**updates; average / weight is the corrected average.
    """

    average: Float[Array, ""]
    weight: Float[Array, ""]


class Agent(NamedTuple):
    """The state of the agent.

    Attributes:
        logits: [decisions, options] logits of the policy; options that do not exist are ignored.
        optimiser: Adam's state.
        window: [W, k] the last scores, lower is better, newest last; NaN in empty rows.
        baseline: baseline of the reward.
    """

    logits: Float[Array, "decisions options"]
    optimiser: Any
    window: Float[Array, "W k"]
    baseline: Baseline


def push(window: Float[Array, "W k"], costs: Float[Array, " k"]) -> Float[Array, "W k"]:
    """Appends a score to the window and drops the oldest.

    A cost that is not finite becomes the worst in the window, or 0 if the window is empty.
    """
    worst = jnp.where(jnp.isnan(window), -jnp.inf, window).max(axis=0)
    stand_in = jnp.where(jnp.isfinite(worst), worst, 0)
    return jnp.concatenate([window[1:], jnp.where(jnp.isfinite(costs), costs, stand_in)[None]])


def change_reward(window: Float[Array, "W k"]) -> Float[Array, ""]:
    """Returns the reward "change" of the newest score in the window."""
    spread = jnp.nanmax(window, axis=0) - jnp.nanmin(window, axis=0)
    change = (window[-1] - window[-2]) / (spread + 1e-6)
    return -jnp.where(jnp.isnan(window[-2]), 0, change).sum()


def borda_reward(window: Float[Array, "W k"]) -> Float[Array, ""]:
    """Returns the reward "borda" of the newest score in the window."""
    filled = ~jnp.isnan(window[:, 0])
    better = (window < window[-1]).sum(axis=0)
    others_equal = (window == window[-1]).sum(axis=0) - 1
    others = filled.sum() - 1
    # The share of the others that are worse, minus the share that are better.
    return (1 - 2 * (better + others_equal / 2) / jnp.maximum(others, 1)).mean() * (others > 0)


_REWARDS = {"change": change_reward, "borda": borda_reward}


def update_baseline(
    baseline: Baseline, reward: Float[Array, ""], momentum: float
) -> tuple[Baseline, Float[Array, ""]]:
    """Returns the baseline updated with a reward, and its corrected value."""
    average = momentum * baseline.average + (1 - momentum) * reward
    weight = momentum * baseline.weight + (1 - momentum)
    return Baseline(average, weight), average / weight


def log_probability(
    logits: Float[Array, "decisions options"],
    available: Bool[np.ndarray, "decisions options"],
    architectures: Int[Array, "b decisions"],
) -> Float[Array, " b"]:
    """Returns the log-probability of architectures under the policy."""
    log_policy = jax.nn.log_softmax(jnp.where(available, logits, -jnp.inf))
    return log_policy[jnp.arange(len(logits)), architectures].sum(axis=1)


def reinforce(
    choices: Sequence[int],
    higher_is_better: Sequence[bool],
    *,
    max_evaluations: int = 500,
    batch: int = 1,
    reward: Reward = "change",
    learning_rate: float = 0.04,
    momentum: float = 0.9,
    window: int = 10,
    ranking: Ranking = ranks.borda,
) -> Searcher:
    """TEG-NAS's REINFORCE agent with any metrics.

    Args:
        choices: number of options of each decision.
        higher_is_better: the direction of each metric.
        max_evaluations: architectures to score.
        batch: architectures per step of Adam; their rewards are computed in turn, their
            gradients averaged. TEG-NAS: 1.
        reward: "change" or "borda", see the module docstring.
        learning_rate: learning rate of Adam; TEG-NAS: 0.04 for NAS-Bench-201, 0.07 for DARTS.
        momentum: momentum of the baseline.
        window: W, the number of scores the reward uses, the newest included.
        ranking: combines the metrics into one rank; the best of all scored ones is returned.

    Raises:
        ValueError: if an argument is out of range.
    """
    base.check_choices(choices, higher_is_better)
    if reward not in get_args(Reward):
        raise ValueError(f"reward={reward!r}; allowed: {get_args(Reward)}")
    if window < 2 or not 0 <= momentum < 1:
        raise ValueError(
            f"window={window}, momentum={momentum}; allowed: window >= 2, 0 <= momentum < 1"
        )
    signs = np.where(np.asarray(higher_is_better, dtype=bool), -1, 1)
    available = base.available_options(choices)
    adam = optax.adam(learning_rate)

    def init(key: PRNGKey) -> Agent:
        logits = 1e-3 * jax.random.normal(key, available.shape)
        empty = jnp.full((window, len(signs)), jnp.nan, float)
        return Agent(logits, adam.init(logits), empty, Baseline(jnp.zeros(()), jnp.zeros(())))

    def propose(key: PRNGKey, state: SearchState, n: int) -> Int[Array, "n decisions"]:
        logits = jnp.where(available, state.inner.logits, -jnp.inf)
        return jax.random.categorical(key, logits, shape=(n, len(choices)))

    def advantage(
        carry: tuple[Float[Array, "W k"], Baseline], scores: Float[Array, " k"]
    ) -> tuple[tuple[Float[Array, "W k"], Baseline], Float[Array, ""]]:
        seen, baseline = push(carry[0], scores * signs), carry[1]
        value = _REWARDS[reward](seen)
        baseline, expected = update_baseline(baseline, value, momentum)
        return (seen, baseline), value - expected

    def learn(
        state: SearchState, architectures: Int[Array, "b d"], scores: Float[Array, "b k"]
    ) -> Agent:
        agent = state.inner
        start = (agent.window, agent.baseline)
        (seen, baseline), advantages = jax.lax.scan(advantage, start, scores)

        def loss(logits: Float[Array, "d o"]) -> Float[Array, ""]:
            return -(log_probability(logits, available, architectures) * advantages).mean()

        updates, optimiser = adam.update(jax.grad(loss)(agent.logits), agent.optimiser)
        logits = optax.apply_updates(agent.logits, updates)
        return Agent(logits, optimiser, seen, baseline)

    return history_searcher(
        "reinforce",
        choices,
        higher_is_better,
        max_evaluations,
        init=init,
        plan=lambda state: ("draw", batch),
        proposals={"draw": propose},
        learn=learn,
        best=partial(best_in_history, higher_is_better=higher_is_better, ranking=ranking),
    )
