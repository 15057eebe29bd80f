"""The macro network: gated equals specialised, one program, and the benchmark's own logits."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from saboc_jax.layers import ops
from saboc_jax.layers import rules as layers
from saboc_jax.precision import enable_x64
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import mask_to_gates, sample_architectures
from saboc_jax.spaces.nas_bench_201 import cells as nas_bench_201_cells
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state

DEAD = "|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"


def to_double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


@pytest.fixture(scope="module")
def two_cells():
    """A space with N=2, weights away from their initial values, and its compiled program."""
    with enable_x64():
        space = nas_bench_201(2, 2, 3, (8, 8, 3))
        leaves, structure = jax.tree.flatten(to_double(space.init(jax.random.key(0))))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [
            leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        variables = jax.tree.unflatten(structure, leaves)
        traces = []

        def run(gates, x):
            traces.append(1)
            return space.apply(variables, gates, x)[0]

        yield space, variables, jax.jit(run), traces


def test_gated_equals_specialised_and_is_traced_once(two_cells):
    space, variables, run, traces = two_cells
    with enable_x64():
        x = jax.random.normal(jax.random.key(2), (3, 8, 8, 3), jnp.float64)
        cells = [space.from_string(DEAD), *sample_architectures(jax.random.key(3), (5,) * 6, 5)]
        for arch in cells:
            module = space.specialise(arch)
            theirs = module.apply(space.extract(variables, arch), x, train=True)
            np.testing.assert_allclose(run(space.gates(arch), x), theirs, rtol=1e-12, atol=1e-12)
        assert len(traces) == 1


def test_a_supernet_averages_its_operations(two_cells):
    """One edge open: the cell's output there is the mean of the operations' outputs."""
    space, _, _, _ = two_cells
    mask = np.zeros((6, 5), bool)
    mask[0, [1, 4]] = True  # skip and pool share the first edge
    mask[4, 1] = True  # node 1 is the output
    mask[[1, 2, 3, 5], 0] = True
    gates = mask_to_gates(mask)
    np.testing.assert_allclose(gates[0], [0, 0.5, 0, 0, 0.5])
    with enable_x64():
        x = jax.random.normal(jax.random.key(2), (2, 8, 8, 2), jnp.float64)
        from saboc_jax.spaces.nas_bench_201.space import _run_cell

        params = {
            label: jax.tree.map(lambda leaf: leaf[0], value)
            for label, value in to_double(space.init(jax.random.key(0))["params"]).items()
            if label.startswith("cells_0_")
        }
        y, _ = _run_cell("cells_0", 2, gates, (), x, ({"params": params, "batch_stats": {}}, {}))
        np.testing.assert_allclose(y, (x + ops.average_pool(x)) / 2, rtol=1e-6)


def test_the_program_does_not_grow_with_the_number_of_cells():
    def equations(num_cells):
        space = nas_bench_201(2, num_cells, 3, (8, 8, 3))
        variables = jax.eval_shape(space.init, jax.random.key(0))
        run = lambda v, g, x: space.apply(v, g, x)[0]  # noqa: E731
        shapes = (
            jax.ShapeDtypeStruct((6, 5), jnp.float32),
            jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
        )
        return str(jax.make_jaxpr(run)(variables, *shapes)).count(" = ")

    assert equations(1) == equations(5)


def golden_file():
    folder = os.environ.get("SABOC_GOLDEN_DIR")
    if not folder:
        pytest.skip("SABOC_GOLDEN_DIR is unset: no golden values to compare with")
    with np.load(os.path.join(folder, "nas_bench_201_c4n1.npz")) as archive:
        return dict(archive)


def state_of(golden, index):
    prefix = f"{index}/w/"
    return {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in golden.items()
        if name.startswith(prefix)
    }


def test_golden_logits_and_what_is_wrong_with_a_state_dict(tmp_path):
    golden = golden_file()
    meta = json.loads(str(golden["meta"]))
    with enable_x64():
        space = nas_bench_201(meta["C"], meta["N"], meta["num_classes"])
        x = jnp.asarray(golden["x1"], jnp.float64)
        run = jax.jit(lambda v, g: space.apply(v, g, x)[0])
        for index, net in meta["nets"].items():
            arch = space.from_string(net["arch"])
            np.savez(tmp_path / "w.npz", **state_of(golden, index))
            logits = run(load_torch_state(space, arch, tmp_path / "w.npz"), space.gates(arch))
            np.testing.assert_allclose(logits, golden[f"{index}/logits"], rtol=1e-9, atol=1e-12)
        state = state_of(golden, "0")
        arch = space.from_string(meta["nets"]["0"]["arch"])
        less = {k: v for k, v in state.items() if k != "classifier.bias"}
        with pytest.raises(ValueError, match=r"has no 'classifier\.bias'"):
            load_torch_state(space, arch, less)
        with pytest.raises(ValueError, match="extra"):
            load_torch_state(space, arch, {**state, "extra": np.zeros(2)})
        with pytest.raises(ValueError, match="other channels or classes"):
            load_torch_state(nas_bench_201(meta["C"], meta["N"], 7), arch, state)


def test_parameters_are_those_of_the_formula():
    space = nas_bench_201(4, 2, 10, (8, 8, 3))
    for arch in sample_architectures(jax.random.key(5), (5,) * 6, 4):
        module = space.specialise(arch)
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        assert counted == space.cost(arch).params
        assert counted == nas_bench_201_cells.cost(arch, 4, 2, 10, (8, 8, 3)).params


def test_initial_weights_have_the_declared_variance():
    for init, scale in (("kaiming_normal_fan_in", 2 / 144), ("torch_default", 1 / 144 / 3)):
        params = nas_bench_201(16, 3, 10, (8, 8, 3), init).init(jax.random.key(0))["params"]
        kernel = params["cells_0_nor_conv_3x3"]["conv"]["conv"]["kernel"]
        assert kernel.shape == (3, 6, 3, 3, 16, 16)
        np.testing.assert_allclose(np.var(kernel), scale, rtol=0.05)
        assert len(np.unique(kernel)) > 0.99 * kernel.size  # every edge has its own
    with pytest.raises(ValueError, match="xavier"):
        nas_bench_201(init="xavier")


@pytest.mark.parametrize(("options", "said"), [
    ({"channels": 0}, "channels=0"),
    ({"num_cells": -1}, "num_cells=-1"),
    ({"image_shape": (30, 30, 3)}, "multiples of 4"),
    ({"width": 3}, "width"),
])  # fmt: skip
def test_bad_sizes_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        make_space("nas_bench_201", **options)


def test_average_pool_counts_only_real_pixels():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = ops.average_pool(x)[0, :, :, 0]
    np.testing.assert_allclose(y[0, 0], (0 + 1 + 4 + 5) / 4)
    np.testing.assert_allclose(y[1, 1], 5.0)
    np.testing.assert_allclose(y[0, 1], (0 + 1 + 2 + 4 + 5 + 6) / 6)
    np.testing.assert_allclose(ops.average_pool(x, 2, 2)[0, 0, 0, 0], (0 + 1 + 4 + 5) / 4)


def test_padding_is_on_both_sides_at_stride_two():
    module = ops.Conv(1, 3, 2)
    variables = {"params": {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}}}
    y = module.apply(variables, jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    np.testing.assert_allclose(
        y,
        [
            [0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7],
            [4 + 5 + 8 + 9 + 12 + 13, 5 + 6 + 7 + 9 + 10 + 11 + 13 + 14 + 15],
        ],
    )


def test_batch_norm_modes():
    x = jax.random.normal(jax.random.key(0), (6, 2, 2, 3))
    module = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
    variables = module.init(jax.random.key(1), x)
    only = {"params": variables["params"]}

    def run(mode, number=None, given=only, **options):
        with nn.intercept_methods(layers.batch_norm_rule(mode, number)):
            return module.apply(given, x, **options)

    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) * lax.rsqrt(var + 1e-5)
    np.testing.assert_allclose(run("batch"), expected, atol=1e-5)
    frozen, state = run("frozen", 4, mutable=["batch_stats"])
    np.testing.assert_allclose(state["batch_stats"]["mean"], x[:4].mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(run("stored", given={**only, **state}), frozen, atol=1e-6)
    with pytest.raises(ValueError, match="running"):
        layers.batch_norm_rule("running")
