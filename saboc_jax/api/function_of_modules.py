"""A score as a function from a module to a number, for tools that search by themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from saboc_jax.api.functions import score
from saboc_jax.api.inputs import Running, space_of_modules
from saboc_jax.data import Dataset
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers.variants import AScorer, make_scorers
from saboc_jax.types import Batch, PRNGKey


class _Linear(nn.Module):
    """A network that stands for any, to ask a scorer what it gives."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(2)(images.reshape(len(images), -1))


@dataclass(frozen=True)
class ScoreFunction:
    """`function(module)` gives the mean of one metric; see `score_function`.

    Attributes:
        metric: the metric.
        higher_is_better: its direction.
    """

    metric: str
    higher_is_better: bool
    _images: Batch | Dataset
    _key: PRNGKey
    _scorer: AScorer
    _options: Mapping[str, Any]

    @property
    def direction(self) -> str:
        """The direction in the words of Optuna: "maximize" or "minimize"."""
        return "maximize" if self.higher_is_better else "minimize"

    @property
    def mode(self) -> str:
        """The direction in the words of Ray Tune: "max" or "min"."""
        return self.direction[:3]

    def __call__(self, module: nn.Module) -> float:
        """Returns the mean over repeats; what is bad or not finite has the worst value there is."""
        found = score(module, self._images, self._key, self._scorer, **self._options)
        value = found.mean()[self.metric]
        return value if np.isfinite(value) else float("-inf" if self.higher_is_better else "inf")


def score_function(
    images: Batch | Dataset,
    key: PRNGKey,
    scorer: AScorer = "synflow",
    metric: str | None = None,
    *,
    repeats: int = 3,
    batch_size: int = 64,
    call: Mapping[str, Any] | None = None,
    store: Store | str | Path | None = None,
) -> ScoreFunction:
    """Returns a score as a function of a module, with its direction.

    A number of one module says how good it is only if it does not depend on the others, so a
    scorer of several metrics needs one of them: ranks belong to a set.

    Args:
        images: a batch or a dataset; every module sees the same.
        key: seeds weights and images; the same for every module.
        scorer: a name, maybe with options; a scorer is a part of one space, so give its factory.
        metric: one of the scorer's metrics; None: its only one.
        repeats: number of draws of weights (and of images, from a dataset).
        batch_size: images in a batch drawn from a dataset.
        call: keyword arguments of every call of a module.
        store: see `score`.

    Raises:
        ValueError: if the scorer has several metrics and none is named, or not the one named.

    Examples:
        >>> import jax
        >>> import saboc_jax as sj
        >>> from flax import linen as nn
        >>> params = sj.score_function(sj.data.load("digits"), jax.random.key(0), "params")
        >>> params.direction, params(nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(10)]))
        ('maximize', 40.0)
    """
    made = make_scorers(scorer, space_of_modules([_Linear()], images, Running())[0])
    if metric is None and len(made.metrics) == 1:
        metric = made.metrics[0]
    if metric not in made.metrics:
        raise ValueError(f"metric={metric!r} of {made.name}; allowed: {', '.join(made.metrics)}")
    options = {"repeats": repeats, "batch_size": batch_size, "call": call, "store": store}
    options["progress"] = False
    up = made.higher_is_better[made.metrics.index(metric)]
    return ScoreFunction(metric, up, images, key, scorer, options)
