"""Small charts as inline SVG for reports: they scale to a phone and need no script."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saboc_jax.reports.page import Html, fill, joined

_WIDTH, _HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 46
# Names of colours of the page, which has them for light and for dark.
_INK, _BLUE, _ORANGE, _GREY = "var(--ink)", "var(--blue)", "var(--orange)", "var(--faint)"
_COLOURS = (_BLUE, _ORANGE, "var(--green)", "var(--plum)", "var(--olive)", "var(--quiet)")
_NOTHING = Html()
_LONGEST = 26  # letters of a name beside its interval
_FEW = 40  # curves of at most so many points mark each point


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Returns round numbers inside an interval that divide it into about `count` parts.

    Args:
        low: lower end of the interval.
        high: upper end.
        count: about how many parts.
        whole: only whole numbers.
    """
    raw = max((high - low) / count, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def scatter(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    labels: tuple[str, str],
    faint: Bool[np.ndarray, " n"] | None = None,
    marked: Bool[np.ndarray, " n"] | None = None,
) -> Html:
    """Draws points on two linear axes; omits points that are not finite and shows their count.

    Args:
        x: horizontal positions.
        y: vertical positions.
        labels: labels of the axes.
        faint: points to draw hollow.
        marked: points to draw large and orange, above the others.
    """
    none = np.zeros(len(x), bool)
    faint = none if faint is None else faint
    marked = none if marked is None else marked
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return fill("<p>No finite {} and {}.</p>", *labels)
    axes = _Axes(x[finite], y[finite])
    shapes = []
    for i in sorted(np.flatnonzero(finite), key=lambda i: bool(marked[i])):
        place = (axes.right(x[i]), axes.down(y[i]))
        if marked[i]:
            style = fill('r="7" fill="{}"', _ORANGE)
        elif faint[i]:
            style = fill('r="3.5" fill="none" stroke="{}" opacity=".7"', _BLUE)
        else:
            style = fill('r="3" fill="{}" opacity=".55"', _BLUE)
        shapes.append(fill('<circle cx="{:.1f}" cy="{:.1f}" {}/>', *place, style))
    if (bad := int((~finite).sum())) > 0:
        shapes.append(_label(_WIDTH - _RIGHT, _TOP + 10, f"{bad} not finite", "end"))
    return _svg(f"{labels[1]} against {labels[0]}", joined([axes.frame(labels), *shapes]))


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], labels: tuple[str, str]
) -> Html:
    """Draws curves over a common axis, with their names below; omits values that are not finite.

    Args:
        series: horizontal and vertical positions, by name.
        labels: labels of the axes.
    """
    finite = {}
    for name, (x, y) in series.items():
        points = np.array([x, y], float).reshape(2, -1)
        finite[name] = points[:, np.isfinite(points).all(0)]
    everything = np.concatenate([*finite.values(), np.zeros((2, 0))], axis=1)
    if not everything.size:
        return fill("<p>No finite {}.</p>", labels[1])
    axes = _Axes(*everything)
    shapes, names = [], []
    for (name, points), colour in zip(finite.items(), itertools.cycle(_COLOURS)):
        shapes.append(_polyline(axes, points[0], points[1], colour))
        if points.shape[1] <= _FEW:
            shapes += [
                fill(
                    '<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>',
                    *(axes.right(a), axes.down(b), colour),
                )
                for a, b in points.T
            ]
        names.append(fill('<span style="color:{}">■ {}</span>', colour, name))
    legend = fill('<p class="note">{}</p>', joined(names, " &ensp; "))
    picture = _svg(f"{labels[1]} over {labels[0]}", joined([axes.frame(labels), *shapes]))
    return fill("<div>{}{}</div>", picture, legend)


def intervals(rows: Sequence[tuple[str, float, float, float]], label: str, most: int = 30) -> Html:
    """Draws a point with its interval on a line for each name, the largest magnitude above.

    Args:
        rows: (name, value, low, high); an end that is not finite is the value.
        label: what the values are.
        most: names that are drawn.
    """
    finite = [row for row in rows if np.isfinite(row[1])]
    if not finite:
        return fill("<p>No finite {}.</p>", label)
    kept = sorted(finite, key=lambda row: -abs(row[1]))[:most]
    ends = np.array([[v, *(e if np.isfinite(e) else v for e in (a, b))] for _, v, a, b in kept])
    low, high = _range([*ends.ravel(), 0.0])
    left, bottom = 190, _TOP + 24 * len(kept)

    def right(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - _RIGHT - left)

    shapes = [_line(right(0), _TOP, right(0), bottom, _GREY)]
    for value in ticks(low, high, 4):
        shapes += [_line(right(value), bottom, right(value), bottom + 5)]
        shapes += [_label(right(value), bottom + 19, f"{value:.4g}")]
    for place, ((name, *_), (value, start, end)) in enumerate(zip(kept, ends, strict=True)):
        at = _TOP + 24 * place + 12
        short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        shapes.append(_label(left - 8, at + 4, short, "end"))
        shapes.append(_line(right(start), at, right(end), at, _BLUE))
        point = '<circle cx="{:.1f}" cy="{:.1f}" r="5" fill="{}"/>'
        shapes.append(fill(point, right(value), at, _BLUE))
    shapes.append(_label((left + _WIDTH - _RIGHT) / 2, bottom + 38, label))
    return _svg(label, joined(shapes), bottom + 46)


def spectrum(values: Any, others: Sequence[Any] = ()) -> Html:
    """Draws eigenvalues, largest first, on a logarithmic axis; counts values that are not positive.

    Args:
        values: [n] or [repeats, n]; each repeat is a blue line.
        others: eigenvalues of other architectures, as thin grey lines behind.
    """
    own, grey = _descending(values), [row for other in others for row in _descending(other)]
    if not any(_positive(row).any() for row in own):
        return fill("<p>No positive eigenvalue.</p>")
    powers = [np.log10(row[_positive(row)]) for row in (*grey, *own)]
    places = [np.arange(1.0, len(power) + 1) for power in powers]
    axes = _Axes(np.concatenate(places), np.concatenate(powers), logarithmic=True)
    shapes = []
    for number, (place, power) in enumerate(zip(places, powers, strict=True)):
        colour, width = (_GREY, 1) if number < len(grey) else (_BLUE, 2)
        shapes += [_polyline(axes, place, power, colour, width)] if len(power) else []
    bad = sum(int((~_positive(row)).sum()) for row in own)
    if bad:
        shapes.append(_label(_WIDTH - _RIGHT, _TOP + 10, f"{bad} not positive", "end"))
    return _svg("spectrum", joined([axes.frame(("place", "eigenvalue")), *shapes]))


def _descending(values: Any) -> list[np.ndarray]:
    """Sorts each row, the largest value first."""
    array = np.asarray(values, np.float64)
    return [np.sort(row)[::-1] for row in array.reshape(-1, array.shape[-1] if array.ndim else 1)]


def _positive(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) & (values > 0)


class _Axes:
    """A linear map from data to the picture, and the frame of the picture."""

    def __init__(self, x: Any, y: Any, logarithmic: bool = False) -> None:
        self.x, self.y = _range(x), _range(y)
        self.whole = _are_whole(x), not logarithmic and _are_whole(y)
        self.logarithmic = logarithmic

    def right(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        low, high = self.y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, labels: tuple[str, str]) -> Html:
        bottom, middle = _HEIGHT - _BOTTOM, (_HEIGHT - _BOTTOM + _TOP) / 2
        parts = []
        for value in ticks(*self.x, whole=self.whole[0]):
            at = self.right(value)
            parts.append(_line(at, bottom, at, bottom + 5))
            parts.append(_label(at, bottom + 19, f"{value:.4g}"))
        for value in ticks(*self.y, whole=self.whole[1]):
            at = self.down(value)
            shown = f"{float(f'{10.0**value:.2g}'):.6g}" if self.logarithmic else f"{value:.4g}"
            parts.append(_line(_LEFT, at, _WIDTH - _RIGHT, at, "var(--line)"))
            parts.append(_label(_LEFT - 7, at + 4, shown, "end"))
        parts.append(_line(_LEFT, bottom, _WIDTH - _RIGHT, bottom))
        parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, labels[0]))
        turned = fill('transform="rotate(-90 14 {:.1f})"', middle)
        parts.append(_label(14, middle, labels[1], extra=turned))
        return joined(parts)


def _are_whole(values: Any) -> bool:
    return bool(np.all(np.mod(values, 1) == 0))


def _range(values: Any) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.05 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - margin, high + margin


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = _INK) -> Html:
    return fill('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="{}"/>', x1, y1, x2, y2, colour)


def _polyline(axes: _Axes, x: Any, y: Any, colour: str, width: float = 2) -> Html:
    points = " ".join(f"{axes.right(a):.1f},{axes.down(b):.1f}" for a, b in zip(x, y, strict=True))
    return fill(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="{}"/>', points, colour, width
    )


def _label(x: float, y: float, text: str, anchor: str = "middle", extra: Html = _NOTHING) -> Html:
    return fill(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" {}>{}</text>', x, y, anchor, extra, text
    )


def _svg(name: str, inner: Html, height: float = _HEIGHT) -> Html:
    return fill(
        '<svg role="img" aria-label="{}" viewBox="0 0 {} {}" font-family="system-ui,sans-serif" '
        'font-size="13" fill="{}">{}</svg>',
        *(name, _WIDTH, height, _INK, inner),
    )
