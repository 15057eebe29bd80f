"""JSON of transformers' architectures: written as published tables do, read with errors by name."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from saboc_jax.spaces.notations import literal, shown


def write(**fields: Any) -> str:
    """Writes JSON without spaces, in the order of the fields."""
    return json.dumps(fields, separators=(",", ":"))


def read(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Reads JSON or a dict of Python with exactly these fields.

    Raises:
        ValueError: if the text is malformed or has other fields.
    """
    found = literal(text.strip())
    if not isinstance(found, dict) or sorted(map(str, found)) != sorted(names):
        has = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"architecture {shown(text)} has {has}; allowed: {', '.join(names)}")
    return found


def option(name: str, value: Any, allowed: Sequence[float]) -> int:
    """Returns the option of a value; ValueError names the values that are allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in allowed:
        raise ValueError(f"{name}={value!r}; allowed: {', '.join(map(str, allowed))}")
    return list(allowed).index(value)


def options(name: str, values: Any, allowed: Sequence[float], number: int) -> list[int]:
    """Returns the options of as many values; ValueError says what is allowed."""
    if not isinstance(values, list | tuple) or len(values) != number:
        has = len(values) if isinstance(values, list | tuple) else repr(values)
        raise ValueError(f"{name} has {has} values; allowed: {number}")
    return [option(name, value, allowed) for value in values]


def chain(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Returns what follows each other as edges (source, target, name)."""
    return [(str(place), str(place + 1), name) for place, name in enumerate(names)]
