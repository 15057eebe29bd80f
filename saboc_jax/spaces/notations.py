"""Architectures as other tools write them.

A space has its own text, and `Notation`s: what papers, benchmarks and other libraries write of the
same architectures. `reading` makes a space's `from_string` of them all. It reads a text as it is;
else without what copying brings along (quotes, a byte order mark, the name that it is assigned
to); else by the notation that it looks like. A text that no rule reads is an error that shows a
text that is read, and names the space that would have read it.
"""

import ast
import contextlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from saboc_jax.spaces import OWN_SPACES, make_space
from saboc_jax.spaces.masks import check_architecture
from saboc_jax.types import Architecture, Notation, SearchSpace

LONGEST = 100_000  # characters; Python's parser fails on much longer texts
SHOWN = 80  # characters of a text in an error
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}
_ASSIGNED = re.compile(r"[A-Za-z_][\w.]*\s*=(?!=)\s*")
_NUMBERS = re.compile(r"(array)?[\[(]*\s*-?\d+((\s*,\s*|\s+)-?\d+)*\s*,?\s*[\])]*", re.A)


def tidy(text: str) -> str:
    """Returns a text without a byte order mark, quotes around it, `name =` or a last comma."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("\ufeff").rstrip(",;").strip()
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1].replace(text[0] * 2, text[0])  # as CSV doubles quotes inside a field
        text = _ASSIGNED.sub("", text, count=1) if _ASSIGNED.match(text) else text
    return text


def literal(text: str) -> Any:
    """Returns the value of a Python literal or of JSON.

    Raises:
        ValueError: if the text is neither.
    """
    try:
        return ast.literal_eval(re.sub(r"\b(true|false|null)\b", _constant, text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{shown(text)} cannot be read as a list, tuple or dict") from error


def _constant(found: re.Match[str]) -> str:
    return {"true": "True", "false": "False", "null": "None"}[found[0]]


def shown(text: str) -> str:
    """Returns a text in quotes, cut if it is long."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def integers(text: str) -> list[int]:
    """Returns the integers of a text like `(1, 2, 3)`, `[1 2 3]` or `1,2,3`.

    Raises:
        ValueError: if the text holds anything else.
    """
    if not _NUMBERS.fullmatch(text):
        raise ValueError(f"{shown(text)} is no list of whole numbers; allowed: e.g. (1, 0, 2)")
    return [int(number) for number in re.findall(r"-?\d+", text)]


def numbers_notation(choices: Sequence[int]) -> Notation:
    """Returns the notation of our own numbers: the option of each decision."""
    example = str(tuple(int(number) - 1 for number in choices[:8]))
    example = example if len(choices) <= 8 else example[:-1] + ", ...)"
    return Notation(
        "numbers",
        example,
        lambda text: check_architecture(_as_ints(integers(text)), choices),
        lambda text: _NUMBERS.fullmatch(text) and not text.isdecimal(),
    )


def _as_ints(values: list[int]) -> np.ndarray:
    most = np.iinfo(np.int32).max
    return np.array([min(max(value, -1), most) for value in values], np.int32)


def reading(
    space: str,
    own: Callable[[str], Architecture],
    example: str,
    notations: Sequence[Notation] = (),
) -> Callable[[str], Architecture]:
    """Returns the `from_string` of a space: its own text, and all notations that texts look like.

    Args:
        space: the name of the space.
        own: reads the space's own text.
        example: an architecture in the space's own text.
        notations: the notations of other tools.
    """
    return partial(_read, space=space, own=own, example=example, notations=tuple(notations))


def _read(
    text: str,
    *,
    space: str,
    own: Callable[[str], Architecture],
    example: str,
    notations: tuple[Notation, ...],
    hint: bool = True,
) -> Architecture:
    if not isinstance(text, str) or len(text) > LONGEST:
        kind = f"{len(text):,} characters" if isinstance(text, str) else type(text).__name__
        raise ValueError(
            f"an architecture of {space} is {kind}; allowed: a text of at most {LONGEST:,} "
            f"characters, e.g. {example}"
        )
    tidied = tidy(text)
    for plain in dict.fromkeys((text, tidied)):
        with contextlib.suppress(ValueError):
            return own(plain)
    fitting = (each.read for each in notations if each.fits and each.fits(tidied))
    try:
        return next(fitting, own)(tidied)
    except ValueError as error:
        raise ValueError(_explained(str(error), space, example, tidied, hint)) from error


def _explained(error: str, space: str, example: str, text: str, hint: bool) -> str:
    others = [name for name in OWN_SPACES if hint and name != space and _is_read_by(name, text)]
    elsewhere = f"; it is an architecture of space {' or '.join(others)}" if others else ""
    return f"{error}; allowed in space {space}: e.g. {example}{elsewhere}"


def _is_read_by(name: str, text: str) -> bool:
    """Returns whether another space reads a text; bare numbers fit many and mean nothing."""
    if _NUMBERS.fullmatch(text):
        return False
    read = _made(name).from_string
    try:
        read(text, hint=False) if getattr(read, "func", None) is _read else read(text)  # type: ignore[call-arg]
    except ValueError:
        return False
    return True


@lru_cache
def _made(name: str) -> SearchSpace:
    return make_space(name)


def read_notation(given: Any, space: SearchSpace, notation: str | None = None) -> Architecture:
    """Reads an architecture from a text, numbers, or an object of another tool.

    Args:
        given: a text; one option per decision; or what another library prints like a text that is
            read, such as its own `Genotype`.
        space: the space.
        notation: the name of a notation of the space; None: numbers are the options of the space's
            decisions, and a text is read by the rule that it looks like.

    Raises:
        ValueError: in one sentence, which shows a text that is read.
    """
    if notation is None and is_numbers(given):
        with contextlib.suppress(ValueError):
            return check_architecture(np.asarray(given), space.choices)
    text = given if isinstance(given, str) else repr(_plain(given))
    if notation is None:
        return space.from_string(text)
    known = {each.name: each for each in space.decisions.notations}
    if notation not in known:
        allowed = ", ".join([*known, "none"])
        raise ValueError(f"notation={notation!r} of space {space.name!r}; allowed: {allowed}")
    try:
        return known[notation].read(tidy(text))
    except ValueError as error:
        example = known[notation].example
        raise ValueError(f"{error}; allowed in notation {notation!r}: e.g. {example}") from error


def is_numbers(given: Any) -> bool:
    """Returns whether it is an array or a flat list of numbers."""
    if isinstance(given, list | tuple):
        return all(isinstance(item, int | np.integer) for item in given)
    return hasattr(given, "shape") and hasattr(given, "dtype") and np.ndim(given) == 1


def _plain(given: Any) -> Any:
    return given.tolist() if hasattr(given, "tolist") else given
