r"""Trains one architecture by a recipe; run again with its workdir, it goes on where it stopped.

Examples:
  python -m experiments.train --recipe=quick --workdir=runs/cell \
    --architecture='|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|'
"""

import time

from absl import flags
from rich.console import Console

from experiments import common, training
from saboc_jax.recipes import RECIPES

ARCHITECTURE = flags.DEFINE_string("architecture", None, "The space's text.", required=True)
RECIPE = flags.DEFINE_enum("recipe", "quick", sorted(RECIPES), "Settings of training.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept.", required=True)
EPOCHS = flags.DEFINE_integer("epochs", None, "In place of the recipe's.", 1)
TRAIN_BATCH = flags.DEFINE_integer("train_batch_size", None, "In place of the recipe's.", 1)
EXAMPLES = flags.DEFINE_integer("train_examples", None, "The first of the split; by default all.")


def main() -> None:
    """Trains, and shows every epoch."""
    console = Console(highlight=False)
    dataset = common.load_dataset()
    recipe = training.recipe(RECIPE.value, EPOCHS.value, TRAIN_BATCH.value)
    space = training.space(dataset, recipe, common.SPACE.value)
    folder = common.open_workdir(WORKDIR.value, training.identity(dataset, recipe))
    arch = space.from_string(ARCHITECTURE.value)
    console.print(f"{space.to_string(arch)}: {space.cost(arch)}")

    start, shown = time.monotonic(), 0

    def show(line: dict[str, float]) -> None:
        nonlocal shown
        shown += 1
        left = (time.monotonic() - start) / shown * (recipe.epochs - line["epoch"])
        values = "  ".join(f"{name} {value:.4g}" for name, value in line.items())
        console.print(f"{values}  ({left:.0f} s left)" if left else values)

    seed, count = common.SEED.value, EXAMPLES.value
    lines = training.train(space, arch, dataset, recipe, seed, folder, count, show)
    common.write_json(folder / "result.json", {**common.environment(), "epochs": lines})
    last = lines[-1]
    console.print(f"Test top-1 {last['test_top1']:.2%}, top-5 {last['test_top5']:.2%}")


if __name__ == "__main__":
    common.set_defaults(channels=None, cells=None)  # the recipe's
    common.run(main, unread=training.SCORING)
