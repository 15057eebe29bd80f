"""Ranks your own Flax modules: here a few small vision transformers.

Nothing in this file is special to transformers: write any Linen modules into `candidates`.

Examples:
  saboc score_your_own
  saboc score_your_own --scorers=ntk_score,synflow,params --dataset=cifar100
"""

import jax
from absl import flags
from flax import linen as nn
from rich.console import Console

import saboc_jax as sj
from saboc_jax.keys import root_key
from saboc_jax.types import Images

from .support import common

SCORERS = flags.DEFINE_list(
    "scorers",
    ["ntk_score"],
    "Scorers, by commas: the first ranks, the others stand beside it. Several vote as one: "
    "ntk_score+naswot.",
)


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
    """Ranks and prints."""
    dataset = common.load_dataset()
    ranked = sj.rank(
        candidates(dataset.num_classes),
        dataset,
        root_key(common.SEED.value),
        SCORERS.value,
        repeats=common.REPEATS.value,
        batch_size=common.BATCH_SIZE.value,
    )
    Console(highlight=False, markup=False).print(
        f"Best first, on {dataset.name}\n{ranked}", soft_wrap=True
    )


if __name__ == "__main__":
    # A module brings its network, a scorer its options in its text.
    common.run(
        main,
        unread=(
            *common.NETWORK,
            *common.SCORING,
            *common.RAY,
        ),
    )
