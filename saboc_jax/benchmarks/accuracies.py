"""One reader for tables of architectures: accuracies, and what was measured or scored beside them.

A table is a CSV file with a column of architectures (`arch`, in any notation of its space) and
columns of numbers. A column named like an accuracy is in per cent, or in fractions throughout,
which are made per cents. All other columns of numbers are costs, scores or what else was measured.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from saboc_jax.benchmarks import known_tables, nas_bench_101
from saboc_jax.benchmarks.csv_files import (
    are_fractions,
    check_percent,
    read_columns,
    stray_error,
    strays,
)
from saboc_jax.spaces.notations import read_notation
from saboc_jax.types import Architecture, SearchSpace

UNITS = ("percent", "fraction")
ARCHITECTURE_NAMES = ("arch", "architecture", "arch_str", "genotype", "cell", "structure", "model")
LEAST = 10  # rows of a group that a correlation is computed of
_PAIRS = (("adjacency", "ops", "{0} {1}"), ("normal", "reduce", "{0} / {1}"))
_ACCURACY = re.compile(r"(^|_)(acc|accuracy|test|val|valid|validation|train|top_?[15])($|_)")
_OTHER = re.compile(r"(^|_)(loss|time|second|seconds|error|err|std|params|flops|macs|latency)($|_)")
_DATA = re.compile(r"cifar_?100?|c100|imagenet\w*|svhn|mnist|flowers?(102)?|chaoyang")
_NONE = ("", "nan", "none", "null", "na", "n/a", "-")


@dataclass(frozen=True)
class AccuracyTable:
    """Architectures with numbers: accuracies, and columns of costs and scores.

    Attributes:
        path: the file.
        space: the space of the architectures.
        architectures: [n, decisions], each once.
        columns: [n] of each column of numbers; accuracies in per cent; NaN where there is none.
        accuracies: the names of the columns that are accuracies.
        main: the accuracy that is meant if none is named; None: there is no accuracy.
        notes: what was made of the file, in sentences that a user should see.
        places: [rows] the architecture of each row of the file.
        per_row: [rows] of each column of numbers, as `columns`.
        words: [rows] of each column of words, such as how an architecture was trained.
    """

    path: Path
    space: SearchSpace
    architectures: Int[np.ndarray, "n decisions"]
    columns: Mapping[str, Float[np.ndarray, " n"]]
    accuracies: tuple[str, ...]
    main: str | None
    notes: tuple[str, ...]
    places: Int[np.ndarray, " rows"]
    per_row: Mapping[str, Float[np.ndarray, " rows"]]
    words: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def others(self) -> tuple[str, ...]:
        """The names of the columns that are not accuracies: costs and scores."""
        return tuple(name for name in self.columns if name not in self.accuracies)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {self.space.to_string(arch): row for row, arch in enumerate(self.architectures)}

    def rows(self, archs: Any) -> Int[np.ndarray, " m"]:
        """Returns the row of each architecture [m, decisions]; -1: it is not in the table."""
        return np.array([self._rows.get(self.space.to_string(arch), -1) for arch in archs], int)

    def column(self, name: str | None = None) -> Float[np.ndarray, " n"]:
        """Returns a column by name; None: the main accuracy.

        Raises:
            ValueError: if there is none of that name; lists those that exist.
        """
        if name is None and self.main is None:
            raise ValueError(
                f"{self.path} has no column that is named like an accuracy; choose one of "
                f"{', '.join(self.columns)}"
            )
        name = name or self.main or ""
        if name not in self.columns:
            raise ValueError(
                f"{self.path} has no column {name!r}; allowed: {', '.join(self.columns)}"
            )
        return self.columns[name]

    def values(self, archs: Any, name: str | None = None) -> Float[np.ndarray, " m"]:
        """Returns a column for architectures [m, decisions]; NaN where the table has none."""
        rows = self.rows(archs)
        return np.where(rows < 0, np.nan, self.column(name)[rows])

    def groups(
        self, by: str, least: int = LEAST, name: str | None = None
    ) -> dict[str, tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]]:
        """Returns the rows of each word of a column: their architectures, and their accuracies.

        Args:
            by: a column of words.
            least: groups of fewer rows are left out.
            name: the column of the accuracies; None: the main one.

        Raises:
            ValueError: if there is no such column of words, or no group of so many rows.
        """
        if by not in self.words:
            known = ", ".join(self.words) or "it has none"
            raise ValueError(f"{self.path} has no column of words {by!r}; allowed: {known}")
        self.column(name)
        values = self.per_row[name or self.main or ""]
        words = np.array(self.words[by])
        found = {}
        for word in sorted(set(words)):
            rows = np.flatnonzero((words == word) & ~np.isnan(values))
            if len(rows) >= least:
                found[str(word)] = self.places[rows], values[rows]
        if not found:
            raise ValueError(
                f"{self.path}: no {by} has {least} rows or more; allowed: a column of groups"
            )
        return found


def read_table(
    path: str | os.PathLike[str],
    space: SearchSpace,
    *,
    column: str | None = None,
    unit: str | None = None,
    notation: str | None = None,
) -> AccuracyTable:
    """Reads a table of architectures of a space.

    Args:
        path: a CSV file in UTF-8, with or without a byte order mark; or NAS-Bench-101's published
            records (.tfrecord), which take minutes.
        space: the space of its architectures.
        column: the accuracy that is meant; None: the known one, a test accuracy, or the first.
        unit: "percent" or "fraction", for all accuracies; None: as the values say.
        notation: the notation of the architectures, see `saboc_jax.read_architecture`.

    Returns:
        The table, each architecture once: rows that repeat one count once if they are equal, and
        by their mean if they are not (which `notes` tells).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one sentence with the file, the line and what is wrong.
    """
    path = Path(path).expanduser()
    if unit not in (None, *UNITS):
        raise ValueError(f"unit={unit!r}; allowed: {', '.join(UNITS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; allowed: a CSV file with a column `arch`")
    official = path.suffix == nas_bench_101.SUFFIX
    text = nas_bench_101.read_records(path) if official else read_columns(path, whole=False)
    used, texts = _architecture_texts(path, text)
    archs, places = _distinct(path, texts, space, notation)
    found = {
        name: values
        for name, cells in text.items()
        if name not in used and (values := _values(path, name, cells, name == column)) is not None
    }
    known = known_tables.KNOWN.get("nas_bench_101" if official else path.stem)
    main = _main(found, column, known.main if known else None)
    accuracies = tuple(name for name in found if name == main or is_accuracy(name))
    notes: list[str] = []
    for name in accuracies:
        chosen = name == column and not is_accuracy(name) and unit is None
        if not chosen:  # a loss or a cost that is asked for stays what it is
            found[name] = _percent(path, name, found[name], text[name], unit, notes)
    merged = {
        name: _merged(name, values, places, len(archs), notes) for name, values in found.items()
    }
    notes += [f"{len(texts) - len(archs)} rows repeat an architecture"] * (len(texts) > len(archs))
    words = {
        name: tuple(cell.strip() for cell in cells)
        for name, cells in text.items()
        if name not in used and name not in found
    }
    return AccuracyTable(
        path, space, archs, merged, accuracies, main, tuple(notes), places, found, words
    )


def is_accuracy(name: str) -> bool:
    """Returns whether a column is named like an accuracy."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
    return bool(_ACCURACY.search(plain) or _DATA.fullmatch(plain)) and not _OTHER.search(plain)


def _architecture_texts(
    path: Path, text: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the columns of the architectures, and their texts."""
    by_lower = {name.lower(): name for name in text}
    for wanted in ARCHITECTURE_NAMES:
        if wanted in by_lower:
            return (by_lower[wanted],), list(text[by_lower[wanted]])
    for one, two, form in _PAIRS:
        if one in by_lower and two in by_lower:
            names = by_lower[one], by_lower[two]
            pairs = zip(*(text[name] for name in names), strict=True)
            return names, [form.format(*pair) for pair in pairs]
    raise ValueError(
        f"{path} lacks a column `arch`; it has {list(text)} (allowed also: "
        f"{', '.join(ARCHITECTURE_NAMES[1:])})"
    )


def _distinct(
    path: Path, texts: Sequence[str], space: SearchSpace, notation: str | None
) -> tuple[Int[np.ndarray, "n decisions"], Int[np.ndarray, " rows"]]:
    """Returns the architectures, each once, and which of them each row has."""
    archs: list[Architecture] = []
    place: dict[str, int] = {}
    places = np.zeros(len(texts), int)
    for row, text in enumerate(texts):
        try:
            arch = read_notation(text, space, notation)
        except ValueError as error:
            raise ValueError(f"{path}, line {row + 2}: {error}") from error
        key = space.to_string(arch)
        if key not in place:
            place[key] = len(archs)
            archs.append(np.asarray(arch))
        places[row] = place[key]
    return np.stack(archs), places


def _values(
    path: Path, name: str, cells: Sequence[str], wanted: bool
) -> Float[np.ndarray, " rows"] | None:
    """Returns a column of numbers, NaN where empty; None: it is a column of words."""
    texts = ["nan" if cell.strip().lower() in _NONE else cell.strip() for cell in cells]
    found = []
    for row, text in enumerate(texts):
        try:
            found.append(float(text.rstrip("%")))
        except ValueError as error:
            started = any(np.isfinite(found))
            if not (started or wanted or is_accuracy(name)):
                return None
            raise ValueError(
                f"{path}, line {row + 2}: {name} is {cells[row]!r}; allowed: numbers"
            ) from error
    return np.array(found) if any(np.isfinite(found)) else None


def _main(found: Mapping[str, Any], column: str | None, known: str | None) -> str | None:
    """Returns the accuracy that is meant; None: there is none."""
    if column is not None:
        return column if column in found else None
    if known in found:
        return known
    named = [name for name in found if is_accuracy(name)]
    return next((name for name in named if "test" in name.lower()), next(iter(named), None))


def _percent(
    path: Path,
    name: str,
    values: Float[np.ndarray, " rows"],
    texts: Sequence[str],
    unit: str | None,
    notes: list[str],
) -> Float[np.ndarray, " rows"]:
    """Returns accuracies in per cent; ValueError names one that is neither."""
    marked = any(text.strip().endswith("%") for text in texts)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise ValueError(f"{path}, line {row + 2}: {name} is {values[row]}; allowed: 0 to 100")
    if unit == "fraction" or (unit is None and not marked and are_fractions(values)):
        if not np.nanmax(values, initial=0) <= 1:
            row = int(np.nanargmax(values))
            raise ValueError(
                f"{path}, line {row + 2}: {name} is {values[row]}; allowed as fractions: 0 to 1"
            )
        notes.append(
            f"{name} holds fractions, read as per cents up to {100 * np.nanmax(values):.4g} %"
        )
        values = 100 * values
    check_percent(path, name, values)
    if unit is None and not marked:
        for row in strays(name, values)[:1]:
            raise stray_error(path, name, values, int(row))
    return values


def _merged(
    name: str,
    values: Float[np.ndarray, " rows"],
    places: Int[np.ndarray, " rows"],
    number: int,
    notes: list[str],
) -> Float[np.ndarray, " n"]:
    """Returns one value for each architecture: the mean of the known ones of its rows."""
    if len(values) == number:
        return values
    known = ~np.isnan(values)
    counts = np.bincount(places[known], minlength=number)
    sums = np.bincount(places[known], values[known], number)
    mean = np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)
    differ = np.unique(places[known][~np.isclose(values[known], mean[places[known]], 1e-9, 0)])
    if len(differ):
        notes.append(f"{name}: {len(differ)} architectures have several values; the mean counts")
    once = np.full(number, np.nan)
    once[places[::-1]] = values[::-1]
    return np.where(np.isin(np.arange(number), differ) | np.isnan(once), mean, once)
