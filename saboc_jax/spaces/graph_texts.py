"""Texts of graphs: an adjacency matrix with the operation of each vertex, in anybody's layout."""

import ast
import re
from typing import Any

import numpy as np

from saboc_jax.spaces.notations import LONGEST, literal, shown

LAYOUT = "matrix=[[0, 1, ...], ...], ops=['input', 'conv3x3-bn-relu', ..., 'output']"
_ARRAY = re.compile(r"\b(?:np\.|numpy\.|jnp\.)?array\(")
_ROWS = re.compile(r"([01]+(?:/[01]+)+)[\s,;]+(\S.*)", re.S)
_NESTED = re.compile(r"\[\s*\[|\(\s*\(")


def looks_like_graph(text: str) -> bool:
    """Returns whether a text may be one that `read_graph` reads."""
    return bool(
        re.match(r"[01]+/[01]", text) or (_NESTED.search(text) and re.search("['\"]", text))
    )


def read_graph(text: str) -> tuple[np.ndarray, list[str]]:
    """Returns the adjacency matrix [v, v] and the operations of a text.

    Reads `ModelSpec(matrix=[[...]], ops=[...])`, a pair or a dict of the two, with arrays of
    NumPy, and rows of digits: `011/001/000 0-3-1`.

    Raises:
        ValueError: if the text has no matrix and names; says what is allowed.
    """
    digits = _ROWS.fullmatch(text)
    if digits:
        rows = [list(map(int, row)) for row in digits[1].split("/")]
        between = r"\s,;" if "," in digits[2] else r"\s,;\-"  # names hold dashes, numbers do not
        return _checked(text, rows, re.findall(rf"[^{between}\[\]()'\"]+", digits[2]))
    found = _values(_ARRAY.sub("(", text))
    if len(found) != 2:
        raise ValueError(f"{shown(text)} is no matrix with operations; allowed: {LAYOUT}")
    first, second = found
    if isinstance(second, list | tuple) and second and not isinstance(second[0], str | int):
        first, second = second, first
    return _checked(text, first, second)


def _values(text: str) -> list[Any]:
    """Returns the two values of a call, a pair or a dict."""
    if len(text) > LONGEST:
        raise ValueError(f"a text of {len(text):,} characters; allowed: at most {LONGEST:,}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        try:  # matrix=[[...]], ops=[...] without a name before it
            node = ast.parse(f"Graph({text.strip()})", mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError(f"{shown(text)} cannot be read; allowed: {LAYOUT}") from error
    if isinstance(node, ast.Call):
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
    elif isinstance(node, ast.Dict):
        parts = node.values
    else:
        parts = node.elts if isinstance(node, ast.List | ast.Tuple) else []
    return [literal(ast.unparse(part)) for part in parts]


def _checked(text: str, matrix: Any, names: Any) -> tuple[np.ndarray, list[str]]:
    try:
        adjacency = np.array(matrix)
    except ValueError as error:
        raise ValueError(f"{shown(text)}: rows of unequal length; allowed: {LAYOUT}") from error
    square = adjacency.ndim == 2 and adjacency.shape[0] == adjacency.shape[1]
    if not square or adjacency.dtype.kind not in "iub" or not isinstance(names, list | tuple):
        raise ValueError(f"{shown(text)} is no square matrix with operations; allowed: {LAYOUT}")
    if len(names) != len(adjacency):
        raise ValueError(
            f"{len(names)} operations of {len(adjacency)} vertices; allowed: one a vertex, input "
            "and output too"
        )
    return adjacency.astype(int), [str(name) for name in names]
