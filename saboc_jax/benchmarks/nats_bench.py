"""Converts official NATS-Bench files of the topology space to our NAS-Bench-201 table.

Every number is a mean over the benchmark's training seeds. Accuracies are in percent; the
columns ending in `_100ep` are training accuracies after 100 of the 200 epochs (SABoC-NAS,
Figure 1), `params` and `flops` are in millions as the benchmark counts them for CIFAR-10.
"""

import contextlib
import csv
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from saboc_jax.extras import needed
from saboc_jax.files import whole_file
from saboc_jax.spaces.nas_bench_201 import cells

# Our column: (schedule in epochs, benchmark data set, benchmark quantity, epoch; None: the last).
# The benchmark's "cifar10-valid" is trained on half of the training images.
_HALFWAY = 99
COLUMNS: dict[str, tuple[str, str, str, int | None]] = {
    "cifar10_test": ("200", "cifar10", "test-accuracy", None),
    "cifar100_test": ("200", "cifar100", "test-accuracy", None),
    "imagenet16_120_test": ("200", "ImageNet16-120", "test-accuracy", None),
    "cifar10_valid_train": ("200", "cifar10-valid", "train-accuracy", None),
    "cifar10_valid_val": ("200", "cifar10-valid", "valid-accuracy", None),
    "cifar100_train": ("200", "cifar100", "train-accuracy", None),
    "cifar100_val": ("200", "cifar100", "valid-accuracy", None),
    "imagenet16_120_train": ("200", "ImageNet16-120", "train-accuracy", None),
    "imagenet16_120_val": ("200", "ImageNet16-120", "valid-accuracy", None),
    "cifar10_valid_val_12ep": ("12", "cifar10-valid", "valid-accuracy", None),
    "cifar10_train_100ep": ("200", "cifar10", "train-accuracy", _HALFWAY),
    "cifar10_valid_train_100ep": ("200", "cifar10-valid", "train-accuracy", _HALFWAY),
    "cifar100_train_100ep": ("200", "cifar100", "train-accuracy", _HALFWAY),
    "imagenet16_120_train_100ep": ("200", "ImageNet16-120", "train-accuracy", _HALFWAY),
}
PLAIN = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("builtins", "dict"),
        ("builtins", "list"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
    }
)
"""What a pickle of plain data may ask for, as (module, name)."""
HEADER = (
    *("index", "arch", "canonical", *COLUMNS),
    *("cifar10_12ep_seconds", "params", "flops"),
)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers; refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; allowed: numbers, texts and containers of them"
            )
        return super().find_class(module, name)


def read_pickle(file: Any) -> Any:
    """Returns what a pickle holds; UnpicklingError if that is more than plain data."""
    return _PlainUnpickler(file).load()


def open_benchmark(path: str | os.PathLike[str]) -> Any:
    """Opens a file (`NATS-tss-*.pickle.pbz2`) or a folder of files with the benchmark's own code.

    The files are pickles, which can run any code when they are read. These hold only numbers, texts
    and containers, so nothing else is read (`read_pickle`).

    Raises:
        MissingExtraError: if the package nats_bench is not installed.
        FileNotFoundError: if the path does not exist.
        ValueError: if it is not a file of the topology space.
    """
    with needed("nats", "An official NATS-Bench file"):
        import nats_bench
        from nats_bench import api_utils
    # The benchmark reads with its module's `pickle`, now and as it goes through a folder.
    vars(api_utils)["pickle"] = SimpleNamespace(load=read_pickle)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. The files NATS-tss-v1_0-3ffb9.pickle.pbz2 and, as a folder, "
            "NATS-tss-v1_0-3ffb9-simple are linked at GitHub D-X-Y/NATS-Bench"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = nats_bench.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
    except Exception as error:  # pickle raises anything
        raise ValueError(f"{path} is no NATS-Bench file of the topology space: {error}") from error
    return found


def rows(benchmark: Any) -> Iterator[dict[str, Any]]:
    """Yields a row of the table for each architecture in the file.

    Args:
        benchmark: opened by `open_benchmark`.

    Raises:
        ValueError: if an architecture lacks a result; the message names it.
    """
    held = range(len(benchmark)) if benchmark.fast_mode else benchmark.evaluated_indexes
    for index in sorted(held):
        try:
            yield _row(benchmark, index)
        except pickle.UnpicklingError as error:
            raise ValueError(f"the file of architecture {index} is refused: {error}") from error
        except (AssertionError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"architecture {index} is not complete: {error!r}") from error
        if benchmark.fast_mode:  # free it: the benchmark caches up to gigabytes
            benchmark.arch2infos_dict.pop(index, None)


def _row(benchmark: Any, index: int) -> dict[str, Any]:
    infos: dict[tuple[str, str, int | None], dict[str, Any]] = {}

    def info(epochs: str, dataset: str, epoch: int | None) -> dict[str, Any]:
        wanted = (epochs, dataset, epoch)
        if wanted not in infos:
            infos[wanted] = benchmark.get_more_info(
                index, dataset, iepoch=epoch, hp=epochs, is_random=False
            )
        return infos[wanted]

    arch = cells.from_string(benchmark.arch(index))
    values = {
        name: info(epochs, dataset, epoch)[quantity]
        for name, (epochs, dataset, quantity, epoch) in COLUMNS.items()
    }
    short = info("12", "cifar10-valid", None)
    cost = benchmark.get_cost_info(index, "cifar10", hp="200")
    return {
        "index": index,
        "arch": cells.to_string(arch),
        "canonical": cells.canonical(arch),
        **{name: round(float(value), 4) for name, value in values.items()},
        "cifar10_12ep_seconds": round(short["train-all-time"] + short["valid-per-time"], 2),
        "params": round(float(cost["params"]), 6),
        "flops": round(float(cost["flops"]), 5),
    }


def write_table(benchmark: Any, path: Path, on_row: Callable[[], None] | None = None) -> int:
    """Writes the table completely or not at all; returns the number of rows."""
    count = 0
    with (
        whole_file(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        for row in rows(benchmark):
            writer.writerow(row)
            count += 1
            if on_row:
                on_row()
        file.flush()  # before it takes its name
    return count
