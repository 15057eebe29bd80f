"""The macro network by hand: statistics, supernet, initial weights, loading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.layers.tree import flatten
from saboc_jax.spaces.nas_bench_201.space import layers_per_leaf, nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state

SKIP = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"


def normalised(x, params):
    """Batch norm with the statistics of the batch, by NumPy."""
    x = np.asarray(x)
    y = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    return y * params["norm"]["norm"]["scale"] + params["norm"]["norm"]["bias"]


def convolved(x, kernel, stride=1):
    """A padded convolution, by NumPy."""
    kernel = np.asarray(kernel)
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    height, width = ((size - k) // stride + 1 for size in x.shape[1:3])
    y = 0.0
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            y = y + x[:, rows, columns] @ kernel[i, j]
    return y


def relu_conv_norm(x, params, stride=1):
    return normalised(convolved(np.maximum(x, 0), params["conv"]["conv"]["kernel"], stride), params)


def pooled_by_two(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def macro_network(params, x, cell):
    """The whole network by NumPy, for one function in place of its cells."""
    y = normalised(convolved(x, params["stem"]["conv"]["conv"]["kernel"]), params["stem"])
    for stage in range(3):
        if stage:
            block = params[f"reduction_{stage}"]
            z = relu_conv_norm(relu_conv_norm(y, block["conv_a"], 2), block["conv_b"])
            y = z + convolved(pooled_by_two(y), block["shortcut"]["conv"]["kernel"])
        y = cell(stage, y)
    y = np.maximum(normalised(y, params["head"]), 0).mean((1, 2))
    last = params["head"]["classifier"]
    return y @ np.asarray(last["kernel"]) + np.asarray(last["bias"])


@pytest.fixture(scope="module")
def tiny():
    """A tiny space in double precision, and its compiled program."""
    space = nas_bench_201(2, 1, 3, (8, 8, 3))
    run = jax.jit(lambda v, g, x: space.apply(v, g, x)[0])
    return space, run


def double(variables, seed=1):
    """Variables in float64, moved away from their initial values."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(structure, [
        leaf + 0.3 * jax.random.normal(key, leaf.shape, jnp.float64)
        for key, leaf in zip(keys, leaves, strict=True)
    ])  # fmt: skip


def test_without_rules_the_batch_gives_the_statistics(tiny, x64):
    """Against the whole network in NumPy, whose cells pass their input on."""
    space, run = tiny
    variables = double(space.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(2), (3, 8, 8, 3), jnp.float64)
    ours = run(variables, space.gates(space.from_string(SKIP)), x)
    expected = macro_network(variables["params"], np.asarray(x), lambda stage, y: y)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(run(variables, space.gates(space.from_string(SKIP)), x[:2]) - ours[:2]).max() > 0


def test_a_supernet_is_the_mean_of_operations_in_the_whole_network(tiny, x64):
    space, run = tiny
    variables = double(space.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(2), (3, 8, 8, 3), jnp.float64)
    mask = np.zeros((6, 5), bool)
    mask[:, 0] = True  # none, but for the edge from the input to the output
    mask[3] = [False, True, True, True, False]

    def cell(stage, y):
        ops = [
            relu_conv_norm(
                y,
                jax.tree.map(lambda leaf: leaf[0, 3], variables["params"][f"cells_{stage}_{name}"]),
            )
            for name in ("nor_conv_1x1", "nor_conv_3x3")
        ]
        return (y + sum(ops)) / 3

    expected = macro_network(variables["params"], np.asarray(x), cell)
    # Gates are float32: a third is one only to that.
    np.testing.assert_allclose(run(variables, space.gates(mask), x), expected, rtol=1e-5, atol=1e-6)


def test_every_layer_starts_at_its_variance():
    params = nas_bench_201(16, 2, 10, (32, 32, 3)).init(jax.random.key(0))["params"]
    for path, leaf in flatten(params).items():
        layers_shape = leaf.shape[layers_per_leaf(path) :]
        if path[-1] == "kernel":
            expected = 2 / np.prod(layers_shape[:-1])
            spread = 5 * np.sqrt(2 / leaf.size)  # five standard errors of a variance
            np.testing.assert_allclose(np.var(leaf), expected, rtol=spread, err_msg=str(path))
            assert abs(np.mean(leaf)) < 5 * np.sqrt(expected / leaf.size)
        else:
            np.testing.assert_array_equal(leaf, 1.0 if path[-1] == "scale" else 0.0)


def state_of(golden, index):
    prefix = f"{index}/w/"
    return {k.removeprefix(prefix): v for k, v in golden[0].items() if k.startswith(prefix)}


@pytest.mark.parametrize("swap", [("1x1", "3x3"), ("3x3", "1x1")])
def test_weights_of_another_cell_are_refused(golden, swap):
    """A 1x1 kernel would fit into a 3x3 one by broadcasting."""
    meta = golden[1]
    space = nas_bench_201(meta["C"], meta["N"], meta["num_classes"])
    text = meta["nets"]["0"]["arch"]
    other = text.replace(*swap)
    assert other != text
    load_torch_state(space, space.from_string(text), state_of(golden, "0"))
    with pytest.raises(ValueError, match=r"'cells\.0\.layers\.\d\.op\.1\.weight' has shape"):
        load_torch_state(space, space.from_string(other), state_of(golden, "0"))


def test_weights_of_another_width_are_refused(golden):
    meta = golden[1]
    for index, net in meta["nets"].items():
        space = nas_bench_201(2 * meta["C"], meta["N"], meta["num_classes"])
        with pytest.raises(ValueError, match="other channels"):
            load_torch_state(space, space.from_string(net["arch"]), state_of(golden, index))


def test_the_compiled_program_takes_every_cell(tiny, x64):
    space, _ = tiny
    variables = space.init(jax.random.key(0))
    traces = []

    @jax.jit
    def run(gates, x):
        traces.append(1)
        return space.apply(variables, gates, x)[0]

    x = jnp.ones((2, 8, 8, 3), jnp.float32)
    for arch in np.random.default_rng(0).integers(0, 5, (6, 6)):
        run(space.gates(arch), x)
    run(space.gates(np.ones((6, 5), bool)), x)
    assert len(traces) == 1
