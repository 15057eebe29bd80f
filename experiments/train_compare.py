"""Trains NAS-Bench-201 cells alike, for a short time, and compares them with the table.

Run again with its --workdir, it goes on with what is missing; studies may share a --workdir.

Examples:
  saboc train_compare --archs=found,random --number=5 --workdir=runs/compare
  saboc train_compare --archs=spread --number=20 --seeds=1 --workdir=runs/tau
"""

import functools
from dataclasses import replace
from pathlib import Path

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.benchmarks.tables import load_nas_bench_201
from saboc_jax.files import write_json
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces import make_space
from saboc_jax.training.recipes import RECIPES, Recipe
from saboc_jax.training.run import first_examples

from .support import common, correlate_report, pictures, trained_cells, training, workdir

ARCHS = flags.DEFINE_list(
    "archs", ["found", "random"], "Groups: found, random, spread, or files with a cell a line."
)
NUMBER = flags.DEFINE_integer("number", 5, "Cells of random, or of spread.", 1)
SEARCHES = flags.DEFINE_string(
    "searches", "experiments/results/search_cifar10/seed*.json", "Results of searches, for found."
)
SEEDS = flags.DEFINE_integer("seeds", 2, "Trainings of each cell; the first seed is --seed.", 1)
RECIPE = flags.DEFINE_enum("recipe", "quick", sorted(RECIPES), "Settings of training.")
EPOCHS = flags.DEFINE_integer("epochs", None, "In place of the recipe's.", 1)
TRAIN_BATCH = flags.DEFINE_integer("train_batch_size", None, "In place of the recipe's.", 1)
EXAMPLES = flags.DEFINE_integer(
    "train_examples", None, "The first of the split; by default all.", 1
)
SHRINK = flags.DEFINE_integer("shrink", 1, "Average images over squares of this side.", 1)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the runs are kept.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for tables and figure.")


def settings() -> Recipe:
    """The recipe with the flags' changes; crops move by as much of the smaller image."""
    recipe = training.recipe(RECIPE.value, EPOCHS.value, TRAIN_BATCH.value)
    how = recipe.augmentation
    how = how._replace(crop_padding=how.crop_padding // SHRINK.value)
    return replace(recipe, augmentation=how)


def train_all(console: Console, texts: list[str]) -> dict[tuple[str, int], dict[str, float]]:
    """The last metrics of every cell and seed."""
    dataset, recipe = common.load_dataset(), settings()
    # What says which cells are trained, and how often, may differ: every run has its own folder.
    chosen = ("archs", "number", "searches", "seed", "seeds", "out")
    folder = workdir.open_workdir(WORKDIR.value, training.identity(dataset, recipe, *chosen))
    train_examples, held_out = (
        training.shrunk(first_examples(dataset, split, count), SHRINK.value)
        for split, count in (("train", EXAMPLES.value), ("test", None))
    )
    space = make_space(
        "nas_bench_201",
        num_classes=dataset.num_classes,
        image_shape=train_examples.images.shape[1:],
        channels=recipe.channels,
        num_cells=recipe.cells,
    )

    def show(text: str, seed: int, line: dict[str, float]) -> None:
        console.print(f"seed {seed}  top-1 {line['test_top1']:.2%}  {text}")

    seeds = common.seeds(SEEDS.value)
    with progress.bar("training", None, console) as bar:
        return trained_cells.finish(
            space, texts, seeds, (train_examples, held_out), recipe, folder, show, bar
        )


def main() -> None:
    """Trains, prints, keeps."""
    console = Console(highlight=False, markup=False)
    table = load_nas_bench_201(common.DATA_DIR.value)
    seed, number = common.SEED.value, NUMBER.value
    groups = {
        Path(name).stem: trained_cells.cells(name, number, seed, table, SEARCHES.value)
        for name in ARCHS.value
    }
    texts = list(dict.fromkeys(text for cells in groups.values() for text in cells))
    runs = trained_cells.as_runs(groups, train_all(console, texts), table)
    tables = trained_cells.summary(runs, table)
    for name, rows in tables.items():
        console.print(results_table(rows, title=name))
        if OUT.value:
            correlate_report.write(Path(OUT.value), rows, name)
    folder = Path(WORKDIR.value)
    draw = functools.partial(trained_cells.plot, trained_cells.per_cell(runs))
    record = workdir.run_record("out")
    write_json(folder / "result.json", {**record, "tables": tables, "runs": runs})
    pictures.keep(folder / "trained.png", draw, dpi=100)
    report_html.write(folder)
    if OUT.value:
        correlate_report.write(Path(OUT.value), runs, "runs")
        pictures.keep(Path(OUT.value) / "trained.png", draw, dpi=100)
        report_html.write(Path(OUT.value))
    console.print(f"Kept in {folder}: report.html and the runs")


if __name__ == "__main__":
    common.set_defaults(channels=None, cells=None)  # the recipe's
    common.run(
        main,
        unread=(
            *common.SCORING,
            *common.RAY,
            "batch_size",
            "init",
            "precision",
            "redraw_zeros",
            "repeats",
            "space",
            "trained_size",
        ),
    )
