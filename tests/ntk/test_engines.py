"""All engines are one kernel: against each other, a direct Jacobian, and the golden values."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.ntk.empirical import empirical_ntk, empirical_ntks
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64
from saboc_jax.spaces.masks import architecture_to_mask, mask_to_gates
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
EXACT = {"rtol": 1e-10, "atol": 1e-10}


class ConvNet(nn.Module):
    """Unrelated to any space: biases, strides, groups, layer norm, a sequence of tokens."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.tanh(nn.BatchNorm(use_running_average=False)(x))
        x = nn.Conv(4, (3, 3), feature_group_count=2, padding="VALID")(x)
        tokens = nn.LayerNorm()(x.reshape(x.shape[0], -1, 4))
        tokens = tokens + nn.MultiHeadDotProductAttention(2)(tokens)
        return nn.Dense(3)(nn.Dense(5)(tokens).mean(1))


class Shared(nn.Module):
    """One dense layer called twice."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4)
        return layer(jnp.tanh(layer(x)))


def images(seed, n, size=8):
    return jax.random.normal(jax.random.key(seed), (n, size, size, 3), jnp.float64)


def to_double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def perturbed(tree):
    """Scales and biases away from one and zero."""
    leaves, structure = jax.tree.flatten(to_double(tree))
    return jax.tree.unflatten(structure, [
        leaf + 0.2 * jax.random.normal(jax.random.key(i), leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ])  # fmt: skip


def flax_kernels(options, n=4, m=3):
    own = perturbed(ConvNet().init(jax.random.key(1), images(0, 1))["params"])
    network = from_module(ConvNet(), {"params": own})
    run = jax.jit(lambda x, y: empirical_ntks(network, x, (y,), options))
    return run(images(2, n), images(3, m))


def gated_kernels(options, n=4, m=3):
    """Of a cell and of a supernet, by one program."""
    space = nas_bench_201(2, 1, 3, (8, 8, 3))
    variables = perturbed(space.init(jax.random.key(0)))
    cell = space.from_string(CELL)
    supernet = architecture_to_mask(cell, 5) | np.eye(6, 5, dtype=bool)
    run = jax.jit(lambda g, x, y: empirical_ntks(bind(space, variables, g), x, (y,), options))
    gates = (space.gates(cell), mask_to_gates(supernet))
    assert run(gates[0], images(2, n), images(3, m))[0].shape == (n, n)
    return [kernel for g in gates for kernel in run(g, images(2, n), images(3, m))]


def assert_agree(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        assert np.abs(two).max() > 0
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10 * np.abs(two).max())


def test_engines_agree_on_a_cell_and_a_supernet():
    with enable_x64():
        options = NTKOptions("jacobian")
        oracle = gated_kernels(options)
        for engine in ("one_backward", "neural_tangents"):
            assert_agree(gated_kernels(options._replace(engine=engine)), oracle)


@pytest.mark.parametrize(
    ("params", "outputs"),
    [("all", "trace"), ("weights", "full"), (lambda path: path[-1] == "bias", "sum")],
)
def test_engines_agree_on_an_unrelated_module(params, outputs):
    with enable_x64():
        options = NTKOptions("jacobian", params, outputs)
        oracle = flax_kernels(options)
        for other in (
            options._replace(engine="one_backward"),
            options._replace(engine="neural_tangents"),
            options._replace(engine="neural_tangents", implementation=2, chunk=2),
            options._replace(engine="one_backward", chunk=3),
        ):
            assert_agree(flax_kernels(other), oracle)


def test_engines_agree_with_batch_statistics():
    with enable_x64():
        options = NTKOptions("jacobian", batch_norm="batch")
        oracle = flax_kernels(options)
        frozen = flax_kernels(options._replace(batch_norm="frozen"))
        assert np.abs(oracle[0] - frozen[0]).max() > 1e-3 * np.abs(frozen[0]).max()
        for implementation in (1, 2):
            other = options._replace(engine="neural_tangents", implementation=implementation)
            assert_agree(flax_kernels(other), oracle)
        assert_agree(flax_kernels(options._replace(chunk=2)), oracle)


def test_cells_and_the_rest_add_up():
    with enable_x64():
        outside = lambda path: not path[0].startswith("cells_") and path[-1] in ("kernel", "scale")  # noqa: E731
        parts = [gated_kernels(NTKOptions("one_backward", p)) for p in ("cells", outside)]
        whole = gated_kernels(NTKOptions("one_backward", "weights"))
        assert_agree([one + two for one, two in zip(*parts, strict=True)], whole)


def test_jacobian_engine_is_the_jacobian():
    """The oracle itself, against jax.jacrev of the specialised module, with batch statistics."""
    with enable_x64():
        space = nas_bench_201(2, 1, 3, (8, 8, 3))
        arch = space.from_string(CELL)
        variables = to_double(space.init(jax.random.key(0)))
        module, own = space.specialise(arch), space.extract(variables, arch)["params"]
        x = images(2, 3)

        def summed(params):
            return module.apply({"params": params}, x, train=True).sum(-1)

        rows = [
            np.asarray(leaf).reshape(3, -1)
            for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jacrev(summed)(own))
            if path[-1].key in ("kernel", "scale")
        ]
        jacobian = np.concatenate(rows, 1)
        network = bind(space, variables, space.gates(arch))
        ours = empirical_ntk(network, x, None, NTKOptions("jacobian", batch_norm="batch"))
        np.testing.assert_allclose(ours, jacobian @ jacobian.T, rtol=1e-10)


def test_golden_kernels_with_batch_statistics():
    folder = os.environ.get("SABOC_GOLDEN_DIR")
    if not folder:
        pytest.skip("SABOC_GOLDEN_DIR is unset: no golden values to compare with")
    with np.load(os.path.join(folder, "nas_bench_201_c4n1.npz")) as archive:
        golden = dict(archive)
    meta = json.loads(str(golden["meta"]))
    with enable_x64():
        space = nas_bench_201(meta["C"], meta["N"], meta["num_classes"])
        x, test = (jnp.asarray(golden[k], jnp.float64) for k in ("x1", "x_test"))
        rows = (test, test + 0.01 * jnp.asarray(golden["noise"], jnp.float64))
        options = NTKOptions("jacobian", batch_norm="batch")
        run = jax.jit(lambda v, g: empirical_ntks(bind(space, v, g), x, rows, options))
        for index, net in meta["nets"].items():
            arch = space.from_string(net["arch"])
            state = {
                name.removeprefix(f"{index}/w/"): value.astype(np.float64)
                for name, value in golden.items()
                if name.startswith(f"{index}/w/")
            }
            ours = run(load_torch_state(space, arch, state), space.gates(arch))
            for kernel, name in zip(
                ours, ("ntk_train", "ntk_test_train", "ntk_pert_train"), strict=True
            ):
                theirs = golden[f"{index}/{name}"]
                assert np.abs(kernel - theirs).max() < 1e-8 * np.abs(theirs).max()


def test_a_shared_layer_takes_one_backward():
    with enable_x64():
        module = Shared()
        x = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
        network = from_module(module, to_double(module.init(jax.random.key(1), x)))
        oracle = empirical_ntk(network, x, None, NTKOptions("jacobian"))
        ours = empirical_ntk(network, x, None, NTKOptions("one_backward"))
        np.testing.assert_allclose(ours, oracle, **EXACT)


@pytest.mark.parametrize(("options", "said"), [
    (NTKOptions(engine="fast"), "one_backward"),
    (NTKOptions(outputs="mean"), "trace"),
    (NTKOptions(batch_norm="moving"), "frozen"),
    (NTKOptions(implementation=3), r"\(1, 2\)"),
    (NTKOptions(chunk=0), "chunk=0"),
    (NTKOptions(params="biases"), "weights"),
    (NTKOptions(params="cells"), "where its cells are"),
    (NTKOptions(engine="one_backward", batch_norm="batch"), "interact"),
    (NTKOptions(params=lambda path: False), "chooses no parameter"),
])  # fmt: skip
def test_bad_options_are_named(options, said):
    module = nn.Dense(2)
    x = jnp.ones((2, 3))
    network = from_module(module, module.init(jax.random.key(0), x))
    with pytest.raises(ValueError, match=said):
        empirical_ntk(network, x, None, options)
