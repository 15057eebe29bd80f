"""Says of every data set and table whether it is there, and if not, how to get and name it.

Of tables it also says where the benchmark's own files come from.

With --archive it first converts published archives of CIFAR-10 and CIFAR-100. With --prepare TFDS
downloads and writes data sets, where it can: it needs a network and TensorFlow (extra `prepare`),
and shows its own progress.

Examples:
  saboc fetch_data
  saboc fetch_data --data_dir=~/data --nodetails
  saboc fetch_data --archive=cifar-10-python.tar.gz --data_dir=~/data
  saboc fetch_data --prepare=cifar10,cifar100 --data_dir=~/data
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from saboc_jax import data
from saboc_jax.benchmarks import known_tables
from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.accuracies import read_table
from saboc_jax.benchmarks.csv_files import read_columns
from saboc_jax.benchmarks.known_tables import KNOWN
from saboc_jax.data.registry import default_directory
from saboc_jax.spaces import OWN_SPACES, make_space

from .support import common

PREPARE = flags.DEFINE_list(
    "prepare", [], "Data sets that TFDS is to prepare first, by commas, e.g. cifar10,cifar100."
)
ARCHIVE = flags.DEFINE_list(
    "archive",
    [],
    "Published archives of CIFAR to convert first, by commas, e.g. cifar-10-python.tar.gz.",
)
DETAILS = flags.DEFINE_bool("details", True, "What each is, and how what is missing is got.")
TABLES = {
    "nas_bench_201.csv": benchmarks.load_nas_bench_201,
    "nas_bench_201_published_scores.csv": benchmarks.load_published_scores,
    "darts_nb301_surrogate.csv": benchmarks.load_darts_surrogate,
    "darts_swap1000.csv": benchmarks.load_darts_swap,
}


def main() -> None:
    """Prepares the requested data sets, opens all data sets and tables, prints a line for each."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder = default_directory(common.DATA_DIR.value)
    for archive in ARCHIVE.value:
        console.print(f"converted {archive}: {data.convert_archive(archive, folder)}")
    failed = prepare(console, PREPARE.value, folder)
    console.print(f"Looking in {folder}\n")
    openers: dict[str, Callable[[], Any]]
    openers = {name: partial(data.load, name, folder) for name in data.DATASETS}
    openers |= {name: partial(load, folder) for name, load in TABLES.items()}
    openers |= {f"{name}.csv": partial(open_known, name, folder) for name in KNOWN}
    states = {name: state_of(opener) for name, opener in openers.items()}
    for state in STATES:
        names = [name for name, (found, _) in states.items() if found == state]
        console.print(f"{state + ':':<9}{', '.join(names) or '-'}")
    if DETAILS.value:
        console.print()
        for name, (state, said) in states.items():
            console.print(f"{state:<8} {name}{f': {said}' if said else ''}")
    console.print("\nnas_bench_201.csv can also be made from official files: import_nats_bench")
    if failed:
        raise SystemExit(1)


STATES = ("there", "missing", "damaged")


def state_of(opener: Callable[[], Any]) -> tuple[str, str]:
    """One of `STATES`, and what there is to say of it."""
    try:
        said = opener()
    except FileNotFoundError as error:
        return "missing", str(error)
    except ValueError as error:
        return "damaged", str(error)
    return "there", said if isinstance(said, str) else ""


def open_known(name: str, folder: Path) -> str:
    """Reads a table of a benchmark; says what it has, and where its official files come from.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged.
    """
    known = KNOWN[name]
    path = known_tables.find(name, folder)
    columns = read_columns(path)
    rows = len(next(iter(columns.values())))
    if known.space in OWN_SPACES:
        rows = len(read_table(path, make_space(known.space)))
    return f"{rows:,} rows, {', '.join(columns)} (official files: {known.official})"


def prepare(console: Console, names: Sequence[str], folder: Path) -> list[str]:
    """Prepares data sets with TFDS; returns the names of those that failed."""
    failed = []
    for name in names:
        console.print(f"Preparing {name} in {folder}")
        try:
            console.print(f"prepared {name}: {data.prepare(name, folder)}")
        except ValueError as error:
            failed.append(name)
            console.print(f"failed   {name}: {error}")
    return failed


if __name__ == "__main__":
    common.run(
        main,
        unread=(*common.FILES_ONLY,),
    )
