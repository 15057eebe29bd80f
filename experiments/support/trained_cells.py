"""Which NAS-Bench-201 cells a training study takes, and what it makes of their accuracies."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import scipy.stats

from saboc_jax.benchmarks.tables import Table
from saboc_jax.files import read_json
from saboc_jax.keys import root_key
from saboc_jax.progress import Bar
from saboc_jax.reports.canvas import blank
from saboc_jax.spaces.masks import architecture_to_mask, sample_connected
from saboc_jax.spaces.nas_bench_201.cells import DECISIONS, is_connected, to_string
from saboc_jax.statistics import correlation
from saboc_jax.training.recipes import Recipe
from saboc_jax.training.run import METRICS, read_lines
from saboc_jax.training.train import Examples, Metrics
from saboc_jax.types import SearchSpace

from . import training

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

TableRow = dict[str, Any]
"""Values by the name of their column."""
GROUPS = ("found", "random", "spread")


class FoundText(TypedDict):
    """What is read of the result of a search."""

    text: str


def cells(name: str, number: int, seed: int, table: Table, searches: str) -> list[str]:
    """The cells of a group, as texts without repetition.

    Args:
        name: found: of finished searches; random: connected cells drawn uniformly; spread:
            connected cells in the middles of `number` equal parts of the table, ordered by its
            CIFAR-10 test accuracy; else a file with a cell a line.
        number: how many are random or spread.
        seed: of the draw.
        table: true accuracies.
        searches: pattern of the results of `saboc search`, for found.

    Raises:
        ValueError: if there is no such file.
    """
    if name == "found":
        paths = sorted(glob.glob(searches))
        if not paths:  # the default is a folder of a clone
            raise ValueError(f"--searches={searches} is no file; allowed: results of searches")
        texts = [_text(Path(path)) for path in paths]
    elif name == "random":
        drawn = sample_connected(root_key(seed), DECISIONS, number, distinct=True)
        texts = [to_string(arch) for arch in drawn]
    elif name == "spread":
        accuracies = table.column("cifar10")
        ordered = table.architectures[np.lexsort((table.indices, accuracies))]
        kept = [arch for arch in ordered if _connected(arch)]
        middles = (np.arange(number) + 0.5) / number * len(kept)
        texts = [to_string(kept[int(place)]) for place in middles]
    elif Path(name).is_file():
        texts = [line.strip() for line in Path(name).read_text().splitlines() if line.strip()]
    else:
        raise ValueError(f"--archs={name}; allowed: {', '.join(GROUPS)}, or a file of cells")
    return list(dict.fromkeys(texts))


def _text(path: Path) -> str:
    found: dict[str, str] = read_json(path, FoundText)
    return found["text"]


def _connected(arch: np.ndarray) -> bool:
    return is_connected(architecture_to_mask(arch, 5))


def as_runs(
    groups: Mapping[str, Sequence[str]], results: Mapping[tuple[str, int], Metrics], table: Table
) -> list[TableRow]:
    """A row for every group, cell and seed."""
    return [
        {
            "group": group,
            "cell": text,
            "seed": seed,
            "top1 %": 100 * line["test_top1"],
            "train loss": line["train_loss"],
            "table %": float(table.accuracy("cifar10", text)),
        }
        for group, texts in groups.items()
        for (text, seed), line in results.items()
        if text in texts
    ]


def per_cell(runs: Sequence[TableRow]) -> list[TableRow]:
    """One row a cell of a group: the mean of its accuracies over seeds, and their deviation."""
    found: dict[tuple[str, str], list[TableRow]] = {}
    for run in runs:
        found.setdefault((run["group"], run["cell"]), []).append(run)
    rows = []
    for (group, cell), of_cell in found.items():
        top1 = np.array([run["top1 %"] for run in of_cell])
        rows.append(
            {
                "group": group,
                "cell": cell,
                "top1 %": float(top1.mean()),
                "sd of seeds": _deviation(top1),
                "seeds": len(of_cell),
                "table %": of_cell[0]["table %"],
            }
        )
    return rows


def per_group(rows: Sequence[TableRow]) -> list[TableRow]:
    """One row a group: mean and deviation over its cells, trained here and in the table."""
    summary = []
    for group in dict.fromkeys(row["group"] for row in rows):
        of_group = [row for row in rows if row["group"] == group]
        top1, truth = (np.array([row[name] for row in of_group]) for name in ("top1 %", "table %"))
        summary.append(
            {
                "group": group,
                "cells": len(of_group),
                "top1 %": float(top1.mean()),
                "sd of cells": _deviation(top1),
                "table %": float(truth.mean()),
                "table sd": _deviation(truth),
            }
        )
    return summary


def difference(rows: Sequence[TableRow], one: str, other: str) -> TableRow:
    """Mean of a group minus that of another, over cells: Welch's t interval and p-value."""
    a, b = ([row["top1 %"] for row in rows if row["group"] == name] for name in (one, other))
    row: TableRow = {"groups": f"{one} - {other}", "difference": float(np.mean(a) - np.mean(b))}
    if min(len(a), len(b)) > 1:
        test = scipy.stats.ttest_ind(a, b, equal_var=False)
        low, high = test.confidence_interval(0.95)
        row |= {"low": float(low), "high": float(high), "p": float(test.pvalue)}
    return row


def correlations(
    runs: Sequence[TableRow], table: Table, group: str, resamples: int = 1000
) -> list[TableRow]:
    """How the accuracies of a group after our training order the table's, see `statistics`."""
    of_group = [run for run in runs if run["group"] == group]
    texts, seeds = (list(dict.fromkeys(run[name] for run in of_group)) for name in ("cell", "seed"))
    values = {(run["cell"], run["seed"]): run["top1 %"] for run in of_group}
    top1 = np.array([[values[text, seed] for seed in seeds] for text in texts])
    rows = []
    for truth in ("test", "12ep"):
        accuracies = table.accuracy("cifar10", texts, truth)
        row = correlation.statistics("top1 %", top1, accuracies, True, resamples=resamples)
        rows.append({"group": group, "truth": truth, **row})
    return rows


def summary(
    runs: Sequence[TableRow], table: Table, resamples: int = 1000
) -> dict[str, list[TableRow]]:
    """Tables by name: cells, groups, differences of the first group to the others, tau."""
    rows = per_cell(runs)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    tables = {"cells": rows, "groups": per_group(rows)}
    if len(groups) > 1:
        tables["differences"] = [difference(rows, groups[0], other) for other in groups[1:]]
    # Two cells have an order but no correlation.
    large = [row["group"] for row in tables["groups"] if row["cells"] > 2]
    taus = [row for group in large for row in correlations(runs, table, group, resamples)]
    return tables | ({"correlations": taus} if taus else {})


def plot(rows: Sequence[TableRow]) -> Figure:
    """Accuracy after our training over the table's; bars are deviations over seeds."""
    figure = blank(5.5, 4)
    axes = figure.subplots()
    for group in dict.fromkeys(row["group"] for row in rows):
        of_group = [row for row in rows if row["group"] == group]
        truth, top1 = ([row[name] for row in of_group] for name in ("table %", "top1 %"))
        bars = np.nan_to_num([row["sd of seeds"] for row in of_group])
        axes.errorbar(truth, top1, yerr=bars, fmt="o", capsize=2, label=group)
    axes.set(xlabel="test accuracy in NAS-Bench-201 (%)", ylabel="test accuracy trained here (%)")
    axes.legend()
    return figure


def finish(
    of: SearchSpace,
    texts: Sequence[str],
    seeds: Sequence[int],
    examples: tuple[Examples, Examples],
    settings: Recipe,
    folder: Path,
    show: Callable[[str, int, Metrics], None],
    bar: Bar | None = None,
) -> dict[tuple[str, int], Metrics]:
    """Trains every cell with every seed, a folder each; what is finished there is read.

    All cells come before the next seed, so that a study that is stopped has whole seeds.

    Args:
        of: the space, whose `specialise` gives the networks.
        texts: the cells.
        seeds: of weights, order and augmentation.
        examples: to train on, to evaluate on.
        settings: of training.
        folder: of the runs; exists.
        show: called with the last epoch of every run that was trained now.
        bar: told of the steps of training that are done.

    Returns:
        {(cell, seed): the metrics of its last epoch}.
    """
    results = {}
    steps = settings.epochs * (len(examples[0].images) // settings.batch_size)
    if bar:
        bar.expect(steps * len(texts) * len(seeds))
    for seed in seeds:
        for text in texts:
            arch = of.from_string(text)
            run_folder = folder / f"{''.join(map(str, arch))}-seed{seed}"
            run_folder.mkdir(exist_ok=True)
            lines = read_lines(run_folder / METRICS)
            if len(lines) < settings.epochs:
                on_batch = bar.advance if bar else None
                lines = training.train_on(
                    of, arch, *examples, settings, seed, run_folder, None, on_batch
                )
                show(text, seed, lines[-1])
            results[text, seed] = lines[-1]
            if bar:
                bar.reach(steps * len(results))  # what is read counts, too
    return results


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
