"""Isomorphic architectures share the score of the representative of their class.

Every edge of the scoring network has its own weights, so two isomorphic cells, which are the
same family of functions, get two different draws of one random score. Scoring only one of them
loses nothing and saves an evaluation. The choice must not depend on which one the search saw
first, or a resumed search would differ: we take the first of the class in lexicographic order.

A class here is the space's `canonical` text and the cost. The benchmark's own isomorphism merges
cells with different parameters: cells with edges out of a dead node, and a cell that uses one
convolution twice with a cell that has two. Of the 6,466 classes of NAS-Bench-201, 578 hold cells
of different cost; with the cost there are 7,700 classes, and cost metrics (AZ-NAS has one)
stay exact.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from saboc_jax.types import Architecture, SearchSpace

LARGEST = 1 << 18  # largest number of architectures to enumerate


def distinct(space: SearchSpace, by_cost: bool = False) -> Int[np.ndarray, "n decisions"]:
    """Returns the first architecture of every class, in lexicographic order.

    Args:
        space: the search space.
        by_cost: True: classes by text and cost, as in `representatives`; False: by the
            `canonical` text alone.

    Raises:
        ValueError: if the space has more than `LARGEST` architectures.
    """
    total = math.prod(space.choices)
    if total > LARGEST:
        raise ValueError(f"{space.name} has {total} architectures; allowed: at most {LARGEST}")
    class_of = partial(_class_of, space) if by_cost else space.canonical
    return np.stack(list(_first_of_each(space, class_of).values()))


def representatives(space: SearchSpace) -> Callable[[Architecture], Architecture]:
    """Returns a function from an architecture to the representative scored in its place.

    The classes are found by enumeration; in a space of more than `LARGEST` architectures each
    architecture represents itself.
    """
    if math.prod(space.choices) > LARGEST:
        return lambda arch: np.asarray(arch)

    first = _first_of_each(space, partial(_class_of, space))
    return lambda arch: first[_class_of(space, np.asarray(arch, np.int32))]


def _class_of(space: SearchSpace, arch: Architecture) -> Any:
    return space.canonical(arch), tuple(space.cost(arch))


def _first_of_each(
    space: SearchSpace, class_of: Callable[[Architecture], Any]
) -> dict[Any, Architecture]:
    """Maps every class to its first architecture in lexicographic order."""
    first: dict[Any, Architecture] = {}
    for options in itertools.product(*map(range, space.choices)):
        arch = np.array(options, np.int32)
        first.setdefault(class_of(arch), arch)
    return first
