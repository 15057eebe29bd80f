"""Imports run one way: the table of wings in WORKSPACE.md is the rule, and this test reads it."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "saboc_jax"
MOST_MODULES = 10  # at the top of the package
LONGEST_CHAIN = 14  # files, each importing the next when it is imported


def wings() -> list[list[str]]:
    """The names of each row of the table, those that everything stands on first."""
    text = (ROOT / "WORKSPACE.md").read_text(encoding="utf-8")
    section = re.search(r"^## Wings$(.*?)(^## |\Z)", text, re.M | re.S)
    assert section, "WORKSPACE.md has no section '## Wings'"
    rows = re.findall(r"^\| *(`[^|]*?) *\|", section[1], re.M)
    return [re.findall(r"`(\w+)/?`", row) for row in rows]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def wing_of(module: str) -> str:
    """The part of the package that a module belongs to; `__init__` is the face of it all."""
    return [*module.split("."), "__init__"][1]


def imported(tree: ast.AST, anywhere: bool) -> Iterator[str]:
    """Modules of ours that a file imports: at its top, or also inside functions and for types."""
    nodes = ast.walk(tree) if anywhere else iter(getattr(tree, "body", []))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "inside the package imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield from (name for name in (full, node.module) if name in MODULES)


@functools.cache
def imports(module: str, anywhere: bool = True) -> frozenset[str]:
    """What a module imports, itself and the packages around it left out."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = set(imported(tree, anywhere))
    # `from package import name` of a module `package.name` needs the module, not the package.
    needless = {name for name in found if any(other.startswith(f"{name}.") for other in found)}
    return frozenset(found - needless - {module})


def test_every_module_belongs_to_a_wing_of_the_table():
    listed = [name for row in wings() for name in row]
    assert len(listed) == len(set(listed))
    assert {wing_of(module) for module in MODULES} == set(listed)


def test_imports_run_downwards_only():
    place = {name: index for index, row in enumerate(wings()) for name in row}
    upwards = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if wing_of(other) != wing_of(module) and place[wing_of(other)] > place[wing_of(module)]
    ]
    assert upwards == []


def test_kernels_and_scorers_know_no_space():
    known = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if wing_of(module) in ("layers", "ntk", "scorers") and wing_of(other) == "spaces"
    ]
    assert known == []


def test_there_is_no_circle():
    """Not inside a wing either, nor by imports in functions or for types."""
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in sorted(imports(module)):
                visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_chains_of_imports_are_short():
    @functools.cache
    def chain(module: str) -> tuple[str, ...]:
        below = (chain(other) for other in imports(module, anywhere=False))
        return (module, *max(below, key=len, default=()))

    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


def test_the_top_has_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_MODULES


def test_the_library_does_not_import_the_binaries():
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) experiments\b", text, re.M), module


def test_imports_inside_the_binaries_are_relative():
    """They are one package in a clone, `experiments`, and in a wheel, `saboc_jax.experiments`."""
    for path in (ROOT / "experiments").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) (saboc_jax\.)?experiments\b", text, re.M), path


def test_files_have_one_idea():
    """A Python file is at most 500 lines long."""
    folders = (PACKAGE, ROOT / "experiments", ROOT / "tests")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    long = {str(path): count for path in files if (count := _lines(path)) > 500}
    assert long == {}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
