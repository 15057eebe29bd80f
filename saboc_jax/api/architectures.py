"""`saboc_jax.read_architecture`: texts and numbers of architectures, whoever wrote them."""

import os
from typing import Any

import numpy as np

from saboc_jax.benchmarks.indices import architecture_of, has_indices
from saboc_jax.spaces import make_space
from saboc_jax.spaces.notations import read_notation, tidy
from saboc_jax.types import Architecture, SearchSpace, brief


def read_architecture(
    given: Any,
    space: SearchSpace | str,
    notation: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> Architecture:
    """Reads an architecture as a benchmark, a paper or another library writes it.

    Args:
        given: a text (the space's own, one of the benchmark's table, `Structure(...)`,
            `Genotype = Genotype(...)`, ...); numbers, one option per decision; one number, the
            benchmark's index; or an object that prints like a text that is read.
        space: a space, or its name.
        notation: the name of a notation, one of `space.decisions.notations` or "index"; None: as
            the text looks. Numbers of NASLib look like ours, so they are read as NASLib's only by
            "naslib".
        data_dir: folder of the benchmark's table, which an index needs; None: as for data.

    Returns:
        [decisions] the option of each decision.

    Raises:
        ValueError: in one sentence: what is wrong, with an example of what is read.

    Examples:
        >>> import saboc_jax as sj
        >>> cell = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
        >>> sj.read_architecture(f"Structure(4 nodes with {cell})", "nas_bench_201").tolist()
        [0, 0, 0, 1, 0, 3]
        >>> sj.read_architecture((1, 1, 0, 1, 1, 2), "nas_bench_201", "naslib").tolist()
        [0, 0, 0, 1, 0, 3]
    """
    space = make_space(space) if isinstance(space, str) else space
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space={brief(space)}; allowed: a SearchSpace or the name of one")
    text = tidy(given) if isinstance(given, str) else _number(given)
    if notation == "index" or (notation is None and text.isdecimal() and has_indices(space)):
        return architecture_of(text or repr(given), space, data_dir)
    return read_notation(given, space, notation)


def _number(given: Any) -> str:
    """Returns a single whole number as text; "": it is something else."""
    single = isinstance(given, int | np.integer) and not isinstance(given, bool)
    return str(int(given)) if single else ""
