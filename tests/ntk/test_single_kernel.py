"""The compiled float32 kernel of one batch alone, at the sizes of a real search.

XLA on the CPU has fused the product of a matrix with its own transpose into a program that
reads memory it never wrote: right in float64, right at small sizes, right beside other rows.
"""

import jax
import numpy as np
import pytest

from saboc_jax.ntk import one_backward
from saboc_jax.ntk.empirical import NTKOptions
from saboc_jax.scorers.base import Kernels
from saboc_jax.spaces import make_space
from saboc_jax.types import Batch


@pytest.mark.parametrize("layers", ["together", "apart"])
def test_a_kernel_alone_is_the_kernel_beside_other_rows(layers, monkeypatch):
    """With a convolution and its norm as one layer, and as two, as in anybody's module."""
    if layers == "apart":
        monkeypatch.setattr(one_backward, "_tapped_conv_norm", lambda *args: None)
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
    arguments = key, space.gates(cell), batch
    scale = np.abs(two(*arguments)).max()
    np.testing.assert_allclose(one(*arguments), two(*arguments), atol=1e-5 * float(scale))
