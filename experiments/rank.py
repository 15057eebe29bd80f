"""Ranks networks of any framework by their names, the best first; run again, it goes on.

A name is timm:MODEL, torchvision:MODEL or keras:MODEL (with * for several, and a tag of timm for
its published weights), or package.module:NAME of your own, found from this folder. Networks are
made one after another; one that cannot be scored comes last with the reason.

Examples:
  saboc rank timm:resnet18 timm:mobilenetv3_small_050 --dataset=FOLDER --image_size=96
  saboc rank my_package.nets:Small my_package.nets:Large --scorers=consensus
  saboc rank "timm:*" --max_params=6M --store=runs/timm.sqlite --out=runs/timm
"""

import os
import sys
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.api.results import Ranked
from saboc_jax.api.scored import in_order, score_of
from saboc_jax.data import Dataset
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import root_key
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.modules import named
from saboc_jax.types import Scorer, SearchSpace

from .support import common, correlate_report, sizes

SCORERS = flags.DEFINE_list(
    "scorers",
    ["ntk_score", "params"],
    "Scorers, by commas: the first ranks, the others stand beside it. Several vote as one: "
    "ntk_score+naswot.",
)
flags.DEFINE_alias("image_size", "resize")
MAX_PARAMS = flags.DEFINE_string(
    "max_params",
    None,
    "Most parameters of a network, e.g. 6M, 6e6 or 6000000.",
)
STRICT = flags.DEFINE_bool(
    "strict", False, "A network that cannot be scored ends the run; else it comes last."
)
STORE = flags.DEFINE_string("store", "runs/ranked.sqlite", "Where scores are kept.")
OUT = flags.DEFINE_string("out", None, "Folder for the ranking as JSON, CSV, Markdown and a page.")
SHOWN = 50  # rows of the table on a terminal


def main() -> None:
    """Ranks what is named, and shows it."""
    console = Console(highlight=False, markup=False)
    sys.path.insert(0, os.getcwd())  # of the user's own packages
    dataset = common.load_dataset()
    names = _within(console, named.expand(common.arguments("timm:resnet18")), dataset)
    space = named.named_space(
        *(names, dataset.num_classes, dataset.image_shape),
        redraw_zeros=common.REDRAW_ZEROS.value,
    )
    scorer = common.build_scorer(SCORERS.value, space)
    ranked = _score(console, dataset, space, scorer)
    rows = ranked.rows()
    title = f"Best first, on {dataset.name} at {dataset.image_shape[0]} pixels. {ranked.note()}"
    console.print(results_table(rows[:SHOWN], title=title))
    for score in ranked.scores:
        for code, sentence in score.warnings:
            console.print(f"{score.name}: {code}: {sentence}", soft_wrap=True)
    if OUT.value:
        folder = Path(OUT.value)
        correlate_report.write(folder, rows, "scores")
        console.print(f"Wrote {report_html.write(folder)}")


def _within(console: Console, names: list[str], dataset: Dataset) -> list[str]:
    """The names whose networks have not too many parameters, as far as that is known before."""
    if MAX_PARAMS.value is None:
        return names
    limit, kept = sizes.read("--max_params", MAX_PARAMS.value), []
    with progress.bar("counting parameters", len(names), console) as bar:
        for name in names:
            if _fits(name, limit, dataset):
                kept.append(name)
            bar.advance()
    console.print(f"{len(kept)} of {len(names)} networks have at most {limit:,} parameters")
    if not kept:
        raise ValueError(f"--max_params={MAX_PARAMS.value} leaves no network; allowed: more")
    return kept


def _fits(name: str, limit: int, dataset: Dataset) -> bool:
    classes, shape = dataset.num_classes, dataset.image_shape
    try:
        number = named.parameters_of(name, classes, shape)
        if number is None:
            number = named.named_space([name], classes, shape).cost(np.zeros(1, int)).params
    except Exception:  # it is refused when it is scored, with the reason
        if STRICT.value:
            raise
        return True
    return number <= limit


def _score(console: Console, dataset: Dataset, space: SearchSpace, scorer: Scorer) -> Ranked:
    names, repeats = space.decisions.option_names[0], common.REPEATS.value
    with (
        Store(STORE.value) as store,
        progress.bar("scoring", len(names) * repeats, console) as bar,
    ):
        evaluator = common.settings(space, strict=STRICT.value).evaluator(
            *(space, scorer, dataset, root_key(common.SEED.value)),
            seed=common.SEED.value,
            space_id=space.name,
            store=store,
            on_score=bar.advance,
        )
        scores = [score_of(evaluator, np.array([number])) for number in range(len(names))]
    counts = evaluator.counts
    console.print(
        f"{counts.scored} scores computed, {counts.served} from the store, {counts.refused} "
        f"refused, {counts.non_finite} not finite; {counts.compile_seconds:.1f} s compiling"
    )
    for sentence in common.notices(vars(counts)):
        console.print(sentence)
    return in_order(scorer, scores)


if __name__ == "__main__":
    common.run(main, takes="NAME ...", unread=(*common.SIZED,))
