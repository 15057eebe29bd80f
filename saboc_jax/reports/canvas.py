"""Makes empty figures; matplotlib is loaded here, only when something is drawn.

Figures are made without pyplot, so nothing here touches its global state or needs a display.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saboc_jax.extras import needed

if TYPE_CHECKING:  # matplotlib is an extra
    from matplotlib.figure import Figure


def blank(width: float, height: float, **options: Any) -> Figure:
    """Returns an empty figure with an Agg canvas: `figure.savefig("cell.png", dpi=160)`.

    Args:
        width: in inches.
        height: in inches.
        **options: options of matplotlib's `Figure`.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    with needed("figures", "A picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure
