"""What each choice in the NTK-score's protocol does to its correlation with accuracy.

Every variant changes one thing of the base (C=4, N=1, n=64, one draw, frozen batch norm, Kaiming
fan-in, centred labels, the parameters of --params) and scores the same random cells. Choose on one
dataset (--dataset=cifar10), report on another.

Examples:
  saboc ablation --dataset=cifar10 --out=runs/ablation
  saboc ablation --variants='base,C=8,onehot labels' --num_archs=50
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.ntk.network import PARAMETERS
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.scorers import make_scorer
from saboc_jax.statistics import correlation

from .support import common, correlate_report, scoring


class Variant(NamedTuple):
    """One change to the flags or to the scorer's options."""

    flags: Mapping[str, Any] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})


BASE: dict[str, Any] = {"channels": 4, "cells": 1, "repeats": 1, "init": "kaiming_normal_fan_in"}
VARIANTS = {
    "base": Variant(),
    "3 repeats": Variant({"repeats": 3}),
    "C=3": Variant({"channels": 3}),
    "C=8": Variant({"channels": 8}),
    "C=16": Variant({"channels": 16}),
    "N=3": Variant({"cells": 3}),
    "n=32": Variant({"batch_size": 32}),
    "n=128": Variant({"batch_size": 128}),
    "init fan_out": Variant({"init": "kaiming_normal_fan_out"}),
    "init torch": Variant({"init": "torch_default"}),
    "batch statistics": Variant({}, {"batch_norm": "batch"}),
    "onehot labels": Variant({}, {"label_encoding": "onehot"}),
    "weights and biases": Variant({}, {"params": "all"}),
    "weights": Variant({}, {"params": "weights"}),
    "cells": Variant({}, {"params": "cells"}),
    "jitter 1e-4": Variant({}, {"jitter": 1e-4}),
}
PARAMS = flags.DEFINE_enum("params", "cells", PARAMETERS, "Parameters of the base's NTK.")
CHOSEN = flags.DEFINE_list("variants", ["all"], "Variants, by commas, or all.")
OUT = flags.DEFINE_string("out", None, "Folder for ablation.json, .csv and .md.")


def measure(console: Console, name: str) -> list[dict[str, Any]]:
    """Returns the rows of one variant: tau of S_t, S_e, S_g and Borda, in declared orientation."""
    variant = VARIANTS[name]
    common.set_defaults(**BASE | {"batch_size": 64} | dict(variant.flags))
    dataset = common.load_dataset()
    table = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
    space = common.build_space(dataset)
    options = {"params": PARAMS.value} | dict(variant.options)
    scorer = make_scorer("ntk_score", space, **options)
    archs = scoring.architectures(space)
    truth = np.asarray(table.accuracy(dataset.name.removesuffix("_standin"), archs))
    scores = scoring.score(console, dataset, space, scorer, archs)
    rows = correlation.table(scorer, scores, truth)
    kept = [row for row in rows if row["score"] in ("S_t", "S_e", "S_g", "ntk_score borda")]
    keys = ("score", "tau", "low", "high", "rho", "bad")
    return [{"variant": name, **{key: row[key] for key in keys}} for row in kept]


def main() -> None:
    """Measures the variants; shows and writes the results after each."""
    console = Console(highlight=False, markup=False)
    names = list(VARIANTS) if CHOSEN.value == ["all"] else CHOSEN.value
    if unknown := sorted(set(names) - set(VARIANTS)):
        raise ValueError(f"--variants: {unknown} are unknown; allowed: all, {', '.join(VARIANTS)}")
    rows = []
    for name in names:
        rows += measure(console, name)
        if OUT.value:
            correlate_report.write(Path(OUT.value), rows, "ablation")
            report_html.write(Path(OUT.value))
    title = f"{scoring.NUM_ARCHS.value} random cells, signed Kendall tau, {common.DATASET.value}"
    console.print(results_table(rows, title=title))


if __name__ == "__main__":
    common.set_defaults(dataset="cifar10", num_archs=200)
    common.run(main, many_devices=True, unread=("scorers",))
