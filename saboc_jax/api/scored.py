"""The scores of architectures, read from an evaluator, and their order."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from saboc_jax.api.results import Ranked, Score
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.examination import REFUSED, warnings_of
from saboc_jax.scorers.variants import what_ranks
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics import ranking as rankings
from saboc_jax.statistics import sureness
from saboc_jax.types import Architecture, Cost, Scorer, SearchSpace

UNKNOWN: Any = math.nan  # a cost of a network that cannot be run


def score_of(evaluator: Evaluator, arch: Architecture) -> Score:
    """Returns the scores of one architecture in every repeat."""
    space, scorer = evaluator.space, evaluator.scorer
    mask = architecture_to_mask(arch, max(space.choices))
    cost = _cost(space, arch)  # first: what asks for it while a program runs finds it known
    rows = [evaluator.score(mask, repeat) for repeat in range(evaluator.repeats)]
    flags = [
        str(value)
        for _, notes in rows
        for name, value in notes.items()
        if name.rpartition(".")[2] == "flag"
    ]
    return Score(
        space.to_string(arch),
        scorer.metrics,
        scorer.higher_is_better,
        np.stack([values for values, _ in rows]),
        flags[0] if flags else None,
        _checked(cost, space, arch, flags),
        rows[0][1],
        tuple(dict.fromkeys(each for _, notes in rows for each in warnings_of(notes))),
        f"{scorer.name}: a rank needs a set of candidates (rank, search)" * bool(scorer.ranking),
    )


def _cost(space: SearchSpace, arch: Architecture) -> Cost | None:
    """Returns the cost of an architecture; None: its network cannot be run."""
    try:
        return space.cost(arch)
    except Exception:  # a user's network may raise anything
        return None


def _checked(
    cost: Cost | None, space: SearchSpace, arch: Architecture, flags: Sequence[str]
) -> Cost:
    """Returns the cost; raises what is wrong with it, unless the architecture is refused."""
    if cost is not None:
        return cost
    return Cost(UNKNOWN, UNKNOWN, UNKNOWN) if REFUSED in flags else space.cost(arch)


def in_order(
    scorer: Scorer,
    scores: Sequence[Score],
    ranking: str | None = None,
    over: Sequence[tuple[str, ...]] = (),
) -> Ranked:
    """Returns scores of one scorer in order, the best first; see `functions.rank`.

    Args:
        scorer: its first metrics vote.
        scores: of each candidate.
        ranking: how they are added up; None: as the scorer says, else by Borda's count.
        over: the limits that each candidate exceeds, in words; (): there are none.
    """
    ranking = ranking or scorer.ranking or "borda"
    votes = scorer.votes
    values = np.stack([score.values for score in scores])[..., :votes]
    means = values.mean(1)
    how, directions = rankings.AGGREGATIONS[ranking], scorer.higher_is_better[:votes]
    order = np.asarray(rankings.best_first(means, directions, ranking=how))
    exceeds = [bool(over[i]) for i in order] if over else [False] * len(order)
    order = order[np.argsort(exceeds, kind="stable")]
    sure = sureness.of_order(values, directions, how, order, scores[order[0]].name)
    ranks, words = np.asarray(how(means, directions)), what_ranks(scorer, ranking)
    return Ranked(tuple(scores), ranking, ranks, order, words, tuple(over), *sure)
