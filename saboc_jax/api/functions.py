"""The package in five functions: `score`, `rank`, `search`, `correlate`, `train`.

They are thin: each builds a space of the candidates, a scorer and an evaluator, and returns a
result that prints. For runs that must survive an interruption, for several datasets or figures,
use `saboc_jax.evaluation.evaluator.Evaluator` with a `Store`, or the binaries.

Every function takes images as a `Dataset` (each repeat draws its own batch, 64 images unless
`batch_size` says otherwise) or as a `Batch` (the same for every repeat). Repeats also draw their
own weights, so the spread between them is the noise of a score. `jax.random.key(seed)` gives the
same draws as the binaries with `--seed`.

The examples run as tests, so their images and networks are small; they say nothing about which
network is better.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float

from saboc_jax.api.inputs import (
    Candidate,
    Candidates,
    Running,
    RunningOptions,
    check_candidate,
    check_dataset,
    check_limits,
    check_no_space,
    find_accuracies,
    find_aggregations,
    find_architecture,
    find_candidates,
    find_space,
    find_table,
    kept_in,
    listed,
    space_of_modules,
)
from saboc_jax.api.results import Correlations, Found, Ranked, Score
from saboc_jax.api.scored import in_order, score_of
from saboc_jax.benchmarks.accuracies import AccuracyTable
from saboc_jax.data import Dataset
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import Purpose, check_whole, key_for
from saboc_jax.precision import usual_switches
from saboc_jax.progress import bar
from saboc_jax.scorers.variants import Scorers, what_ranks
from saboc_jax.searchers import make_searcher
from saboc_jax.searching.assembly import ScoringSettings, find_allowed, find_excess, find_searcher
from saboc_jax.searching.budgets import Budget
from saboc_jax.searching.front import costs_told, pareto
from saboc_jax.searching.run import expected_evaluations, run_search
from saboc_jax.spaces.isomorphism import representatives
from saboc_jax.spaces.modules.models import as_module, is_candidate
from saboc_jax.statistics import correlation
from saboc_jax.training.folder import identity
from saboc_jax.training.recipes import Recipe, find_recipe
from saboc_jax.training.run import first_examples, one_epoch, run
from saboc_jax.training.train import State, make_trainer
from saboc_jax.types import Architecture, Batch, OneProgram, PRNGKey, Scorer, SearchSpace


@usual_switches()
def score(
    candidate: Candidate,
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers = ("ntk_score",),
    *,
    space: SearchSpace | str | None = None,
    repeats: int = 3,
    batch_size: int = 64,
    call: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    progress: bool = True,
    **running: Unpack[RunningOptions],
) -> Score:
    """Scores one Flax module, or one architecture of a space.

    Args:
        candidate: a Linen module that gives [n, classes], or an architecture of `space`.
        images: a batch or a dataset.
        key: seeds weights and images; consumed.
        scorers: names from `saboc_jax.SCORERS`, scorers of the space, or factories `f(space)`.
        space: space of the architecture, or its name (it then has its default network and needs
            a dataset).
        repeats: number of draws of weights (and of images, from a dataset).
        batch_size: images in a batch drawn from a dataset.
        call: keyword arguments of every call of a module; flags such as `train` are set for it.
        store: keeps scores and serves them again: a `Store`, or the path of its file; None:
            they are kept for this call.
        progress: draw a bar on a terminal or in a notebook.
        **running: how networks of your own are run, see `saboc_jax.api.inputs.Running`.

    Returns:
        The scores; print it, or see `Score.mean`.

    Raises:
        ValueError: says which argument is wrong and what is allowed.

    Examples:
        >>> import jax
        >>> import saboc_jax as sj
        >>> from flax import linen as nn
        >>> from saboc_jax import data
        >>> class Net(nn.Module):
        ...     width: int
        ...     @nn.compact
        ...     def __call__(self, images):
        ...         x = nn.relu(nn.Conv(self.width, (3, 3), strides=4)(images))
        ...         return nn.Dense(10)(x.mean((1, 2)))
        >>> digits = data.load("digits")
        >>> scored = sj.score(Net(4), digits, jax.random.key(0), repeats=2, batch_size=8)
        >>> scored.metrics, scored.values.shape, scored.cost.params
        (('S_t', 'S_e', 'S_g'), (2, 3), 162)
    """
    check_candidate(candidate)
    how = Running(call, **running)
    if is_candidate(candidate):
        check_no_space(space)
        space, archs = space_of_modules([candidate], images, how)
    else:
        space = find_space(space, images)
        archs = [find_architecture(candidate, space)]
    settings = ScoringSettings(repeats, batch_size, check=how.check, strict=how.strict)
    return _score_all(space, archs, images, key, scorers, settings, progress, store)[1][0]


@usual_switches()
def rank(
    candidates: Candidates,
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers = ("ntk_score",),
    *,
    space: SearchSpace | str | None = None,
    repeats: int = 3,
    ranking: str | None = None,
    budget: Budget | None = None,
    batch_size: int = 64,
    call: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    progress: bool = True,
    **running: Unpack[RunningOptions],
) -> Ranked:
    """Orders Flax modules, or architectures of a space, the best first.

    Args:
        candidates: modules (a list, or a mapping from names to them) or architectures of `space`.
        images: a batch or a dataset; all candidates see the same.
        key: seeds weights and images; consumed.
        scorers: scorers; the first ranks by all its metrics, the others stand beside it. Several
            vote as one entry: "ntk_score+naswot", or `saboc_jax.combine`.
        space: space of the architectures, or its name.
        repeats: number of draws of weights (and images) that metrics are averaged over.
        ranking: a key of `saboc_jax.statistics.ranking.AGGREGATIONS`; None: see `Scorer.ranking`.
        budget: limits on costs; who is over is told, and comes after all that are not.
        batch_size: images of a batch drawn from a dataset.
        call: keyword arguments of every call of a module.
        store: see `score`.
        progress: draw a bar on a terminal or in a notebook.
        **running: how networks of your own are run, see `saboc_jax.api.inputs.Running`.

    Returns:
        The candidates in order. A disconnected or non-finite candidate is last, never dropped.

    Raises:
        ValueError: says which argument is wrong and what is allowed.

    Examples:
        >>> import jax
        >>> import saboc_jax as sj
        >>> from saboc_jax import data
        >>> digits = data.load("digits")
        >>> space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
        >>> archs = [[3, 3, 3, 3, 3, 3], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]
        >>> key = jax.random.key(0)
        >>> ranked = sj.rank(archs, digits, key, ["params"], space=space, batch_size=8)
        >>> ranked.order.tolist(), ranked.ranks.tolist(), ranked.scores[2].flag
        ([0, 1, 2], [1.0, 2.0, 3.0], 'disconnected')
    """
    if ranking is not None:
        find_aggregations([ranking], "ranking")
    how_run = Running(call, **running)
    space, archs = find_candidates(candidates, images, space, how_run)
    settings = ScoringSettings(repeats, batch_size, check=how_run.check, strict=how_run.strict)
    scorer, scores = _score_all(space, archs, images, key, scorers, settings, progress, store)
    excess = find_excess(space, budget, lambda: settings.stopwatch(space, images, key))
    over = tuple(tuple(excess(arch)) for arch in archs)
    return in_order(scorer, scores, ranking, over)


@usual_switches()
def search(
    space: SearchSpace | str | Sequence[Any] | Mapping[str, Any],
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers = ("ntk_score",),
    *,
    searcher: str | None = None,
    repeats: int = 3,
    budget: Budget | None = None,
    against: str | None = None,
    table: AccuracyTable | str | Path | None = None,
    max_evaluations: int | None = None,
    time_budget: float | None = None,
    batch_size: int = 64,
    call: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Found:
    """Searches a space without training.

    Args:
        space: a space, its name, or modules to choose from.
        images: a batch or a dataset.
        key: seeds weights, images and the searcher; consumed.
        scorers: scorers; the search ranks by all metrics of the first, see `rank`.
        searcher: a key of `saboc_jax.SEARCHERS`; None: pruning, or random without supernets.
        repeats: number of draws of weights (and images) per candidate.
        budget: limits on the costs of an architecture; latency is for one image.
        against: a cost that the search trades the scores for (params, macs, depth, or a column of
            `table`); `Found.front` is then the Pareto front.
        table: costs that were measured, a file or what `saboc_jax.read_table` gives; for `against`
            and `Budget.costs`.
        max_evaluations: most evaluations; a step that would exceed them does not start.
        time_budget: seconds after which nothing more is scored.
        batch_size: images of a batch drawn from a dataset.
        call: keyword arguments of every call of a module.
        store: see `score`.
        progress: draw a bar on a terminal or in a notebook.
        **options: options of the searcher's factory, and those of `Running` as in `score`.

    Raises:
        ValueError: says which argument is wrong, or that the limits leave nothing to return.

    Examples:
        >>> import jax
        >>> import saboc_jax as sj
        >>> from saboc_jax import data
        >>> space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
        >>> found = sj.search(
        ...     space, data.load("digits"), jax.random.key(0), "params",
        ...     searcher="random", max_evaluations=8, repeats=1, batch_size=8,
        ... )
        >>> found.score.metrics, found.search.stopped
        (('params',), None)
    """
    check_limits(max_evaluations, time_budget)
    how = Running(call, **{n: options.pop(n) for n in Running._fields if n in options})
    if not isinstance(space, SearchSpace | str):
        space = space_of_modules(listed(space, "space"), images, how)[0]
    space = find_space(space, images)
    settings = ScoringSettings(repeats, batch_size, check=how.check, strict=how.strict)
    scorer = settings.scorer(scorers, space)
    # If each architecture has its own program, this would trace the costs one by one.
    same = representatives(space) if isinstance(space.networks, OneProgram) else None
    evaluator = settings.evaluator(space, scorer, images, key, representative_of=same)
    known, watch = find_table(table, space), lambda: settings.stopwatch(space, images, key)
    allows, stopwatch = find_allowed(space, budget, watch, known)
    costs = costs_told(space, against, known)
    searcher = find_searcher(searcher, scorer)
    if costs and searcher == "pruning":
        raise ValueError(f"against={against!r} with pruning, which ends with one architecture")
    own = {"ranking": scorer.ranking or "borda"}
    options = {"allows": allows, "max_evaluations": max_evaluations} | own | options
    ranking = options["ranking"]
    directions = scorer.higher_is_better[: scorer.votes] + (False,) * bool(costs)
    method = make_searcher(searcher, space, directions, **options)
    total = expected_evaluations(method, allows, max_evaluations)
    shown = bar("searching", total and total * repeats, live=progress, lines=False)
    with kept_in(store, *filter(None, (evaluator, stopwatch))), shown as drawn:
        evaluator.on_score = drawn.advance
        result = run_search(
            method,
            evaluator,
            key_for(key, Purpose.SEARCH),
            allows=allows,
            costs=costs,
            max_evaluations=max_evaluations,
            time_budget=time_budget,
        )
        evaluator.on_score = None
        arch = np.asarray(result.arch)
        voted = what_ranks(scorer, getattr(ranking, "__name__", str(ranking)))
        front = pareto(space, scorer, result.history, against, table=known) if against else None
        return Found(space, arch, score_of(evaluator, arch), result, voted, front)


@usual_switches()
def correlate(
    candidates: Candidates,
    accuracies: Sequence[float] | Float[np.ndarray, " n"] | Float[np.ndarray, "n trainings"],
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers = ("ntk_score",),
    *,
    space: SearchSpace | str | None = None,
    repeats: int = 3,
    aggregations: Sequence[str] = ("borda",),
    resamples: int = 1000,
    batch_size: int = 64,
    call: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
    progress: bool = True,
    **running: Unpack[RunningOptions],
) -> Correlations:
    """Measures how well scores order candidates with known trained accuracies.

    Args:
        candidates: modules or architectures, see `rank`.
        accuracies: [n] accuracy of each candidate in percent, higher is better, finite; or
            [n, trainings] of several trainings of each.
        images: a batch or a dataset.
        key: seeds weights and images; consumed.
        scorers: scorers; each metric is correlated.
        space: space of the architectures, or its name.
        repeats: number of draws of weights (and images).
        aggregations: keys of `saboc_jax.statistics.ranking.AGGREGATIONS`, each a row of its own.
        resamples: number of bootstrap resamples of the candidates.
        batch_size: images of a batch drawn from a dataset.
        call: keyword arguments of every call of a module.
        store: see `score`.
        progress: draw a bar on a terminal or in a notebook.
        **running: how networks of your own are run, see `saboc_jax.api.inputs.Running`.

    Returns:
        A row for every metric and aggregation, see `saboc_jax.statistics.correlation.statistics`:
        signed Kendall tau of raw values with its interval, so -1 is perfect if lower is better.
        "winners" is the winner's curve (`saboc_jax.statistics.winners`): the expected accuracy of
        the best of m by that score, m from 8 to all, with its interval. If several trainings are
        given, the last row is the ceiling: what one training says of the others.

    Raises:
        ValueError: says which argument is wrong and what is allowed.

    Examples:
        >>> import jax
        >>> import saboc_jax as sj
        >>> from saboc_jax import data
        >>> space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
        >>> archs = [[3, 3, 3, 3, 3, 3], [2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1]]
        >>> (row,) = sj.correlate(
        ...     archs, [94.0, 93.0, 85.0], data.load("digits"), jax.random.key(0), "params",
        ...     space=space, batch_size=8,
        ... )
        >>> row["score"], row["better"], row["tau"]
        ('params', 'higher', 1.0)
        >>> row["winners"][-1].m, row["winners"][-1].expected
        (3, 94.0)
    """
    how = Running(call, **running)
    space, archs = find_candidates(candidates, images, space, how)
    given = find_accuracies(accuracies, len(archs))
    truth = given if given.ndim == 1 else given.mean(1)
    aggregations = find_aggregations(aggregations)
    check_whole("resamples", resamples)
    settings = ScoringSettings(repeats, batch_size, check=how.check, strict=how.strict)
    scorer, scores = _score_all(space, archs, images, key, scorers, settings, progress, store)
    values = np.stack([score.values for score in scores])
    found = correlation.candidates(scorer, values, aggregations)
    rows = [
        correlation.of_candidate(name, each, truth, resamples=resamples)
        | {"winners": correlation.winners_curve(each, truth)}
        for name, each in found.items()
    ]
    if given.ndim == 2 and given.shape[1] > 1:
        row, curve = correlation.ceiling_rows(given, resamples=resamples)
        rows.append(row | {"winners": curve})
    return Correlations(rows)


def train(
    candidate: Candidate,
    dataset: Dataset,
    recipe: Recipe | str = "tiny",
    *,
    seed: int = 0,
    space: SearchSpace | str | None = None,
    folder: str | Path | None = None,
    max_examples: int | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    call: Mapping[str, Any] | None = None,
    train_call: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[State, list[dict[str, Any]]]:
    """Trains one module or architecture on all devices, and evaluates it after every epoch.

    Args:
        candidate: a Linen module, or an architecture of `space`.
        dataset: the dataset to train on; its test split is evaluated.
        recipe: settings, or a key of `saboc_jax.training.recipes.RECIPES`. Its `channels` and
            `cells` matter in the binary only: here the network is the module, or that of `space`.
        seed: seed of weights, order and augmentation.
        space: space of the architecture, or its name.
        folder: folder for checkpoints and metrics; created if missing. Training resumes from its
            last checkpoint. A folder with another candidate, recipe, seed or images is refused.
            None: nothing is kept.
        max_examples: use only the first training images; None: all.
        on_epoch: called with the metrics of every epoch.
        call: keyword arguments of every call of a module, as in `score`.
        train_call: those of training, besides `call`, e.g. {"train": True}. None: boolean keywords
            are turned until the module drops units and moves its running statistics, under
            whatever name; a module that never does is refused. {}: training calls as evaluation.
        progress: draw a bar on a terminal or in a notebook.

    Returns:
        (state with `params`, `batch_stats` and all other `collections`, one dictionary per epoch:
        epoch, train_loss, train_top1, test_loss, test_top1, test_top5).

    Raises:
        ValueError: says which argument is wrong, or that the training diverged.

    Examples:
        >>> import saboc_jax as sj
        >>> from flax import linen as nn
        >>> from saboc_jax import data
        >>> class Linear(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, images):
        ...         return nn.Dense(10)(images.reshape(len(images), -1))
        >>> state, epochs = sj.train(Linear(), data.load("digits"), "tiny")
        >>> len(epochs), epochs[-1]["test_top1"] > 0.5
        (2, True)
    """
    check_dataset(dataset)
    settings = find_recipe(recipe)
    check_candidate(candidate)
    if is_candidate(candidate):
        check_no_space(space)
        module, name = as_module(candidate), type(candidate).__name__
    else:
        space = find_space(space, dataset)
        arch = find_architecture(candidate, space)
        module, name = space.specialise(arch), space.to_string(arch)
        call = {**space.networks.call(), **(call or {})}
    train_examples, held_out = (
        first_examples(dataset, "train", max_examples),
        first_examples(dataset, "test"),
    )
    steps = len(train_examples.images) // settings.batch_size
    with bar("training", settings.epochs * steps, live=progress, lines=False) as shown:
        trainer = make_trainer(
            *(module, train_examples, dataset.num_classes, settings, seed),
            on_batch=shown.advance,
            call=call,
            train_call=train_call,
        )

        def told(line: dict[str, Any]) -> None:
            shown.reach(line["epoch"] * steps)  # counts epochs of an earlier run, too
            if on_epoch:
                on_epoch(line)

        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            own = identity(name, trainer.modes, settings, seed, train_examples, held_out)
            return run(trainer, held_out, settings.epochs, Path(folder), told, own)
        state, lines = trainer.init(), []
        for epoch in range(settings.epochs):
            state, line = one_epoch(trainer, state, epoch, held_out)
            lines.append(line)
            told(line)
        return state, lines


def _score_all(
    space: SearchSpace,
    archs: Sequence[Architecture],
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers,
    settings: ScoringSettings,
    progress: bool,
    store: Store | str | Path | None,
) -> tuple[Scorer, list[Score]]:
    """Returns the scorer, and the scores of every architecture."""
    scorer = settings.scorer(scorers, space)
    evaluator = settings.evaluator(space, scorer, images, key)
    total = len(archs) * settings.repeats
    with kept_in(store, evaluator), bar("scoring", total, live=progress, lines=False) as shown:
        evaluator.on_score = shown.advance
        return scorer, [score_of(evaluator, arch) for arch in archs]
