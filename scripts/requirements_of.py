"""Prints what extras ask for, a line each: `python scripts/requirements_of.py ray,figures`.

`make install EXTRAS=...` installs these by name, so that pip does not install this package anew in
place of the editable one.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
TENSORFLOW = {
    "prepare": "it brings TensorFlow, which nothing here imports: pip install tensorflow "
    "importlib_resources, in an environment of its own",
    "reference": "it is installed already, without TensorFlow",
}


def requirements(names: list[str]) -> list[str]:
    """The requirements of extras; an extra may name others of ours.

    Raises:
        ValueError: if there is no such extra, or it brings TensorFlow.
    """
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found: dict[str, None] = {}
    for name in names:
        if name not in extras or name in TENSORFLOW:
            why = TENSORFLOW.get(name, "there is none")
            allowed = ", ".join(sorted(set(extras) - set(TENSORFLOW)))
            raise ValueError(f"EXTRAS={name}: {why}; allowed: {allowed}")
        for line in extras[name]:
            own = re.fullmatch(r"saboc_jax\[([\w,]+)\]", line)
            found |= dict.fromkeys(requirements(own[1].split(",")) if own else [line])
    return list(found)


if __name__ == "__main__":
    try:
        print("\n".join(requirements(sys.argv[1].split(","))))
    except ValueError as error:
        sys.exit(f"error: {error}")
