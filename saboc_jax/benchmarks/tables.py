"""Tables of true accuracies, to evaluate a search without training.

There are four CSV tables. Each is read in well under half a second and checked: if a column, a
row or half of the last line is missing, a ValueError names the file and what is missing, so a
damaged file never gives a plausible wrong number.

- `load_nas_bench_201`: trained accuracies of all 15,625 NAS-Bench-201 cells.
- `load_published_scores`: training-free scores of some of them, as published.
- `load_darts_surrogate`: DARTS genotypes with accuracies that a surrogate *predicted*.
- `load_darts_swap`: DARTS genotypes with accuracies of another training recipe.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saboc_jax.benchmarks.csv_files import (
    are_fractions,
    check_distinct,
    check_percent,
    data_directory,
    numbers,
    parsed,
    read_columns,
    stray_error,
    strays,
    whole_numbers,
)
from saboc_jax.spaces.darts.cells import OPERATIONS as DARTS_OPERATIONS
from saboc_jax.spaces.darts.cells import Genotype, make_genotype
from saboc_jax.spaces.nas_bench_201 import cells
from saboc_jax.types import Architecture

DATASETS = ("cifar10", "cifar100", "imagenet16_120")
TARGETS = ("test", "val", "train", "12ep", "train_100ep")
SCORES = (
    "synflow",
    "grasp",
    "fisher",
    "grad_norm",
    "l2_norm",
    "plain",
    "nwot",
    "epe_nas",
    "jacov",
    "snip",
)

# The benchmark trained CIFAR-10 twice: on all 50,000 images, the source of the test accuracy,
# and on 25,000 of them (its "cifar10-valid"), the source of everything else.
_COLUMNS = {
    ("cifar10", "test"): "cifar10_test",
    ("cifar10", "val"): "cifar10_valid_val",
    ("cifar10", "train"): "cifar10_valid_train",
    ("cifar10", "12ep"): "cifar10_valid_val_12ep",
    ("cifar100", "test"): "cifar100_test",
    ("cifar100", "val"): "cifar100_val",
    ("cifar100", "train"): "cifar100_train",
    ("imagenet16_120", "test"): "imagenet16_120_test",
    ("imagenet16_120", "val"): "imagenet16_120_val",
    ("imagenet16_120", "train"): "imagenet16_120_train",
}
# Only a table made by saboc_jax.benchmarks.nats_bench has these.
_HALFWAY = {
    ("cifar10", "train_100ep"): "cifar10_valid_train_100ep",
    ("cifar100", "train_100ep"): "cifar100_train_100ep",
    ("imagenet16_120", "train_100ep"): "imagenet16_120_train_100ep",
}
_SECONDS = "cifar10_12ep_seconds"
_NUM_CELLS = len(cells.OPERATIONS) ** len(cells.EDGES)
_AGREE = 20  # accuracies of one cell on one data set differ by less than this factor
_PLACES = len(cells.OPERATIONS) ** np.arange(len(cells.EDGES))[::-1]

_SOURCES = {
    "nas_bench_201.csv": (
        "GitHub v-tao/nats-bench-landscape and Zhenhan-Huang/NASGraph-Public (200 epochs), "
        "hzf1174/RoBoT (12 epochs), joined by cell"
    ),
    "nas_bench_201_published_scores.csv": "GitHub automl/NASLib, branch zerocost",
    "darts_nb301_surrogate.csv": "GitHub automl/NASLib, branch zerocost",
    "darts_swap1000.csv": "GitHub pym1024/SWAP",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Accuracies in percent of all 15,625 NAS-Bench-201 cells.

    A lookup of one cell, as text or as [6] operation indices, returns a number. A lookup of
    several cells, as a sequence of texts or as [n, 6] indices, returns [n] numbers.

    Attributes:
        architectures: [15625, 6] operation indices, in the order of the file.
        indices: [15625] the benchmark's own numbers of the cells.
        columns: maps a column name to [15625] numbers; `cifar10_12ep_seconds` is in seconds.
        positions: [15625] maps the code of a cell (its indices as a base-5 number) to its row.
    """

    architectures: Int[np.ndarray, "cells 6"]
    indices: Int[np.ndarray, " cells"]
    columns: Mapping[str, Float[np.ndarray, " cells"]]
    positions: Int[np.ndarray, " cells"]

    def __len__(self) -> int:
        return len(self.architectures)

    def has(self, dataset: str, target: str) -> bool:
        """Returns whether the table has that column."""
        return (_COLUMNS | _HALFWAY).get((dataset, target)) in self.columns

    def column(self, dataset: str, target: str = "test") -> Float[np.ndarray, " cells"]:
        """Returns the accuracies of all cells, in the order of `architectures`.

        Args:
            dataset: one of `DATASETS`.
            target: "test", "val" or "train" after 200 epochs; "12ep", the validation accuracy
                of the 12-epoch schedule (CIFAR-10 only); or "train_100ep", the training accuracy
                after 100 of the 200 epochs (tables from official files only). On CIFAR-10 all
                but "test" come from the run on half of the training images.

        Raises:
            ValueError: if the table lacks the pair; the message lists the pairs that exist.
        """
        halfway = _HALFWAY.get((dataset, target), "")
        if halfway in self.columns:
            return self.columns[halfway]
        if halfway:
            raise ValueError(
                f"this table lacks {dataset}/{target}; one made from official NATS-Bench files by "
                "`saboc import_nats_bench` has it"
            )
        if (dataset, target) not in _COLUMNS:
            known = ", ".join(f"{d}/{t}" for d, t in _COLUMNS)
            raise ValueError(f"no accuracies for {dataset}/{target}; there are {known}")
        return self.columns[_COLUMNS[dataset, target]]

    def row(self, archs: str | Sequence[str] | Architecture) -> Any:
        """Returns the rows of cells in this table; ValueError names a malformed cell."""
        return self.positions[_as_indices(archs) @ _PLACES]

    def accuracy(
        self, dataset: str, archs: str | Sequence[str] | Architecture, target: str = "test"
    ) -> Any:
        """Returns the accuracy of cells in percent; arguments as in `column`."""
        return self.column(dataset, target)[self.row(archs)]

    def rank(
        self, dataset: str, archs: str | Sequence[str] | Architecture, target: str = "test"
    ) -> Any:
        """Returns the rank among all cells: 1 plus the number of strictly better cells."""
        return len(self) + 1 - self._at_most(dataset, archs, target)

    def percentile(
        self, dataset: str, archs: str | Sequence[str] | Architecture, target: str = "test"
    ) -> Any:
        """Returns the percentage of cells that are no better, itself included: best is 100."""
        return 100.0 * self._at_most(dataset, archs, target) / len(self)

    def best(self, dataset: str, target: str = "test") -> Architecture:
        """Returns the most accurate cell (the first of equals)."""
        return self.architectures[int(np.argmax(self.column(dataset, target)))]

    def _at_most(self, dataset: str, archs: Any, target: str) -> Any:
        """Counts the cells with an accuracy of at most that of each of `archs`."""
        column = self.column(dataset, target)
        return np.searchsorted(np.sort(column), column[self.row(archs)], side="right")


class PublishedScores(NamedTuple):
    """Training-free scores of NAS-Bench-201 cells as NAS-Bench-Suite-Zero published them.

    Attributes:
        datasets: [m] one of `DATASETS`.
        architectures: [m, 6] operation indices.
        columns: `SCORES`, `val_accuracy` (percent), and `params` and `flops` in millions, each
            [m]. A score may be infinite, or NaN where none was published.
    """

    datasets: np.ndarray
    architectures: Int[np.ndarray, "m 6"]
    columns: Mapping[str, Float[np.ndarray, " m"]]

    def of(self, dataset: str) -> "PublishedScores":
        """Returns the rows of one dataset; ValueError lists the datasets that exist."""
        if dataset not in DATASETS:
            raise ValueError(
                f"no published scores for {dataset!r}; there are {', '.join(DATASETS)}"
            )
        rows = self.datasets == dataset
        columns = {name: values[rows] for name, values in self.columns.items()}
        return PublishedScores(self.datasets[rows], self.architectures[rows], columns)


class DartsTable(NamedTuple):
    """DARTS genotypes with accuracies.

    A genotype has two cells (normal, reduce) of four nodes with two incoming edges each.

    Attributes:
        operations: [n, 2, 4, 2] indices into `DARTS_OPERATIONS`.
        inputs: [n, 2, 4, 2] the node an edge comes from: 0 and 1 are the cell's inputs, 2 to 5
            its nodes. Both edges of a node may come from the same one.
        accuracies: [n] percent; their meaning depends on the file.
        columns: further columns by name, each [n].
    """

    operations: Int[np.ndarray, "n 2 4 2"]
    inputs: Int[np.ndarray, "n 2 4 2"]
    accuracies: Float[np.ndarray, " n"]
    columns: Mapping[str, Float[np.ndarray, " n"]]

    def genotypes(self) -> list[Genotype]:
        """Returns the genotypes in the table's order."""
        found = []
        for operations, inputs in zip(self.operations, self.inputs, strict=True):
            normal, reduce = (
                tuple((DARTS_OPERATIONS[option], int(source)) for option, source in edges)
                for edges in np.stack([operations, inputs], -1).reshape(2, 8, 2)
            )
            found.append(make_genotype(normal, reduce))
        return found


def load_nas_bench_201(data_dir: str | os.PathLike[str] | None = None) -> Table:
    """Reads `nas_bench_201.csv`: one row for each of the 15,625 cells.

    Args:
        data_dir: directory of the file; default: the environment variable SABOC_DATA_DIR, else
            ~/tensorflow_datasets.

    Raises:
        FileNotFoundError: if the file is missing; says where to get it and how to name it.
        ValueError: if the file is damaged; names it and what is missing, repeated or malformed.
    """
    path = _locate("nas_bench_201.csv", data_dir)
    names = (*_COLUMNS.values(), _SECONDS)
    text = read_columns(path, ("index", "arch", *names))
    architectures = parsed(path, "arch", text["arch"], cells.from_string)
    codes = architectures @ _PLACES
    _check_complete(path, codes)
    names = (*names, *(name for name in _HALFWAY.values() if name in text))
    columns = {name: numbers(path, name, text[name]) for name in names}
    _check_units(path, {name: columns[name] for name in columns.keys() - {_SECONDS}})
    positions = np.empty(_NUM_CELLS, dtype=np.int64)
    positions[codes] = np.arange(_NUM_CELLS)
    indices = whole_numbers(path, "index", text["index"], _NUM_CELLS)
    return Table(architectures, indices, columns, positions)


def load_published_scores(data_dir: str | os.PathLike[str] | None = None) -> PublishedScores:
    """Reads `nas_bench_201_published_scores.csv`; arguments and errors as `load_nas_bench_201`."""
    path = _locate("nas_bench_201_published_scores.csv", data_dir)
    exact, names = ("val_accuracy", "params", "flops"), SCORES
    text = read_columns(path, ("dataset", "arch", *exact, *names))
    datasets = np.array([name.lower().replace("-", "_") for name in text["dataset"]])
    unknown = ~np.isin(datasets, DATASETS)
    if unknown.any():
        bad = text["dataset"][int(np.argmax(unknown))]
        raise ValueError(f"{path}: dataset {bad!r}; allowed are {', '.join(DATASETS)}")
    check_distinct(path, list(zip(datasets.tolist(), text["arch"], strict=True)))
    columns = {name: numbers(path, name, text[name]) for name in exact}
    check_percent(path, "val_accuracy", columns["val_accuracy"])
    columns |= {name: numbers(path, name, text[name], finite=False) for name in names}
    return PublishedScores(datasets, parsed(path, "arch", text["arch"], cells.from_string), columns)


def load_darts_surrogate(data_dir: str | os.PathLike[str] | None = None) -> DartsTable:
    """Reads `darts_nb301_surrogate.csv`; arguments and errors as `load_nas_bench_201`.

    The accuracies are predictions of the NAS-Bench-301 surrogate for CIFAR-10 validation, not
    results of training. `columns` holds `SCORES`, and `params` and `flops` in millions.
    """
    path = _locate("darts_nb301_surrogate.csv", data_dir)
    exact, names = ("surrogate_val_accuracy", "params", "flops"), SCORES
    text = read_columns(path, ("normal", "reduce", *exact, *names))
    check_distinct(path, list(zip(text["normal"], text["reduce"], strict=True)))
    edges = np.stack([parsed(path, k, text[k], _read_pairs) for k in ("normal", "reduce")], axis=1)
    columns = {name: numbers(path, name, text[name]) for name in exact}
    columns |= {name: numbers(path, name, text[name], finite=False) for name in names}
    return _darts_table(path, edges, columns.pop("surrogate_val_accuracy"), columns)


def load_darts_swap(data_dir: str | os.PathLike[str] | None = None) -> DartsTable:
    """Reads `darts_swap1000.csv`; arguments and errors as `load_nas_bench_201`.

    Genotypes whose two cells are equal and may contain `none`, with CIFAR-10 validation
    accuracies of SWAP's training recipe.
    """
    path = _locate("darts_swap1000.csv", data_dir)
    text = read_columns(path, ("genotype", "val_accuracy"))
    check_distinct(path, text["genotype"])
    edges = parsed(path, "genotype", text["genotype"], _read_genotype)
    accuracies = numbers(path, "val_accuracy", text["val_accuracy"])
    return _darts_table(path, edges, accuracies, {})


def _locate(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the path of file `name` in the data directory; FileNotFoundError if missing."""
    path = data_directory(data_dir) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Its rows are published at {_SOURCES[name]}; save them as "
            f"{name} in the directory given by data_dir or SABOC_DATA_DIR"
        )
    return path


def _check_complete(path: Path, codes: Int[np.ndarray, " rows"]) -> None:
    """ValueError unless every cell occurs exactly once."""
    check_distinct(path, codes.tolist())
    absent = np.setdiff1d(np.arange(_NUM_CELLS), codes)
    if absent.size:
        example = cells.to_string(absent[0] // _PLACES % len(cells.OPERATIONS))
        raise ValueError(
            f"{path} has {len(codes):,} of {_NUM_CELLS:,} cells: {absent.size:,} are missing, "
            f"among them {example}"
        )


def _check_units(path: Path, columns: Mapping[str, Float[np.ndarray, " cells"]]) -> None:
    """ValueError names a column, or a single value, that is a fraction and not per cent."""
    for name in sorted(columns):
        check_percent(path, name, columns[name])
        if are_fractions(columns[name]):
            raise ValueError(
                f"{path}: {name} holds fractions, up to {columns[name].max()}; allowed: per cent"
            )
    for name in (name for name in sorted(columns) if name.startswith("cifar10_")):
        for row in strays(name, columns[name])[:1]:  # guessing gives 10 % there, so none is below 1
            raise stray_error(path, name, columns[name], int(row))
    for dataset in DATASETS:
        _check_agree(path, {n: v for n, v in columns.items() if n.startswith(f"{dataset}_")})


def _check_agree(path: Path, columns: Mapping[str, Float[np.ndarray, " cells"]]) -> None:
    """ValueError names a value that is far below all others of its cell on the same data set."""
    names = sorted(columns)
    values = np.array([columns[name] for name in names])
    best = values.max(0)
    stray = (values > 0) & (values <= 1) & (best > np.maximum(1, values * _AGREE))
    if stray.any():
        column, row = (int(at[0]) for at in np.nonzero(stray))
        raise ValueError(
            f"{path}, line {row + 2}: {names[column]} is {values[column, row]} beside "
            f"{best[row]:.6g} of the same cell; allowed: per cent"
        )


def _as_indices(archs: Any) -> Int[np.ndarray, "*n 6"]:
    """Converts one or several cells, as text or indices, to indices; ValueError if malformed."""
    if isinstance(archs, str):
        return cells.from_string(archs)
    if len(archs) and isinstance(archs[0], str):
        return np.array([cells.from_string(text) for text in archs])
    array = np.asarray(archs)
    if array.size == 0:
        array = array.astype(np.int64).reshape(0, len(cells.EDGES))
    if array.ndim not in (1, 2) or array.shape[-1] != 6 or array.dtype.kind not in "iu":
        raise ValueError(
            f"architectures have shape {array.shape} and dtype {array.dtype}; allowed are texts "
            "and integer arrays of shape (6,) or (n, 6)"
        )
    if array.size and not 0 <= array.min() <= array.max() < len(cells.OPERATIONS):
        raise ValueError(f"operation indices must be 0 to 4; got {array.min()} to {array.max()}")
    return array


def _read_pairs(text: str) -> list[tuple[int, int]]:
    """Reads one cell, `op@input` eight times, as (operation index, input)."""
    pairs = [pair.partition("@") for pair in text.split()]
    return _checked_pairs([(name, source) for name, _, source in pairs])


def _read_genotype(text: str) -> list[list[tuple[int, int]]]:
    """Reads `Genotype(normal=[('op', input), ...], ..., reduce=[...], ...)`."""
    read = []
    for cell in ("normal", "reduce"):
        found = re.search(rf"\b{cell}=\[([^\]]*)\]", text)
        if found is None:
            raise ValueError(f"genotype {text!r} has no cell {cell!r}")
        read.append(_checked_pairs(re.findall(r"\('(\w+)', (\w+)\)", found[1])))
    return read


def _checked_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    if len(pairs) != 8:
        raise ValueError(f"a cell has {len(pairs)} edges, expected 8")
    read = []
    for edge, (name, source) in enumerate(pairs):
        node = 2 + edge // 2
        if name not in DARTS_OPERATIONS:
            allowed = ", ".join(DARTS_OPERATIONS)
            raise ValueError(f"unknown operation {name!r}; allowed are {allowed}")
        if not source.isdecimal() or int(source) >= node:
            raise ValueError(f"node {node} reads {source!r}; allowed are 0 to {node - 1}")
        read.append((DARTS_OPERATIONS.index(name), int(source)))
    return read


def _darts_table(
    path: Path,
    edges: Int[np.ndarray, "n 2 8 2"],
    accuracies: Float[np.ndarray, " n"],
    columns: Mapping[str, Float[np.ndarray, " n"]],
) -> DartsTable:
    check_percent(path, "accuracy", accuracies)
    shape = (len(edges), 2, 4, 2)
    operations, inputs = (edges[..., i].reshape(shape) for i in range(2))
    return DartsTable(operations, inputs, accuracies, columns)
