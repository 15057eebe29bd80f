"""Reads and writes the JSON files of a run."""

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, with the permissions of the umask; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    unfinished.replace(path)
