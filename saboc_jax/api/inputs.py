"""From what `saboc_jax.api.functions` is given to a space, architectures, a scorer and batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Int

from saboc_jax import data
from saboc_jax.api.results import Score
from saboc_jax.data import Dataset
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.keys import Purpose, key_for, repeat_keys
from saboc_jax.progress import bar
from saboc_jax.scorers.combine import combine
from saboc_jax.scorers.variants import make_variant
from saboc_jax.searching.budgets import Allows, Budget, budget_check, latency_of
from saboc_jax.spaces import make_space
from saboc_jax.spaces.base import architecture_to_mask, check_architecture
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.training.train import Examples
from saboc_jax.types import Architecture, Batch, PRNGKey, Scorer, SearchSpace

ArchitectureLike = str | Sequence[int] | Int[np.ndarray, " decisions"]
"""The space's own text of an architecture, or one choice per decision."""
Candidate = nn.Module | ArchitectureLike
"""A Linen module, or an architecture of a space that is named beside it."""
Candidates = Sequence[nn.Module] | Mapping[str, nn.Module] | Sequence[ArchitectureLike]
"""Modules, named or not, or architectures."""
AScorer = str | Scorer | Callable[[SearchSpace], Scorer]
"""A name from `saboc_jax.SCORERS`, maybe with options as in "knas:variant=mgm"; a scorer of the
space; or a factory of one."""
Scorers = AScorer | Sequence[AScorer]
"""One, or several whose metrics are used together."""


def score_all(
    space: SearchSpace,
    archs: Sequence[Architecture],
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers,
    repeats: int,
    batch_size: int,
    progress: bool,
) -> tuple[Scorer, list[Score]]:
    """The scorer, and the scores of every architecture."""
    evaluator = build_evaluator(space, images, key, scorers, repeats, batch_size)
    with bar("scoring", len(archs) * repeats, live=progress, lines=False) as shown:
        evaluator.on_score = shown.advance
        return evaluator.scorer, [scored(evaluator, arch) for arch in archs]


def scored(evaluator: Evaluator, arch: Architecture) -> Score:
    """The scores of one architecture in every repeat."""
    space, scorer = evaluator.space, evaluator.scorer
    mask = architecture_to_mask(arch, max(space.choices))
    rows = [evaluator.score(mask, repeat) for repeat in range(len(evaluator.keys))]
    flags = [
        str(value)
        for _, notes in rows
        for name, value in notes.items()
        if name.rpartition(".")[2] == "flag"
    ]
    return Score(
        space.to_string(arch),
        scorer.metrics,
        scorer.higher_is_better,
        np.stack([values for values, _ in rows]),
        flags[0] if flags else None,
        space.cost(arch),
        rows[0][1],
    )


def build_evaluator(
    space: SearchSpace,
    images: Batch | Dataset,
    key: PRNGKey,
    scorers: Scorers,
    repeats: int,
    batch_size: int,
) -> Evaluator:
    """An evaluator whose draws are those of the binaries with the same key."""
    if not (isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key={key!r}; allowed: a typed key, e.g. jax.random.key(0)")
    if key.shape or repeats < 1:
        raise ValueError(f"key of shape {key.shape}, repeats={repeats}; allowed: (), 1 or more")
    scorer = _scorer(scorers, space)
    keys = repeat_keys(key, Purpose.SCORING, repeats)
    image_keys = repeat_keys(key, Purpose.IMAGES, repeats)
    batches = [_batch(images, image_key, scorer, batch_size) for image_key in image_keys]
    for batch in batches[:1]:
        if batch.images.shape[1:] != space.image_shape:
            raise ValueError(
                f"images of shape {batch.images.shape[1:]}; allowed: {space.image_shape}, for "
                f"which space {space.name!r} was made"
            )
    return Evaluator(space, scorer, keys, batches)


def find_budget(
    space: SearchSpace,
    budget: Budget | None,
    images: Batch | Dataset,
    key: PRNGKey,
    batch_size: int,
) -> Allows | None:
    """Which masks a budget allows, latency being measured on this machine; None: all."""
    if budget is None or budget == Budget():
        return None
    if budget.latency_ms is None:
        return budget_check(space, budget)
    evaluator = build_evaluator(space, images, key, "latency", 1, batch_size)
    return budget_check(space, budget, latency_of(evaluator))


def _scorer(scorers: Scorers, space: SearchSpace) -> Scorer:
    """One scorer made of everything that was asked for."""
    several = not isinstance(scorers, str | Scorer) and isinstance(scorers, Sequence)
    given: Any = scorers if several else [scorers]
    made = []
    for one in given:
        if isinstance(one, str):
            one = make_variant(one, space)
        elif callable(one):
            one = one(space)
        if not isinstance(one, Scorer):
            raise ValueError(f"scorers={scorers!r}; allowed: names, scorers, or factories of them")
        made.append(one)
    if not made:
        raise ValueError("scorers=(); allowed: one or more, see saboc_jax.SCORERS")
    return combine(made)


def _batch(images: Batch | Dataset, key: PRNGKey, scorer: Scorer, size: int) -> Batch:
    """A batch of a dataset; or the given one, its test images perturbed where that is wanted."""
    if isinstance(images, Dataset):
        return data.draw(images, key, size, needs=scorer.needs)
    lacks = "perturbed_images" in scorer.needs and images.perturbed_images is None
    if lacks and images.test_images is not None:
        noisy = data.perturb(key_for(key, Purpose.NOISE), images.test_images)
        return images._replace(perturbed_images=noisy)
    return images


def _image_shape(images: Batch | Dataset) -> tuple[int, int, int]:
    if isinstance(images, Dataset):
        return images.image_shape
    if not isinstance(images, Batch) or np.ndim(images.images) != 4:
        raise ValueError(
            f"images={type(images).__name__}; allowed: a Dataset (saboc_jax.data.load) or a Batch "
            "whose images are [n, height, width, channels]"
        )
    _, height, width, channels = images.images.shape
    return height, width, channels


def check_dataset(dataset: Any) -> None:
    """Raises ValueError unless it is a dataset."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"dataset={type(dataset).__name__}; allowed: what saboc_jax.data.load gives"
        )


def check_no_space(space: Any) -> None:
    """Raises ValueError if there is a space, which a module does not need."""
    if space is not None:
        raise ValueError("space is given with a module; allowed: with an architecture only")


def check_candidate(candidate: Any) -> None:
    """Raises ValueError if it is neither a Linen module nor like an architecture."""
    if not isinstance(candidate, nn.Module | str | Sequence | np.ndarray | jax.Array):
        what = candidate if isinstance(candidate, type) else type(candidate)
        raise ValueError(
            f"the candidate is {'the class' if what is candidate else 'a'} {what.__name__}; "
            "allowed: an instance of flax.linen.Module (of an nnx module by "
            "saboc_jax.layers.nnx.from_nnx), or an architecture with its space"
        )


def find_space(space: SearchSpace | str | None, images: Batch | Dataset) -> SearchSpace:
    """The space itself, or that of a name, for the images."""
    shape = _image_shape(images)
    if isinstance(space, SearchSpace):
        return space
    if not isinstance(space, str):
        raise ValueError(
            f"space={space!r}; allowed, for an architecture: a SearchSpace or a name (else give a "
            "flax.linen.Module)"
        )
    if not isinstance(images, Dataset):
        raise ValueError(
            f"space={space!r} with a Batch, whose number of classes is not known; allowed: "
            f"saboc_jax.make_space({space!r}, num_classes=..., image_shape={shape})"
        )
    return make_space(space, num_classes=images.num_classes, image_shape=shape)


def find_architecture(candidate: Any, space: SearchSpace) -> Architecture:
    """The architecture of a text or of choices; ValueError says what is wrong."""
    if isinstance(candidate, str):
        return space.from_string(candidate)
    return check_architecture(candidate, space.choices)


def space_of_modules(
    modules: Any, images: Batch | Dataset, call: Mapping[str, Any] | None
) -> tuple[SearchSpace, list[Architecture]]:
    """A space of modules, and all its architectures."""
    named = modules if isinstance(modules, Mapping) else None
    listed = list(named.values()) if named else list(modules)
    names = list(named) if named else [f"{i} {type(m).__name__}" for i, m in enumerate(listed)]
    shape = _image_shape(images)
    space = module_space(listed, image_shape=shape, option_names=[names], call=call)
    return space, [np.array([option]) for option in range(len(listed))]


def find_candidates(
    candidates: Any,
    images: Batch | Dataset,
    space: SearchSpace | str | None,
    call: Mapping[str, Any] | None,
) -> tuple[SearchSpace, list[Architecture]]:
    """The space of several candidates, and their architectures."""
    single = isinstance(candidates, str | nn.Module)
    if single or not len(candidates):
        raise ValueError(f"candidates={candidates!r}; allowed: a list of one or more")
    first = next(iter(candidates.values() if isinstance(candidates, Mapping) else candidates))
    check_candidate(first)
    if isinstance(first, nn.Module):
        check_no_space(space)
        return space_of_modules(candidates, images, call)
    space = find_space(space, images)
    return space, [find_architecture(candidate, space) for candidate in candidates]


def examples(dataset: Dataset, split: str, count: int | None) -> Examples:
    """The first examples of a split, in the memory of the host; None: all."""
    size = len(dataset.train if split == "train" else dataset.test)
    if count is not None and count < 1:
        raise ValueError(f"max_examples={count}; allowed: 1 or more")
    images, labels = data.fetch(dataset, split, np.arange(min(count or size, size)))
    return Examples(np.asarray(images), np.asarray(labels))
