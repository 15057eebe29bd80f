"""Scorers of structure: of the network that will be trained, exact, and read from any module."""

import jax
import numpy as np
from flax import linen as nn

import saboc_jax as sj
from saboc_jax.precision import enable_x64
from saboc_jax.scorers.combine import combine
from saboc_jax.scorers.structure import PATHS, structure_of
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"


def values(space, arch):
    scorer = combine([sj.make_scorer(name, space) for name in ("paths", "activations")])
    gates = space.gates(architecture_to_mask(arch, max(space.choices)))
    with enable_x64():
        return np.asarray(scorer.score(jax.random.key(0), gates, None)[0]), scorer


def test_they_are_the_formula_to_the_last_digit_at_any_size_of_the_scoring_network():
    spaces = [sj.make_space("nas_bench_201", channels=c, num_cells=c) for c in (2, 3)]
    arch = spaces[0].from_string(CELL)
    expected = spaces[0].costs.structure(arch)
    assert expected.pool_free == 2.0**15 and expected.live_params > 1e5
    for space in spaces:
        found, scorer = values(space, arch)
        assert found.tolist() == [
            float(getattr(expected, m.partition(".")[2] or m)) for m in scorer.metrics
        ]
    assert scorer.metrics == (*(f"paths.{name}" for name in PATHS), "activations")
    mask = np.ones((6, 5), bool)
    assert np.isnan(np.asarray(scorer.score(None, space.gates(mask), None)[0])).all()


class Net(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for _ in range(self.depth):
            x = x + nn.Conv(4, (3, 3))(nn.relu(nn.BatchNorm(use_running_average=False)(x)))
        return nn.Dense(10)(x.mean((1, 2)))


def test_any_module_has_a_structure_by_its_program():
    space = module_space([Net(1), Net(3)], image_shape=(8, 8, 3))
    found = [structure_of(space, [option]) for option in (0, 1)]
    assert [each.longest for each in found] == [3, 5]
    assert [each.mean for each in found] == [2.5, 3.5]
    assert [each.pool_free for each in found] == [2, 8]
    assert [each.live_params for each in found] == [space.cost([i]).params for i in (0, 1)]
    assert found[1].activations == 4 * 4 * 64 + 10
    assert found[1].volume == 4 * 2 + np.log2(10)


def test_scorers_of_a_space_read_a_program_once_for_all():
    made = []

    class Counted(Net):
        def __post_init__(self):
            super().__post_init__()
            made.append(self.depth)

    space = module_space([Counted(1), Counted(2)], image_shape=(8, 8, 3))
    values(space, [1])
    once = len(made)
    values(space, [1])
    assert len(made) == once
