"""Plots the loss and accuracy of a finished run of `saboc train`.

Example:
  python -m experiments.support.train_curve --run=runs/cell --out=experiments/results/train_learns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from saboc_jax.files import read_json, write_json
from saboc_jax.reports.canvas import blank
from saboc_jax.reports.records import TrainingRecord

from . import common, pictures

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

RUN = flags.DEFINE_string("run", None, "Workdir of the run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the figure and the numbers.", required=True)


def draw(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy on both splits over epochs."""
    figure = blank(8, 3)
    epochs = [line["epoch"] for line in lines]
    for axis, name, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("loss (nats)", "top-1 accuracy"), strict=True
    ):
        for split in ("train", "test"):
            values = [line[f"{split}_{name}"] for line in lines]
            axis.plot(epochs, values, marker="o", label=split)
        axis.set(xlabel="epoch", ylabel=label)
        axis.legend()
    return figure


def main() -> None:
    """Writes curve.png, and run.json with settings, versions and epochs."""
    run, out = Path(RUN.value), Path(OUT.value)
    settings = read_json(run / "settings.json", dict[str, Any])
    result = read_json(run / "result.json", TrainingRecord)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", {"settings": settings, **result})
    pictures.keep(out / "curve.png", lambda: draw(result["epochs"]), dpi=120)


if __name__ == "__main__":
    common.run(main)
