"""Paths of a network from its input to its output, as a graph of parts in series and side by side.

A `Flow` counts the paths from the input to a point of the network. Parts in series add their
convolutions to every path; where branches meet, their paths add up. So the number of paths grows
exponentially with depth, but their number, their mean and their longest are sums and products
along the graph.

Convolutions stands for all layers that multiply by weights: convolutions and dense layers.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from saboc_jax.types import Structure


class Flow(NamedTuple):
    """All paths from the input to a point.

    Attributes:
        paths: their number.
        pool_free: how many of them pass no pooling.
        layers: convolutions on them, added over all paths.
        longest: most convolutions on one of them.
        run: most convolutions since branches were concatenated.
        chain: the largest `run` so far.
    """

    paths: int
    pool_free: int
    layers: int
    longest: int
    run: int = 0
    chain: int = 0

    def through(self, layers: int = 1, pooled: bool = False) -> "Flow":
        """Returns the flow after so many convolutions in series, or a pooling."""
        free, run = 0 if pooled else self.pool_free, self.run + layers
        more = self.layers + layers * self.paths
        return Flow(self.paths, free, more, self.longest + layers, run, max(self.chain, run))

    def beside(self, other: "Flow") -> "Flow":
        """Returns the flow where two branches meet."""
        return Flow(
            self.paths + other.paths,
            self.pool_free + other.pool_free,
            self.layers + other.layers,
            max(self.longest, other.longest),
            max(self.run, other.run),
            max(self.chain, other.chain),
        )

    def gathered(self) -> "Flow":
        """Returns the flow after branches are concatenated, where a run begins."""
        return self._replace(run=0)


MOST_PATHS = 2**1000  # more are counted as so many: a float holds no more
START = Flow(1, 1, 0, 0)


class Part(NamedTuple):
    """A part of a network between two points, which are numbered in the order of computation.

    Attributes:
        source: the point that it reads.
        target: the point that it adds to; larger than `source`.
        widths: output features of its convolutions and dense layers, which are in series.
        params: trainable parameters, with those of norms and biases.
        activations: outputs of its convolutions and dense layers for one image.
        pooled: whether it is a pooling.
        gathered: whether it ends in a concatenation with others.
    """

    source: int
    target: int
    widths: tuple[int, ...] = ()
    params: int = 0
    activations: int = 0
    pooled: bool = False
    gathered: bool = False


def structure_of(parts: Iterable[Part], output: int) -> Structure:
    """Returns the structure of a network from point 0 to its output.

    Args:
        parts: all parts.
        output: the last point.
    """
    parts = sorted(parts, key=lambda part: part.target)
    flows = {0: START}
    for part in parts:
        if part.source in flows:
            flow = flows[part.source].through(len(part.widths), part.pooled)
            flow = flow.gathered() if part.gathered else flow
            before = flows.get(part.target)
            flows[part.target] = flow if before is None else before.beside(flow)
    everything = sum(part.params for part in parts)
    if output not in flows:
        return summary(None, 0, 0, (), everything)
    reaches, params, activations = {output}, 0, 0
    widths: list[int] = []
    for part in reversed(parts):
        if part.source in flows and part.target in reaches:
            reaches.add(part.source)
            params, activations = params + part.params, activations + part.activations
            widths += part.widths
    return summary(flows[output], params, activations, widths, everything)


def summary(
    flow: Flow | None, live_params: int, activations: int, widths: Iterable[int], params: int
) -> Structure:
    """Returns the structure of a network by the flow at its output; None: no path reaches it."""
    if flow is None:
        return Structure(0, 0.0, 0.0, 0, 0, 0.0, 0, params)
    mean = flow.layers / flow.paths  # of integers of any size
    free = float(min(flow.pool_free, MOST_PATHS))
    # A correctly rounded sum does not depend on the order of layers.
    volume = math.fsum(count * math.log2(width) for width, count in Counter(widths).items())
    sizes = (live_params, activations, volume)
    return Structure(flow.longest, mean, free, *sizes, flow.chain, params)
