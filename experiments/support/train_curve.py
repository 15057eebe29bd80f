"""Plots the loss and accuracy of a finished run of `experiments.train`.

Example:
  python -m experiments.support.train_curve --run=runs/cell --out=experiments/results/train_learns
"""

from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from . import common

RUN = flags.DEFINE_string("run", None, "Workdir of the run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the figure and the numbers.", required=True)


def main() -> None:
    """Writes curve.png, and run.json with settings, versions and epochs."""
    run, out = Path(RUN.value), Path(OUT.value)
    settings = common.read_json(run / "settings.json")
    result = common.read_json(run / "result.json")
    out.mkdir(parents=True, exist_ok=True)
    common.write_json(out / "run.json", {"settings": settings, **result})
    figure = Figure(figsize=(8, 3), layout="constrained")
    epochs = [line["epoch"] for line in result["epochs"]]
    for axis, name, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("loss (nats)", "top-1 accuracy"), strict=True
    ):
        for split in ("train", "test"):
            values = [line[f"{split}_{name}"] for line in result["epochs"]]
            axis.plot(epochs, values, marker="o", label=split)
        axis.set(xlabel="epoch", ylabel=label)
        axis.legend()
    figure.savefig(out / "curve.png", dpi=120)


if __name__ == "__main__":
    common.run(main)
