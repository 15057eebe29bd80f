"""Networks by name, and networks that are refused with a sentence instead of ending a run."""

import os
import sys
import types

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from experiments.support import sizes
from saboc_jax import data
from saboc_jax.evaluation.store import Store
from saboc_jax.spaces.modules import named

os.environ.setdefault("KERAS_BACKEND", "jax")
SHAPE = (8, 8, 3)


class Small(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(4, (3, 3))(images)).mean((1, 2)))


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, images):
        raise RuntimeError("no images of that kind")


class Raising(nn.Module):
    """Runs for two images, as checks do, and for no larger batch."""

    @nn.compact
    def __call__(self, images):
        if len(images) > 2:
            raise RuntimeError("only two images")
        return nn.Dense(10)(images.mean((1, 2)))


def make(num_classes):
    return Small(num_classes)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    module = types.ModuleType("my_nets")
    module.__dict__.update(Small=Small, Wrong=Wrong, Raising=Raising, make=make, number=3)
    module.given = Small(10)
    monkeypatch.setitem(sys.modules, "my_nets", module)


def tiny_batch():
    images = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    labels = np.arange(8) % 10
    return sj.types.Batch(images, labels, images[::-1] + 0.1, labels[::-1])


@pytest.mark.parametrize("name", ["my_nets:Small", "my_nets:make", "my_nets:given"])
def test_an_object_a_class_or_a_function_of_ones_own(name):
    candidate = sj.from_name(name, 10, SHAPE)
    assert isinstance(candidate, Small)
    assert candidate.num_classes == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "allowed: timm:MODEL"),
        ("timm:", "allowed: timm:MODEL"),
        ("no_such_package:Net", "No module named 'no_such_package'"),
        ("my_nets:Missing", "has no attribute 'Missing'"),
        ("my_nets:number", "it is a int"),
        (3, "network 3"),
    ],
)
def test_a_wrong_name_is_one_sentence(name, said):
    with pytest.raises(ValueError, match=said):
        sj.from_name(name, 10, SHAPE)


def test_what_cannot_be_scored_comes_last_with_its_reason():
    space = named.named_space(["my_nets:Wrong", "my_nets:Raising", "my_nets:Small"], 10, SHAPE)
    ranked = sj.rank([[0], [1], [2]], tiny_batch(), jax.random.key(0), ["ntk_score", "params"],
                     space=space, repeats=1, strict=False, progress=False)  # fmt: skip
    assert ranked.names[0] == "my_nets:Small"
    assert [score.flag for score in ranked.scores] == ["refused", "refused", None]
    reasons = [dict(score.warnings).get("refused", "") for score in ranked.scores]
    assert "no images of that kind" in reasons[0]
    assert "only two images" in reasons[1]
    assert ranked.scores[2].cost.params == 4 * 27 + 4 + 50
    assert np.isnan(ranked.scores[0].cost.params)
    assert "refused" in str(ranked)


def test_a_list_of_networks_may_hold_refused_ones():
    ranked = sj.rank([Wrong(), Small(10)], tiny_batch(), jax.random.key(0), ["params", "depth"],
                     repeats=1, strict=False, progress=False)  # fmt: skip
    assert [score.flag for score in ranked.scores] == ["refused", None]
    assert ranked.scores[1].mean() == {"params": 162.0, "depth": 2.0}


def test_strict_raises_the_reason():
    space = named.named_space(["my_nets:Small", "my_nets:Wrong"], 10, SHAPE)
    with pytest.raises(ValueError, match="no images of that kind"):
        sj.rank([[0], [1]], tiny_batch(), jax.random.key(0), "params", space=space, progress=False)


def test_what_is_refused_is_not_kept_and_the_rest_is(tmp_path):
    space = named.named_space(["my_nets:Raising", "my_nets:Small"], 10, SHAPE)

    def run():
        return sj.rank([[0], [1]], tiny_batch(), jax.random.key(0), "grad_norm", space=space,
                       repeats=1, strict=False, store=tmp_path / "s", progress=False)  # fmt: skip

    first, second = run(), run()
    with Store(tmp_path / "s") as store:
        assert len(store) == 1
    np.testing.assert_array_equal(first.scores[1].values, second.scores[1].values)


def test_a_network_of_other_outputs_is_refused():
    space = named.named_space(["my_nets:Small", "flax.linen:Dense"], 10, SHAPE)
    with pytest.raises(ValueError, match=r"allowed: \(2, classes\)"):
        space.program(np.array([1]))


def test_names_of_keras_and_their_wildcards():
    pytest.importorskip("keras", reason="keras is not installed: the extra `keras`")
    found = named.expand(["keras:MobileNetV3*", "my_nets:Small", "my_nets:Small"])
    assert sorted(found) == ["keras:MobileNetV3Large", "keras:MobileNetV3Small", "my_nets:Small"]
    with pytest.raises(ValueError, match="near: ResNet50"):
        sj.from_name("keras:ResNet5", 10, (32, 32, 3))
    network = sj.from_name("keras:MobileNetV3Small", 10, (32, 32, 3))
    shapes = jax.eval_shape(
        lambda x: network.apply(network.init(jax.random.key(0)), x)[0], np.zeros((2, 32, 32, 3))
    )
    assert shapes.shape == (2, 10)


def test_names_of_timm():
    pytest.importorskip("timm", reason="timm is not installed: the extra `timm`")
    assert "timm:resnet18" in named.expand(["timm:resnet1?"])
    assert named.parameters_of("timm:resnet18", 10, (64, 64, 3)) == 11_181_642
    with pytest.raises(ValueError, match="near: resnet18"):
        sj.from_name("timm:resnet_18", 10, (64, 64, 3))
    network = sj.from_name("timm:vit_tiny_patch16_224", 10, (64, 64, 3))  # of a fixed size
    shapes = jax.eval_shape(
        lambda x: network.apply(network.init(jax.random.key(0)), x)[0],
        jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32),
    )
    assert shapes.shape == (2, 10)


def test_the_space_of_timm():
    timm = pytest.importorskip("timm", reason="timm is not installed: the extra `timm`")
    space = sj.make_space("timm", num_classes=3, image_shape=(32, 32, 3))
    arch = space.from_string("test_convnext")
    assert space.choices == (len(timm.list_models()),)
    assert space.to_string(arch) == "test_convnext" and space.num_classes == 3
    trained = sj.trained_cost("test_convnext", space)  # of 1,000 classes
    published = timm.create_model("test_convnext")
    assert trained.params == sum(p.numel() for p in published.parameters())
    assert space.costs.structure(arch).params == trained.params
    batch = sj.Batch(np.zeros((4, 32, 32, 3), np.float32), np.array([0, 1, 2, 0]))
    (score,) = sj.rank(["test_convnext"], batch, jax.random.key(0), "params", space=space).scores
    assert score.mean()["params"] == trained.params
    with pytest.raises(ValueError, match="is no option"):
        space.from_string("resnet_18")


@pytest.mark.parametrize(
    ("text", "number"),
    [("6M", 6_000_000), ("6e6", 6_000_000), ("1.5k", 1500), ("6000000", 6_000_000)],
)
def test_sizes_as_people_write_them(text, number):
    assert sizes.read("--max_params", text) == number


@pytest.mark.parametrize("text", ["", "many", "-3", "1.5", "nan", "6MM"])
def test_other_sizes_are_one_sentence(text):
    with pytest.raises(ValueError, match=r"--max_params=.*allowed: a whole number"):
        sizes.read("--max_params", text)


def test_images_of_another_size():
    digits = data.load("digits")
    at = data.load("digits", image_size=16)
    images, labels = at.train.fetch([0, 5])
    plain, same = digits.train.fetch([0, 5])
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels, same)
    pairs = plain.reshape(2, 16, 2, 16, 2, 3).astype(float).mean((2, 4))
    assert np.abs(images - pairs)[:, 2:-2, 2:-2].mean() < 12  # near the mean of what shrank
    with pytest.raises(ValueError, match="size=0"):
        data.resized(digits, 0)
