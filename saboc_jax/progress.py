"""How far a long computation is, and how long the rest will take.

On a terminal, or in a notebook, a bar that vanishes at the end. Elsewhere, where output goes to a
file, a plain line on standard error about once a minute, so that a log tells where a run stands.
"""

import time
from collections.abc import Iterable, Iterator
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
_WINDOW = 1800.0  # seconds whose speed the remaining time is taken from
_T = TypeVar("_T")


class Bar:
    """What `bar` gives: told of every step that is done.

    Args:
        what: the name of the computation.
        total: steps in all; None: unknown.
        shown: where a bar is drawn; None: lines.
        lines: where lines are printed, where no bar is drawn; None: nowhere.
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
        """Some steps more are done."""
        self.done += steps
        if self._shown:
            self._shown.update(self._task, completed=self.done, refresh=self._calm)
        self._say()

    def reach(self, done: int) -> None:
        """So many steps are done in all, however many it was told of."""
        self.advance(done - self.done)

    def describe(self, what: str) -> None:
        """What is done now."""
        self.what = what
        if self._shown:
            self._shown.update(self._task, description=what, refresh=self._calm)
        self._say()

    def expect(self, total: int | None) -> None:
        """The number of steps in all, now that it is known."""
        self.total = total
        if self._shown:
            self._shown.update(self._task, total=total)

    def _say(self) -> None:
        now = time.monotonic()
        if self._lines is not None and now - self._last >= LINE_EVERY:
            self._last = now
            self._lines.print(self.line(now - self._start), soft_wrap=True)

    def line(self, seconds: float) -> str:
        """Where it stands after so many seconds, in words."""
        counted = f"{self.done} of {self.total}" if self.total else f"{self.done} done"
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", {_span(seconds / self.done * (self.total - self.done))} left"
        return f"{self.what}: {counted}, {_span(seconds)}{left}"


def _span(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
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
    """Shows how far something is, while the context lasts.

    Args:
        what: its name.
        total: steps in all; None: unknown, see `Bar.expect`.
        console: where the results are printed; the bar is drawn there if it is a terminal, so
            that what is printed stays above it, else on standard error.
        live: draw a bar where one can be drawn.
        lines: where no bar is drawn, print a line a minute.
        calm: drawn anew only when it is told something, so that no thread disturbs what is timed.
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
    """The values one by one, with a bar over them.

    Args:
        values: of known number; each is a step, done when the next is asked for.
        what: the name of the computation.
        console: see `bar`.
        calm: see `bar`.
    """
    listed = list(values)
    with bar(what, len(listed), console, calm=calm) as shown:
        for value in listed:
            yield value
            shown.advance()
