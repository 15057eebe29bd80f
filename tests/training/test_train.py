"""Training: against NumPy, on several devices, and after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from tensorboardX.proto import event_pb2

from experiments.support import training
from saboc_jax.spaces.darts.cells import from_genotype, make_genotype
from saboc_jax.training import augment
from saboc_jax.training import run as train_run
from saboc_jax.training.augment import Augmentation
from saboc_jax.training.recipes import RECIPES, TINY
from saboc_jax.training.train import (
    Examples,
    State,
    Trainer,
    learning_rate,
    make_trainer,
    optimiser,
)

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), strides=(2, 2))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, use_fast_variance=False)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def blobs(n=96):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = (
        rng.normal(size=(n, 8, 8, 1)).astype(np.float32) * (1 + 2 * labels)[:, None, None, None]
    )
    return Examples(images.astype(np.float32), labels.astype(np.int32))


@pytest.mark.parametrize(("nesterov", "kernels"), [(True, False), (False, True)])
def test_optimiser_is_pytorch_sgd(nesterov, kernels):
    recipe = replace(TINY, epochs=2, warmup_epochs=0, weight_decay=0.1, momentum=0.9)
    recipe = replace(recipe, nesterov=nesterov, decay_kernels_only=kernels)
    tx, rate = optimiser(recipe, 5), learning_rate(recipe, 5)
    weights = {name: np.array([1.0, -2.0], np.float32) for name in ("kernel", "bias")}
    expected, buffers = dict(weights), dict.fromkeys(weights, 0.0)
    state = tx.init(weights)
    for step in range(4):
        gradient = np.array([0.3, 0.1 * step], np.float32)
        updates, state = tx.update(dict.fromkeys(weights, gradient), state, weights)
        weights = optax.apply_updates(weights, updates)
        for name, decay in (("kernel", 0.1), ("bias", 0.0 if kernels else 0.1)):
            decayed = gradient + decay * expected[name]
            buffers[name] = 0.9 * buffers[name] + decayed
            direction = decayed + 0.9 * buffers[name] if nesterov else buffers[name]
            size = 0.1 * 0.5 * (1 + np.cos(np.pi * step / 10))
            expected[name] = expected[name] - size * direction
            np.testing.assert_allclose(weights[name], expected[name], rtol=1e-5)
    assert float(rate(0)) == pytest.approx(0.1)


def test_warmup_then_cosine():
    rate = learning_rate(replace(TINY, epochs=10, warmup_epochs=2, final_learning_rate=0.01), 10)
    assert float(rate(0)) == 0
    assert float(rate(10)) == pytest.approx(0.05)
    assert float(rate(20)) == pytest.approx(0.1)
    assert float(rate(60)) == pytest.approx(0.055)
    assert float(rate(100)) == pytest.approx(0.01)


def test_order_and_augmentation_are_functions_of_seed_and_epoch():
    images, labels = blobs()
    how = Augmentation(2, True, 3, 0.4, 0.1)
    first, again = (list(augment.epoch_batches(1, 2, images, labels, 3, 32, how)) for _ in range(2))
    other = list(augment.epoch_batches(1, 3, images, labels, 3, 32, how))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        assert not np.array_equal(one[0], three[0])
        np.testing.assert_allclose(one[1].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.sort(augment.order(1, 2, 50)), np.arange(50))


def test_crop_flip_and_cutout_by_loops():
    images = np.random.default_rng(0).normal(size=(6, 5, 7, 2)).astype(np.float32)
    cropped = augment.random_crop(augment.generator(0, 0), images, 2)
    for image, crop in zip(images, cropped, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        windows = [padded[i : i + 5, j : j + 7] for i in range(5) for j in range(5)]
        assert any(np.array_equal(crop, window) for window in windows)
    flipped = augment.random_flip(augment.generator(0, 0), images)
    same = [np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)]
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(images, flipped, strict=True)]
    assert any(same) and any(turned) and all(a != b for a, b in zip(same, turned, strict=True))
    blank = augment.cutout(augment.generator(0, 0), images, 3) == 0
    for mask in blank:
        rows, columns = np.where(mask.all(-1))
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == mask.sum() / 2
        assert np.ptp(rows) < 3 and np.ptp(columns) < 3


def test_smoothed_labels():
    targets = augment.smooth_one_hot(np.array([1]), 4, 0.2)
    np.testing.assert_allclose(targets, [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)


def test_learns_and_evaluates_with_running_statistics():
    examples = blobs()
    recipe = replace(TINY, epochs=20, warmup_epochs=1, batch_size=32, weight_decay=0.0)
    module = Net()
    trainer = make_trainer(module, examples, 3, recipe, 0)
    state = first = trainer.init()
    for epoch in range(recipe.epochs):
        state, metrics = trainer.train_epoch(state, epoch)
    assert metrics["loss"] < 0.8
    assert int(state.step) == 60
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), first.batch_stats, state.batch_stats)
    assert all(jax.tree.leaves(changed))
    part = Examples(*(array[:40] for array in examples))  # fills no whole number of batches
    measured = trainer.evaluate(state, part)
    outputs = module.apply({"params": state.params, "batch_stats": state.batch_stats}, part.images)
    logs = np.asarray(jax.nn.log_softmax(outputs))
    assert measured["loss"] == pytest.approx(-logs[np.arange(40), part.labels].mean(), rel=1e-4)
    assert measured["top1"] == pytest.approx((logs.argmax(1) == part.labels).mean())
    assert measured["top1"] > 0.6 and measured["top5"] == 1


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="batch_size=999"):
        make_trainer(Net(), blobs(), 3, replace(TINY, batch_size=999), 0)
    with pytest.raises(ValueError, match="Net drops no paths"):
        make_trainer(Net(), blobs(), 3, replace(TINY, drop_path=0.1), 0)
    with pytest.raises(ValueError, match="epochs=0"):
        replace(TINY, epochs=0)


def test_auxiliary_head_and_drop_path():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, train=False, drop_path=0.0):
            x = x.reshape(len(x), -1) ** 2
            kept = 1.0
            if train:
                kept = jax.random.bernoulli(self.make_rng("drop_path"), 1 - drop_path, (len(x), 1))
            return nn.Dense(3, name="main")(x * kept), nn.Dense(3, name="auxiliary")(x)

    recipe = replace(TINY, epochs=2, batch_size=32, drop_path=0.5, learning_rate=0.01)
    for weight, moves in ((0.0, False), (0.4, True)):
        own = replace(recipe, auxiliary_weight=weight, weight_decay=0.0, warmup_epochs=0)
        trainer = make_trainer(Two(), blobs(), 3, own, 0)
        state, _ = trainer.train_epoch(trainer.init(), 0)
        kernel = trainer.init().params["auxiliary"]["kernel"]
        assert bool((state.params["auxiliary"]["kernel"] != kernel).any()) == moves


DEVICES = """
import json, sys, jax
sys.path.insert(0, "tests/training")
from test_train import TINY, Net, blobs, replace, make_trainer
values = []
for count in (1, 4):
    recipe = replace(TINY, epochs=2, batch_size=32)
    trainer = make_trainer(Net(), blobs(), 3, recipe, 0, jax.devices()[:count])
    state = trainer.init()
    for epoch in range(2):
        state, metrics = trainer.train_epoch(state, epoch)
    values.append([*metrics.values(), *trainer.evaluate(state, blobs()).values()])
print(json.dumps([len(jax.devices()), values]))
"""


def environment(**more):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **more}


def test_four_devices_give_the_same_numbers():
    env = environment(XLA_FLAGS="--xla_force_host_platform_device_count=4")
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    devices, (one, four) = json.loads(done.stdout)
    assert devices == 4
    np.testing.assert_allclose(one, four, atol=1e-5)


def command(workdir, *more):
    return [
        *(sys.executable, "-m", "experiments.train", "--recipe=tiny", "--dataset=digits"),
        *("--epochs=6", "--channels=2", "--train_examples=128", f"--architecture={CELL}"),
        *(f"--workdir={workdir}", *more),
    ]


def finish(workdir, *more):
    return subprocess.run(
        command(workdir, *more), env=environment(), capture_output=True, text=True, check=False
    )


def measured(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_resumes_to_the_same_bits_after_a_kill(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = finish(whole)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        command(killed), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not any((killed / "checkpoints").glob("[12]")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(measured(killed)) < 6
    done = finish(killed)
    assert done.returncode == 0, done.stderr
    assert measured(killed) == measured(whole)
    assert len(measured(whole)) == 6
    assert len(list((killed / "tensorboard").glob("events.*"))) == 1
    # `auto` stands for the dataset that it finds.
    done = finish(killed, "--dataset=auto", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    settings = json.loads((killed / "settings.json").read_text())
    assert (settings["dataset"], settings["channels"], settings["cells"]) == ("digits", 2, 1)
    assert not {"init", "batch_size", "repeats", "batch_norm", "precision"} & set(settings)
    done = finish(killed, "--seed=1")
    assert done.returncode == 1
    assert "seed: 0 there, 1 now" in " ".join(done.stderr.split())


def events(folder):
    """{name: [(epoch, value)]} of the one file of TensorBoard events, in the order of writing."""
    (path,) = folder.glob("events.*")
    data, found, place = path.read_bytes(), {}, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + size])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        place += 12 + size + 4  # length and its checksum before, checksum after
    return found


def counting_trainer():
    """A trainer whose metrics are what its state has counted."""
    state = State({"w": np.zeros(2, np.float32)}, {}, {}, np.zeros((), np.int32))

    def train_epoch(state, epoch):
        return state._replace(step=state.step + 1), {"loss": 1.0 / (epoch + 1)}

    def evaluate(state, examples):
        return {"loss": 1.0, "top1": float(state.step) / 8, "top5": 1.0}

    return Trainer(lambda: state, train_epoch, evaluate, None)


def test_tensorboard_has_every_epoch_once_and_at_once(tmp_path):
    seen = []

    def look(line):
        seen.append(len(events(tmp_path / "tensorboard")["test/top1"]))

    train_run.run(counting_trainer(), blobs(), 2, tmp_path, look)
    train_run.run(counting_trainer(), blobs(), 4, tmp_path, look)
    assert seen == [1, 2, 3, 4]
    train_run.run(counting_trainer(), blobs(), 4, tmp_path, look)
    found = events(tmp_path / "tensorboard")
    assert found["test/top1"] == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert found["train/loss"] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert set(found) == {"train/loss", "test/loss", "test/top1", "test/top5", "seconds"}


def test_mixup_by_hand():
    images = np.arange(4 * 2 * 2, dtype=np.float32).reshape(4, 2, 2, 1)
    kinds, how = np.array([0, 1, 2, 1]), Augmentation(mixup=0.4)
    mixed, labels = augment.augment(augment.generator(3, 1), images, kinds, 3, how)
    draws = augment.generator(3, 1)
    share, order = draws.beta(0.4, 0.4), draws.permutation(4)
    assert 0 < share < 1 and (order != np.arange(4)).any()
    for place, partner in enumerate(order):
        expected = share * images[place] + (1 - share) * images[partner]
        np.testing.assert_allclose(mixed[place], expected, rtol=1e-6)
        row = np.zeros(3)
        row[kinds[place]] += share
        row[kinds[partner]] += 1 - share
        np.testing.assert_allclose(labels[place], row, rtol=1e-6)


def few_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 32, 32, 3)).astype(np.float32)
    return Examples(images, (np.arange(24) % 10).astype(np.int32))


def small_space(name, **changes):
    dataset = SimpleNamespace(num_classes=10, image_shape=(32, 32, 3))
    recipe = replace(RECIPES[f"{name}_quick"], epochs=1, warmup_epochs=0, batch_size=8, **changes)
    return training.space(dataset, recipe, name), recipe


def test_a_quick_recipe_trains_both_cells_of_darts_with_its_auxiliary_head():
    space, recipe = small_space("darts", channels=2, cells=3)
    edges = (("sep_conv_3x3", 0), ("skip_connect", 1), *[("none", 0), ("max_pool_3x3", 1)] * 3)
    arch = from_genotype(make_genotype(edges, edges))
    own = few_images()
    trainer = make_trainer(space.specialise(arch), own, 10, recipe, 0)
    start = trainer.init()
    assert recipe.drop_path and {"cells_0", "cells_1", "cells_2", "auxiliary"} <= set(start.params)
    state, _ = trainer.train_epoch(start, 0)
    for name in ("cells_0", "cells_2", "auxiliary"):
        changed = jax.tree.map(lambda a, b: (a != b).any(), start.params[name], state.params[name])
        assert any(jax.tree.leaves(changed)), name
    assert np.isfinite(trainer.evaluate(state, own)["loss"])
    with pytest.raises(ValueError, match="cells=2; allowed: 3 or more"):
        small_space("darts", cells=2)
    assert RECIPES["darts_quick"].cells == 4


def test_a_quick_recipe_trains_a_resnet():
    space, recipe = small_space("resnet")
    text = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,8,2,8,1)SuperConvK1BNRELU(8,8,1,1)"
    own = few_images()
    trainer = make_trainer(space.specialise(space.from_string(text)), own, 10, recipe, 0)
    state, metrics = trainer.train_epoch(trainer.init(), 0)
    assert int(state.step) == 3 and recipe.augmentation.mixup
    assert np.isfinite([metrics["loss"], trainer.evaluate(state, own)["loss"]]).all()


def test_recipes_name_their_source():
    assert all(recipe.source for recipe in RECIPES.values())
