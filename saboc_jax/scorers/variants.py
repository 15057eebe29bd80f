"""Scorers with options as text: `knas:variant=mgm`, `ntk_score:norm=fro:jitter=1e-4`.

Each option follows a colon. The name of a variant is its text with options in the order of the
factory's signature, so that variants of a scorer can be compared in one run and have separate
entries in a store.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, NoneType
from typing import Any, get_args

from saboc_jax.scorers import SCORERS, make_scorer
from saboc_jax.scorers.combine import combine, load_factory
from saboc_jax.types import Scorer, SearchSpace, brief

AScorer = str | Scorer | Callable[[SearchSpace], Scorer]
"""A name from `saboc_jax.SCORERS`, optionally with options as in "knas:variant=mgm"; several names
that vote together, as in "ntk_score+naswot"; a scorer of the space; or a factory of a scorer."""
Scorers = AScorer | Sequence[AScorer]
"""One, or several of which the first ranks and the others stand beside it."""
FORM = "SCORER, or SCORER:OPTION=VALUE, further options after further colons"
PLUS = re.compile(r"\+(?=[a-z])")  # not that of a number such as 1e+4
KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    NoneType: "none",
}


def split_variant(text: str) -> tuple[str, dict[str, str]]:
    """Splits a text into the scorer's name and its options as text.

    Raises:
        ValueError: if the text has another form, or names an option twice.
    """
    name, *parts = text.split(":")
    pairs = [part.partition("=") for part in parts]
    given = {option: value for option, _, value in pairs}
    if not name or not all(option and value for option, _, value in pairs):
        raise ValueError(f"scorer {brief(text)}; allowed: {FORM}")
    if len(given) < len(pairs):
        raise ValueError(f"scorer {brief(text)}; allowed: each option once")
    return name, given


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """Returns the options of a scorer's factory, in order.

    Raises:
        ValueError: if there is no scorer of that name.
    """
    parameters = inspect.signature(load_factory(SCORERS, name), eval_str=True).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    options = {name: each for name, each in parameters.items() if each.kind in named}
    del options[next(iter(options))]  # the space
    return options


def read_options(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Converts options to their types, in the order of the factory's signature.

    Raises:
        ValueError: if an option or a value does not exist; the message says what is allowed.
    """
    known = options_of(name)
    if unknown := [option for option in given if option not in known]:
        allowed = ", ".join(known) or "none, it has no options"
        raise ValueError(f"scorer {name!r} has no option {unknown[0]!r}; allowed: {allowed}")
    options = {}
    for option, parameter in known.items():
        if option in given:
            try:
                options[option] = _value(given[option], _kinds(parameter))
            except ValueError as error:
                raise ValueError(f"scorer {name!r}: {option}={given[option]!r}; {error}") from None
    return options


def make_variant(text: str, space: SearchSpace, **shared: Any) -> Scorer:
    """Makes a scorer from its name and options.

    Args:
        text: a text of the form `FORM`.
        space: the search space it scores.
        **shared: further options; options in the text override them.

    Raises:
        ValueError: if the text is invalid; the message says what is allowed.
    """
    name, given = split_variant(text)
    chosen = read_options(name, given)
    scorer = make_scorer(name, space, **(shared | chosen))
    if not chosen:
        return scorer
    label = ":".join([name, *(f"{option}={_text(value)}" for option, value in chosen.items())])
    metrics = tuple(label if metric == name else metric for metric in scorer.metrics)
    return scorer._replace(name=label, metrics=metrics)


def make_scorers(
    scorers: Scorers,
    space: SearchSpace,
    shared: Mapping[str, Any] = MappingProxyType({}),
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Scorer:
    """Makes one scorer of all requested scorers.

    Args:
        scorers: one, or several that are scored together: the first ranks, the others stand
            beside it (`Scorer.votes`).
        space: the search space they score.
        shared: options for every named scorer that has them.
        options: further options of single scorers, by name. Options in a scorer's text override
            both.

    Raises:
        ValueError: if a scorer or option is invalid; the message says what is allowed.
    """
    several = not isinstance(scorers, str | Scorer) and isinstance(scorers, Sequence)
    given: Any = scorers if several else [scorers]
    made = []
    for each in given:
        if isinstance(each, str):
            each = _named(each, space, shared, options)
        elif callable(each):
            each = each(space)
        if not isinstance(each, Scorer):
            raise ValueError(
                f"scorers={brief(scorers)}; allowed: names, scorers, or factories of them"
            )
        made.append(each)
    if not made:
        raise ValueError(f"scorers=(); allowed: one or more of {', '.join(sorted(SCORERS))}")
    found = combine(made)
    sizes = tuple(len(each.metrics) for each in made)
    # Several that vote together have no aggregation of their own: their `ranking` is empty.
    return found._replace(entries=sizes, ranking=made[0].ranking) if found.parts else found


def _named(
    text: str,
    space: SearchSpace,
    shared: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
) -> Scorer:
    """Makes the scorer of a text, or the several of one with `+`, which vote together."""
    made = []
    for part in PLUS.split(text):
        name = split_variant(part)[0]
        common = {key: value for key, value in shared.items() if key in options_of(name)}
        made.append(make_variant(part, space, **common, **options.get(name, {})))
    return combine(made)


def what_ranks(scorer: Scorer, ranking: str) -> str:
    """Says which metrics rank and how they are added up, and which stand beside."""
    voting, beside = scorer.metrics[: scorer.votes], scorer.metrics[scorer.votes :]
    how = f" ({ranking})" if len(voting) > 1 else ""
    return f"Ranked by {', '.join(voting)}{how}" + (
        f"; {', '.join(beside)} beside, without a vote" if beside else ""
    )


def _kinds(parameter: inspect.Parameter) -> tuple[type, ...]:
    """Returns the types of an option, from its annotation, else from its default."""
    annotation: Any = parameter.annotation
    if annotation is Any:  # a name, or an object that has no text form
        return (str,)
    if annotation is inspect.Parameter.empty:
        annotation = str if parameter.default is None else type(parameter.default)
    return get_args(annotation) or (annotation,)


def _value(text: str, kinds: tuple[type, ...]) -> Any:
    """Converts a text to the first type that fits.

    Raises:
        ValueError: if no type fits; the message lists them.
    """
    words = {"true": (bool, True), "false": (bool, False), "none": (NoneType, None)}
    kind, value = words.get(text.lower(), (None, None))
    if kind in kinds:
        return value
    for number in (int, float):
        if number in kinds:
            try:
                if math.isfinite(numeric := number(text)):
                    return numeric
            except ValueError:
                continue
    if str in kinds:
        return text
    raise ValueError(f"allowed: {' or '.join(KINDS.get(kind, kind.__name__) for kind in kinds)}")


def _text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
