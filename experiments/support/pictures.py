"""Pictures that binaries keep: without matplotlib the rest of a run is kept all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from saboc_jax.extras import MissingExtraError

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

_left_out: dict[Path, str] = {}


def keep(path: Path, draw: Callable[[], Figure], dpi: int) -> None:
    """Draws a picture and writes it; without matplotlib it is left out and `notice` names it.

    Args:
        path: a PNG file.
        draw: makes the figure by `saboc_jax.reports.canvas.blank`.
        dpi: pixels an inch.
    """
    try:
        figure = draw()
    except MissingExtraError as error:
        _left_out[path] = error.line
    else:
        figure.savefig(path, dpi=dpi)


def notice() -> str:
    """One line on the pictures that this process left out, and how to get them; "" without any."""
    if not _left_out:
        return ""
    names = ", ".join(path.name for path in _left_out)
    line = next(iter(_left_out.values()))
    return f"Left out {names}: pictures need matplotlib: {line}"
