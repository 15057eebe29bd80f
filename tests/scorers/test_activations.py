"""Zen, NASWOT, SWAP and AZ-NAS against released codes and against NumPy."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax.benchmarks.parity_activations import PARITY_ACTIVATIONS
from saboc_jax.layers.ops import Block, Relu
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import activations, az_nas, make_scorer, naswot, swap, zen
from saboc_jax.spaces.nas_bench_201.space import Cell, Reduction, nas_bench_201
from saboc_jax.spaces.nas_bench_201.torch_weights import load_torch_state

# Node 1 is dead, and operations read it all the same.
CELL = "|none~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
IDENTITY = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
N = 5


@pytest.fixture(autouse=True)
def double_precision():
    with enable_x64():
        yield


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


# --- released codes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    directory = os.environ.get("SABOC_GOLDEN_DIR")
    if not directory:
        pytest.skip("SABOC_GOLDEN_DIR is not set: no golden values to compare with")
    with np.load(Path(directory) / "nas_bench_201_c4n1.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def golden_gated():
    """One program for all nets: (variables, gates, data) to every value."""
    space = nas_bench_201(4, 1, 10)

    @jax.jit
    def values(variables, gates, data):
        network = bind(space, variables, gates)
        return {name: value(network, data) for name, value in PARITY_ACTIVATIONS.items()}

    return space, values


@pytest.mark.parametrize("net", [0, 1, 2])
def test_released_codes_values(golden, golden_gated, net):
    space, gated = golden_gated
    expected = json.loads(str(golden["meta"]))["nets"][str(net)]
    arch = space.from_string(expected["arch"])
    prefix = f"{net}/w/"
    state = {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}
    variables = double(load_torch_state(space, arch, state))
    data = {k: jnp.asarray(golden[k], jnp.float64) for k in ("x1", "noise")}
    special = from_module(space.specialise(arch), space.extract(variables, arch))
    ours = {
        "gated": gated(variables, space.gates(arch), data),
        "specialised": {name: value(special, data) for name, value in PARITY_ACTIVATIONS.items()},
    }
    for program, values in ours.items():
        for name, value in values.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-9, err_msg=f"{program} {name}"
            )


# --- NumPy ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other():
    """A cell with dead branches, two cells a stage, seen through Flax's own capture."""
    with enable_x64():
        space = nas_bench_201(3, 2, 4, (8, 8, 3))
        arch = space.from_string(CELL)
        variables = double(space.init(jax.random.key(3)))
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.normal(size=(N, 8, 8, 3)))
        others = images + 0.05 * jnp.asarray(rng.normal(size=images.shape))
        module, own = space.specialise(arch), space.extract(variables, arch)

        def capture(images):
            kinds = (Relu, Block, nn.Conv)
            state = module.apply(
                own,
                images,
                True,
                mutable=["intermediates", "batch_stats"],
                capture_intermediates=lambda module, method: isinstance(module, kinds),
            )[1]["intermediates"]
            return {path: np.asarray(value) for path, value in _flat(state).items()}

        @jax.jit
        def gated_blocks(gates, signs):
            return az_nas.block_statistics(bind(space, variables, gates), images, signs)

        return SimpleNamespace(
            gated_blocks=gated_blocks,
            space=space,
            arch=arch,
            variables=variables,
            images=images,
            others=others,
            own=own,
            seen=capture(images),
            seen_others=capture(others),
            gated=bind(space, variables, space.gates(arch)),
            special=from_module(module, own),
        )


def _flat(tree, path=()):
    if isinstance(tree, tuple):
        return {"/".join(path[:-1]): tree[0]}
    return {k: v for name, sub in tree.items() for k, v in _flat(sub, (*path, name)).items()}


def relus(other):
    """[n, units] of all ReLUs: 4 convolutions' in 6 cells, 2 in 2 reductions, the last."""
    found = [v.reshape(N, -1) > 0 for k, v in other.seen.items() if k.endswith("relu")]
    assert len(found) == 6 * 3 + 2 * 2 + 1
    return np.concatenate(found, axis=1)


def blocks(seen):
    names = ["stem_output"]
    for stage in range(3):
        names += [f"reduction_{stage}_output"] if stage else []
        names += [f"cells_{stage}_{number}_output" for number in range(2)]
    return [seen[name] for name in names]


@pytest.mark.parametrize("program", ["gated", "special"])
def test_naswot_counts_agreeing_units(other, program):
    codes = relus(other)
    agree = (codes[:, None, :] == codes[None, :, :]).sum(-1)
    network = getattr(other, program)
    kernel = naswot.agreement_kernel(network, other.images)
    np.testing.assert_array_equal(kernel, agree)
    expected = np.linalg.slogdet(agree.astype(float))[1]
    np.testing.assert_allclose(naswot.naswot_value(network, other.images), expected, rtol=1e-12)


@pytest.mark.parametrize("program", ["gated", "special"])
def test_swap_counts_distinct_columns(other, program):
    patterns, costs = swap.count_patterns(getattr(other, program), other.images)
    assert int(patterns) == len(np.unique(relus(other), axis=1).T)
    cost = other.space.cost(other.arch)
    np.testing.assert_array_equal(costs.sum(0), [cost.macs, cost.params])


def test_swap_regularised():
    value = swap.regularise(jnp.array(100.0), jnp.array(40_000.0), mu=30.0, sigma=50.0)
    np.testing.assert_allclose(value, 100 * np.exp(-2.0))


@pytest.mark.parametrize("n", [3, 31, 32, 40])
def test_swap_stays_below_its_bounds(n):
    module = nn.Sequential([nn.Conv(2, (1, 1)), Relu()])
    images = jax.random.normal(jax.random.key(1), (n, 4, 4, 1), jnp.float64)
    variables = double(module.init(jax.random.key(0), images))
    value = swap.swap_value(from_module(module, variables), images)
    columns = np.asarray(module.apply(variables, images) > 0).reshape(n, -1)
    assert int(value) == len(np.unique(columns, axis=1).T) <= min(2**n, 32)


@pytest.mark.parametrize("program", ["gated", "special"])
def test_zen_from_running_variances(other, program):
    change = np.abs(other.seen["head/features"] - other.seen_others["head/features"])
    expected = np.log(change.sum((1, 2, 3)).mean())
    normalised = [k for k in other.seen if k.endswith("conv/conv")]
    assert len(normalised) == 1 + 6 * 3 + 2 * 2  # each is followed by a batch norm
    for name in (*normalised, "cells_2_1_output"):
        running = 1.0
        for seen in (other.seen, other.seen_others):
            variance = seen[name].reshape(-1, seen[name].shape[-1]).var(0, ddof=1)
            running = 0.9 * running + 0.1 * variance
        expected += np.log(np.sqrt(running.mean()))
    value = zen.zen_value(getattr(other, program), other.images, other.others)
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def entropies(other):
    found = []
    for features in blocks(other.seen):
        values = np.linalg.eigvalsh(np.cov(features.reshape(-1, features.shape[-1]).T))
        p = values / values.sum()
        found.append(-(p * np.log(p + 1e-8)).sum())
    return np.array(found)


def block_maps(other, signs):
    """G_in' G_out / positions of every block, one block at a time."""
    features = blocks(other.seen)
    modules, names = [], []
    operations = other.space.specialise(other.arch).operations
    for stage in range(3):
        width = 3 * 2**stage
        if stage:
            modules.append(Reduction(width))
            names.append(f"reduction_{stage}")
        for number in range(2):
            modules.append(Cell(operations, width))
            names.append(f"cells_{stage}_{number}")
    maps = []
    for module, name, x in zip(modules, names, features, strict=False):
        params = {"params": other.own["params"][name]}
        out = np.asarray(signs[(f"{name}_output",)])
        back = jax.vjp(lambda x, m=module, p=params: m.apply(p, x), jnp.asarray(x))[1](out)[0]
        ratio = x.shape[1] // out.shape[1]
        split = np.concatenate(
            [back[:, i::ratio, j::ratio] for i in range(ratio) for j in range(ratio)], -1
        )
        positions = out[..., 0].size
        maps.append(split.reshape(positions, -1).T @ out.reshape(positions, -1) / positions)
    return maps


def stack_signs(signs):
    """The signs of the specialised network as those of the supernet."""
    stacked = {}
    for (name,), value in signs.items():
        if name.startswith("cells_"):
            stage = name.split("_")[1]
            stacked.setdefault((f"cells_{stage}_output",), []).append(value)
        else:
            stacked[(name,)] = value
    return {k: jnp.stack(v) if isinstance(v, list) else v for k, v in stacked.items()}


def test_az_nas_block_by_block(other):
    signs = az_nas.draw_signs(other.special, other.images, jax.random.key(5))
    assert len(signs) == 9 and all(np.isin(s, (-1, 1)).all() for s in signs.values())
    largest = np.array([np.linalg.norm(m, 2) for m in block_maps(other, signs)])
    expected = (-largest - 1 / (largest + 1e-6) + 2).mean()
    entropy = entropies(other)
    special = jax.jit(lambda signs: az_nas.block_statistics(other.special, other.images, signs))
    gates = other.space.gates(other.arch)
    for seen in (special(signs), other.gated_blocks(gates, stack_signs(signs))):
        np.testing.assert_allclose(az_nas.expressivity(seen), entropy.sum(), rtol=1e-10)
        np.testing.assert_allclose(az_nas.progressivity(seen), np.diff(entropy).min(), rtol=1e-8)
        np.testing.assert_allclose(az_nas.trainability(seen), expected, rtol=1e-10)
        assert int(az_nas.complexity(seen)) == other.space.cost(other.arch).macs


def test_identity_cell_has_no_trainability(other):
    gates = other.space.gates(other.space.from_string(IDENTITY))
    network = bind(other.space, other.variables, gates)
    signs = az_nas.draw_signs(network, other.images, jax.random.key(5))
    seen = other.gated_blocks(gates, signs)
    np.testing.assert_array_equal(seen.identical, [True, True, False] * 2 + [True, True])
    assert az_nas.trainability(seen) == -np.inf


def test_cells_of_a_stage_get_signs_of_their_own(other):
    signs = az_nas.draw_signs(other.gated, other.images, jax.random.key(5))
    assert signs[("cells_0_output",)].shape[:2] == (2, N)
    assert (signs[("cells_0_output",)][0] != signs[("cells_0_output",)][1]).any()


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 7, 32, 33, 90])
def test_distinct_codes_are_counted_exactly(bits):
    rng = np.random.default_rng(bits)
    codes = rng.random((400, bits)) < 0.5
    codes = codes[rng.integers(0, 250, 400)]
    packed = activations.pack_bits(jnp.asarray(codes))
    assert packed.shape == (400, -(-bits // 32)) and packed.dtype == jnp.uint32
    assert int(activations.count_distinct(packed)) == len(np.unique(codes, axis=0))


def test_initialisers_share_their_draw():
    space = nas_bench_201(3, 1, 4, (8, 8, 3))
    key = jax.random.key(2)
    fan_in = activations.redraw(space, key, None)["params"]["stem"]["conv"]["conv"]["kernel"]
    normal = activations.redraw(space, key, "standard_normal")["params"]
    normal = normal["stem"]["conv"]["conv"]["kernel"]
    np.testing.assert_allclose(fan_in, normal * np.sqrt(2 / 27), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("swap", {"mu": 1.0}, "mu=1.0"),
        ("swap", {"mu": 1.0, "sigma": 0.0}, "sigma=0.0"),
        ("swap", {"images": 0}, "images=0"),
        ("zen", {"perturbation": 0.0}, "perturbation=0.0"),
        ("naswot", {"init": "nothing"}, "'nothing'"),
        ("az_nas", {"init": "nothing"}, "'nothing'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_scorer(name, nas_bench_201(3, 1, 4, (8, 8, 3)), **options)


def test_zen_needs_one_feature_map():
    class Marked(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="features")(nn.Conv(2, (1, 1))(x))

    module = nn.Sequential([Marked(), Marked(), nn.Dense(2)])
    images = jnp.ones((2, 4, 4, 1))
    network = from_module(module, double(module.init(jax.random.key(0), images)))
    with pytest.raises(ValueError, match="2 blocks named 'features'; allowed: 1"):
        zen.zen_value(network, images, images)
