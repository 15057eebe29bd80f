"""Tables that show what they are given."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from saboc_jax.reports import tables as report


def render(table: object) -> str:
    console = Console(file=io.StringIO(), width=100, color_system="standard", force_terminal=True)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


ROWS = [
    {"architecture": "[red]|none~0|", "τ": 0.53219, "params": 73306},
    {"architecture": "b", "τ": math.nan, "params": np.int64(5), "note": "x"},
    {"architecture": "c", "τ": np.float32(0.25)},
]


def test_table_shows_every_value() -> None:
    table = report.results_table(ROWS, title="Scores [1]")
    assert [str(column.header) for column in table.columns] == [*ROWS[0], "note"]
    assert [column.justify for column in table.columns] == ["left", "right", "right", "left"]
    text = render(table)
    for part in ("Scores [1]", "[red]|none~0|", "0.5322", "73306", "nan", "0.25"):
        assert part in text


def test_table_marks_best_and_not_finite() -> None:
    table = report.results_table(
        ROWS, ["params", "τ"], higher_is_better={"τ": True, "params": False}
    )
    params, tau = ([str(cell.style) for cell in column.cells] for column in table.columns)
    assert params == ["", "bold green", ""]
    assert tau == ["bold green", "red", ""]
    with pytest.raises(ValueError, match=r"no columns \['x'\]"):
        report.results_table(ROWS, higher_is_better={"x": True})
    only_nan = report.results_table([{"m": math.nan}], higher_is_better={"m": True})
    assert [str(cell.style) for cell in only_nan.columns[0].cells] == ["red"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 2.0, 3.0], "2 ± 1 (3)"),
        ([0.25], "0.25 (1)"),
        ([1.0, 3.0, math.inf], "2 ± 1.4 (2 of 3 finite)"),
        ([math.nan], "nan (0 of 1 finite)"),
        ([], "nan (0)"),
    ],
)
def test_mean_and_spread(values: list[float], text: str) -> None:
    assert report.mean_and_spread(values) == text
