"""What `--help` of a binary shows: its docstring with examples, then its flags in groups."""

import re
import sys
from collections.abc import Iterator

from absl import flags
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

# Flags that several binaries share, by what they are about; all others come first.
GROUPS = {
    "Images": ("dataset", "datasets", "resize", "data_dir", "batch_size"),
    "Scoring network": (
        "space",
        "channels",
        "cells",
        "init",
        "precision",
        "matmul_precision",
        "batch_norm",
        "ntk_engine",
        "trained_size",
    ),
    "Latency": ("max_latency_ms", "latency_batch", "latency_image_size"),
    "Repetition": ("seed", "repeats"),
    "Devices and machines": (
        "devices",
        "shard",
        "executor",
        "num_workers",
        "ray_address",
        "gpus_per_worker",
        "compilation_cache",
    ),
    "Where results are kept": ("workdir", "store", "out", "export"),
}


def defined_flags() -> list[flags.Flag]:
    """The flags of our modules, in the order in which they were defined."""
    ours = flags.FLAGS.flags_by_module_dict()
    return [
        flag
        for module, defined in ours.items()
        if "experiments" in module or module == sys.argv[0]
        for flag in defined
    ]


def grouped() -> dict[str, list[flags.Flag]]:
    """The flags by group; groups without flags are left out."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    groups: dict[str, list[flags.Flag]] = {"Flags": [], **{name: [] for name in GROUPS}}
    for flag in defined_flags():
        groups[group_of.get(flag.name, "Flags")].append(flag)
    return {name: found for name, found in groups.items() if found}


def naming_flags(message: str) -> str:
    """Writes `--seed=` for `seed=` in a message of the library, whose arguments our flags are."""
    names = "|".join(re.escape(flag.name) for flag in defined_flags())
    return re.sub(rf"(?<![\w-])(?<!--)({names})=", r"--\1=", message) if names else message


def usage(flag: flags.Flag) -> str:
    """How a flag is written: `--seed=0` with its default, `--[no]quick` for a switch."""
    if flag.boolean:
        return f"--[no]{flag.name}"
    default = flag.default
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    return f"--{flag.name}=" + ("..." if default in (None, "") else str(default))


def meaning(flag: flags.Flag) -> str:
    """Its help; for a choice the allowed values, for a switch the default."""
    values = getattr(flag.parser, "enum_values", None)
    text = " ".join(str(flag.help).split())
    if values:  # absl puts the values before the help
        text = text.removeprefix(f"<{'|'.join(values)}>: ")
    if flag.boolean and flag.default is not None:
        text += f" Default: {'yes' if flag.default else 'no'}."
    return text + (f" One of: {', '.join(values)}." if values else "")


def tables() -> Iterator[tuple[str, Table]]:
    """A table for each group."""
    for name, found in grouped().items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(width=34, overflow="fold")
        table.add_column()
        for flag in found:
            table.add_row(usage(flag), meaning(flag))
        yield name, table


def show(description: str) -> None:
    """Prints the help of a binary.

    Args:
        description: docstring of its module.
    """
    console = Console(highlight=False, markup=False)
    console.print(f"{description.strip()}\n", soft_wrap=True)
    for name, table in tables():
        console.print(name, style="bold")
        console.print(Padding(table, (0, 0, 1, 2)))
    console.print(
        "The values shown are the defaults. --helpfull lists the flags of all libraries as well; "
        "--verbosity=0 shows what JAX and TFDS say."
    )
