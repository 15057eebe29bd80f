"""How well training-free scores order architectures by their true accuracy.

Signed Kendall tau and Spearman rho of every metric and of every aggregation, each with a bootstrap
interval over architectures and its spread over repeats (each its own weights and images), what
choosing by it loses, the winner's curve (the expected accuracy of the best of m by the score), and
tau between the scores.

Examples:
  saboc correlate --dataset=cifar100 --num_archs=200
  saboc correlate --scorers=knas,knas:variant=mgm,synflow:variant=plain
  saboc correlate --scorers=all --datasets=cifar10,cifar100 --out=runs/all
  saboc correlate --table=my_accuracies.csv --column=cifar10_test --num_archs=50
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.accuracies import LEAST
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation
from saboc_jax.statistics.ranking import AGGREGATIONS
from saboc_jax.types import SearchSpace

from .support import common, correlate_report, scoring, table_archs, tables

TARGET = flags.DEFINE_enum("target", "test", benchmarks.TARGETS, "Which true accuracy.")
DATASETS = flags.DEFINE_list("datasets", [], "Several datasets, by commas; default: --dataset.")
TRAINED_ON = flags.DEFINE_enum(
    "trained_on",
    None,
    benchmarks.DATASETS,
    "Accuracies on which dataset; default: that of --dataset.",
)
HOW = flags.DEFINE_multi_enum(
    "aggregation", ["borda", "log_rank"], sorted(AGGREGATIONS), "How metrics become one rank."
)
OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder for correlations and winners as .json, .csv, .md, each score as CSV, scatter plots, "
    "the winner's curves, the matrix of tau.",
)
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", 1)
TOP_K = flags.DEFINE_list(
    "top_k",
    [str(share) for share in correlation.TOP_K],
    "Shares of the architectures, by commas: what is lost if the best so many by a score were "
    "trained and the best of them taken.",
)
WITHIN = flags.DEFINE_string(
    "within",
    None,
    "A column of words of the table, such as the training recipe: also tau within each of its "
    "groups of 10 rows or more, as their unweighted mean.",
)


def top_k() -> list[float]:
    """Returns the shares of the flag.

    Raises:
        ValueError: names a value that is not a share.
    """
    try:
        shares = [float(text) for text in TOP_K.value]
        for share in shares:
            correlation.number_of(share, 1)
    except ValueError as error:
        raise ValueError(
            f"--top_k={','.join(TOP_K.value)}; allowed: numbers above 0 and at most 1, by commas"
        ) from error
    return shares


def truth_of(space: SearchSpace, dataset: str, console: Console) -> tables.Truth:
    """The accuracies to correlate with.

    Raises:
        ValueError: if the space has no table and none is given.
        FileNotFoundError: if NAS-Bench-201's own is missing.
    """
    trained_on = TRAINED_ON.value or dataset.removesuffix("_standin")
    found = tables.truth(space, trained_on, TARGET.value, console)
    if found is None and space.name == "nas_bench_201":
        benchmarks.load_nas_bench_201(common.DATA_DIR.value)  # says where to get it
    if found is None:
        raise ValueError(f"no accuracies of space {space.name} are known; allowed: --table=FILE")
    if not found.restricts:  # a name that the benchmark lacks is not CIFAR-10
        known = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
        known.column(trained_on, TARGET.value)
    return found


def measured(
    truth: tables.Truth, archs: np.ndarray, accuracies: np.ndarray, shares: list[float]
) -> list[correlation.CorrelationRow]:
    """A row for each column of the table that is no accuracy: costs, and published scores."""
    rows = []
    for name in truth.table.others if truth.table else ():
        values = truth.table.values(archs, name) if truth.table else np.zeros(0)
        known = ~np.isnan(values)
        if known.sum() > 1:
            each = correlation.Candidate(values[known, None], True)
            options = {"resamples": RESAMPLES.value, "top_k": shares}
            label = f"{name} (table)"
            rows.append(correlation.of_candidate(label, each, accuracies[known], **options))
    return rows


def add_within(
    rows: list[correlation.CorrelationRow],
    scores: dict[str, correlation.Candidate],
    truth: tables.Truth,
    archs: np.ndarray,
) -> None:
    """Adds tau within the groups of `--within` to rows of scores and of columns of the table.

    Raises:
        ValueError: if there is no table, or no such column of it.
    """
    if WITHIN.value is None:
        return
    if truth.table is None:
        raise ValueError(f"--within={WITHIN.value} without a table; allowed: with --table=FILE")
    of_row = np.full(len(truth.table), -1)
    own = truth.table.rows(archs)
    of_row[own] = np.arange(len(own))
    groups = [
        (of_row[places[known]], values[known])
        for places, values in truth.table.groups(WITHIN.value).values()
        if (known := of_row[places] >= 0).sum() >= LEAST
    ]
    if not groups:
        raise ValueError(
            f"--within={WITHIN.value}: no group has {LEAST} of the {len(archs)} scored; allowed: "
            "more architectures"
        )
    columns = {
        f"{name} (table)": correlation.Candidate(truth.table.values(archs, name)[:, None], True)
        for name in truth.table.others
    }
    for row in rows:
        if row["score"] in (found := scores | columns):
            row[f"tau within {WITHIN.value}"] = correlation.tau_within(found[row["score"]], groups)
            row["groups"] = len(groups)


def main() -> None:
    """Scores, correlates, shows, writes."""
    console = Console(highlight=False, markup=False)
    shares = top_k()
    rows: list[correlation.CorrelationRow] = []
    winners: list[dict[str, Any]] = []
    for name in DATASETS.value or [common.DATASET.value]:
        dataset = common.load_dataset(name)
        space = common.build_space(dataset)
        known = truth_of(space, dataset.name, console)
        scorer = common.build_scorer(scoring.scorer_names(), space)
        archs, truth = table_archs.with_accuracies(space, known, console)
        scores = scoring.score(console, dataset, space, scorer, archs)
        found = correlation.table(
            scorer, scores, truth, aggregations=HOW.value, resamples=RESAMPLES.value, top_k=shares
        )
        found += measured(known, archs, truth, shares)
        add_within(found, correlation.candidates(scorer, scores, HOW.value), known, archs)
        what, label = "architectures" if known.restricts else "cells", known.label
        title = (
            f"{len(archs)} {what}, {label}, scored on {dataset.name} ({common.network_text()}); "
            f"low, high: 95 % interval over {what}; sd: repeats"
        )
        console.print(results_table(found, title=title))
        rows += [{"scored on": dataset.name, "accuracy": label, **row} for row in found]
        everything = correlation.candidates(scorer, scores, HOW.value)
        folder = Path(OUT.value) if OUT.value else None
        won = correlate_report.show_winners(console, folder, dataset.name, everything, truth, label)
        winners += [{"scored on": dataset.name, "accuracy": label, **row} for row in won]
        if OUT.value:
            correlate_report.plot(Path(OUT.value), dataset.name, everything, truth, label)
            path = Path(OUT.value) / f"scores-{dataset.name}.csv"
            texts = [space.to_string(arch) for arch in archs]
            correlate_report.write_scores(path, texts, scorer, scores, truth)
    if OUT.value:
        correlate_report.write(Path(OUT.value), rows)
        correlate_report.write(Path(OUT.value), winners, "winners")
        report_html.write(Path(OUT.value))
        console.print(f"Wrote {OUT.value}")


if __name__ == "__main__":
    common.run(main, many_devices=True)
