"""Shared by the search tables: searches over seeds, their controls, and the table itself.

All searches of a seed use the same weights and images, and one store keeps the scores. So searches
that ask for the same cells share their cost, and a repeated study reads its scores from the
store. Seconds are the time that scoring the distinct networks of a search took when they were
first scored, without compilation.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.tables import Table
from saboc_jax.data import Dataset
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.store import Store
from saboc_jax.files import write_json
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.progress import Bar
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.searchers import make_searcher, random
from saboc_jax.searchers.restrict import without_options
from saboc_jax.searching.result import SearchResult, evaluations
from saboc_jax.searching.run import run_search
from saboc_jax.spaces.isomorphism import representatives
from saboc_jax.statistics import ranking as ranks
from saboc_jax.statistics.significance import paired_difference
from saboc_jax.types import Architecture, PRNGKey, Ranking, Scorer, Searcher, SearchSpace

from ..support import common, workdir
from .published import PublishedSearch

SEEDS = flags.DEFINE_integer("seeds", 5, "Searches by each method; seeds count from --seed.", 1)
OUT = flags.DEFINE_string("out", None, "Folder for the tables, and every run.")
QUICK = flags.DEFINE_bool("quick", False, "The same at a small size, in minutes at most.")
STORE = flags.DEFINE_string("store", "runs/searches.sqlite", "Where scores are kept.")
OURS = "ntk_score"
# AZ-NAS adds logarithms of ranks; all others add ranks.
RANKINGS = {"az_nas": "log_rank"}


def seeds() -> range:
    """Returns the seeds of the flags."""
    return common.seeds(SEEDS.value)


def ranking_of(scorer: str) -> Ranking:
    """Returns the ranking that a scorer's authors use; the name may have options."""
    return ranks.AGGREGATIONS[RANKINGS.get(scorer.partition(":")[0], "borda")]


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        searcher: its name; a control is named "random".
        scorer: its name.
        seed: seed of weights, images and the search.
        architecture: the architecture found, as text.
        cifar10: its true test accuracy in percent.
        cifar100: likewise.
        imagenet16_120: likewise.
        evaluations: number of candidates it asked for.
        seconds: seconds to score them.
    """

    searcher: str
    scorer: str
    seed: int
    architecture: str
    cifar10: float
    cifar100: float
    imagenet16_120: float
    evaluations: int
    seconds: float


class Evaluators:
    """The evaluators of a space, by scorer and seed; the seeds of a scorer share its programs.

    Args:
        dataset: the dataset to score on.
        space: the search space.
        store: where scores are kept.
        representative_of: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: Dataset,
        space: SearchSpace,
        store: Store,
        representative_of: Callable[[Architecture], Architecture] | None = None,
    ) -> None:
        self._dataset, self._space, self._store = dataset, space, store
        self._representative_of = representative_of
        self._first: dict[str, Evaluator] = {}

    def first(self, scorer: str) -> Evaluator:
        """Returns the evaluator that holds the programs of a scorer."""
        if scorer not in self._first:
            chosen = common.build_scorer([scorer], self._space)
            made = common.build_evaluator(self._dataset, self._space, chosen, self._store)
            made.representative_of = self._representative_of
            self._first[scorer] = made
        return self._first[scorer]

    def of(self, scorer: str, seed: int) -> Evaluator:
        """Returns an evaluator of that seed with an empty memory."""
        first = self.first(scorer)
        settings, needs = common.settings(self._space), first.scorer.needs
        return first.with_draws(settings.draws(self._dataset, root_key(seed), needs, seed))


class Laboratory:
    """Runs searches that share space, programs, store and benchmark.

    Args:
        store: where scores are kept.
        console: where each result is printed.
        bar: advanced after every search.
    """

    def __init__(self, store: Store, console: Console, bar: Bar | None = None) -> None:
        self._bar = bar
        self.dataset: Dataset = common.load_dataset()
        self.space: SearchSpace = common.build_space(self.dataset)
        self.table: Table = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
        self._console = console
        same = representatives(self.space)
        self._evaluators = Evaluators(self.dataset, self.space, store, same)

    def scorer(self, name: str) -> Scorer:
        """Makes a scorer of the space by name."""
        return self._evaluators.first(name).scorer

    def searcher(self, name: str, scorer: str, **options: Any) -> Searcher:
        """Makes a searcher by name, with the ranking of the scorer's authors."""
        directions = self.scorer(scorer).higher_is_better
        return make_searcher(name, self.space, directions, ranking=ranking_of(scorer), **options)

    def random_like_pruning(self, scorer: str, count: int) -> Searcher:
        """Makes a random search over the cells without `none`, which pruning chooses among."""
        return without_options(
            random,
            self.space.choices,
            self.scorer(scorer).higher_is_better,
            excluded=[names.index("none") for names in self.space.option_names],
            max_evaluations=count,
            ranking=ranking_of(scorer),
        )

    def run(self, name: str, searcher: Searcher, scorer: str, seed: int) -> Run:
        """Runs one search."""
        evaluator = self._evaluators.of(scorer, seed)
        key = key_for(root_key(seed), Purpose.SEARCH)
        found = followed(self._bar, f"{name} {scorer} seed {seed}", searcher, evaluator, key)
        counts = evaluator.counts
        accuracies = {
            dataset: float(self.table.accuracy(dataset, found.arch))
            for dataset in benchmarks.DATASETS
        }
        done = Run(
            name,
            scorer,
            seed,
            self.space.to_string(found.arch),
            **accuracies,
            evaluations=evaluations(found.history),
            seconds=counts.run_seconds + counts.stored_seconds,
        )
        self._console.print(
            f"{name} {scorer} seed {seed}: {done.cifar10:.2f} / {done.cifar100:.2f} / "
            f"{done.imagenet16_120:.2f}, {done.seconds:.1f} s",
        )
        return done


def followed(
    bar: Bar | None, what: str, searcher: Searcher, evaluator: Evaluator, key: PRNGKey
) -> SearchResult:
    """Runs one of several searches; the bar counts searches, its text shows this one's scores."""
    done = 0

    def on_score() -> None:
        nonlocal done
        done += 1
        if bar:
            bar.describe(f"{what}, {done} scores")

    evaluator.on_score = on_score
    found = run_search(searcher, evaluator, key)
    if bar:
        bar.advance()
    return found


def mean_and_deviation(values: Sequence[float]) -> str:
    """Returns mean and deviation as text, e.g. `93.30 ± 0.28`."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Groups runs by (searcher, scorer), in order of seed."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        groups.setdefault((run.searcher, run.scorer), []).append(run)
    return groups


def accuracy_rows(
    runs: Sequence[Run], published: Mapping[tuple[str, str], PublishedSearch]
) -> list[dict[str, Any]]:
    """Returns one row for each (searcher, scorer): our numbers and the paper's."""
    rows = []
    for (searcher, scorer), group in grouped(runs).items():
        paper = published.get((searcher, scorer))
        row: dict[str, Any] = {"search": searcher, "score": scorer}
        for dataset in benchmarks.DATASETS:
            row[dataset] = mean_and_deviation([getattr(run, dataset) for run in group])
            row[f"{dataset} paper"] = getattr(paper, dataset) if paper else None
        row["evaluations"] = group[0].evaluations
        row["s"] = mean_and_deviation([run.seconds for run in group])
        row["s paper"] = paper.seconds if paper else None
        rows.append(row)
    return rows


def difference_rows(
    runs: Sequence[Run],
    one: tuple[str, str],
    others: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Returns by how much one method is more accurate than others, paired over seeds."""
    groups = grouped(runs)
    rows = []
    for other in others:
        row: dict[str, Any] = {"than": f"{other[0]}, {other[1]}"}
        for dataset in benchmarks.DATASETS:
            ours, theirs = ([getattr(run, dataset) for run in groups[key]] for key in (one, other))
            gap = paired_difference(ours, theirs)
            row[dataset] = (
                f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}] p={gap.p_value:.3f} "
                f"{gap.wins:g}/{gap.pairs}"
            )
        rows.append(row)
    return rows


def chance(table: Table, without_none: bool) -> dict[str, float]:
    """Returns the mean true accuracy of all cells, the expected result of a blind choice."""
    rows = (table.architectures != 0).all(1) if without_none else np.ones(len(table), bool)
    return {name: round(float(table.column(name)[rows].mean()), 2) for name in benchmarks.DATASETS}


def markdown(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Returns a table as Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        values = [row.get(name) for name in columns]
        lines.append(["" if value is None else str(value) for value in values])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{title}**\n\n{body}\n"


def caption() -> str:
    """Says what the numbers were measured on."""
    return (
        f"{common.network_text()} and {SEEDS.value - 1} more seeds, searched on "
        f"{common.DATASET.value}; true test accuracy in percent, mean ± standard deviation over "
        "seeds; differences with their 95 % interval, p-value and wins, paired over seeds"
    )


def report(
    console: Console,
    name: str,
    runs: Sequence[Any],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    text: str | None = None,
) -> None:
    """Prints the tables, and with `--out` keeps them and every run as .json, .md and .csv.

    Args:
        console: to print on.
        name: name of the binary and its files.
        runs: dataclasses of one kind, such as `Run`.
        tables: rows by title.
        text: says what the numbers were measured on; None: `caption()`.
    """
    text = text or caption()
    for title, rows in tables.items():
        console.print(results_table(rows, title=title))
    console.print(text)
    if not OUT.value:
        return
    folder = Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [markdown(rows, title) for title, rows in tables.items()]
    (folder / f"{name}.md").write_text("\n".join([text + "\n", *texts]), encoding="utf-8")
    records = [asdict(run) for run in runs]
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    write_json(
        folder / f"{name}.json",
        {
            **workdir.run_record("out", "store"),
            "caption": text,
            "tables": tables,
            "runs": records,
        },
    )
    report_html.write(folder)
