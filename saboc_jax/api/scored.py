"""The scores of one architecture, read from an evaluator."""

import numpy as np

from saboc_jax.api.results import Score
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.examination import warnings_of
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture


def score_of(evaluator: Evaluator, arch: Architecture) -> Score:
    """Returns the scores of one architecture in every repeat."""
    space, scorer = evaluator.space, evaluator.scorer
    mask = architecture_to_mask(arch, max(space.choices))
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
        space.cost(arch),
        rows[0][1],
        tuple(dict.fromkeys(each for _, notes in rows for each in warnings_of(notes))),
        f"{scorer.name}: a rank needs a set of candidates (rank, search)" * bool(scorer.ranking),
    )
