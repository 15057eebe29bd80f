"""The command `saboc`: every binary as a subcommand, e.g. `saboc search --seed=1`.

`saboc --help` reads the binaries' first lines without importing any of them.
"""

import ast
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.table import Table

_FOLDER = Path(__file__).parent


def subcommands() -> dict[str, str]:
    """Names of the binaries (`search`, `paper.table1`), and the first line of each docstring."""
    found = {}
    for path in sorted([*_FOLDER.glob("*.py"), *_FOLDER.glob("paper/*.py")]):
        text = path.read_text(encoding="utf-8")
        if "\n    common.run(main" in text:
            name = ".".join(path.relative_to(_FOLDER).with_suffix("").parts)
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    # Binaries for every day come before those of the paper.
    return dict(sorted(found.items(), key=lambda item: ("." in item[0], item[0])))


def show(console: Console) -> None:
    """Lists the subcommands."""
    console.print("usage: saboc COMMAND [--flags]     saboc COMMAND --help\n")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, line in subcommands().items():
        table.add_row(name, line)
    console.print(table)
    console.print("\n`python -m experiments.COMMAND` does the same.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand that is named first; exit code 2 if there is none of that name."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "-help", "--help", "help"):
        show(Console(highlight=False, markup=False))
        return
    known = subcommands()
    found = name.replace("-", "_")
    if found not in known:
        near = get_close_matches(found, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"error: saboc {name}: no such command; {hint}`saboc --help` lists them"
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)
        raise SystemExit(2)
    sys.argv = [f"saboc {found}", *rest]
    # As by `python -m`: flags of a binary belong to the program, which is the file of the binary.
    runpy.run_module(f"experiments.{found}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
