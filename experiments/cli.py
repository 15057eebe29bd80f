"""The command `saboc`: every binary as a subcommand, e.g. `saboc search --seed=1`.

Installed, this package is `saboc_jax.experiments`; in a clone it is `experiments` too, so that
`python -m experiments.search` is the same as `saboc search`.
"""

import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata

from rich.console import Console
from rich.table import Table

from .commands import COMMANDS, GROUPS


def show(console: Console) -> None:
    """Lists the subcommands."""
    console.print("usage: saboc COMMAND [--flags]     saboc COMMAND --help     saboc --version")
    width = max(map(len, COMMANDS))
    for group, names in GROUPS.items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold", width=width)
        table.add_column()
        for name in names:
            table.add_row(name, COMMANDS[name])
        console.print(f"\n{group}", style="bold")
        console.print(table)
    console.print("\nIn a clone `python -m experiments.COMMAND` does the same.")


def version() -> str:
    """The installed version."""
    return metadata.version("saboc_jax")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand named by the first argument; exits with code 2 if it is unknown."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "-help", "--help", "help"):
        show(Console(highlight=False, markup=False))
        return
    if name == "--version":
        print(f"saboc_jax {version()}")
        return
    found = name.replace("-", "_")
    if found not in COMMANDS:
        near = get_close_matches(found, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"error: saboc {name}: no such command; {hint}`saboc --help` lists them"
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)
        raise SystemExit(2)
    sys.argv = [f"saboc {found}", *rest]
    # As by `python -m`: flags of a binary belong to the program, which is the file of the binary.
    runpy.run_module(f"{__package__}.{found}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
