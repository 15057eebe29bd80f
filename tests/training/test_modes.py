"""How a module is called in training is found by what it does, whatever its flags are called."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import saboc_jax as sj
from saboc_jax.training.modes import example, find_modes
from saboc_jax.training.recipes import TINY
from saboc_jax.training.train import Examples, make_trainer

IMAGE = example(np.zeros((1, 4, 4, 1), np.float32))


def network(norm=False, drop=0.0, jitted=False):
    """A module of one flag, whose name and meaning the caller gives to `Net`."""

    def body(x, training):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        if norm:
            layer = nn.jit(nn.BatchNorm) if jitted else nn.BatchNorm
            x = layer(use_running_average=not training)(x)
        if drop:
            x = nn.Dropout(drop, deterministic=not training)(x)
        return nn.Dense(3)(x)

    return body


class Train(nn.Module):
    body: object = network(norm=True, drop=0.5)

    @nn.compact
    def __call__(self, x, train=False, extra=False):
        return self.body(x, train)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        return network(drop=0.5)(x, not deterministic)


class Required(nn.Module):
    @nn.compact
    def __call__(self, x, mode_of_learning):
        return network(norm=True)(x, mode_of_learning)


class OnByDefault(nn.Module):
    @nn.compact
    def __call__(self, x, learn=True):
        return network(norm=True)(x, learn)


class Field(nn.Module):
    training: bool = False

    @nn.compact
    def __call__(self, x):
        return network(norm=True)(x, self.training)


class Plain(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x.reshape(len(x), -1))


class Frozen(nn.Module):
    body: object = network(norm=True)

    @nn.compact
    def __call__(self, x):
        return self.body(x, False)


class AlwaysOn(nn.Module):
    @nn.compact
    def __call__(self, x):
        return network(drop=0.5)(x, True)


class Named(nn.Module):
    @nn.compact
    def __call__(self, x, mode="eval"):
        return network(norm=True)(x, mode == "train")


@pytest.mark.parametrize(
    ("module", "call", "training", "evaluation"),
    [
        (Train(), None, {"train": True}, {}),
        (Train(), {"train": False}, {"train": True}, {"train": False}),
        (Train(network(norm=True, jitted=True)), None, {"train": True}, {}),
        (Deterministic(), None, {"deterministic": False}, {}),
        (Required(), None, {"mode_of_learning": True}, {"mode_of_learning": False}),
        (OnByDefault(), None, {}, {"learn": False}),
        (Plain(), None, {}, {}),
    ],
)
def test_flags_of_any_name_are_found(module, call, training, evaluation):
    modes = find_modes(module, IMAGE, 3, call)
    assert dict(modes.training.keywords) == training
    assert dict(modes.evaluation.keywords) == evaluation


def test_a_field_is_turned_if_its_name_says_mode():
    modes = find_modes(Field(), IMAGE, 3)
    assert (modes.training.module.training, modes.evaluation.module.training) == (True, False)


@pytest.mark.parametrize(
    ("module", "call", "train_call", "message"),
    [
        (Frozen(), None, None, "its running statistics never move; allowed: a module with"),
        (Frozen(network(drop=0.5)), None, None, "its dropout never drops"),
        (Named(), None, None, "train_call={...}"),
        (AlwaysOn(), None, None, "in evaluation as well"),
        (Plain(4), None, None, r"\(2, 4\).*allowed: \(2, 3\)"),
        (Plain(), {"wrong": 1}, None, "unexpected keyword argument 'wrong'"),
        (Train(), None, {"wrong": 1}, "unexpected keyword argument 'wrong'"),
        (nn.Sequential([nn.relu]), None, None, "Sequential has no parameters"),
    ],
)
def test_what_does_not_train_is_refused(module, call, train_call, message):
    with pytest.raises(ValueError, match=message):
        find_modes(module, IMAGE, 3, call, train_call)


def test_the_caller_can_say_how_it_trains():
    modes = find_modes(Named(), IMAGE, 3, train_call={"mode": "train"})
    assert dict(modes.training.keywords) == {"mode": "train"} and not modes.evaluation.keywords
    assert find_modes(Frozen(), IMAGE, 3, train_call={}).training.keywords == {}


def test_dropout_of_an_nnx_module_is_refused():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.drop = nnx.Linear(16, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.dense(x.reshape(len(x), -1)))

    with pytest.raises(ValueError, match="its dropout never drops"):
        find_modes(sj.from_nnx(Own), IMAGE, 3)


class Stateful(nn.Module):
    """Counts its steps of training, draws from a stream of its own, and sows."""

    @nn.compact
    def __call__(self, x, train=False):
        seen = self.variable("own", "seen", lambda: jnp.zeros(()))
        y = nn.Dense(3)(x.reshape(len(x), -1))
        self.sow("losses", "norm", (y**2).mean())
        if train:
            seen.value += 1
            y += 0.01 * jax.random.normal(self.make_rng("noise"), y.shape)
        return y


def test_state_of_any_name_moves_and_streams_of_any_name_are_drawn():
    images = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype(np.float32)
    examples = Examples(images, np.arange(12, dtype=np.int32) % 3)
    recipe = replace(TINY, batch_size=4, learning_rate=0.01)
    trainer = make_trainer(Stateful(), examples, 3, recipe, 0)
    state, metrics = trainer.train_epoch(trainer.init(), 0)
    assert float(state.collections["own"]["seen"]) == 3
    assert np.isfinite([metrics["loss"], trainer.evaluate(state, examples)["loss"]]).all()
