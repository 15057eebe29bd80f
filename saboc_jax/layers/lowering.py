"""Programs as they are lowered for a platform that need not be there, and counts of operations."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

PLATFORMS = ("cpu", "cuda", "tpu")
_OPERATION = re.compile(r"(?:^|\s|=)\"?(stablehlo\.[a-z_0-9]+|func\.call|call)\b")


def lowered(function: Callable[..., Any], platform: str, *args: Any) -> str:
    """Returns the text (StableHLO) of a function's program for a platform, without a device of it.

    Args:
        function: any function that JAX can trace.
        platform: one of `PLATFORMS`.
        *args: trees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: if there is no such platform.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"platform={platform!r}; allowed: {PLATFORMS}")
    return str(jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text())


def operations(text: str) -> Counter[str]:
    """Counts the operations in a program's text by name, such as "dot_general".

    Bodies of loops, branches and functions count once, however often they run.
    """
    names = (match.group(1) for line in text.splitlines() if (match := _OPERATION.search(line)))
    return Counter(name.removeprefix("stablehlo.") for name in names)
