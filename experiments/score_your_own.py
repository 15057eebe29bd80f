"""Ranks your own Flax modules: here a few small vision transformers.

Nothing in this file is special to transformers: write any Linen modules into `candidates`.

Examples:
  python -m experiments.score_your_own
  python -m experiments.score_your_own --scorers=ntk_score,synflow,params --dataset=cifar100
"""

import jax
import numpy as np
from absl import flags
from flax import linen as nn
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from saboc_jax import data
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.keys import key_numbered, root_key
from saboc_jax.spaces.base import architecture_to_mask
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.statistics.ranking import borda
from saboc_jax.types import Images

from .support import common

SCORERS = flags.DEFINE_list("scorers", ["ntk_score"], "Scores whose metrics are ranked together.")


class VisionTransformer(nn.Module):
    """Patches, positions, pre-norm blocks, mean pooling."""

    depth: int
    width: int
    heads: int
    patch: int
    num_classes: int

    @nn.compact
    def __call__(self, images: Images) -> jax.Array:
        """[n, h, w, c] to [n, classes]."""
        sides = (self.patch, self.patch)
        x = nn.Conv(self.width, sides, strides=sides, name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
            y = nn.Dense(2 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(y))
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(1))


def candidates(classes: int) -> dict[str, nn.Module]:
    """The modules to rank, by name."""
    sizes = [(1, 16, 2, 8), (2, 16, 2, 8), (1, 32, 4, 8), (1, 16, 2, 16)]
    return {
        f"depth {d}, width {w}, patch {p}": VisionTransformer(d, w, h, p, classes)
        for d, w, h, p in sizes
    }


def main() -> None:
    """Scores, ranks, prints."""
    console = Console(highlight=False)
    dataset = common.load_dataset()
    modules = candidates(dataset.num_classes)
    space = module_space(
        list(modules.values()), option_names=[list(modules)], image_shape=dataset.image_shape
    )
    scorer = common.build_scorer(SCORERS.value, space)
    key = root_key(common.SEED.value)
    keys = [key_numbered(key, repeat) for repeat in range(common.REPEATS.value)]
    batches = [data.draw(dataset, k, common.BATCH_SIZE.value, needs=scorer.needs) for k in keys]
    evaluator = Evaluator(space, scorer, keys, batches)
    number = np.arange(len(modules))
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(scorer.name, total=len(modules) * len(keys))
        evaluator.on_score = lambda: bar.advance(task)
        scores = evaluator.evaluate(architecture_to_mask(number[:, None], len(modules))).mean(1)
    ranks = np.asarray(borda(scores, scorer.higher_is_better))
    table = Table(title=f"Best first, on {dataset.name}")
    for title in ("module", "rank", "parameters", "MACs", *scorer.metrics):
        table.add_column(title)
    for option in np.argsort(ranks, kind="stable"):
        cost = space.cost(np.array([option]))
        values = [f"{value:.4g}" for value in scores[option]]
        table.add_row(
            list(modules)[option], f"{ranks[option]:g}", f"{cost.params}", f"{cost.macs}", *values
        )
    console.print(table)
    seconds = evaluator.counts.compile_seconds, evaluator.counts.run_seconds
    console.print(f"Compiled in {seconds[0]:.1f} s, ran in {seconds[1]:.1f} s")


if __name__ == "__main__":
    common.run(main)
