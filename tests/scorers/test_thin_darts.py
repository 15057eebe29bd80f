"""TE-NAS's thin network of DARTS: the supernet's program gives what the plain module gives."""

import jax
import numpy as np
from other_programs import in_double, plain

from saboc_jax.ntk.network import bind
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.scorers.te_nas import linear_regions, thin_space
from saboc_jax.spaces.darts.space import darts
from saboc_jax.spaces.masks import sample_architectures

SHAPE = (4, 4, 3)


def test_linear_regions_of_the_thin_network():
    with enable_x64():
        thin = in_double(thin_space(darts(2, 1, 3, SHAPE)))
        arch = sample_architectures(jax.random.key(5), thin.choices, 1)[0]
        crops = jax.random.normal(jax.random.key(1), (40, 3, 3, 1), float)

        def look(space, variables):
            network = bind(space, variables, space.gates(arch))
            features = space.apply(variables, space.gates(arch), crops)[0]
            return linear_regions(network, crops), features

        # Weights are float32: drawn within two programs they would be equal to its rounding.
        (ours, features), (theirs, same) = (
            jax.jit(look, static_argnums=0)(space, draw_weights(space, jax.random.key(2)))
            for space in (thin, plain(thin, arch))
        )
        assert 1 < ours == theirs
        assert features.shape == (40, 2, 2, 8)  # C = 1, doubled in the reduction cell
        np.testing.assert_allclose(features, same, rtol=1e-9, atol=1e-12)
        assert make_scorer("te_nas", darts(2, 1, 3, SHAPE)).metrics
