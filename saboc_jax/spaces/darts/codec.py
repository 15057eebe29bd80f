"""Texts of DARTS genotypes: `Genotype(normal=[...], ...)` and rows of `op@input`."""

import ast
from collections.abc import Mapping
from typing import Any

from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.types import Architecture

_FIELDS = Genotype._fields
_CONCATS = ("normal_concat", "reduce_concat")
_LAYOUT = "Genotype(normal=[('op', input), ...], normal_concat=[2, 3, 4, 5], reduce=[...], ...)"


def write_genotype(genotype: Genotype) -> str:
    """Writes `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], ...)`."""
    return f"Genotype({', '.join(f'{n}={list(v)!r}' for n, v in genotype._asdict().items())})"


def read_genotype(text: str) -> Genotype:
    """Reads the text of `write_genotype`; a concat may also be a tuple or a `range(2, 6)`.

    The fields may stand without their names, `Genotype` may have a module before it, and the edges
    of a cell may be grouped by node. Parses the text without running it.

    Raises:
        ValueError: if the text is malformed; says what is wrong and what is allowed.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"genotype {text!r} cannot be read; the layout is {_LAYOUT}") from error
    if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2] != "Genotype":
        raise ValueError(f"genotype {text!r} is no Genotype(...); the layout is {_LAYOUT}")
    unnamed = dict(zip(_FIELDS, call.args, strict=False))
    return _from_fields(unnamed | {str(each.arg): each.value for each in call.keywords})


def read_dictionary(text: str) -> Genotype:
    """Reads `{'normal': [...], 'normal_concat': [...], 'reduce': [...], ...}`; concats may lack.

    Raises:
        ValueError: if the text is malformed; says what is wrong and what is allowed.
    """
    try:
        found = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"genotype {text!r} cannot be read; the layout is {_LAYOUT}") from error
    if not isinstance(found, ast.Dict):
        raise ValueError(f"genotype {text!r} is no dict; the layout is {_LAYOUT}")
    every = ast.parse("[2, 3, 4, 5]", mode="eval").body
    joined: dict[str, ast.expr] = {name: every for name in _CONCATS}
    keys = [ast.unparse(key).strip("'") if key else "**" for key in found.keys]
    return _from_fields(joined | dict(zip(keys, found.values, strict=True)))


def _from_fields(fields: Mapping[str, ast.expr]) -> Genotype:
    if sorted(fields) != sorted(_FIELDS):
        raise ValueError(f"genotype has fields {sorted(fields)}; allowed: {_FIELDS}")
    for name in _CONCATS:
        if sorted(_read_concat(fields[name]), key=str) != [2, 3, 4, 5]:
            raise ValueError(f"{name}={ast.unparse(fields[name])}; allowed: the nodes 2, 3, 4, 5")
    return cells.make_genotype(_read_edges(fields["normal"]), _read_edges(fields["reduce"]))


def write_row(edges: tuple[Edge, ...]) -> str:
    """Writes a cell as `op@input`, eight times."""
    return " ".join(f"{operation}@{source}" for operation, source in edges)


def read_rows(normal: str, reduce: str) -> Genotype:
    """Reads two cells written by `write_row`.

    Raises:
        ValueError: if a text is malformed; says what is wrong and what is allowed.
    """

    def read(text: str) -> tuple[Edge, ...]:
        pairs = [pair.partition("@") for pair in text.split()]
        for operation, _, source in pairs:
            if not source.isdecimal():
                raise ValueError(f"edge {operation}@{source}: allowed: op@input")
        return tuple((operation, int(source)) for operation, _, source in pairs)

    return cells.make_genotype(read(normal), read(reduce))


def to_string(arch: Architecture) -> str:
    """Returns the text of an architecture's genotype; ValueError if `arch` is malformed."""
    return write_genotype(cells.to_genotype(arch))


def from_string(text: str) -> Architecture:
    """Reads the text of `to_string`; ValueError says what is wrong."""
    return cells.from_genotype(read_genotype(text))


def canonical(arch: Architecture) -> str:
    """Returns a text shared by equal genotypes; operations on edges not kept do not count.

    It does not detect further isomorphism (nodes in another order).
    """
    return to_string(arch)


def _read_concat(node: ast.expr) -> list[int]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("list", "tuple", "sorted") and len(node.args) == 1:
            return _read_concat(node.args[0])
        if node.func.id == "range":
            bounds = [_literal(argument) for argument in node.args]
            return list(range(2, 6)) if bounds in ([2, 6], [2, 6, 1]) else []
    value = _literal(node)
    return list(value) if isinstance(value, list | tuple) else []


def _read_edges(node: ast.expr) -> tuple[Edge, ...]:
    value = _literal(node)
    items = value if isinstance(value, list | tuple) else [value]
    grouped = bool(items) and all(_is_group(item) for item in items)
    pairs = [pair for item in items for pair in (item if grouped else (item,))]
    for pair in pairs:
        fits = isinstance(pair, list | tuple) and [type(part) for part in pair] == [str, int]
        if not fits:
            raise ValueError(f"edge {pair!r}; allowed: ('op', input)")
    return tuple((operation, source) for operation, source in pairs)


def _is_group(item: Any) -> bool:
    """Returns whether it is a list of pairs, and not a pair."""
    some = isinstance(item, list | tuple) and len(item) > 0
    return some and all(isinstance(pair, list | tuple) for pair in item)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)} is no literal; the layout is {_LAYOUT}") from error
