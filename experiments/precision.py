"""What the floating-point type of a network changes in its scores, against float64.

The same random architectures, weights and images in bfloat16, float32 and float64; the second
half of a score is float64 always. For each metric: the relative difference to float64, Kendall's
tau with the order that float64 gives, scores that are not finite, and seconds of the whole
scorer. Types take turns on every architecture.

Examples:
  saboc precision --dataset=cifar10 --num_archs=50 --out=runs/precision
  saboc precision --scorers=ntk_score,naswot --channels=4 --num_archs=20
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.data import Dataset
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.progress import track
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.dtype import DTYPES, in_dtype
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics import correlation
from saboc_jax.types import SearchSpace

from .support import common, correlate_report, scoring

OUT = flags.DEFINE_string("out", None, "Folder for precision.json, .csv and .md.")
EXACT = "float64"


def build(dataset: Dataset, base: SearchSpace, name: str) -> dict[str, Evaluator]:
    """An evaluator of a scorer for each type, on the same draws."""
    made = {}
    for dtype in DTYPES:
        space = in_dtype(base, dtype)
        made[dtype] = common.build_evaluator(dataset, space, common.build_scorer([name], space))
    return made


def measure(
    evaluators: Mapping[str, Evaluator], name: str, masks: np.ndarray, console: Console
) -> list[dict[str, Any]]:
    """Rows of one scorer, one for each metric and type.

    Args:
        evaluators: of `build`.
        name: of the scorer.
        masks: of the architectures.
        console: where progress is shown.
    """
    scores: dict[str, list[np.ndarray]] = {dtype: [] for dtype in DTYPES}
    for mask in track(masks, name, console, calm=True):
        for dtype, evaluator in evaluators.items():
            scores[dtype].append(evaluator.evaluate(mask[None])[0].mean(0))
    values = {dtype: np.stack(each) for dtype, each in scores.items()}
    seconds = {dtype: evaluator.counts.run_seconds for dtype, evaluator in evaluators.items()}
    scorer = evaluators[EXACT].scorer
    return [
        {
            "score": metric if metric == name else f"{name}.{metric}",
            "type": dtype,
            **correlation.differences(values[dtype][:, column], values[EXACT][:, column], up),
            "s": seconds[dtype] / len(masks),
            "s / s of float32": seconds[dtype] / seconds["float32"],
        }
        for column, (metric, up) in enumerate(
            zip(scorer.metrics, scorer.higher_is_better, strict=True)
        )
        for dtype in DTYPES
    ]


def main() -> None:
    """Measures, shows, writes."""
    console = Console(highlight=False, markup=False)
    if flags.FLAGS["precision"].present:
        raise ValueError("--precision: this binary runs every type; leave the flag out")
    if scoring.NUM_ARCHS.value < 3:
        raise ValueError(f"--num_archs={scoring.NUM_ARCHS.value}; allowed: 3 or more")
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    archs = scoring.architectures(space)
    masks = np.asarray(architecture_to_mask(archs, max(space.choices)))
    rows: list[dict[str, Any]] = []
    for name in scoring.scorer_names():
        rows += measure(build(dataset, space, name), name, masks, console)
        if OUT.value:
            correlate_report.write(Path(OUT.value), rows, "precision")
    console.print(results_table(rows, title=f"{len(masks)} architectures, {common.network_text()}"))


if __name__ == "__main__":
    common.set_defaults(repeats=1, num_archs=50, channels=8)
    common.run(main, unread=("store",))
