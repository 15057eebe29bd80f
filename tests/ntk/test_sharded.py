"""One NTK over several devices: the kernels of one device, images shared out evenly."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from saboc_jax import data
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import bind, from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.sharded import sharded_ntks
from saboc_jax.precision import enable_x64
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask, mask_to_gates

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
M, N = 16, 8  # columns, rows
OPTIONS = {
    "sum": NTKOptions(params="all"),
    "sum, a row at a time": NTKOptions(params="all", chunk=4),
    "trace": NTKOptions(outputs="trace"),
    "full": NTKOptions(outputs="full"),
    "full, two outputs at a time": NTKOptions(outputs="full", outputs_chunk=2),
}


class Module(nn.Module):
    """Of no space of ours."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.BatchNorm(use_running_average=False)(x)
        x = nn.tanh(nn.Conv(4, (3, 3), feature_group_count=2, padding="VALID")(x))
        return nn.Dense(3)(nn.Dense(5)(x.reshape(x.shape[0], -1)))


def images(seed, number):
    """Whose mean and variance differ from one to the next."""
    noise = jax.random.normal(jax.random.key(seed), (number, 8, 8, 3), float)
    return noise * jnp.linspace(1, 3, number)[:, None, None, None] + jnp.arange(3)


def small():
    """A network, and the numbers of images that it was traced with."""
    traced = []
    params = Module().init(jax.random.key(1), images(0, 1))["params"]
    network = from_module(Module(), {"params": params})

    def apply(variables, images, mutable=()):
        traced.append(images.shape[0])
        return network.apply(variables, images, mutable)

    return network._replace(apply=apply), traced


def apart(ours, theirs):
    """The largest difference of two lists of kernels, relative to the largest entry of each."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def of_the_module(devices, names):
    network, traced = small()
    found = {}
    for name in names:
        options, batches = OPTIONS[name], (images(2, M), (images(3, N),))
        one = jax.jit(lambda c, r, o=options: empirical_ntks(network, c, r, o))(*batches)
        traced.clear()
        many = sharded_ntks(network, *batches, options, devices)
        shapes = [shard.data.shape for shard in many[1].addressable_shards]
        found[name] = [apart(many, one), sorted(set(traced)), shapes]
    return found


def of_gated_networks(devices):
    """Of a cell and of a supernet, by one program."""
    space = make_space(
        "nas_bench_201", channels=2, num_cells=1, num_classes=3, image_shape=(8, 8, 3)
    )
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), space.init(jax.random.key(0)))
    cell = space.from_string(CELL)
    supernet = mask_to_gates(architecture_to_mask(cell, 5) | np.eye(6, 5, dtype=bool))
    batches = (images(2, M), (images(3, N),))

    def run(compute, *more):
        program = jax.jit(lambda g: compute(bind(space, variables, g), *batches, *more))
        return [program(gates) for gates in (space.gates(cell), supernet)]

    one = run(empirical_ntks)
    several = [run(sharded_ntks, NTKOptions(), some) for some in devices]
    return [[apart(*pair) for pair in zip(many, one, strict=True)] for many in several]


def evaluator(names=("ntk_score", "params"), images=8, **settings):
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    scorer = combine([make_scorer(name, space) for name in names])
    key = jax.random.key(0)
    batch = data.draw(data.load("digits"), key, images, needs=scorer.needs)
    return Evaluator(Runner(space, scorer, Draws([key], [batch]), **settings))


def scores(**settings):
    made = evaluator(**settings)
    found = made.evaluate(architecture_to_mask(made.space.from_string(CELL)[None], 5))
    return found.ravel().tolist(), made.counts.compilations


def main():
    """What a process with eight devices finds."""
    four, eight = jax.devices()[:4], jax.devices()[:8]
    with enable_x64():
        found = {
            "4": of_the_module(four, OPTIONS),
            "8": of_the_module(eight, ["sum"]),
            "gated": of_gated_networks([four, eight]),
        }
    found["one"] = scores(devices=1)
    found["images"] = scores(devices=4, shard="images")
    print(json.dumps(found))


@pytest.fixture(scope="module")
def on_several():
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    environment = dict(
        os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.getcwd(), XLA_FLAGS=" ".join(flags)
    )
    script = "import sys; sys.path.insert(0, 'tests/ntk'); import test_sharded; test_sharded.main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("devices", "name"), [*((4, name) for name in OPTIONS), (8, "sum")], ids=str
)
def test_anybodys_module_has_the_kernels_of_one_device(on_several, devices, name):
    difference, _, shapes = on_several[str(devices)][name]
    assert difference < 1e-12
    assert len(shapes) == devices
    assert {tuple(shape[:2]) for shape in shapes} == {(N // devices, M)}


@pytest.mark.parametrize("devices", [4, 8])
def test_the_network_is_read_once_for_one_image_on_all_devices(on_several, devices):
    assert on_several[str(devices)]["sum"][1] == [1]


def test_a_gated_cell_and_a_supernet_have_the_kernels_of_one_device(on_several):
    assert np.shape(on_several["gated"]) == (2, 2)  # 4 and 8 devices, cell and supernet
    assert np.max(on_several["gated"]) < 1e-12


def test_an_evaluator_gives_the_scores_of_one_device(on_several):
    (one, _), (many, compilations) = on_several["one"], on_several["images"]
    np.testing.assert_allclose(many, one, rtol=1e-4)
    assert compilations == 1


def test_batches_that_the_devices_do_not_divide_are_refused():
    network, _ = small()
    four = jax.devices()[:1] * 4
    for columns, rows in ((6, ()), (8, (4, 6))):
        with pytest.raises(ValueError, match=r"6 images on 4 devices; allowed .* multiples of 4"):
            sharded_ntks(
                network, images(0, columns), [images(1, n) for n in rows], NTKOptions(), four
            )
    three = jax.devices()[:1] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saboc_jax.evaluation.runner.find_devices", lambda number: three)
        with pytest.raises(ValueError, match=r"8 images on 3 devices; allowed .* multiples of 3"):
            evaluator(shard="images")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (NTKOptions("jacobian"), "engine='jacobian'.*; allowed: engine='auto' or 'one_backward'"),
        (NTKOptions(batch_norm="batch"), "batch_norm='batch'.*with batch_norm='frozen'"),
        (NTKOptions(outputs="mean"), "outputs='mean'"),
        (NTKOptions(params=lambda path: False), "chooses no parameter"),
    ],
)
def test_options_of_other_engines_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        sharded_ntks(small()[0], images(0, 4), (), options, jax.devices()[:1])


def test_scorers_that_observe_more_than_kernels_are_named():
    with pytest.raises(ValueError, match=r"\['naswot'\] cannot share images"):
        evaluator(("naswot", "ntk_score"), shard="images")
    with pytest.raises(
        ValueError, match=r"shard='columns'; allowed: \('architectures', 'images'\)"
    ):
        evaluator(shard="columns")
