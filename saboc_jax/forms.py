"""The one boundary for what other programs wrote: a parsed value is checked against a form.

A form is a type as annotations write it: `float`, `str | None`, `list[T]`, `dict[str, T]`, a
`TypedDict`. What passes can be used without further checks; what does not is one sentence that
names the file, the place in it, the value and what is allowed. A whole number is a float as well;
a truth value is no number. A TypedDict may have entries that its form does not name.
"""

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

_LONGEST = 60  # characters of a value in a message
_WORDS = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    dict: "an object",
    list: "a list",
}


def checked(value: Any, form: Any, where: object) -> Any:
    """Returns the value unchanged if it has the form.

    Args:
        value: what was parsed.
        form: a type, see the module.
        where: the file, for the message.

    Raises:
        ValueError: names the file, the place, the value and what is allowed.

    Examples:
        >>> from saboc_jax.forms import checked
        >>> checked({"a": [1, 2.5]}, dict[str, list[float]], "x.json")
        {'a': [1, 2.5]}
        >>> checked({"a": [1, "b"]}, dict[str, list[float]], "x.json")
        Traceback (most recent call last):
        ValueError: x.json: a[1] is 'b'; allowed: a number
    """
    for place, bad, allowed in _faults(value, form, ""):
        said = repr(bad)
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
        raise ValueError(f"{where}: {place or 'the content'} is {said}; allowed: {allowed}")
    return value


def _faults(value: Any, form: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """Yields (place, value, what is allowed) of what does not have its form."""
    origin = get_origin(form)
    if form is Any:
        return
    if origin in (Union, types.UnionType):
        members = get_args(form)
        if all(any(True for _ in _faults(value, member, place)) for member in members):
            yield from _best_of(value, members, place)
    elif typing.is_typeddict(form):
        yield from _entries(value, form, place)
    elif origin is list:
        if not isinstance(value, list):
            yield place, value, _WORDS[list]
            return
        for number, each in enumerate(value):
            yield from _faults(each, get_args(form)[0], f"{place}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            yield place, value, _WORDS[dict]
            return
        for key, each in value.items():
            yield from _faults(each, get_args(form)[1], _inside(place, key))
    elif not _is(value, form):
        yield place, value, _WORDS[form]


def _entries(value: Any, form: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, dict):
        yield place, value, _WORDS[dict]
        return
    for name, inner in typing.get_type_hints(form).items():
        if name in value:
            yield from _faults(value[name], inner, _inside(place, name))
        elif name in form.__required_keys__:
            yield place, value, f"an object with {name!r}"


def _best_of(value: Any, members: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """Yields the fault of the member that goes deepest, else names all members."""
    deepest = max((next(_faults(value, m, place)) for m in members), key=lambda each: len(each[0]))
    if len(deepest[0]) > len(place):
        yield deepest
    else:
        yield place, value, " or ".join(_WORDS.get(get_origin(m) or m, str(m)) for m in members)


def _is(value: Any, form: Any) -> bool:
    if form is float:
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            return False
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, form) and (form is bool or not isinstance(value, bool))


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
