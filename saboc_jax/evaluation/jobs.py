"""Records of jobs and answers: the input and output of a runner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.evaluation.counts import Counts
from saboc_jax.types import Batch, PRNGKey, SearchSpace


class ScoreRow(NamedTuple):
    """The result of one scorer for one job.

    Attributes:
        scores: [k] the metrics.
        diagnostics: further values of the scorer; "flag" if the architecture is bad.
    """

    scores: Float[np.ndarray, " k"]
    diagnostics: dict[str, Any]


class Job(NamedTuple):
    """One architecture or supernet in one repeat.

    Attributes:
        mask: the architecture or supernet.
        name: its text and the repeat.
        rows: the rows that are already known, by scorer.
    """

    mask: Bool[np.ndarray, "decisions options"]
    name: tuple[str, int]
    rows: dict[str, ScoreRow]


class Answer(NamedTuple):
    """A runner's answer for jobs.

    Attributes:
        rows: for each job, a row of each missing scorer.
        seconds: for each job, its run time without compilation.
        counts: what was done for the jobs.
        platform: the platform that computed it.
    """

    rows: list[dict[str, ScoreRow]]
    seconds: list[float]
    counts: Counts
    platform: str = ""


@dataclass(frozen=True)
class Draws:
    """The keys and images of a run's repeats.

    Attributes:
        keys: seeds the weights of each repeat.
        batches: the images of each repeat.
        names: names the key and the batch of each repeat; by default its number.

    Raises:
        ValueError: if there is not one of each for every repeat, or no repeat.
    """

    keys: Sequence[PRNGKey]
    batches: Sequence[Batch]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.batches) or not len(self.keys):
            raise ValueError(
                f"{len(self.keys)} keys and {len(self.batches)} batches; allowed: one of each "
                "per repeat, at least one"
            )
        names = self.names or [str(number) for number in range(len(self.keys))]
        if isinstance(names, str) or len(names) != len(self.keys):
            raise ValueError(f"names={names!r} of {len(self.keys)} repeats; allowed: one of each")
        object.__setattr__(self, "names", tuple(names))

    def __len__(self) -> int:
        """Returns the number of repeats."""
        return len(self.keys)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickles the draws with images in host memory, for another process."""
        batches = [jax.tree.map(np.asarray, batch) for batch in self.batches]
        return Draws, (list(self.keys), batches, self.names)


def mask_text(mask: Bool[np.ndarray, "decisions options"], space: SearchSpace) -> str:
    """Returns the space's text of a one-hot mask, or rows of bits for a supernet."""
    if (mask.sum(1) == 1).all():
        return space.to_string(mask.argmax(1))
    return "supernet:" + "/".join("".join(str(int(bit)) for bit in row) for row in mask)
