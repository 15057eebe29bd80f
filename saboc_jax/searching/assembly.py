"""Builds scorers, draws and evaluators from settings, for the API and the binaries.

Both build their runs here, so the same key, images and scorers give the same bits.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from saboc_jax import data
from saboc_jax.data import Dataset
from saboc_jax.devices import SHARDS
from saboc_jax.evaluation.evaluator import Evaluator, Executor
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import Purpose, check_whole, key_for, repeat_keys
from saboc_jax.progress import foreseen
from saboc_jax.scorers.batches import check_batch
from saboc_jax.scorers.variants import Scorers, make_scorers
from saboc_jax.searching.budgets import Allows, Budget, budget_check, excess_of
from saboc_jax.searching.measured import CostTable
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Architecture, Batch, PRNGKey, Scorer, SearchSpace, brief


@dataclass(frozen=True)
class ScoringSettings:
    """How the networks of a space are scored.

    Attributes:
        repeats: number of draws of weights, and of images from a dataset, for each candidate.
        batch_size: images in a batch that is drawn from a dataset.
        scorer_options: options for every named scorer that has them, e.g. {"batch_norm": "batch"}.
        latency_options: options of the scorer `latency`.
        devices: how many local devices share the scoring; None: all.
        shard: what the devices share, see `saboc_jax.devices.SHARDS`.
        executor: computes scores somewhere else; None: here.
        same_platform: see `Evaluator`.
        check: see `Runner`.
        matmul_precision: see `Runner`.
        strict: see `Runner`.

    Raises:
        ValueError: if a number is out of range.
    """

    repeats: int = 3
    batch_size: int = 64
    scorer_options: Mapping[str, Any] = field(default_factory=dict)
    latency_options: Mapping[str, Any] = field(default_factory=dict)
    devices: int | None = None
    shard: str = SHARDS[0]
    executor: Executor | None = None
    same_platform: bool = False
    check: bool = True
    matmul_precision: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        for name in ("repeats", "batch_size"):
            check_whole(name, getattr(self, name))

    def scorer(self, scorers: Scorers, space: SearchSpace) -> Scorer:
        """Returns one scorer that combines the named or given scorers, see `make_scorers`."""
        options = {"latency": self.latency_options}
        return make_scorers(scorers, space, self.scorer_options, options)

    def draws(
        self,
        images: Batch | Dataset,
        key: PRNGKey,
        needs: Collection[str],
        seed: int | None = None,
    ) -> Draws:
        """Draws the key, the batch and the name of every repeat.

        Args:
            images: a dataset from which every repeat draws a batch, or one batch for all repeats.
            key: key of the run; not consumed, other keys are derived from it too.
            needs: fields of the batch that the scorer reads.
            seed: seed of the key, for the names; None: the names are numbers.

        Raises:
            ValueError: if `key` is not a key, or a field is neither given nor can be made.
        """
        if not (
            isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
        ):
            raise ValueError(f"key={brief(key)}; allowed: a typed key, e.g. jax.random.key(0)")
        if key.shape:
            raise ValueError(f"key of shape {key.shape}; allowed: (), one key")
        weights, pictures = (
            repeat_keys(key, purpose, self.repeats) for purpose in (Purpose.SCORING, Purpose.IMAGES)
        )
        keys, batches, repeats = [], [], range(self.repeats)
        for _ in foreseen(repeats, "drawing weights and images of the repeats"):
            keys.append(next(weights))
            batches.append(_batch(images, next(pictures), needs, self.batch_size))
        return Draws(keys, batches, [str(n) if seed is None else f"{seed}/{n}" for n in repeats])

    def evaluator(
        self,
        space: SearchSpace,
        scorer: Scorer,
        images: Batch | Dataset,
        key: PRNGKey,
        *,
        seed: int | None = None,
        space_id: str = "",
        store: Store | None = None,
        on_score: Callable[[], None] | None = None,
        representative_of: Callable[[Architecture], Architecture] | None = None,
    ) -> Evaluator:
        """Returns an evaluator of the space with the scorer.

        Args:
            space: the search space.
            scorer: from `scorer`.
            images: a dataset, or one batch for every repeat.
            key: seeds weights and images.
            seed: seed of the key, see `draws`.
            space_id: names the space and its network in the store; "": its name alone.
            store: where scores are kept; None: in memory.
            on_score: called after every score.
            representative_of: see `Evaluator`.

        Raises:
            ValueError: if the images do not have the space's shape, or the batch lacks a field.
        """
        draws = self.draws(images, key, scorer.needs, seed)
        shape = jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), draws.batches[0].images)
        example = space.networks.example
        allowed = space.image_shape if example is None else jax.tree.map(_shape, example)
        if shape != allowed:
            raise ValueError(
                f"images of shape {shape}; allowed: {allowed}, for which space "
                f"{space.name!r} was made"
            )
        return Evaluator(
            Runner(
                space,
                scorer,
                draws,
                self.devices,
                self.shard,
                check=self.check,
                matmul_precision=self.matmul_precision,
                strict=self.strict,
            ),
            store,
            self.executor,
            representative_of,
            on_score,
            dataset=f"{images.name}/n{self.batch_size}" if isinstance(images, Dataset) else "",
            space_id=space_id,
            same_platform=self.same_platform,
        )

    def stopwatch(
        self,
        space: SearchSpace,
        images: Batch | Dataset,
        key: PRNGKey,
        **names: Any,
    ) -> Evaluator:
        """Returns an evaluator that measures the latency of each architecture once.

        Args:
            space: the search space.
            images: see `evaluator`; a measurement reads none of them.
            key: seeds the weights.
            **names: `seed` and other options of `evaluator`, such as `space_id`.
        """
        once = replace(self, repeats=1)
        return once.evaluator(space, once.scorer("latency", space), images, key, **names)


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape)


def _batch(images: Batch | Dataset, key: PRNGKey, needs: Collection[str], batch_size: int) -> Batch:
    """Returns a batch of the dataset, or the given batch with perturbed test images if needed."""
    if isinstance(images, Dataset):
        return data.draw(images, key, batch_size, needs=needs)
    images = check_batch(images, loss=None)
    lacks = "perturbed_images" in needs and images.perturbed_images is None
    if lacks and images.test_images is not None:
        noisy = data.perturb(key_for(key, Purpose.NOISE), images.test_images)
        return images._replace(perturbed_images=noisy)
    return images


def find_searcher(name: str | None, scorer: Scorer) -> str:
    """Returns the name of the search method; None: pruning where it applies, else random search.

    Raises:
        ValueError: if pruning is asked for with a scorer that has no meaning for supernets.
    """
    if name is None:
        return "pruning" if scorer.supernets else "random"
    if name == "pruning" and not scorer.supernets:
        raise ValueError(
            f"searcher='pruning' with scorer {scorer.name!r}, which has no meaning for supernets; "
            "allowed: a search method that asks for single architectures, such as 'random'"
        )
    return name


def latency_of(stopwatch: Evaluator) -> Callable[[Architecture], float]:
    """Returns a function from an architecture to milliseconds; NaN if no path joins its ends.

    Args:
        stopwatch: an evaluator with the scorer `latency`; its store keeps the measurements.
    """
    options = max(stopwatch.space.choices)
    return lambda arch: float(stopwatch.score(architecture_to_mask(arch, options), 0).scores[0])


def find_allowed(
    space: SearchSpace,
    budget: Budget | None,
    stopwatch: Callable[[], Evaluator],
    table: CostTable | None = None,
) -> tuple[Allows | None, Evaluator | None]:
    """Returns the check of a budget, and the evaluator that measures latency for it.

    Args:
        space: the search space; its costs are limited.
        budget: the limits.
        stopwatch: makes an evaluator with the scorer `latency`; called only if latency is limited.
        table: of the costs that the space does not compute.

    Returns:
        (check of a mask, None: no limits; the evaluator, None: no limit on latency).
    """
    budget = check_budget(budget)
    if budget is None or budget == Budget():
        return None, None
    if budget.latency_ms is None:
        return budget_check(space, budget, table=table), None
    made = stopwatch()
    return budget_check(space, budget, latency_of(made), table), made


def check_budget(budget: Any) -> Budget | None:
    """Returns the budget, merged; ValueError if it is none, or a limit is no number."""
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(f"budget={brief(budget)}; allowed: a Budget, or None")
    return budget and budget.merged()


def find_excess(
    space: SearchSpace,
    budget: Budget | None,
    stopwatch: Callable[[], Evaluator],
    table: CostTable | None = None,
) -> Callable[[Architecture], list[str]]:
    """Returns a function from an architecture to the limits that it exceeds, in words.

    Args:
        space: the search space; its costs are limited.
        budget: the limits; None: there are none.
        stopwatch: see `find_allowed`.
        table: see `find_allowed`.
    """
    budget = check_budget(budget)
    if budget is None:
        return lambda arch: []
    measured = None if budget.latency_ms is None else latency_of(stopwatch())
    return excess_of(space, budget, measured, table)
