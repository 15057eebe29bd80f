"""Turns the arguments of `saboc_jax.api.functions` into a space and architectures."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from saboc_jax.api.architectures import read_architecture
from saboc_jax.benchmarks.accuracies import AccuracyTable, read_table
from saboc_jax.data import Dataset
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import check_whole
from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.network import Network
from saboc_jax.scorers.batches import check_batch
from saboc_jax.spaces import make_space
from saboc_jax.spaces.modules.models import Output, adapter_of, is_candidate, keeps_weights
from saboc_jax.spaces.modules.space import module_space
from saboc_jax.statistics.ranking import AGGREGATIONS
from saboc_jax.types import Architecture, Batch, SearchSpace, brief

ArchitectureLike = str | Sequence[int] | Int[np.ndarray, " decisions"]
"""The space's own text of an architecture, or one choice per decision."""
Candidate = nn.Module | Network | ArchitectureLike | Any
"""A Linen or nnx module, a network, or an architecture of a space given by another argument."""
Candidates = Sequence[Any] | Mapping[str, Any] | Sequence[ArchitectureLike]
"""Modules or networks, named or not, or architectures."""


class RunningOptions(TypedDict, total=False):
    """The fields of `Running` that functions take as keyword arguments of their own."""

    rngs: Any
    output: Output
    redraw_zeros: bool
    loss: str
    check: bool
    strict: bool


class Running(NamedTuple):
    """How foreign networks are run.

    Attributes:
        call: keyword arguments of every call of a module.
        rngs: random streams that a module's evaluation mode needs.
        output: which outputs count, see `saboc_jax.spaces.modules.models.reduced`.
        redraw_zeros: draw weights anew that a module starts at zero.
        loss: "cross_entropy" of classes; "square": a batch's labels are floating-point targets
            [n, outputs], and losses half their squared distance to the outputs.
        check: verify the kernels of networks (`saboc_jax.check_ntk`).
        strict: a network that cannot be scored is an error; False: it is flagged as refused, with
            the reason among its warnings, and ranked last.
    """

    call: Mapping[str, Any] | None = None
    rngs: Any = None
    output: Output = None
    redraw_zeros: bool = False
    loss: str = "cross_entropy"
    check: bool = True
    strict: bool = True


def _example(images: Batch | Dataset) -> Any:
    """Returns the shapes of one input."""
    if isinstance(images, Dataset):
        return jax.ShapeDtypeStruct(images.image_shape, np.float32)
    if not isinstance(images, Batch):
        _image_shape(images)  # raises
    number_of(images.images)  # raises if the leading axes differ
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], jnp.asarray(leaf).dtype),
        images.images,
    )


def _image_shape(images: Batch | Dataset) -> tuple[int, int, int]:
    if isinstance(images, Dataset):
        return images.image_shape
    if isinstance(images, Batch) and images.images is not None:
        images = check_batch(images, loss=None)
    if not isinstance(images, Batch) or np.ndim(images.images) != 4:
        raise ValueError(
            f"images={type(images).__name__}; allowed: a Dataset (saboc_jax.data.load, of your own "
            "images saboc_jax.data.from_arrays) or a Batch "
            "whose images are [n, height, width, channels]"
        )
    _, height, width, channels = images.images.shape
    return height, width, channels


def check_dataset(dataset: Any) -> None:
    """Raises ValueError unless it is a dataset."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"dataset={type(dataset).__name__}; allowed: what saboc_jax.data.load gives, "
            "or saboc_jax.data.from_arrays"
        )


def check_no_space(space: Any) -> None:
    """Raises ValueError if a space is given, which a module does not need."""
    if space is not None:
        raise ValueError("space is given with a module; allowed: with an architecture only")


def check_candidate(candidate: Any) -> None:
    """Raises ValueError if it is neither a Linen module nor like an architecture."""
    adapter = adapter_of(candidate)
    if adapter is not None:
        raise ValueError(
            f"the candidate is a {type(candidate).__name__} of another framework; allowed: what "
            f"saboc_jax.{adapter} makes of it"
        )
    architecture = isinstance(candidate, str | Sequence | np.ndarray | jax.Array)
    if not (architecture or is_candidate(candidate)):
        what = candidate if isinstance(candidate, type) else type(candidate)
        raise ValueError(
            f"the candidate is {'the class' if what is candidate else 'a'} {what.__name__}; "
            "allowed: an instance of flax.linen.Module, an nnx module (of a function that makes "
            "one by saboc_jax.from_nnx), a network (saboc_jax.from_function), or an architecture "
            "with its space"
        )


def find_space(space: SearchSpace | str | None, images: Batch | Dataset) -> SearchSpace:
    """Returns the space, or makes the named space for the images."""
    shape = _image_shape(images)
    if isinstance(space, SearchSpace):
        return space
    if not isinstance(space, str):
        raise ValueError(
            f"space={brief(space)}; allowed, for an architecture: a SearchSpace or a name "
            "(else give a flax.linen.Module)"
        )
    if not isinstance(images, Dataset):
        raise ValueError(
            f"space={brief(space)} with a Batch, whose number of classes is not known; allowed: "
            f"saboc_jax.make_space({brief(space)}, num_classes=..., image_shape={shape})"
        )
    return make_space(space, num_classes=images.num_classes, image_shape=shape)


def find_architecture(candidate: Any, space: SearchSpace) -> Architecture:
    """Returns the architecture of a text or of choices; raises ValueError if it is not valid."""
    return read_architecture(candidate, space)


def find_table(
    table: AccuracyTable | str | os.PathLike[str] | None, space: SearchSpace
) -> AccuracyTable | None:
    """Returns the table, or reads the file; ValueError if it is not one of the space."""
    if table is None or isinstance(table, AccuracyTable):
        if table is not None and table.space.choices != space.choices:
            raise ValueError(
                f"table {table.path} of space {table.space.name!r}; allowed: of {space.name!r}"
            )
        return table
    return read_table(table, space)


def space_of_modules(
    modules: Any, images: Batch | Dataset, running: Running
) -> tuple[SearchSpace, list[Architecture]]:
    """Returns a space of modules, and all its architectures."""
    named = modules if isinstance(modules, Mapping) else None
    listed = list(named.values()) if named else list(modules)
    names = list(named) if named else [f"{i} {_name_of(m)}" for i, m in enumerate(listed)]
    how = {name: value for name, value in running._asdict().items() if name != "check"}
    space = module_space(listed, inputs=_example(images), option_names=[names], **how)
    return space, [np.array([option]) for option in range(len(listed))]


def _name_of(candidate: Any) -> str:
    return candidate.name if isinstance(candidate, Network) else type(candidate).__name__


def find_candidates(
    candidates: Any,
    images: Batch | Dataset,
    space: SearchSpace | str | None,
    running: Running,
) -> tuple[SearchSpace, list[Architecture]]:
    """Returns the space of several candidates, and their architectures."""
    candidates = listed(candidates)
    first = next(iter(candidates.values() if isinstance(candidates, Mapping) else candidates))
    check_candidate(first)
    if is_candidate(first):
        check_no_space(space)
        _warn_of_mixed_weights(candidates)
        return space_of_modules(candidates, images, running)
    space = find_space(space, images)
    return space, [find_architecture(candidate, space) for candidate in candidates]


class MixedWeightsWarning(UserWarning):
    """Says that some candidates are scored at their own weights, and others at fresh ones."""


def _warn_of_mixed_weights(candidates: Any) -> None:
    given = candidates.values() if isinstance(candidates, Mapping) else candidates
    own = [keeps_weights(candidate) for candidate in given]
    if any(own) and not all(own):
        warnings.warn(
            f"{sum(own)} of {len(own)} candidates are scored at their own weights and the others "
            "at fresh ones: their scores differ for that alone",
            MixedWeightsWarning,
            stacklevel=4,
        )


def listed(candidates: Any, argument: str = "candidates") -> Any:
    """Returns the candidates as a list, a generator's too; a mapping stays one.

    Raises:
        ValueError: if they are not several, or none.
    """
    one = isinstance(candidates, str | Batch) or is_candidate(candidates)
    many = not one and isinstance(candidates, Iterable)
    if many and np.ndim(candidates if isinstance(candidates, np.ndarray | jax.Array) else [0]):
        candidates = candidates if isinstance(candidates, Mapping) else list(candidates)
        if candidates:
            return candidates
    raise ValueError(f"{argument}={brief(candidates)}; allowed: a list of one or more")


def find_accuracies(accuracies: Any, count: int) -> Float[np.ndarray, "n ..."]:
    """Returns one finite number per candidate, or one row of them.

    Raises:
        ValueError: if they are anything else.
    """
    try:
        given = accuracies if hasattr(accuracies, "__array__") else list(accuracies)
        array = np.asarray(given, float)
    except (TypeError, ValueError):
        array = np.empty(())
    fits = array.ndim in (1, 2) and len(array) == count and array.size > 0
    if not fits or not np.isfinite(array).all():
        raise ValueError(
            f"accuracies={brief(accuracies)}; allowed: {count} finite numbers, one per candidate "
            "(or a row of several trainings per candidate)"
        )
    return array


def find_aggregations(names: Any, argument: str = "aggregations") -> list[str]:
    """Returns the names as a list; ValueError if one is no aggregation."""
    given = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    for name in given:
        if not isinstance(name, str) or name not in AGGREGATIONS:
            raise ValueError(f"{argument}={brief(name)}; allowed: {', '.join(AGGREGATIONS)}")
    return given


def check_limits(max_evaluations: Any, time_budget: Any) -> None:
    """Raises ValueError unless the limits of a search are numbers, or None."""
    if max_evaluations is not None:
        check_whole("max_evaluations", max_evaluations)
    is_number = isinstance(time_budget, int | float) and not isinstance(time_budget, bool)
    if time_budget is not None and not (is_number and time_budget >= 0):  # NaN is not
        raise ValueError(f"time_budget={brief(time_budget)}; allowed: seconds, 0 or more, or None")


@contextmanager
def kept_in(store: Store | str | Path | None, *evaluators: Evaluator) -> Iterator[None]:
    """Keeps what is scored within in the store; closes it if it was given as a path."""
    if store is None:
        yield
        return
    if not isinstance(store, Store | str | os.PathLike):
        raise ValueError(f"store={brief(store)}; allowed: a path, a saboc_jax Store, or None")
    with nullcontext(store) if isinstance(store, Store) else Store(store) as opened:
        for evaluator in evaluators:
            evaluator.keep_in(opened)
        yield
