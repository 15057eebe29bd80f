"""JSON files that runs leave."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What the file holds.

    Raises:
        ValueError: names a damaged file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
