"""What the search binary says of the architecture it found."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments import common
from saboc_jax import benchmarks
from saboc_jax.evaluate import Evaluator
from saboc_jax.report import draw_cell, results_table
from saboc_jax.search import SearchResult, evaluations
from saboc_jax.spaces import nas_bench_201_cells as cells
from saboc_jax.types import Architecture, Scorer, SearchSpace


def summarise(
    space: SearchSpace, scorer: Scorer, evaluator: Evaluator, found: SearchResult, seconds: float
) -> dict[str, Any]:
    """Everything worth keeping of a search, made of plain JSON types."""
    counts = evaluator.counts
    kernels = 1 + max((len(getattr(o, "rows", ())) for o in scorer.observables.values()), default=0)
    ntks = counts.scored * kernels if "kernels" in scorer.observables else 0
    cost = space.cost(found.arch)
    return {
        "architecture": [int(option) for option in found.arch],
        "text": space.to_string(found.arch),
        "scores": {
            name: {
                "mean": float(found.mean()[i]),
                "standard_error": float(found.standard_error()[i]),
                "repeats": [float(v) for v in found.scores[:, i]],
                "better": "higher" if scorer.higher_is_better[i] else "lower",
            }
            for i, name in enumerate(scorer.metrics)
        },
        "cost": cost._asdict(),
        "eigenvalues": np.asarray(found.diagnostics.get("eigenvalues", [])).tolist(),
        "accuracies": accuracies(space, found.arch),
        "evaluations": evaluations(found.history),
        "rejected": found.rejected,
        "stopped": found.stopped,
        "ntks": ntks,
        "counts": vars(counts),
        "search_seconds": seconds - counts.compile_seconds,
    }


def accuracies(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """True accuracies where the benchmark's table is found, else why not."""
    if space.name != "nas_bench_201":
        return {"missing": f"there is no table of trained accuracies of {space.name}"}
    try:
        table = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
    except FileNotFoundError as error:
        return {"missing": str(error)}
    return {
        name: {
            "accuracy": float(table.accuracy(name, arch)),
            "rank": int(table.rank(name, arch)),
            "of": len(table),
            "percentile": float(table.percentile(name, arch)),
            "best": float(table.column(name).max()),
            "mean": float(table.column(name).mean()),
        }
        for name in benchmarks.DATASETS
    }


def show(console: Console, space: SearchSpace, summary: dict[str, Any]) -> None:
    """Prints a summary as tables."""
    console.print(f"\nFound {summary['text']}", soft_wrap=True)
    cost = summary["cost"]
    counted = "Trained" if common.TRAINED_SIZE.value else "Scoring"
    console.print(
        f"{counted} network: {cost['params']:,} parameters, {cost['macs'] / 1e6:.1f} M "
        f"multiply-adds, {cost['depth']} layers deep"
    )
    rows = [
        {
            "metric": name,
            "mean": s["mean"],
            "standard error": s["standard_error"],
            "better": s["better"],
        }
        for name, s in summary["scores"].items()
    ]
    console.print(results_table(rows))
    truth = summary["accuracies"]
    if "missing" in truth:
        console.print(f"True accuracy unknown: {truth['missing']}")
    else:
        console.print(
            results_table(
                [
                    {
                        "trained on": name,
                        "accuracy %": t["accuracy"],
                        "rank": t["rank"],
                        "percentile": t["percentile"],
                        "best": t["best"],
                        "mean": t["mean"],
                    }
                    for name, t in truth.items()
                ],
                title=f"True test accuracy among all {truth['cifar10']['of']:,} cells",
            )
        )
    counts = summary["counts"]
    console.print(
        f"{summary['evaluations']} networks, {summary['ntks']} NTKs, {counts['scored']} scores "
        f"computed ({counts['served']} served, {counts['disconnected']} disconnected, "
        f"{counts['non_finite']} not finite)"
    )
    if counts["shrunk"]:
        console.print(common.shrunk_text(counts["shrunk"]))
    if summary["rejected"]:
        console.print(f"{summary['rejected']} candidates over budget were not scored")
    if summary["stopped"]:
        console.print(
            f"Stopped by --{summary['stopped']} before its own end; the same command with more "
            "goes on from here"
        )
    console.print(
        f"{counts['compilations']} compilation of the scoring program, "
        f"{counts['compile_seconds']:.1f} s compiling, {summary['search_seconds']:.1f} s searching"
    )


def draw(path: Path, space: SearchSpace, arch: Architecture) -> None:
    """Draws the cell as a graph."""
    if space.name != "nas_bench_201":
        return
    edges = [
        (source, target, cells.OPERATIONS[option])
        for (source, target), option in zip(cells.EDGES, arch, strict=True)
    ]
    draw_cell(edges, title=space.to_string(arch)).savefig(path, dpi=150)
