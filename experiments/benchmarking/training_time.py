"""Predicted training curves beside real ones, of networks of several widths.

A network of one hidden layer in the NTK parametrisation is trained on digits by gradient descent
with momentum on the whole batch; `sj.linearised_training` predicts the same steps from the kernel
at its initial weights.

Examples:
  python experiments/benchmarking/training_time.py --out=runs/training_time
"""

import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.ntk import regression
from saboc_jax.reports.canvas import blank

WIDTHS = flags.DEFINE_list("widths", ["32", "256", "2048"], "Hidden units.")
NUMBER = flags.DEFINE_integer("number", 100, "Training images, and test images.", 10)
STEPS = flags.DEFINE_integer("steps", 300, "Of gradient descent.", 1)
MOMENTUM = flags.DEFINE_float("momentum", 0.9, "Of gradient descent.", 0.0)
SHARE = flags.DEFINE_float("share", 0.1, "Learning rate, as a share of its limit.", 0.0)
OUT = flags.DEFINE_string("out", "runs/training_time", "Folder of curves.csv and curves.png.")
CURVES = ("real train", "predicted train", "real test", "predicted test")


def outputs(params: Any, x: jax.Array) -> jax.Array:
    """Returns [n, 10] of one hidden layer."""
    hidden = jax.nn.relu(x @ params["first"] / np.sqrt(x.shape[1]))
    return hidden @ params["last"] / np.sqrt(hidden.shape[1])


def trained(params: Any, x: jax.Array, y: jax.Array, other: jax.Array, rate: float) -> Any:
    """Returns outputs on training and test images before every step, and the last parameters."""
    optimiser = optax.sgd(rate, MOMENTUM.value)

    def loss(params: Any) -> jax.Array:
        return jnp.square(outputs(params, x) - y).sum(-1).mean() / 2

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        now = outputs(params, x), outputs(params, other)
        return (optax.apply_updates(params, updates), state), now

    start = params, optimiser.init(params)
    (params, _), found = jax.jit(lambda: jax.lax.scan(step, start, None, STEPS.value + 1))()
    return *found, params


def curves(width: int, batch: Any) -> tuple[dict[str, np.ndarray], sj.Drift]:
    """Returns the four curves of a width, and how far its kernel moved."""
    x, other = (each.reshape(len(each), -1) for each in (batch.images, batch.test_images))
    y, wanted = (regression.encode_labels(each, 10) for each in (batch.labels, batch.test_labels))
    first, last = jax.random.split(jax.random.key(width))
    params = {
        "first": jax.random.normal(first, (x.shape[1], width)),
        "last": jax.random.normal(last, (width, 10)),
    }
    network = sj.from_function(outputs, params)
    options = sj.NTKOptions(outputs="full", params="all")
    kernel, rows = sj.empirical_ntks(network, x, (other,), options)
    limit = sj.linearised_training(kernel, y).learning_rate_limit
    training = sj.linearised_training(
        kernel, y, outputs(params, x), learning_rate=SHARE.value * limit, momentum=MOMENTUM.value
    )
    predicted = training.at(np.arange(STEPS.value + 1), rows, outputs(params, other))
    train, test, after = trained(params, x, y, other, SHARE.value * limit)
    losses = lambda f, y: np.square(np.asarray(f) - np.asarray(y)).sum((1, 2)) / (2 * len(y))  # noqa: E731
    found = (losses(train, y), predicted.losses, losses(test, wanted))
    drift = sj.ntk_drift(network, {"params": after}, x, sj.NTKOptions("auto", "all", "trace"))
    return dict(zip(CURVES, (*found, losses(predicted.test, wanted)), strict=True)), drift


def run(argv: list[str]) -> None:
    """Trains, predicts, writes."""
    drawn = data.draw(
        data.load("digits"),
        jax.random.key(0),
        NUMBER.value,
        needs=("images", "labels", "test_images", "test_labels"),
    )
    folder = Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    figure = blank(3.2 * len(WIDTHS.value), 2.8)
    panels = figure.subplots(1, len(WIDTHS.value), sharey=True, squeeze=False)[0]
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "step", *CURVES, "drift of the kernel at the end"])
        for width, panel in zip(map(int, WIDTHS.value), panels, strict=True):
            found, drift = curves(width, drawn)
            for step, row in enumerate(zip(*found.values(), strict=True)):
                last = drift.relative_change if step == STEPS.value else ""
                writer.writerow([width, step, *(f"{value:.6g}" for value in row), last])
            for name, colour in (("train", "C0"), ("test", "C1")):
                panel.plot(found[f"real {name}"], colour, label=f"{name}, real")
                panel.plot(found[f"predicted {name}"], f"{colour}--", label=f"{name}, predicted")
            panel.set(title=f"{width} hidden units", xlabel="step", yscale="log")
    panels[0].set_ylabel("loss")
    panels[0].legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=130)


if __name__ == "__main__":
    app.run(run)
