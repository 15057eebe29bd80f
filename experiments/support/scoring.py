"""What `score` and `correlate` share: which architectures, and the loop under a progress bar."""

import itertools
import math
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.data import Dataset
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import MAX_SEED, root_key
from saboc_jax.spaces.isomorphism import LARGEST, distinct
from saboc_jax.spaces.masks import architecture_to_mask, sample_distinct
from saboc_jax.types import Scorer, SearchSpace

from . import common, texts

SCORER_NAMES = flags.DEFINE_list(
    "scorers",
    ["ntk_score"],
    "Scorers, by commas, or all (but latency). One may have options after colons: "
    "knas:variant=mgm, ntk_score:norm=fro:jitter=1e-4.",
)
NUM_ARCHS = flags.DEFINE_integer(
    "num_archs",
    100,
    "Architectures to draw, without repetition; of those of the table, where there is one.",
    1,
)
ARCHS = flags.DEFINE_string(
    "archs",
    None,
    "all; distinct (the first of every class of isomorphic ones); representatives (the first of "
    "every class of isomorphic ones of equal cost: those that searches score); or a text file with "
    "one architecture a line; default: --num_archs drawn.",
)
ARCH_SEED = flags.DEFINE_integer(
    "arch_seed", 0, "Seeds which architectures are drawn.", 0, MAX_SEED
)
STORE = flags.DEFINE_string("store", "runs/scores.sqlite", "Where scores are kept.")


def architectures(space: SearchSpace) -> np.ndarray:
    """The architectures of the flags, [n, decisions].

    Raises:
        ValueError: names a bad line, or says that the space has fewer, or too many for `all`.
    """
    total = math.prod(space.choices)
    if ARCHS.value == "all":
        if total > LARGEST:
            raise ValueError(
                f"--archs=all: {space.name} has {total}; allowed: at most {LARGEST} (--num_archs)"
            )
        return np.array(list(itertools.product(*map(range, space.choices))))
    if ARCHS.value in ("distinct", "representatives"):
        return distinct(space, by_cost=ARCHS.value == "representatives")
    if ARCHS.value:
        return _read(Path(ARCHS.value), space)
    if NUM_ARCHS.value > total:
        raise ValueError(f"--num_archs={NUM_ARCHS.value}; {space.name} has {total}")
    key = root_key(ARCH_SEED.value)  # a seed with one purpose: kept studies name their cells by it
    return sample_distinct(key, space.choices, NUM_ARCHS.value)


def _read(path: Path, space: SearchSpace) -> np.ndarray:
    """The architectures of a text file, one a line; empty lines do not count."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            if text := line.strip():
                found.append(texts.read(text, space))
        except ValueError as error:
            raise ValueError(f"--archs={path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"--archs={path} is empty; allowed: one architecture a line")
    return np.stack(found)


def scorer_names() -> list[str]:
    """The scorers of the flags."""
    return common.scorer_names(SCORER_NAMES.value)


def score(
    console: Console,
    dataset: Dataset,
    space: SearchSpace,
    scorer: Scorer,
    archs: np.ndarray,
    batch_size: int | None = None,
) -> np.ndarray:
    """Metrics [n, repeats, k]; what is in the store is not computed again."""
    masks = architecture_to_mask(archs, max(space.choices))
    what, total = f"{scorer.name} on {dataset.name}", len(masks) * common.REPEATS.value
    with Store(STORE.value) as store, progress.bar(what, total, console) as bar:
        evaluator = common.build_evaluator(dataset, space, scorer, store, bar.advance, batch_size)
        scores = evaluator.evaluate(masks)
    counts, images = evaluator.counts, batch_size or common.BATCH_SIZE.value
    per_score = counts.run_seconds / max(counts.scored, 1)
    console.print(
        f"{counts.scored} scores computed, {counts.served} from the store, "
        f"{counts.disconnected} disconnected, {counts.refused} refused, "
        f"{counts.non_finite} not finite; "
        f"{counts.compile_seconds:.1f} s compiling, {per_score:.3f} s per score"
    )
    passes = ", ".join(f"{part.name} {part.passes}" for part in scorer.parts or (scorer,))
    console.print(f"Forward + backward passes of n={images} images per score: {passes}")
    for sentence in common.notices(vars(counts)):
        console.print(sentence)
    return scores
