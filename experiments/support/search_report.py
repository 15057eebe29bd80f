"""What the search binary says of the architecture it found."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.accuracies import AccuracyTable
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import mask_text
from saboc_jax.reports.cell_figure import Edge, draw_cell
from saboc_jax.reports.sections import score_rows
from saboc_jax.reports.tables import results_table
from saboc_jax.searching.result import SearchResult, evaluations
from saboc_jax.spaces.darts import cells as darts_cells
from saboc_jax.spaces.darts.trained import genotype_of
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_101 import cells as nas_bench_101
from saboc_jax.spaces.nas_bench_201 import cells as nas_bench_201_cells
from saboc_jax.spaces.nas_bench_macro import encoding as nas_bench_macro
from saboc_jax.spaces.nats_sss import encoding as nats_sss
from saboc_jax.spaces.resnet.encoding import decode
from saboc_jax.spaces.transformers import autoformer, pit
from saboc_jax.spaces.transnas import macro as transnas_macro
from saboc_jax.spaces.transnas import micro as transnas_micro
from saboc_jax.statistics.winners import best_by_chance
from saboc_jax.types import Architecture, Scorer, SearchSpace

from . import common, pictures, tables

DRAWINGS: Mapping[str, Callable[[Architecture], Sequence[Edge]]] = {
    "autoformer": autoformer.drawing,
    "nas_bench_101": nas_bench_101.drawing,
    "nas_bench_macro": nas_bench_macro.drawing,
    "nats_sss": nats_sss.drawing,
    "pit": pit.drawing,
    "transnas_macro": transnas_macro.drawing,
    "transnas_micro": transnas_micro.drawing,
}
"""What gives the (source, target, operation) edges of an architecture's one picture, by space."""


def summarise(
    space: SearchSpace, scorer: Scorer, evaluator: Evaluator, found: SearchResult, seconds: float
) -> dict[str, Any]:
    """Everything worth keeping of a search, made of plain JSON types."""
    counts = replace(evaluator.counts)  # looking at spectra is served, too
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
        "measured": measured(space, found.arch),
        "spectra": spectra(evaluator, found),
        "blocks": blocks(space, found.arch),
        "accuracies": accuracies(space, found.arch, evaluations(found.history)),
        "evaluations": evaluations(found.history),
        "rejected": found.rejected,
        "stopped": found.stopped,
        "ntks": ntks,
        "counts": vars(counts),
        "search_seconds": seconds - counts.compile_seconds,
    }


def accuracies(space: SearchSpace, arch: Architecture, evaluated: int = 1) -> dict[str, Any]:
    """True accuracies where the benchmark's table is found, else why not.

    Args:
        space: the space of the architecture.
        arch: what was found.
        evaluated: evaluations of the search, to compare with training as many random cells.
    """
    given = tables.given(space)
    if given is not None and given.accuracies:
        return of_table(given, arch, evaluated)
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
            "best of as many": best_by_chance(table.column(name), max(1, evaluated)),
        }
        for name in benchmarks.DATASETS
    }


def measured(space: SearchSpace, arch: Architecture) -> dict[str, float]:
    """What the table of `--table` has of an architecture besides accuracies: costs, scores."""
    table = tables.given(space) if tables.TABLE.value else None
    values = {name: table.values([arch], name)[0] for name in table.others} if table else {}
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def of_table(table: AccuracyTable, arch: Architecture, evaluated: int) -> dict[str, Any]:
    """What a table knows of an architecture, for each of its accuracies."""
    row = int(table.rows([arch])[0])
    if row < 0:
        return {"missing": f"{table.path.name} does not have this architecture"}
    found = {}
    for name in table.accuracies:
        column = table.column(name)
        known = column[~np.isnan(column)]
        if np.isnan(column[row]):
            continue
        found[name] = {
            "accuracy": float(column[row]),
            "rank": int((known > column[row]).sum()) + 1,
            "of": len(known),
            "percentile": float(100 * (known <= column[row]).mean()),
            "best": float(known.max()),
            "mean": float(known.mean()),
            "best of as many": best_by_chance(known, max(1, min(evaluated, len(known)))),
        }
    return found or {"missing": f"{table.path.name} has no accuracy of this architecture"}


def show(console: Console, space: SearchSpace, summary: dict[str, Any]) -> None:
    """Prints a summary as tables."""
    console.print(f"\nFound {summary['text']}", soft_wrap=True)
    cost = summary["cost"]
    counted = "Trained" if common.TRAINED_SIZE.value else "Scoring"
    console.print(
        f"{counted} network: {cost['params']:,} parameters, {cost['macs'] / 1e6:.1f} M "
        f"multiply-adds, {cost['depth']} layers deep"
    )
    if summary["measured"]:
        said = ", ".join(f"{name} {value:.6g}" for name, value in summary["measured"].items())
        console.print(f"In {tables.TABLE.value}: {said}", soft_wrap=True)
    console.print(results_table(score_rows(summary["scores"])))
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
                        "a random one": t["mean"],
                        "best of as many random ones": t["best of as many"],
                    }
                    for name, t in truth.items()
                ],
                title=f"True accuracy among {next(iter(truth.values()))['of']:,} architectures",
            )
        )
    counts = summary["counts"]
    console.print(
        f"{summary['evaluations']} networks, {summary['ntks']} NTKs, {counts['scored']} scores "
        f"computed ({counts['served']} served, {counts['disconnected']} disconnected, "
        f"{counts['non_finite']} not finite)"
    )
    for sentence in common.notices(counts):
        console.print(sentence)
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


def spectra(evaluator: Evaluator, found: SearchResult, others: int = 8) -> dict[str, Any]:
    """Eigenvalues in every repeat, of what was found and of a few others it was chosen among.

    Nothing is computed for it: the others were scored, and are spread evenly over the search.
    Empty: the scorer has no eigenvalues.
    """

    def of(mask: np.ndarray) -> list[list[float]]:
        notes = [evaluator.score(mask, repeat)[1] for repeat in range(evaluator.repeats)]
        rows = [note.get("eigenvalues") for note in notes]
        return [np.asarray(row).tolist() for row in rows if row is not None]

    eigenvalues = of(architecture_to_mask(found.arch, max(evaluator.space.choices)))
    if not eigenvalues:
        return {}
    distinct = {
        mask_text(masks[row], evaluator.space): masks[row]
        for masks, scores in found.history
        for row in np.flatnonzero(np.isfinite(scores).all((1, 2)))
    }
    distinct.pop(evaluator.space.to_string(found.arch), None)
    kept = np.unique(np.linspace(0, len(distinct) - 1, min(others, len(distinct))).astype(int))
    texts = list(distinct)
    return {"found": eigenvalues, "others": {texts[i]: of(distinct[texts[i]]) for i in kept}}


def candidates(space: SearchSpace, scorer: Scorer, found: SearchResult) -> dict[str, list[Any]]:
    """All that was scored, as columns: architecture, costs, and the mean of each metric.

    Supernets have no costs. What is over budget was not scored and is left out.
    """
    masks = np.concatenate([masks for masks, _ in found.history])
    scores = np.concatenate([scores for _, scores in found.history])
    texts = [mask_text(mask, space) for mask in masks]
    rows = list({text: row for row, text in reversed(list(enumerate(texts)))}.values())
    rows = sorted(row for row in rows if not np.isnan(scores[row]).all())
    costs = [
        space.cost(masks[row].argmax(1)) if (masks[row].sum(1) == 1).all() else None for row in rows
    ]
    means = scores[rows].mean(1)
    return {
        "architecture": [texts[row] for row in rows],
        "params": [cost.params if cost else math.nan for cost in costs],
        "macs": [cost.macs if cost else math.nan for cost in costs],
        **{name: means[:, i].tolist() for i, name in enumerate(scorer.metrics)},
    }


def blocks(space: SearchSpace, arch: Architecture) -> list[dict[str, Any]]:
    """The super-blocks of a ResNet in order, between stem and tail; [] in other spaces."""
    if space.name != "resnet":
        return []
    structure = decode(arch)
    ends = [{"block": name, "channels": width} for name, width in
            (("stem", structure.stem), ("tail", structure.tail))]  # fmt: skip
    inner = [
        {
            "block": block.kind,
            "channels": block.out,
            "stride": block.stride,
            "bottleneck channels": block.bottleneck,
            "sub-layers": block.sub_layers,
        }
        for block in structure.blocks
    ]
    return [ends[0], *inner, ends[1]]


def cell_edges(space: SearchSpace, arch: Architecture) -> dict[str, list[Edge]]:
    """The edges of the cells of an architecture, by the file of their picture."""
    if space.name == "nas_bench_201":
        operations = [nas_bench_201_cells.OPERATIONS[option] for option in arch]
        pairs = zip(nas_bench_201_cells.EDGES, operations, strict=True)
        return {"cell.png": [(*edge, operation) for edge, operation in pairs]}
    if space.name in DRAWINGS:
        drawn = list(DRAWINGS[space.name](arch))
        return {"cell.png": drawn} if drawn else {}  # a graph without a path has no edges
    if not space.name.startswith("darts"):
        return {}
    nodes = ["c[k-2]", "c[k-1]", *map(str, range(darts_cells.STEPS))]
    found = {}
    for name, cell in zip(darts_cells.CELLS, genotype_of(space, arch).cells(), strict=True):
        edges: list[Edge] = [
            (nodes[source], nodes[2 + place // 2], operation)
            for place, (operation, source) in enumerate(cell)
        ]
        found[f"cell-{name}.png"] = [*edges, *((node, "out", "") for node in nodes[2:])]
    return found


def draw(folder: Path, space: SearchSpace, arch: Architecture) -> None:
    """Draws each cell as a graph."""
    for name, edges in cell_edges(space, arch).items():
        kind = name.removeprefix("cell-").removesuffix(".png")
        title = space.to_string(arch) if kind == "cell" else f"{kind} cell"
        pictures.keep(folder / name, functools.partial(draw_cell, edges, title), dpi=150)
