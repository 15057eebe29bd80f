"""Flags of `search` that some search methods have and others do not."""

from typing import Any

from absl import flags
from rich.console import Console

from saboc_jax.searchers import SEARCHERS, options_of
from saboc_jax.types import SearchSpace

from . import searching

POPULATION = flags.DEFINE_integer(
    "population", None, "Members of an evolution; default: the searcher's own number.", 1
)
TOURNAMENT = flags.DEFINE_integer(
    "tournament",
    None,
    "Members drawn, of whom the best breeds in aging evolution; default: a quarter of the "
    "population.",
    1,
)


def has(searcher: str, option: str) -> bool:
    """Does a search method have that option?"""
    return option in options_of(searcher)


def options() -> dict[str, Any]:
    """Options of the searcher of the flags.

    Raises:
        ValueError: if it has no such option.
    """
    name = searching.SEARCHER.value
    flagged = {"population_size": POPULATION, "tournament": TOURNAMENT}
    for option, flag in flagged.items():
        if flag.value is not None and not has(name, option):
            having = ", ".join(other for other in SEARCHERS if has(other, option))
            raise ValueError(
                f"--{flag.name}={flag.value} is no option of --searcher={name}, but of {having}"
            )
    values = {option: flag.value for option, flag in flagged.items()}
    chosen = {option: value for option, value in values.items() if value is not None}
    if "population_size" in chosen and has(name, "tournament"):
        chosen.setdefault("tournament", max(1, chosen["population_size"] // 4))
    return chosen


def warn(console: Console, space: SearchSpace, chosen: dict[str, Any]) -> None:
    """Says when an evolution ends before its first child."""
    name = searching.SEARCHER.value
    if (
        not has(name, "population_size") or space.hints.evolution()
    ):  # which starts from one architecture
        return
    values = dict(options_of(name)) | chosen
    size = values["population_size"]
    budget = searching.MAX_EVALUATIONS.value or values["max_evaluations"]
    if budget <= size:
        console.print(
            f"--max_evaluations={budget} does not exceed the population of {size}: no child is "
            "bred, this is random search (--population makes it smaller)"
        )
