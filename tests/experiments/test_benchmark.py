"""The benchmark's arithmetic: turns, ratios, exponents, counted work and memory."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from experiments import scaling
from experiments.benchmarking import costs as benchmark_costs
from experiments.benchmarking import timing as benchmark_timing
from experiments.benchmarking.contestants import Case, Contestant, Prepared
from saboc_jax.layers.ops import Relu
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


def test_contestants_take_turns_and_few_cells_get_ratios_of_their_own(monkeypatch):
    """A clock that only contestants move: seconds and ratios are known."""
    now, log = [0.0], []
    monkeypatch.setattr(
        benchmark_timing, "CLOCKS", {"wall": lambda: now[0], "cpu": lambda: 2 * now[0]}
    )

    def contestant(name, seconds, few=False):
        def run(case):
            log.append((name, case))
            now[0] += seconds[case]

        return Contestant(lambda case: Prepared(lambda: run(case), case + 1.0), name, few)

    people = {
        "base": contestant("base", [1.0, 9.0]),
        "same": contestant("same", [2.0, 18.0]),
        "slow": contestant("slow", [7.0, None], few=True),
    }
    first = {}
    times = benchmark_timing.measure([0, 1], people, 2, 1, first)
    assert set(first) == set(people)
    assert [name for name, case in log if case == 0] == [
        "base", "same", "slow", "same", "slow", "base",
    ]  # fmt: skip
    assert [name for name, case in log if case == 1] == ["base", "same", "same", "base"]
    rows = benchmark_timing.summarise(times, "base")
    assert rows["base"]["run s"] == 5 and rows["base"]["cpu s"] == 10
    assert rows["same"]["wall ratio"] == rows["same"]["cpu ratio q3"] == 2
    assert rows["slow"]["cells"] == 1 and rows["slow"]["wall ratio"] == 7  # not 7 / 5
    assert rows["same"]["programs"] == 2 and rows["same"]["compile s"] == 1.5


def test_exponents_of_a_power_law():
    sizes = np.array([2.0, 4.0, 8.0, 16.0])
    found = scaling.fit(sizes, 3 * sizes**1.7)
    assert found["exponent"] == pytest.approx(1.7) and found["r2"] == pytest.approx(1)
    points = [{"size": s, "run s": s**2, "compile s": 5.0} for s in sizes]
    found = scaling.fits(points)
    assert found["run s"]["exponent"] == pytest.approx(2)
    assert found["compile s"]["exponent"] == pytest.approx(0, abs=1e-12)
    assert "supernet s" not in found


@pytest.fixture(scope="module")
def case():
    space = nas_bench_201(4, 2, 3, (8, 8, 3))
    arch = space.from_string(CELL)
    variables = jax.eval_shape(space.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((5, 8, 8, 3), np.float32)
    return Case(space, arch, space.gates(arch), variables, images, 4, 2, 1)


def test_activations_are_what_the_layers_of_the_module_write(case):
    """Against the outputs that Flax captures, by shapes alone; pools are functions there."""
    module = case.space.specialise(case.arch)

    kinds = (nn.Conv, nn.BatchNorm, Relu)

    def layers(key, images):
        chosen = lambda m, name: isinstance(m, kinds) and name == "__call__"  # noqa: E731
        variables = module.init(key, images)
        return module.apply(variables, images, capture_intermediates=chosen, mutable=True)[1]

    state = jax.eval_shape(layers, jax.random.key(0), case.images)["intermediates"]
    # A batch norm's call calls that of Flax's: the last of its captures is the layer's output.
    calls = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, tuple))
    written = sum(call[-1].size for call in calls)
    pools = 5 * (2 * 4 * 64 + 2 * 8 * 16 + 2 * 16 * 4 + 4 * 16 + 8 * 4)
    ours = benchmark_costs.activation_bytes(case.gates, 4, 2, (8, 8, 3), 5)
    assert ours == 4 * (written + pools)


def test_work_is_three_passes_and_a_gram_matrix(case):
    cost = case.space.cost(case.arch)
    assert benchmark_costs.ntk_flops(case) == 2 * (3 * 5 * cost.macs + 25 * cost.params)
