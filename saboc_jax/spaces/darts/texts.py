"""DARTS genotypes as AutoDL, NASLib and NAS-Bench-301 write them."""

import re
from collections.abc import Callable

from saboc_jax.spaces.darts import cells, codec
from saboc_jax.spaces.darts.cells import Genotype
from saboc_jax.spaces.darts.supernet import Encoding
from saboc_jax.spaces.notations import literal, numbers_notation, shown
from saboc_jax.types import Architecture, Notation

# NASLib's and NAS-Bench-301's order, which has no `none`.
OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
_CELL = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), *[("skip_connect", 0), ("none", 1)] * 3]
EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ...], normal_concat=[2, 3, 4, 5], "
    "reduce=[...], reduce_concat=[2, 3, 4, 5])"
)
_WHOLE = codec.write_genotype(cells.make_genotype(tuple(_CELL), tuple(_CELL)))
_PAIRS = "((0, 3), (1, 3), (0, 2), (1, 0), (0, 2), (1, 0), (0, 2), (1, 0))"
_ROW = "sep_conv_3x3@0 sep_conv_3x3@1" + " skip_connect@0 max_pool_3x3@1" * 3
_KEY = re.compile(r"(?:.*:)?(edge|inputs_node)_(normal|reduce)_(\d+)")


def read_pairs(text: str) -> Genotype:
    """Reads two cells of eight pairs (input, operation), NASLib's compact numbers.

    Raises:
        ValueError: if the text is malformed; says what is wrong and what is allowed.
    """
    value = literal(text)
    try:
        normal, reduce = (
            tuple((OPERATIONS[_index(operation)], _index(source)) for source, operation in cell)
            for cell in value
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{shown(text)} is not two cells of eight pairs of an input and an operation; allowed: "
            f"operations from 0 to {len(OPERATIONS) - 1}, in the order {', '.join(OPERATIONS)}"
        ) from error
    return cells.make_genotype(normal, reduce)


def _index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no index")
    return value


def read_configuration(text: str) -> Genotype:
    """Reads NAS-Bench-301's dict of `...:edge_normal_0: op`, with an entry for each edge kept.

    Raises:
        ValueError: if the text is malformed; says what is wrong and what is allowed.
    """
    value = literal(text)
    edges: dict[str, dict[int, str]] = {name: {} for name in cells.CELLS}
    for key, operation in value.items() if isinstance(value, dict) else ():
        found = _KEY.fullmatch(str(key))
        if not found:
            raise ValueError(f"key {key!r}; allowed: e.g. edge_normal_0, inputs_node_reduce_3")
        if found[1] == "edge":
            edges[found[2]][int(found[3])] = str(operation)
    return cells.make_genotype(*(_in_order(name, edges[name]) for name in cells.CELLS))


def _in_order(cell: str, edges: dict[int, str]) -> tuple[cells.Edge, ...]:
    unknown = sorted(set(edges) - set(range(cells.NUM_EDGES)))
    if unknown:
        raise ValueError(f"edges {unknown} of {cell}; allowed: 0 to {cells.NUM_EDGES - 1}")
    targets = [cells.EDGES[number][1] for number in edges]
    if any(targets.count(node) != 2 for node in range(2, 2 + cells.STEPS)):
        raise ValueError(f"{cell} keeps the edges {sorted(edges)}; allowed: two into each node")
    return tuple((edges[number], cells.EDGES[number][0]) for number in sorted(edges))


def read_rows(text: str) -> Genotype:
    """Reads `op@input op@input ... / op@input ...`, the normal and the reduction cell."""
    normal, mark, reduce = text.partition("/")
    if not mark:
        raise ValueError(f"{shown(text)} has one cell; allowed: normal / reduce")
    return codec.read_rows(normal, reduce)


def own(encoding: Encoding) -> Callable[[str], Architecture]:
    """Returns what reads the own text of a space of genotypes."""
    return lambda text: encoding.from_genotype(codec.read_genotype(text))


def notations(encoding: Encoding) -> tuple[Notation, ...]:
    """Returns the notations of a space of genotypes."""

    def of(
        name: str, example: str, read: Callable[[str], Genotype], pattern: str | None
    ) -> Notation:
        fits = re.compile(pattern, re.S).match if pattern else None
        return Notation(name, example, lambda text: encoding.from_genotype(read(text)), fits)

    edges = str(_CELL)
    compact = f"({_PAIRS}, {_PAIRS})"
    return (
        of("genotype", _WHOLE, codec.read_genotype, r"[A-Za-z_][\w.]*\("),
        of("dict", f"{{'normal': {edges}, 'reduce': {edges}}}", codec.read_dictionary,
           r"\{\s*['\"](normal|reduce)"),
        of("nas_bench_301", compact, read_pairs, r"[\[(]\s*[\[(]\s*[\[(]\s*\d"),
        of("naslib", compact, read_pairs, None),
        of("configuration", "{'NetworkSelectorDatasetInfo:darts:edge_normal_0': 'max_pool_3x3', "
           "...}", read_configuration, r"\{"),
        of("rows", f"{_ROW} / {_ROW}", read_rows, r"\w+@\d"),
        numbers_notation(encoding.choices),
    )  # fmt: skip
