"""Prints by how much of its largest entry a compiled kernel alone differs from it beside others.

A program for `test_single_kernel`, at the sizes of a real search. Its argument is `together`, with
a convolution and its norm as one layer, or `apart`, as two, as in anybody's module.
"""

import sys

import jax
import numpy as np

from saboc_jax.ntk import taps
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.scorers.kernels import Kernels
from saboc_jax.spaces import make_space
from saboc_jax.types import Batch


def main(layers):
    if layers == "apart":
        taps._tapped_conv_norm = lambda *args: None
    space = make_space("nas_bench_201", channels=4, num_cells=1, num_classes=100)
    cell = space.from_string(
        "|avg_pool_3x3~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|avg_pool_3x3~0|none~1|none~2|"
    )
    key = jax.random.key(1)  # at key 0 rounding decides the sign of a ReLU's input
    images = jax.random.normal(key, (64, 32, 32, 3))
    batch = Batch(images, labels=None, test_images=images[:8] + 0.1)
    alone = Kernels(space, NTKOptions())
    beside = Kernels(space, NTKOptions(), ("test_images",))
    one = jax.jit(lambda key, gates, batch: alone(key, gates, batch)["images"])
    two = jax.jit(lambda key, gates, batch: beside(key, gates, batch)["images"])
    ours, theirs = (np.asarray(run(key, space.gates(cell), batch)) for run in (one, two))
    print(float(np.abs(ours - theirs).max() / np.abs(theirs).max()))


if __name__ == "__main__":
    main(sys.argv[1])
