"""A search of 1,000 steps compiles what one of 100 does, and its memory stays flat."""

import logging
import resource
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from saboc_jax.searchers import SEARCHERS
from saboc_jax.searching.run import run_search
from saboc_jax.searching.trajectory import Trajectory

CHOICES, DIRECTIONS = (5,) * 7, (False, True)
ONE_A_STEP = sorted(set(SEARCHERS) - {"pruning"})  # pruning has as many steps as options to remove
MOST_GROWTH = 40_000  # kB over 900 steps; REINFORCE once grew by 3,000 in each


class Toy:
    """An evaluator whose scores are sums over the chosen options."""

    def __init__(self):
        self.space = SimpleNamespace(choices=CHOICES)
        self.scorer = SimpleNamespace(metrics=("down", "up"), votes=2)
        self.repeats, self.stop = 1, None

    def evaluate(self, masks):
        worth = (np.asarray(masks) * np.arange(1.0, 36.0).reshape(7, 5)).sum((1, 2))
        return np.stack([worth, -(worth**2)], -1)[:, None]

    def score(self, mask, repeat):
        return self.evaluate(mask[None])[0, repeat], {}


class Programs(logging.Handler):
    """Counts compiled programs."""

    count = 0

    def emit(self, record):
        self.count += "Finished XLA compilation" in record.getMessage()


def options(name):
    small = {"batch": 1, "population_size": 8, "tournament": 4}
    known = SEARCHERS[name].__kwdefaults__
    steps = {"max_evaluations": 4000 if name == "local" else 1000}  # 28 neighbours a step
    return steps | {key: value for key, value in small.items() if key in known}


@pytest.mark.parametrize("name", ONE_A_STEP)
def test_neither_programs_nor_memory_grow_with_the_steps(name):
    programs, seen = Programs(), []
    searcher = SEARCHERS[name](CHOICES, DIRECTIONS, **options(name))
    trajectory = Trajectory(None, DIRECTIONS)

    def told(history, best):
        if len(history) % 10 == 0:
            trajectory.update(history, best())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seen.append((programs.count, len(jax.live_arrays()), peak))

    logger = logging.getLogger("jax")
    logger.addHandler(programs)
    try:
        with jax.log_compiles():
            run_search(searcher, Toy(), jax.random.key(0), on_told=told)
    finally:
        logger.removeHandler(programs)
    # The last step may be cut off at the number of evaluations, which is another program.
    (early, arrays, before), (late, arrays_late, after) = seen[len(seen) // 10], seen[-2]
    assert 0 < early == late
    assert arrays_late <= arrays + 8
    assert after - before < MOST_GROWTH
