"""The figure of a benchmark: run time as ratios, compile time in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saboc_jax.reports.canvas import blank

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure


def draw(results: Mapping[str, Mapping[str, Any]], base: str, title: str) -> Figure:
    """Draws bars of the ratios to `base` with quartiles, and of the compile seconds.

    Args:
        results: results of `timing.summarise`.
        base: the contestant that ratios are relative to.
        title: the setting in words.
    """
    names = list(results)[::-1]
    figure = blank(10, 0.45 * len(names) + 1.4)
    figure.suptitle(title, fontsize=9)
    run, compiled = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for place, name in enumerate(names):
        row = results[name]
        run.barh(place, row["cpu ratio"], color="tab:blue" if name != base else "tab:orange")
        run.plot([row["cpu ratio q1"], row["cpu ratio q3"]], [place, place], "k-", linewidth=2)
        run.annotate(f" {row['cpu ratio']:.3g}", (row["cpu ratio"], place), va="center", fontsize=8)
        compiled.barh(place, row.get("compile s", 0), color="tab:gray")
    run.axvline(1, color="k", linewidth=0.5)
    run.set(xscale="log", xlabel=f"CPU seconds / those of {base} (bar: quartiles of single runs)")
    run.set_yticks(range(len(names)), names)
    run.margins(x=0.1)
    compiled.set(xlabel="compile seconds of one program")
    return figure
