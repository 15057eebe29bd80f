"""Shared by the correlation tables and figures: scores of random cells, with their accuracy."""

from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.types import Scorer

from ..support import common, scoring

PAPER_DATASET = "cifar100"  # of the paper's Tables 1 and 2

OUT = flags.DEFINE_string("out", None, "Folder for the table as .json, .csv, .md and its figure.")
QUICK = flags.DEFINE_boolean("quick", False, "The same at a small size, in a minute.")


class Study(NamedTuple):
    """Scores of cells and their accuracy.

    Attributes:
        scorer: the scorer.
        archs: [n, 6] cells.
        scores: [n, repeats, k].
        test: [n] accuracy on test images.
        train: [n] accuracy on training images, after 100 of 200 epochs if the table has it, else
            after the last.
        train_label: says which of the two it is.
    """

    scorer: Scorer
    archs: np.ndarray
    scores: np.ndarray
    test: np.ndarray
    train: np.ndarray
    train_label: str


# The paper's Figure 1 uses the first column; the second replaces it if a table lacks it.
TRAINING = {"train_100ep": "100-epoch training accuracy", "train": "final training accuracy"}


def set_defaults(scorers: str = "ntk_score") -> None:
    """Sets the paper's protocol (Section 5.2), with a network small enough for two CPU cores."""
    common.set_defaults(
        dataset=PAPER_DATASET, channels=4, num_archs=1024, repeats=3, scorers=scorers.split(",")
    )


def score(console: Console, batch_size: int | None = None) -> Study:
    """Scores the cells of the flags; scores in the store are not computed again."""
    if QUICK.value:
        common.set_defaults(num_archs=24, repeats=2, batch_size=16, dataset="digits")
    table = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
    dataset = common.load_dataset()
    trained_on = dataset.name.removesuffix("_standin")
    trained_on = trained_on if trained_on in benchmarks.DATASETS else "cifar10"
    space = common.build_space(dataset)
    scorer = common.build_scorer(scoring.scorer_names(), space)
    archs = scoring.architectures(space)
    seen = next(target for target in TRAINING if table.has(trained_on, target))
    test, train = (
        np.asarray(table.accuracy(trained_on, archs, target)) for target in ("test", seen)
    )
    scores = scoring.score(console, dataset, space, scorer, archs, batch_size)
    return Study(scorer, archs, scores, test, train, TRAINING[seen])


def caption(study: Study) -> str:
    """Says what the numbers were measured on."""
    return (
        f"{len(study.archs)} random cells, {common.DATASET.value}, C={common.CHANNELS.value}, "
        f"N={common.CELLS.value}, {common.REPEATS.value} repeats, seed {common.SEED.value}; tau: "
        "of the mean over repeats, low and high: its 95 % interval over cells"
    )


def beside(row: dict[str, Any], paper: float | None) -> dict[str, Any]:
    """Adds the paper's number to a row, with ours in its orientation (positive: orders well).

    The paper's number is left out on images other than its own.
    """
    sign = 1 if row["better"] == "higher" else -1
    paper = paper if common.DATASET.value == PAPER_DATASET else None
    low, high = sorted((sign * row["low"], sign * row["high"]))
    return {
        "score": row["score"],
        "paper": float("nan") if paper is None else paper,
        "tau": sign * row["tau"],
        "low": low,
        "high": high,
        "one repeat": sign * row["tau of one repeat"],
        "sd": row["sd"],
        "signed tau": row["tau"],
    }
