"""Shows the progress of a long computation and its remaining time.

On a terminal or in a notebook it draws a bar that vanishes at the end. Elsewhere (output goes to a
file) it prints a line on standard error about once a minute, so that a log shows the progress.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 60.0  # seconds
TRIED = 16  # first steps, after which the time of the others is told
LONG = 20.0  # seconds of work that is told before it begins
_WINDOW = 1800.0  # seconds over which the speed is averaged for the remaining time
_T = TypeVar("_T")


class Bar:
    """Counts finished steps and displays them; `bar` makes one.

    Args:
        what: the name of the computation.
        total: the number of steps; None: unknown.
        shown: the progress display that draws the bar; None: no bar.
        lines: the console that lines are printed on if there is no bar; None: no lines.
    """

    def __init__(
        self, what: str, total: int | None, shown: Progress | None, lines: Console | None
    ) -> None:
        self.what, self.total, self.done = what, total, 0
        self._shown, self._lines = shown, lines
        self._calm = shown is not None and not shown.live.auto_refresh
        self._task = TaskID(0) if shown is None else shown.add_task(what, total=total)
        self._start = self._last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Counts further finished steps."""
        self.done += steps
        if self._shown:
            self._shown.update(self._task, completed=self.done, refresh=self._calm)
        self._say()

    def reach(self, done: int) -> None:
        """Sets the total number of finished steps."""
        self.advance(done - self.done)

    def describe(self, what: str) -> None:
        """Changes the name of the computation."""
        self.what = what
        if self._shown:
            self._shown.update(self._task, description=what, refresh=self._calm)
        self._say()

    def expect(self, total: int | None) -> None:
        """Sets the number of steps once it is known."""
        self.total = total
        if self._shown:
            self._shown.update(self._task, total=total)

    def _say(self) -> None:
        now = time.monotonic()
        if self._lines is not None and now - self._last >= LINE_EVERY:
            self._last = now
            self._lines.print(self.line(now - self._start), soft_wrap=True)

    def line(self, seconds: float) -> str:
        """Returns the progress after some seconds as text."""
        counted = f"{self.done} of {self.total}" if self.total else f"{self.done} done"
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", {_span(seconds / self.done * (self.total - self.done))} left"
        return f"{self.what}: {counted}, {_span(seconds)}{left}"


def _span(seconds: float) -> str:
    """Returns a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def bar(
    what: str,
    total: int | None = None,
    console: Console | None = None,
    *,
    live: bool = True,
    lines: bool = True,
    calm: bool = False,
) -> Iterator[Bar]:
    """Shows the progress of a computation while the context lasts.

    Args:
        what: the name of the computation.
        total: the number of steps; None: unknown, see `Bar.expect`.
        console: the console that results are printed on. If it is a terminal, the bar is drawn
            there and printed text stays above it; else the bar goes to standard error.
        live: draw a bar where one can be drawn.
        lines: print a line a minute if no bar is drawn.
        calm: redraw only on updates, so that no refresh thread disturbs timings.
    """
    errors = Console(stderr=True, highlight=False, markup=False)
    where = console if console is not None and _is_live(console) else errors
    if not (live and _is_live(where)):
        yield Bar(what, total, None, errors if lines else None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=where,
        transient=True,
        speed_estimate_period=_WINDOW,
        auto_refresh=not calm,
    ) as shown:
        yield Bar(what, total, shown, None)


def _is_live(console: Console) -> bool:
    # Without ipywidgets a notebook has nothing to draw in, and rich warns.
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def track(
    values: Iterable[_T], what: str, console: Console | None = None, *, calm: bool = False
) -> Iterator[_T]:
    """Yields the values one by one and shows a bar.

    Args:
        values: listed first; each is one step, which ends when the next value is requested.
        what: the name of the computation.
        console: see `bar`.
        calm: see `bar`.
    """
    listed = list(values)
    with bar(what, len(listed), console, calm=calm) as shown:
        for value in listed:
            yield value
            shown.advance()


def foreseen(values: Sequence[_T], what: str) -> Iterator[_T]:
    """Yields the values one by one; if that will take long, says so after the first ones.

    Args:
        values: each is one step, which ends when the next value is requested.
        what: the name of the computation.
    """
    began = time.monotonic()
    for number, value in enumerate(values[:TRIED]):
        yield value
        if number == 0:  # the first step opens files and compiles
            began = time.monotonic()
    rest = values[TRIED:]
    if not rest:
        return
    seconds = (time.monotonic() - began) / (TRIED - 1) * len(rest)
    if seconds < LONG:
        yield from rest
        return
    errors = Console(stderr=True, highlight=False, markup=False)
    errors.print(f"{what}: {len(values):,} take about {_span(seconds)}", soft_wrap=True)
    with bar(what, len(values)) as shown:
        shown.reach(TRIED)
        for value in rest:
            yield value
            shown.advance()
