"""A scorer that reads one observable and gives one metric, as most papers do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Array, Float

from saboc_jax.types import Batch, Diagnostics, Gates, Observable, Passes, Scorer, brief


def single_metric(
    name: str,
    observable: Observable,
    finish: Callable[[Any, Batch], tuple[Float[Array, ""], Diagnostics]],
    *,
    passes: Passes,
    needs: Iterable[str] = ("images",),
    options: Mapping[str, Any] | None = None,
    metric: str | None = None,
    higher_is_better: bool = True,
    measured: bool = False,
) -> Scorer:
    """Makes a scorer of one metric.

    Args:
        name: the name of the scorer.
        observable: the quantity that it reads.
        finish: `finish(observed, batch)` gives (the score, diagnostics), pure. It can read the
            batch's labels but not its images.
        passes: its cost.
        needs: the fields of `Batch` that the observable and `finish` read.
        options: the options that distinguish it from scorers of the same name.
        metric: the name of its metric; None: that of the scorer.
        higher_is_better: the metric's direction.
        measured: see `Scorer`.
    """

    def finish_all(
        observed: Mapping[str, Any], gates: Gates, batch: Batch
    ) -> tuple[Float[Array, "1"], Diagnostics]:
        score, diagnostics = finish(observed["quantity"], batch)
        return score[None], diagnostics

    return Scorer(
        name=name,
        metrics=(metric or name,),
        higher_is_better=(higher_is_better,),
        needs=frozenset(needs),
        passes=passes,
        observables={"quantity": observable},
        finish=finish_all,
        options=options or {},
        measured=measured,
    )


def check_choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """Returns the value of an option unchanged.

    Raises:
        ValueError: if the value is not allowed; the message names option and allowed values.
    """
    if value not in allowed:
        raise ValueError(f"{option}={brief(value)}; allowed: {tuple(allowed)}")
    return value
