"""What the search binary is made of: its flags, limits, progress, and what it keeps."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.data import Dataset
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.reports.search_figures import front_figure, progress_figure, trajectory_figure
from saboc_jax.reports.tables import results_table
from saboc_jax.searchers import SEARCHERS, make_searcher
from saboc_jax.searching.assembly import find_allowed, find_searcher
from saboc_jax.searching.budgets import Allows, Budget
from saboc_jax.searching.front import Front, costs_told, pareto
from saboc_jax.searching.measured import is_formula
from saboc_jax.searching.result import SearchResult, Step
from saboc_jax.searching.run import expected_evaluations, run_search
from saboc_jax.searching.trajectory import Trajectory
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Architecture, Scorer, Searcher, SearchSpace

from . import common, pictures, tables

SEARCHER = flags.DEFINE_enum(
    "searcher",
    "pruning",
    sorted(SEARCHERS),
    "Search method; where the scorer has no meaning for supernets, random unless one is given.",
)
RANKING = flags.DEFINE_enum(
    "ranking",
    "borda",
    sorted(ranks.AGGREGATIONS),
    "How several metrics become one order; a scorer may bring its own default.",
)
MAX_EVALUATIONS = flags.DEFINE_integer(
    "max_evaluations", None, "Candidates to score; default: the searcher's own number.", 1
)
MAX_PARAMS = flags.DEFINE_integer("max_params", None, "Most parameters of a candidate.", 0)
MAX_MACS = flags.DEFINE_integer("max_macs", None, "Most multiply-adds of a candidate.", 0)
MAX_DEPTH = flags.DEFINE_integer("max_depth", None, "Most layers on the longest path.", 0)
MAX_LATENCY_MS = flags.DEFINE_float(
    "max_latency_ms",
    None,
    "Most milliseconds of a candidate, the median of warm runs measured on this machine.",
    0.0,
)
TIME_BUDGET = flags.DEFINE_float(
    "time_budget",
    None,
    "Seconds of this run after which nothing more is scored; the same command with more time, "
    "or none, goes on to the same bits. Its value is no part of what identifies a run.",
    0.0,
)
MAX_COST = flags.DEFINE_multi_string(
    "max_cost",
    [],
    "NAME:LIMIT, the most of a cost: a column of the table, e.g. raspi4_latency:10, or params, "
    "macs, depth. May be given several times.",
)
AGAINST = flags.DEFINE_string(
    "against",
    None,
    "Searches between the scores and this cost, one of params, macs, depth or a column of the "
    "table: gives the Pareto front.",
)
IGNORED = ("time_budget",)
Accuracies = tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]


def budget() -> Budget:
    """The budget of the flags, on the costs of the scoring network."""
    own = (MAX_PARAMS.value, MAX_MACS.value, MAX_DEPTH.value, MAX_LATENCY_MS.value)
    return Budget(*own, costs=max_costs(MAX_COST.value) or None)


def max_costs(given: Sequence[str]) -> dict[str, float]:
    """Limits by the name of the cost.

    Raises:
        ValueError: names a text that is no limit.
    """
    limits: dict[str, float] = {}
    for text in given:
        name, mark, limit = text.rpartition(":")
        try:
            value = float(limit)
        except ValueError:
            mark = ""
        if not mark or not name or name in limits:
            raise ValueError(
                f"--max_cost={text}; allowed: NAME:LIMIT, each name once, e.g. raspi4_latency:10"
            )
        limits[name] = value
    return limits


def suit(scorer: Scorer) -> None:
    """Sets the defaults of the flags that a scorer decides: its aggregation, and no supernets.

    Raises:
        ValueError: if pruning is asked for with a scorer that has no meaning for supernets.
    """
    given = SEARCHER.value if SEARCHER.present else None
    common.set_defaults(ranking=scorer.ranking or "borda", searcher=find_searcher(given, scorer))


def limits(dataset: Dataset, space: SearchSpace) -> tuple[Allows | None, Evaluator | None]:
    """Which masks the flags allow, and what measures latency where they limit it."""

    def stopwatch() -> Evaluator:
        seed = common.SEED.value
        names = {"seed": seed, "space_id": common.space_id(space)}
        return common.settings(space).stopwatch(space, dataset, root_key(seed), **names)

    return find_allowed(space, budget(), stopwatch, tables.given(space))


def build_searcher(
    space: SearchSpace, scorer: Scorer, allowed: Allows | None = None, **options: Any
) -> Searcher:
    """The searcher of the flags, which is told the cost of `--against` after the scores.

    Raises:
        ValueError: if pruning is asked for a Pareto front, or an option is unknown.
    """
    name, against = SEARCHER.value, AGAINST.value
    if name == "pruning" and against:
        raise ValueError("--against gives a front; pruning ends with one architecture")
    costs_told(space, against, tables.given(space))  # is there such a cost?
    directions = scorer.higher_is_better[: scorer.votes] + (False,) * bool(against)
    return make_searcher(
        name,
        space,
        directions,
        ranking=RANKING.value,
        allows=allowed,
        max_evaluations=MAX_EVALUATIONS.value,
        **options,
    )


def truth(space: SearchSpace, trained_on: str, console: Console) -> Accuracies | None:
    """True accuracies of architectures, and of all of them, where a table is found."""
    found = tables.truth(space, trained_on, console=console)
    return (found.of, found.all) if found else None


def follow(space: SearchSpace, scorer: Scorer, known: Accuracies | None) -> Trajectory:
    """Follows a search of the flags, by what its searcher is told."""
    return Trajectory(
        known[0] if known else None,
        scorer.higher_is_better[: scorer.votes] + (False,) * bool(AGAINST.value),
        ranks.AGGREGATIONS[RANKING.value],
        costs=costs_told(space, AGAINST.value, tables.given(space)),
    )


def standing(trajectory: Trajectory, metrics: Sequence[str]) -> str:
    """Where a search stands, in words."""
    point, scores = trajectory.points[-1], trajectory.scores()
    known = not math.isnan(point.found)
    if point.members > 1 and not known:
        return f"the supernet holds {point.members:,} architectures"
    if point.members > 1:
        found, best = f"true accuracy {point.found:.2f} %", f"{point.best:.2f} %"
        return f"{found} is the mean of what the supernet held, {best} its best"
    if scores is None:
        return "nothing has a finite score yet"
    values = ", ".join(f"{n} {v:.4g}" for n, v in zip(metrics, scores, strict=False))
    accuracy = f"true accuracy {point.found:.2f} %, " if known else ""
    best = f"; {point.best:.2f} % is the best seen" if known else ""
    place = f"rank {point.position:.0f} of {trajectory.distinct}"
    return f"{accuracy}{place} ({values}) would be returned{best}"


def search(
    console: Console,
    evaluator: Evaluator,
    searcher: Searcher,
    allowed: Allows | None,
    trajectory: Trajectory,
) -> SearchResult:
    """Runs the search under a progress bar; says when what it would return, or has seen, changes.

    Args:
        console: to print on.
        evaluator: scores the candidates.
        searcher: of `build_searcher`.
        allowed: the budget; None: there is none.
        trajectory: of `follow`; takes in the search.
    """
    last = ""
    repeats, metrics = evaluator.repeats, evaluator.scorer.metrics
    total = expected_evaluations(searcher, allowed, MAX_EVALUATIONS.value)
    with progress.bar("compiling", total and total * repeats, console) as bar:
        evaluator.on_score = bar.advance

        def on_step(step: int, candidates: int) -> None:
            bar.describe(f"step {step + 1}")
            if total is None:
                bar.expect(bar.done + candidates * repeats)

        def on_told(history: list[Step], best: Callable[[], Architecture | None]) -> None:
            nonlocal last
            point = trajectory.update(history, best())
            bar.reach(point.evaluations * repeats)  # those over budget were not scored
            now = repr((trajectory.returned[-1], point.members, point.best, point.found))
            if now != last:
                last = now
                said = standing(trajectory, metrics)
                console.print(f"{point.evaluations} evaluations: {said}", soft_wrap=True)

        found = run_search(
            searcher,
            evaluator,
            key_for(root_key(common.SEED.value), Purpose.SEARCH),
            on_step,
            on_told=on_told,
            allows=allowed,
            costs=costs_told(evaluator.space, AGAINST.value, tables.given(evaluator.space)),
            max_evaluations=MAX_EVALUATIONS.value,
            time_budget=TIME_BUDGET.value,
        )
    evaluator.on_score = None
    return found


def front_rows(
    space: SearchSpace, scorer: Scorer, front: Front, quantity: str, known: Accuracies | None
) -> list[dict[str, Any]]:
    """A row for each architecture on the front, the cheapest first."""
    return [
        {
            "text": space.to_string(front.archs[i]),
            quantity: int(front.costs[i]) if is_formula(quantity) else float(front.costs[i]),
            "rank": float(front.ranks[i]),
            **dict(zip(scorer.metrics, front.scores[i].tolist(), strict=True)),
            **({"true accuracy %": float(known[0](front.archs[i][None])[0])} if known else {}),
        }
        for i in front.in_order()
    ]


def keep_front(
    console: Console,
    folder: Path,
    space: SearchSpace,
    scorer: Scorer,
    found: SearchResult,
    known: Accuracies | None,
) -> list[dict[str, Any]]:
    """Prints and draws the front between the scores and the cost of `--against`; gives its rows."""
    quantity = AGAINST.value or "macs"
    ranking = ranks.AGGREGATIONS[RANKING.value]
    front = pareto(space, scorer, found.history, quantity, ranking, tables.given(space))
    rows = front_rows(space, scorer, front, quantity, known)
    console.print(results_table(rows, title=f"Pareto front: {scorer.name} against {quantity}"))
    labels = (quantity, f"{RANKING.value} rank by {scorer.name}, lower is better")
    lists = (front.costs.tolist(), front.ranks.tolist(), front.on_front.tolist())
    draw = functools.partial(front_figure, *lists, labels)
    pictures.keep(folder / "front.png", draw, dpi=150)
    return rows


def keep_trajectory(
    folder: Path, trajectory: Trajectory, known: Accuracies | None
) -> list[dict[str, Any]]:
    """Draws the trajectory; gives its points."""
    if known:
        title = f"{SEARCHER.value}: true accuracy"
        draw = functools.partial(trajectory_figure, trajectory.points, known[1], title)
    else:
        title = f"{SEARCHER.value}: what it would return"
        draw = functools.partial(progress_figure, trajectory, title)
    pictures.keep(folder / "trajectory.png", draw, dpi=150)
    return [point._asdict() for point in trajectory.points]
