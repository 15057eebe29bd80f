"""Backbones of TransNAS-Bench-101 as data: texts and what the benchmark trained.

A backbone (Duan et al., 2021) is four to six modules of two residual blocks each. A module of type
2 or 4 doubles the channels, one of type 3 or 4 halves the image. An architecture is six choices;
the last two modules may be left out. The benchmark trained the 3,256 backbones that double the
channels one to three times and halve the image one to four times. Texts are tuples of types as in
published tables, "(1,2,3,4)"; the benchmark's own "64-1234-basic" is read as well, and zeros in the
place of modules that are left out.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.transnas.micro import whole_numbers
from saboc_jax.types import Architecture, Decisions

FEWEST, MOST = 4, 6  # modules
TYPES = {1: "plain", 2: "double", 3: "halve", 4: "double_halve"}
NAMES = tuple(TYPES.values())
CHOICES = (len(NAMES),) * FEWEST + (1 + len(NAMES),) * (MOST - FEWEST)
OPTION_NAMES = (NAMES,) * FEWEST + (("none", *NAMES),) * (MOST - FEWEST)
DOUBLINGS, HALVINGS = range(1, 4), range(1, 5)  # numbers that the benchmark trained


def modules(arch: Architecture) -> tuple[int, ...]:
    """Returns the types of the modules that there are."""
    options = list(map(int, check_architecture(arch, CHOICES)))
    types = [1 + option for option in options[:FEWEST]] + options[FEWEST:]
    return tuple(kind for kind in types if kind)


def trained_modules(arch: Architecture) -> tuple[int, ...]:
    """Returns the modules; ValueError if the benchmark trained no such backbone."""
    types = modules(arch)
    if not is_trained(types):
        raise ValueError(
            f"backbone {to_string(arch)} doubles the channels {_doublings(types)} and halves the "
            f"image {_halvings(types)} times; allowed: 1 to 3 and 1 to 4 times"
        )
    return types


def is_trained(types: tuple[int, ...]) -> bool:
    """Returns whether the benchmark trained a backbone of these modules."""
    return _doublings(types) in DOUBLINGS and _halvings(types) in HALVINGS


def _doublings(types: tuple[int, ...]) -> int:
    return sum(kind in (2, 4) for kind in types)


def _halvings(types: tuple[int, ...]) -> int:
    return sum(kind in (3, 4) for kind in types)


def to_string(arch: Architecture) -> str:
    """Writes the types of the modules, as in "(1,2,3,4)"."""
    return f"({','.join(map(str, modules(arch)))})"


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes, or the benchmark's own text.

    Raises:
        ValueError: if the text is malformed. A backbone that the benchmark has not is read.
    """
    own = re.fullmatch(r"64-([1-4]+)-basic", text.strip())
    types = list(map(int, own[1])) if own else whole_numbers(text)
    types = [kind for kind in types if kind]
    if not FEWEST <= len(types) <= MOST or not set(types) <= set(TYPES):
        raise ValueError(
            f"backbone {text!r}; allowed: four to six numbers from 1 to 4, as in (1,2,3,4) or "
            "64-1234-basic"
        )
    last = [*types[FEWEST:], 0, 0][: MOST - FEWEST]
    return np.array([*(kind - 1 for kind in types[:FEWEST]), *last], np.int32)


def is_connected(mask: Any) -> bool:
    """Returns whether the benchmark trained the backbone; True of a supernet.

    Args:
        mask: [6, 5] booleans or gates; non-zero entries are active.
    """
    active = np.asarray(mask) != 0
    if active.shape != (MOST, max(CHOICES)):
        raise ValueError(f"mask has shape {active.shape}; a backbone's mask has shape (6, 5)")
    if (active.sum(1) != 1).any():
        return bool(active.any(1).all())
    return is_trained(modules(active.argmax(1)))


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the modules as edges (source, target, type) between feature maps."""
    types = modules(arch)
    nodes = ["stem", *map(str, range(1, 1 + len(types)))]
    names = [TYPES[kind].replace("_", " and ") for kind in types]
    return list(zip(nodes[:-1], nodes[1:], names, strict=True))


DECISIONS = Decisions(
    choices=CHOICES,
    option_names=OPTION_NAMES,
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=CHOICES),
    canonical=to_string,
    is_connected=is_connected,
)
