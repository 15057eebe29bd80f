r"""Trains one architecture by a recipe; run again with its workdir, it goes on where it stopped.

Examples:
  saboc train --from=runs/nas_bench_201-pruning-ntk_score-digits-seed0 --recipe=quick
  saboc train --recipe=quick --workdir=runs/cell \
    --architecture='|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|'
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.files import write_json
from saboc_jax.reports import html as report_html
from saboc_jax.reports.records import read_records
from saboc_jax.training.recipes import RECIPES

from .support import common, search_report, texts, training, workdir

ARCHITECTURE = flags.DEFINE_string("architecture", None, "The space's text.")
FROM = flags.DEFINE_string(
    "from",
    None,
    "Folder of a search: trains what it found, in its space and on its dataset unless flags name "
    "others.",
)
RECIPE = flags.DEFINE_enum("recipe", "quick", sorted(RECIPES), "Settings of training.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is kept; default with --from: `training` in that folder."
)
EPOCHS = flags.DEFINE_integer("epochs", None, "In place of the recipe's.", 1)
TRAIN_BATCH = flags.DEFINE_integer("train_batch_size", None, "In place of the recipe's.", 1)
EXAMPLES = flags.DEFINE_integer(
    "train_examples", None, "The first of the split; by default all.", 1
)


def take_over(folder: Path) -> None:
    """Takes what a search found and how it was asked for as the values of absent flags.

    Raises:
        ValueError: if the folder holds no finished search.
    """
    path = folder / "result.json"
    record = read_records(folder).get("result", {}) if path.is_file() else {}
    if not {"text", "settings", "scores"} <= set(record):
        raise ValueError(
            f"--from={folder} holds no finished search; allowed: a --workdir of search"
        )
    values = {"architecture": record["text"], "workdir": str(folder / "training")}
    asked = {name: record["settings"].get(name) for name in ("space", "dataset")}
    values |= {name: value for name, value in asked.items() if isinstance(value, str)}
    for name, value in values.items():
        if not flags.FLAGS[name].present:
            flags.FLAGS[name].value = value


def main() -> None:
    """Trains, and shows every epoch."""
    console = Console(highlight=False, markup=False)
    if FROM.value:
        take_over(Path(FROM.value))
    given, place = ARCHITECTURE.value, WORKDIR.value
    if given is None or place is None:
        missing = "architecture" if given is None else "workdir"
        raise ValueError(f"--{missing} is missing; allowed: it, or --from=FOLDER of a search")
    dataset = common.load_dataset()
    recipe = training.recipe(RECIPE.value, EPOCHS.value, TRAIN_BATCH.value)
    space = training.space(dataset, recipe, common.SPACE.value)
    settings = training.identity(dataset, recipe, "from")
    folder = workdir.open_workdir(place, settings)
    arch = texts.read(given, space)
    console.print(f"{space.to_string(arch)}: {space.cost(arch)}")

    size = min(EXAMPLES.value or len(dataset.train), len(dataset.train))
    steps = size // recipe.batch_size
    console.print(
        f"{recipe.epochs} epochs of {steps} steps on {size:,} images of {dataset.name}; the first "
        "compiles"
    )
    with progress.bar("training", recipe.epochs * steps, console) as bar:

        def show(line: dict[str, Any]) -> None:
            bar.reach(line["epoch"] * steps)  # epochs of an earlier run count, too
            console.print("  ".join(f"{name} {value:.4g}" for name, value in line.items()))

        seed, count = common.SEED.value, EXAMPLES.value
        lines = training.train(space, arch, dataset, recipe, seed, folder, count, show, bar.advance)
    record: dict[str, Any] = {
        "settings": settings,
        **workdir.environment(),
        "text": space.to_string(arch),
    }
    record |= {"cost": space.cost(arch)._asdict(), "recipe": asdict(recipe), "epochs": lines}
    write_json(folder / "result.json", record)
    search_report.draw(folder, space, arch)
    report_html.write(folder)
    last = lines[-1]
    console.print(f"Test top-1 {last['test_top1']:.2%}, top-5 {last['test_top5']:.2%}")
    console.print(f"Kept in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


if __name__ == "__main__":
    common.set_defaults(channels=None, cells=None)  # the recipe's
    common.run(
        main,
        unread=(
            *common.SCORING,
            *common.RAY,
            "batch_size",
            "column",
            "init",
            "precision",
            "redraw_zeros",
            "repeats",
            "table",
            "trained_size",
            "unit",
        ),
    )
