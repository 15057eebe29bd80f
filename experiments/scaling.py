"""Fits how the cost of an NTK grows with one size at a time: exponents, with a plot.

From one setting (`--channels`, `--cells`, `--batch_size`, `--image_size`, `--classes`) each size is
varied alone: architectures, n, C, N, image side, classes. Compile seconds, run seconds (on a cell
of 3x3 convolutions and on the full supernet) and the compiled program's temporary memory are
fitted apart: cost ~ size^exponent by least squares of logarithms, with the standard error. For
classes, `trace` and `full` outputs are measured too.

Examples:
  saboc scaling --out=runs/scaling.json
  saboc scaling --sizes=n,C --rounds=5
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from scipy import stats

from saboc_jax import progress
from saboc_jax.files import write_json
from saboc_jax.keys import root_key
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.reports.canvas import blank
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import sample_architectures

from .benchmarking.contestants import compiled
from .benchmarking.timing import timed
from .support import common, pictures, workdir

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

SWEEPS: Mapping[str, Sequence[int]] = {
    "architectures": (1, 2, 4, 8, 16),
    "n": (16, 32, 64, 128),
    "C": (4, 8, 16, 32),
    "N": (1, 2, 4, 8),
    "image side": (8, 16, 32, 64),
    "classes": (10, 30, 100, 300),
    "classes/trace": (5, 10, 20, 40),
    "classes/full": (5, 10, 20, 40),
}
COSTS = ("compile s", "run s", "supernet s", "temporary MB")

IMAGE_SIZE = flags.DEFINE_integer("image_size", 16, "Height and width of the images.", 4)
CLASSES = flags.DEFINE_integer("classes", 10, "Outputs.", 1)
SIZES = flags.DEFINE_list("sizes", [], f"Which of {', '.join(SWEEPS)}; default all.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of every program; the median counts.", 1)
OUT = flags.DEFINE_string("out", None, "JSON file to write, with a plot of the same name.")


def fit(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """Exponent of cost ~ size^exponent with its standard error, and r^2."""
    line = stats.linregress(np.log(sizes), np.log(costs))
    return {
        "exponent": float(line.slope),
        "standard error": float(line.stderr),
        "r2": float(line.rvalue**2),
    }


def setting(name: str, size: int) -> dict[str, Any]:
    """The setting in which one size is changed."""
    values: dict[str, Any] = {
        "architectures": 1,
        "n": common.BATCH_SIZE.value,
        "C": common.CHANNELS.value,
        "N": common.CELLS.value,
        "image side": IMAGE_SIZE.value,
        "classes": CLASSES.value,
        "outputs": name.partition("/")[2] or "sum",
    }
    return values | {name.partition("/")[0]: size}


def cost(values: Mapping[str, Any]) -> dict[str, float]:
    """Compile seconds, median run seconds of all architectures, temporary memory."""
    side = values["image side"]
    space = make_space(
        "nas_bench_201",
        channels=values["C"],
        num_cells=values["N"],
        num_classes=values["classes"],
        image_shape=(side, side, 3),
    )
    key = root_key(common.SEED.value)
    variables = jax.jit(space.init)(key)
    images = jax.random.normal(key, (values["n"], side, side, 3))
    options = NTKOptions("one_backward", outputs=values["outputs"])

    def ntk(variables: Any, gates: Any, images: Any) -> Any:
        return empirical_ntks(bind(space, variables, gates), images, (), options)

    many = values["architectures"] > 1
    archs = sample_architectures(key, space.choices, values["architectures"])
    gates = [space.gates(arch) for arch in archs] if many else [space.gates(np.full(6, 3))]
    program, seconds = compiled(ntk, (variables, gates[0], images))
    run = lambda gates: program(variables, gates, images)  # noqa: E731
    found = {"compile s": seconds, "run s": run_seconds(run, gates)}
    if not many:
        full = space.gates(np.ones((len(space.choices), max(space.choices))))
        found["supernet s"] = run_seconds(run, [full])
    found["temporary MB"] = program.memory_analysis().temp_size_in_bytes / 1e6
    return found


def run_seconds(run: Callable[[Any], Any], gates: Sequence[Any]) -> float:
    """Median CPU seconds of a pass over all architectures, after one to warm up."""

    def everything() -> None:
        for gate in gates:
            jax.block_until_ready(run(gate))

    everything()
    return float(np.median([timed(everything)[1] for _ in range(ROUNDS.value)]))


def sweep(name: str, bar: progress.Bar) -> list[dict[str, Any]]:
    """Costs at every size of one sweep."""
    points = []
    for size in SWEEPS[name]:
        bar.describe(f"{name} {size}")
        points.append({"size": size, **cost(setting(name, size))})
        bar.advance()
    return points


def fits(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The fit of each cost that all points have."""
    sizes = [point["size"] for point in points]
    return {
        name: fit(sizes, [point[name] for point in points])
        for name in COSTS
        if all(point.get(name, 0) > 0 for point in points)
    }


def draw(sweeps: Mapping[str, Any]) -> Figure:
    """Log-log plots, a panel for each size; seconds on the left axis alone."""
    columns = 4
    rows = -(-len(sweeps) // columns)
    figure = blank(3.2 * columns, 2.8 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, entry) in zip(panels, sweeps.items(), strict=False):
        for line in ("compile s", "run s", "supernet s"):
            if line in entry["fits"]:
                slope = entry["fits"][line]["exponent"]
                points = [(point["size"], point[line]) for point in entry["points"]]
                panel.plot(*zip(*points, strict=True), "o-", label=f"{line}, exponent {slope:.2f}")
        panel.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        sizes = [point["size"] for point in entry["points"]]
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=6)
    for panel in panels[len(sweeps) :]:
        panel.set_visible(False)
    return figure


def main() -> None:
    """Measures, fits, prints, writes."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    if unknown := sorted(set(SIZES.value) - set(SWEEPS)):
        raise ValueError(f"sizes {unknown} are unknown; allowed: {list(SWEEPS)}")
    start = time.perf_counter()
    sweeps: dict[str, dict[str, Any]] = {}
    console = Console(highlight=False, markup=False)
    names = SIZES.value or list(SWEEPS)
    with progress.bar("measuring", sum(len(SWEEPS[n]) for n in names), console, calm=True) as bar:
        found = {name: sweep(name, bar) for name in names}
    for name, points in found.items():
        sweeps[name] = {"points": points, "fits": fits(points)}
    table = [
        {"size": name, "from": SWEEPS[name][0], "to": SWEEPS[name][-1]}
        | {
            cost: f"{value['exponent']:.2f} ± {value['standard error']:.2f}"
            for cost, value in entry["fits"].items()
        }
        for name, entry in sweeps.items()
    ]
    title = f"Exponents of the cost; {time.perf_counter() - start:.0f} s"
    console.print(results_table(table, title=title))
    if OUT.value:
        record = {"settings": workdir.flag_values("out"), **workdir.environment(), "sweeps": sweeps}
        write_json(Path(OUT.value), record)
        pictures.keep(Path(OUT.value).with_suffix(".png"), lambda: draw(sweeps), dpi=120)


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation, or beside it
    common.run(
        main,
        unread=(
            *common.SCORING,
            *common.RAY,
            "data_dir",
            "dataset",
            "init",
            "precision",
            "redraw_zeros",
            "repeats",
            "resize",
            "space",
            "trained_size",
        ),
    )
