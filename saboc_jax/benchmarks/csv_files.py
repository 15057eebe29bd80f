"""CSV files that other people wrote: columns of text and numbers, checked.

Every error is one sentence with the file, the line and what is wrong, so that a damaged file never
gives a plausible wrong number. A byte order mark is skipped. Where a header has no comma, the
separator is a semicolon or a tab, as spreadsheets write them; their numbers may then have a decimal
comma.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

GAP = 5.0  # per cent: where nothing lies between 1 and this, what lies below 1 are fractions
_CHANCE = {
    "cifar100": 1.0,
    "c100": 1.0,
    "imagenet16_120": 100 / 120,
    "imagenet": 0.1,
    "flower": 0.98,
}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+%?")


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of data: the argument, else SABOC_DATA_DIR, else TFDS's own."""
    default = os.environ.get("SABOC_DATA_DIR") or "~/tensorflow_datasets"
    return Path(default if data_dir is None else data_dir).expanduser()


def read_columns(
    path: Path, required: Iterable[str] = (), whole: bool = True
) -> dict[str, tuple[str, ...]]:
    """Reads the columns of a CSV file as text.

    Args:
        path: the file, in UTF-8.
        required: names of columns that must be there.
        whole: also require that the last line ends, for else a number may be cut off.

    Raises:
        ValueError: if the file is no such file, or columns, rows or fields are missing.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
        lines = content.splitlines()
        separator = _separator(lines[0] if lines else "")
        header, *rows = csv.reader(lines, delimiter=separator, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is empty") from error
    header = [name.strip() for name in header]
    while rows and not any(rows[-1]):
        rows.pop()
    _check_shape(path, header, rows, required)
    if whole and not content.endswith("\n"):
        raise ValueError(f"{path} ends within line {len(rows) + 1}: is it cut off?")
    if separator != ",":
        rows = [[_with_point(text) for text in row] for row in rows]
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def _separator(header: str) -> str:
    return next((mark for mark in ",;\t" if mark in header), ",")


def _with_point(text: str) -> str:
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text.strip()) else text


def _check_shape(
    path: Path, header: list[str], rows: list[list[str]], required: Iterable[str]
) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {header}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has the columns {twice} more than once; allowed: once")
    if not rows:
        raise ValueError(f"{path} has a header and no rows")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line} has {len(row)} fields, expected {len(header)}: is it cut off?"
            )


def numbers(
    path: Path, name: str, texts: Sequence[str], finite: bool = True
) -> Float[np.ndarray, " n"]:
    """Returns one column as float64; ValueError names the first line without a (finite) number.

    With `finite=False` an empty field becomes NaN: scores were published with gaps.
    """
    if not finite:
        texts = [text or "nan" for text in texts]
    try:
        values = np.array(texts, dtype=np.str_).astype(np.float64)
    except ValueError:
        values = parsed(path, name, texts, float)
    bad = ~np.isfinite(values)
    if finite and bad.any():
        line = int(np.argmax(bad))
        raise ValueError(f"{path}, line {line + 2}: {name} is {texts[line]!r}, not a finite number")
    return values


def parsed(path: Path, name: str, texts: Sequence[str], read: Callable[[str], Any]) -> np.ndarray:
    """Applies `read` to every text; ValueError says in which line it failed."""
    found = []
    for line, text in enumerate(texts, start=2):
        try:
            found.append(read(text))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}, column {name}: {error}") from error
    return np.array(found)


def whole_numbers(path: Path, name: str, texts: Sequence[str], below: int) -> np.ndarray:
    """Returns a column of distinct whole numbers; ValueError names a line that is none."""
    values = numbers(path, name, texts)
    bad = (values != np.floor(values)) | (values < 0) | (values >= below)
    if bad.any():
        line = int(np.argmax(bad))
        raise ValueError(
            f"{path}, line {line + 2}: {name} is {texts[line]}; allowed: whole numbers from 0 to "
            f"{below - 1}"
        )
    check_distinct(path, values.tolist(), name)
    return values.astype(np.int64)


def check_distinct(path: Path, keys: Sequence[Any], what: str = "architecture") -> None:
    """ValueError names the first two lines with the same key."""
    first: dict[Any, int] = {}
    for line, key in enumerate(keys, start=2):
        if first.setdefault(key, line) != line:
            raise ValueError(f"{path}, line {line} repeats the {what} of line {first[key]}")


def check_percent(path: Path, name: str, values: Float[np.ndarray, " n"]) -> None:
    """ValueError unless all values are 0 to 100; NaN, for missing, is allowed."""
    bad = (values < 0) | (values > 100)
    if bad.any():
        line = int(np.argmax(bad))
        raise ValueError(f"{path}, line {line + 2}: {name} is {values[line]}; allowed is 0 to 100")


def are_fractions(values: Float[np.ndarray, " n"]) -> bool:
    """Returns whether a whole column can only be fractions: some are not 0, none is above 1."""
    known = values[np.isfinite(values)]
    return bool(known.size and 0 < known.max() <= 1)


def strays(name: str, values: Float[np.ndarray, " n"]) -> np.ndarray:
    """Returns the rows whose value must be a fraction in a column of per cents.

    That is: it is at most 1, and all values above 1 are above `GAP`. What guessing gives on the
    data set that the column is named after is no stray.
    """
    chance = next((value for part, value in _CHANCE.items() if part in name.lower()), 0.0)
    guessed = np.isclose(values, chance, rtol=0.05) if chance else np.zeros(len(values), bool)
    low = (values > 0) & (values <= 1) & ~guessed
    high = values[values > 1]
    if not low.any() or not high.size or high.min() < GAP:
        return np.zeros(0, int)
    return np.flatnonzero(low)


def stray_error(path: Path, name: str, values: Float[np.ndarray, " n"], row: int) -> ValueError:
    """Returns the error that names a fraction among per cents."""
    return ValueError(
        f"{path}, line {row + 2}: {name} is {values[row]}, a fraction among per cents (up to "
        f"{np.nanmax(values):.6g}); allowed: one unit in a column"
    )
