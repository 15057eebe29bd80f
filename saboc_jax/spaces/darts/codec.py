"""Texts of DARTS genotypes: `Genotype(normal=[...], ...)` and rows of `op@input`."""

import ast
from typing import Any

from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.types import Architecture

_FIELDS = Genotype._fields
_LAYOUT = "Genotype(normal=[('op', input), ...], normal_concat=[2, 3, 4, 5], reduce=[...], ...)"


def write_genotype(genotype: Genotype) -> str:
    """Writes `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], ...)`."""
    return f"Genotype({', '.join(f'{n}={list(v)!r}' for n, v in genotype._asdict().items())})"


def read_genotype(text: str) -> Genotype:
    """Reads the text of `write_genotype`; a concat may also be a tuple or `range(2, 6)`.

    Parses the text without running it.

    Raises:
        ValueError: if the text is malformed; says what is wrong and what is allowed.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"genotype {text!r} cannot be read; the layout is {_LAYOUT}") from error
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Genotype" or call.args:
        raise ValueError(f"genotype {text!r} is no Genotype(...); the layout is {_LAYOUT}")
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    if sorted(map(str, fields)) != sorted(_FIELDS):
        raise ValueError(f"genotype has fields {sorted(map(str, fields))}; allowed: {_FIELDS}")
    for name in ("normal_concat", "reduce_concat"):
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
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [_literal(argument) for argument in node.args]
        return list(range(2, 6)) if bounds == [2, 6] else []
    value = _literal(node)
    return list(value) if isinstance(value, list | tuple) else []


def _read_edges(node: ast.expr) -> tuple[Edge, ...]:
    value = _literal(node)
    pairs = value if isinstance(value, list | tuple) else [value]
    for pair in pairs:
        fits = isinstance(pair, tuple) and [type(part) for part in pair] == [str, int]
        if not fits:
            raise ValueError(f"edge {pair!r}; allowed: ('op', input)")
    return tuple(pairs)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)} is no literal; the layout is {_LAYOUT}") from error
