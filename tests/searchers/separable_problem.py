"""Problems and a driver for the tests of search methods."""

import jax
import numpy as np

DIRECTIONS = (False, True, False)


def separable(choices, seed=0):
    """A scorer whose metrics agree: increasing functions of one sum over decisions.

    Takes masks [b, d, o] of architectures or supernets; gives scores [b, 1, k], and so has one
    optimum, `optimum(choices, seed)`.
    """
    worth = _worth(choices, seed)
    signs = np.where(DIRECTIONS, 1, -1)

    def score(masks):
        masks = np.asarray(masks)
        total = ((worth * masks).sum(-1) / masks.sum(-1)).sum(-1)
        return np.stack([total, np.exp(total / 10), 3 * total + 7], -1)[:, None] * signs

    return score


def _worth(choices, seed):
    return np.random.default_rng(seed).uniform(1, 2, size=(len(choices), max(choices)))


def optimum(choices, seed=0):
    worth = _worth(choices, seed)
    return [int(row[:n].argmax()) for row, n in zip(worth, choices, strict=True)]


def worth_of(arch, choices, seed=0):
    return _worth(choices, seed)[np.arange(len(choices)), np.asarray(arch)].sum()


def run(searcher, score, key, *, state=None, step=0, steps=None):
    """Asks, scores and tells to the end, or `steps` steps; gives (asked masks, state, step)."""
    state = searcher.init(key) if state is None else state
    asked = []
    while not searcher.done(state) and (steps is None or len(asked) < steps):
        masks, state = searcher.ask(jax.random.fold_in(key, step), state)
        state = searcher.tell(state, masks, score(masks))
        asked.append(np.asarray(masks))
        step += 1
    return asked, state, step
