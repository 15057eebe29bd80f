"""What the correlation tables and figures share: scores of random cells, with their accuracy."""

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
        scorer: what scored.
        archs: [n, 6] cells.
        scores: [n, repeats, k].
        test: [n] accuracy on test images.
        train: [n] accuracy on training images, after 100 of 200 epochs where the table has it.
        train_label: which of the two it is.
    """

    scorer: Scorer
    archs: np.ndarray
    scores: np.ndarray
    test: np.ndarray
    train: np.ndarray
    train_label: str


# Of the paper's Figure 1, then what is there in its stead.
TRAINING = {"train_100ep": "100-epoch training accuracy", "train": "final training accuracy"}


def set_defaults(scorers: str = "ntk_score") -> None:
    """The paper's protocol (Section 5.2) on a network small enough for two CPU cores."""
    common.set_defaults(
        dataset=PAPER_DATASET, channels=4, num_archs=1024, repeats=3, scorers=scorers.split(",")
    )


def score(console: Console, batch_size: int | None = None) -> Study:
    """Scores the cells of the flags; what the store holds is not computed again."""
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
    """What the numbers were measured on."""
    return (
        f"{len(study.archs)} random cells, {common.DATASET.value}, C={common.CHANNELS.value}, "
        f"N={common.CELLS.value}, {common.REPEATS.value} repeats, seed {common.SEED.value}; tau: "
        "of the mean over repeats, low and high: its 95 % interval over cells"
    )


def beside(row: dict[str, Any], paper: float | None) -> dict[str, Any]:
    """A row of ours in the paper's orientation (positive: orders well), the paper's beside it.

    The paper's is left out on other images than its own.
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
