"""Reads and writes the files of a run: JSON by its form, and writes that are whole or absent."""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from saboc_jax.forms import checked

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula."""
UNFINISHED = ".unfinished"  # suffix of what is being written


def read_json(path: Path, form: Any = Any) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: the file.
        form: what it must hold, see `saboc_jax.forms`.

    Raises:
        ValueError: if the file is damaged or of another form; the message names it.
    """
    return checked(parse_json(path.read_bytes(), path), form, path)


def parse_json(text: str | bytes, where: object) -> Any:
    """Returns the content of a JSON text; ValueError names where it stands if it is damaged."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of digits without end
        raise ValueError(f"{where} is damaged: {error}") from error


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], show: Callable[[Any], str] = repr
) -> str:
    """Returns the entries in which a record of a file differs from ours, as text; "": none.

    Args:
        old: the record as it is in the file.
        new: ours, in types that JSON keeps.
        show: how a value is written.
    """
    return "; ".join(
        f"{name}: {show(old.get(name))} there, {show(new.get(name))} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all, with the permissions of the umask; creates the folder."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all, with the permissions of the umask; creates the folder."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a new file to write; it takes its name when the context ends without an error.

    The new file has a random name in the same folder and is opened only if no such file exists, so
    nobody can lay a link in its place. What killed processes left of the same file is removed.

    Raises:
        OSError: names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        _try_lock(handle)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say where
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        os.close(handle)
        unfinished.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Removes unfinished files of dead writers: those of living ones are locked."""
    for left in path.parent.iterdir():
        if not is_unfinished(left, path):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _try_lock(handle):
                    left.unlink()
            finally:
                os.close(handle)


def is_unfinished(left: Path, path: Path) -> bool:
    """Returns whether a file is an unfinished one of the file of a path."""
    return left.name.startswith(f".{path.name}.") and left.name.endswith(UNFINISHED)


def _try_lock(handle: int) -> bool:
    """Takes the kernel's lock of an open file; False: another process has it, or there is none."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def as_cells(row: Iterable[Any]) -> list[Any]:
    """Returns a row for a CSV file, in which no text is a formula to a spreadsheet.

    A text that begins like one, and is no number, gets an apostrophe before it, which spreadsheets
    do not show.
    """
    return [
        f"'{value}" if isinstance(value, str) and _is_formula(value) else value for value in row
    ]


def _is_formula(text: str) -> bool:
    if not text.startswith(FORMULAS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
