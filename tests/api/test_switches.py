"""Scoring runs, and bad networks are flagged, whatever JAX's switches are (jax #24955, #18680)."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj


class Net(nn.Module):
    bias: float

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(2, (3, 3))(images)).mean((1, 2))
        return nn.Dense(3, bias_init=nn.initializers.constant(self.bias))(x)


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("jax_debug_nans", True),
        ("jax_debug_infs", True),
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_enable_x64", True),
        ("jax_default_matmul_precision", "highest"),
    ],
)
def test_a_bad_network_is_flagged_and_last_and_the_switch_stays(switch, value):
    images = np.random.default_rng(0).standard_normal((4, 6, 6, 1)).astype(np.float32)
    batch, before = sj.Batch(images, np.arange(4) % 3), getattr(jax.config, switch)
    jax.config.update(switch, value)
    try:
        ranked = sj.rank(
            [Net(np.nan), Net(0.0)], batch, jax.random.key(0), "grad_norm", repeats=1,
            progress=False,
        )  # fmt: skip
        assert getattr(jax.config, switch) == value
    finally:
        jax.config.update(switch, before)
    assert [score.flag for score in ranked.scores] == ["non_finite", None]
    assert ranked.order.tolist() == [1, 0]
