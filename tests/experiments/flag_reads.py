"""Which flags a binary reads, by its source: what its `main` reaches, functions by name."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "experiments"
SET_UP = ("compiling", "COMPILATION_CACHE"), ("common", "DEVICES")
READ_FILES_ALONE = ("fetch_data", "import_nats_bench", "report")  # they compute nothing


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def modules_of(path: Path) -> dict[str, Path]:
    """Modules of ours that a file imports, by the names it gives them."""
    found = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                if (module := folder / f"{alias.name}.py").is_file():
                    found[alias.asname or alias.name] = module
    return found


@functools.cache
def names_of(path: Path) -> dict[str, tuple[Path, str]]:
    """Functions, classes and constants that a file imports from another of ours, by name."""
    found = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            module = (
                path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
            )
            if module.is_file():
                for alias in node.names:
                    found[alias.asname or alias.name] = module, alias.name
    return found


@functools.cache
def definitions(path: Path) -> dict[str, ast.AST]:
    """What stands at the top of a file, by name."""
    found: dict[str, ast.AST] = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: node.value for t in targets if isinstance(t, ast.Name)}
    return found


def flag_name(node: ast.AST) -> str | None:
    """The flag that a call defines."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    defines = is_call and node.func.attr.startswith("DEFINE_")  # type: ignore[union-attr]
    return node.args[0].value if defines else None  # type: ignore[attr-defined]


def used(path: Path, node: ast.AST) -> Iterator[tuple[Path, str]]:
    """What of ours a piece of code names."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            if (module := modules_of(path).get(each.value.id)) is not None:
                yield module, each.attr
        elif isinstance(each, ast.Name):
            yield names_of(path).get(each.id, (path, each.id))


def reads(path: Path) -> set[str]:
    """The flags that `main` of a binary reaches, and those of the set-up."""
    support = ROOT / "support"
    waiting = [(path, "main")]
    if path.stem not in READ_FILES_ALONE:
        waiting += [(support / f"{module}.py", name) for module, name in SET_UP]
    done: set[tuple[Path, str]] = set()
    found = set()
    while waiting:
        at = waiting.pop()
        node = definitions(at[0]).get(at[1])
        if at in done or node is None:
            continue
        done.add(at)
        if name := flag_name(node):
            found.add(name)
        else:
            waiting += used(at[0], node)
    return found


def defined(path: Path) -> set[str]:
    """The flags of a binary and of all that it imports."""
    waiting, done, found = [path], set(), set()
    while waiting:
        if (at := waiting.pop()) not in done:
            done.add(at)
            found |= set(filter(None, map(flag_name, definitions(at).values())))
            waiting += [*modules_of(at).values(), *(module for module, _ in names_of(at).values())]
    return found


def unread(path: Path) -> set[str]:
    """The flags that a binary has and does not read."""
    return defined(path) - reads(path)
