"""What identifies a result: content, never a name."""

import copy
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.identity import computing, space_identity
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.layers.fingerprints import digest, program_digest
from saboc_jax.layers.nnx import from_nnx
from saboc_jax.layers.ops import Block
from saboc_jax.scorers import make_scorer
from saboc_jax.spaces import OWN_SPACES, make_space
from saboc_jax.spaces.dtype import in_dtype
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.types import Batch

SHAPE = (8, 8, 3)


class Net(nn.Module):
    width: int = 2
    scale: float = 1.0
    spread: float = 0.1
    label: str = "features"

    @nn.compact
    def __call__(self, images):
        kernel_init = nn.initializers.normal(self.spread)
        x = nn.relu(nn.Conv(self.width, (3, 3), kernel_init=kernel_init)(images) * self.scale)
        return nn.Dense(10)(Block(name=self.label)(x).mean((1, 2)))


class RenamedNet(nn.Module):
    """The same under another name, without its settings."""

    @nn.compact
    def __call__(self, pictures):
        first = nn.Conv(2, (3, 3), kernel_init=nn.initializers.normal(0.1))
        features = Block(name="features")(nn.relu(first(pictures) * 1.0))
        return nn.Dense(10)(features.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs, given=0.0):
        self.dense = nnx.Linear(3, 10, rngs=rngs)
        self.given = given

    def __call__(self, images):
        return self.dense(images.mean((1, 2))) + self.given


def with_weights(*numbers):
    """A module that holds weights that somebody gave it."""
    return from_nnx(lambda rngs: Nnx(rngs, np.array(numbers, np.float32)))


EDITED = {
    "width": lambda: Net(3),
    "a factor": lambda: Net(scale=2.0),
    "its initialiser": lambda: Net(spread=0.2),
    "what scorers look at": lambda: Net(label="stem"),
}


def digest_of(module, **options):
    space = module_space([module], image_shape=SHAPE, **options)
    return program_digest(space.networks.program(np.array([0])))


def test_a_renamed_network_is_the_same_and_an_edited_one_is_another():
    assert digest_of(Net()) == digest_of(Net()) == digest_of(RenamedNet())
    digests = {name: digest_of(make()) for name, make in EDITED.items()}
    assert len({digest_of(Net()), *digests.values()}) == 1 + len(EDITED)
    assert digest_of(from_nnx(lambda rngs: Nnx(rngs))) == digest_of(from_nnx(Nnx))
    given = [digest_of(with_weights(*numbers)) for numbers in ([1] * 10, [1] * 9 + [2])]
    assert len({digest_of(from_nnx(Nnx)), *given}) == 3


PRINTED = """
import sys
sys.path.insert(0, "tests/evaluation")
from test_identity import Net, digest_of, space_identity, make_space
print(digest_of(Net()), space_identity(make_space("darts")))
"""


def test_another_process_has_the_same_digests():
    command = [sys.executable, "-c", PRINTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest_of(Net()), space_identity(make_space("darts"))]


@pytest.mark.parametrize("name", sorted(OWN_SPACES))
def test_what_configures_a_space_identifies_it(name):
    space = make_space(name)
    others = [
        make_space(name, num_classes=7),
        make_space(name, init="torch_default"),
        in_dtype(space, "bfloat16"),
    ]
    if name != "resnet":
        others += [make_space(name, channels=3), make_space(name, image_shape=(16, 16, 3))]
    found = {space_identity(each) for each in (space, *others)}
    assert len(found) == 1 + len(others)
    assert space_identity(make_space(name)) == space_identity(space)
    assert space_identity(space, "c8").startswith("c8#")


def test_digests_are_of_content():
    a, b = {"x": np.arange(3), "y": (1, {2, 3})}, {"y": (1, {3, 2}), "x": np.arange(3)}
    assert digest(a) == digest(b)
    different = [a, b | {"x": np.arange(4)}, b | {"x": np.arange(3.0)}, jax.random.key(0),
                 jax.random.key(1), jnp.zeros((2, 3)), jnp.zeros((3, 2)), "1", 1, None]  # fmt: skip
    assert len({digest(each) for each in different}) == len(different)


def batch(fill):
    return Batch(np.full((1, *SHAPE), fill, np.float32), np.zeros(1, np.int32))


def evaluator(store, space, fill=0.0, scorer="grad_norm", key=0, runner=(), **settings):
    draws = Draws([jax.random.key(key)], [batch(fill)], ["0/0"])
    runner = Runner(space, make_scorer(scorer, space), draws, **dict(runner))
    return Evaluator(runner, store, dataset="digits/n1", **settings)


def served(made):
    """How many of one architecture's scores were in the store."""
    made.evaluate(architecture_to_mask(np.zeros((1, 1), int), max(made.space.choices)))
    return made.counts.served


def one_module(module, **options):
    return module_space([module], image_shape=SHAPE, option_names=[["mine"]], **options)


def test_two_folders_of_data_never_share_a_row(tmp_path):
    """They have one name, and the seeds of a run, for their images alone differ."""
    with Store(tmp_path / "s.sqlite") as store:
        space = one_module(Net())
        assert served(evaluator(store, space, 0.1)) == 0
        assert served(evaluator(store, space, 0.2)) == 0
        assert served(evaluator(store, space, 0.1, key=1)) == 0
        assert served(evaluator(store, space, 0.1)) == served(evaluator(store, space, 0.2)) == 1
        assert len({row.request.data for row in store.select()}) == len(store) == 3


def test_ones_own_modules_are_identified_by_what_they_do(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert served(evaluator(store, one_module(Net()))) == 0
        for module in (Net(spread=0.2), Net(scale=2.0)):
            assert served(evaluator(store, one_module(module))) == 0
        named = module_space([RenamedNet()], image_shape=SHAPE, option_names=[["b"]], name="other")
        assert served(evaluator(store, named)) == 1
        assert {row.called for row in store.select()} == {"mine"}
        assert all(row.request.architecture.startswith("program#") for row in store.select())


def test_costs_of_a_published_network_are_not_those_of_a_program(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        plain = one_module(Net())
        published = plain._replace(costs=plain.costs._replace(structure=lambda arch: None))
        assert served(evaluator(store, plain)) == served(evaluator(store, published)) == 0
        assert served(evaluator(store, plain)) == served(evaluator(store, published)) == 1


def test_the_precision_of_products_identifies_a_row(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert served(evaluator(store, one_module(Net()))) == 0
        with jax.default_matmul_precision("high"):
            assert computing()["matmul_precision"] == "high"
            assert served(evaluator(store, one_module(Net()))) == 0
        with jax.default_matmul_precision("highest"):  # what scores have by themselves
            assert served(evaluator(store, one_module(Net()))) == 1
        assert served(evaluator(store, one_module(Net()))) == 1


def test_faster_products_are_kept_apart_by_platform(tmp_path, monkeypatch, caplog):
    """Each platform rounds them in its own way; products of float32 agree."""
    space, said = one_module(Net()), "computed on cpu: cpu, not on tpu: v5e"
    fast = {"matmul_precision": "default"}
    with Store(tmp_path / "s.sqlite") as store:
        first = evaluator(store, space, runner=fast)
        assert served(first) == 0
        assert served(evaluator(store, space, runner=fast)) == 1
        assert served(evaluator(store, space)) == 0
        monkeypatch.setattr(Runner, "platform", "tpu: v5e")
        assert served(evaluator(store, space, runner=fast)) == 0
        exact = evaluator(store, space)
        assert served(exact) == served(exact) - 1 == 1
        assert exact.counts.elsewhere == "cpu: cpu"
        assert [said in line for line in caplog.messages] == [True]


def test_a_runner_takes_its_precision_along():
    runner = evaluator(None, one_module(Net())).runner
    assert runner.matmul_precision == "highest"
    with jax.default_matmul_precision("high"):
        assert copy.copy(runner).matmul_precision == "highest"
        assert evaluator(None, one_module(Net())).runner.matmul_precision == "high"
    with pytest.raises(ValueError, match="matmul_precision='int8'; allowed:"):
        replace(runner, matmul_precision="int8")


def test_the_precision_of_products_changes_no_bit_on_the_cpu():
    def scores(precision):
        made = evaluator(None, one_module(Net()), runner={"matmul_precision": precision})
        return made.evaluate(architecture_to_mask(np.zeros((1, 1), int), 1))

    np.testing.assert_array_equal(scores("highest"), scores("default"))


def test_a_platform_is_recorded_and_identifies_a_row_where_that_is_asked_for(tmp_path, monkeypatch):
    space = one_module(Net())
    with Store(tmp_path / "s.sqlite") as store:
        assert served(evaluator(store, space)) == 0
        assert served(evaluator(store, space, same_platform=True)) == 0
        monkeypatch.setattr(Runner, "platform", "gpu: another")
        assert served(evaluator(store, space)) == 1
        assert served(evaluator(store, space, same_platform=True)) == 0
        platforms = sorted(row.platform for row in store.select())
        assert platforms == ["cpu: cpu", "cpu: cpu", "gpu: another"]
        assert list(store.table()["called"]) == ["mine"] * 3


def test_a_workdir_is_of_one_identity():
    def record(module, fill=0.0, **settings):
        made = evaluator(None, one_module(module), fill, **settings)
        return made.identity.record(made.scorer)

    first = record(Net())
    assert first == record(Net())
    assert set(first) == {"networks", "scorer_options", "drawn", "computing", "versions"}
    assert first["drawn"] != record(Net(), 0.5)["drawn"]
    assert first["computing"] != record(Net(), same_platform=True)["computing"]
