"""The cost of the network that a benchmark trained, whatever network is scored."""

from typing import Any

from saboc_jax.spaces import make_space
from saboc_jax.spaces.notations import read_notation
from saboc_jax.types import Cost, SearchSpace


def trained_cost(arch: Any, space: SearchSpace | str) -> Cost:
    """Returns the cost of the network whose accuracies are published.

    It is that of the benchmark's own channels, cells, pixels and classes (CIFAR-10's, where a
    benchmark has several data sets), and does not depend on the size of the scoring network. A
    space of the user's own modules has one network for both.

    Args:
        arch: an architecture [decisions], or what `saboc_jax.read_architecture` reads but indices.
        space: a search space or its name.

    Raises:
        ValueError: if the space does not know the text or has no such network.

    Examples:
        >>> import saboc_jax as sj
        >>> sj.trained_cost("00000000", "nas_bench_macro")
        Cost(params=387882, macs=7713280, depth=6)
    """
    found = make_space(space) if isinstance(space, str) else space
    return (found.costs.trained or found.costs.of)(read_notation(arch, found))
