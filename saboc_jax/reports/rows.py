"""Rows of results as text, CSV, Markdown and HTML.

Numbers have four digits, whole numbers all of theirs, and what is not known is a dash.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saboc_jax.reports.page import Html, fill, is_number, joined

Row = Mapping[str, Any]
DASH = "–"
LARGE = 1e15  # floats beyond are not shown as whole numbers


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Returns the columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in rows for name in row))


def cell(value: Any) -> str:
    """Returns a cell as text."""
    if value is None:
        return ""
    if not is_number(value):
        return str(value)
    if math.isnan(value):
        return DASH
    if float(value).is_integer() and abs(value) < LARGE:
        return str(int(value))
    return f"{value:.4g}"


def to_text(rows: Sequence[Row]) -> str:
    """Returns aligned lines, a heading first; numbers are aligned right."""
    names = columns_of(rows)
    lines = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [any(is_number(row.get(name)) for row in rows) for name in names]
    aligned = (
        [
            text.rjust(w) if r else text.ljust(w)
            for text, w, r in zip(each, widths, right, strict=True)
        ]
        for each in lines
    )
    return "\n".join("  ".join(each).rstrip() for each in aligned)


def to_csv(rows: Sequence[Row]) -> str:
    """Returns CSV with all digits; what is not known is empty."""
    names, file = columns_of(rows), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_whole_digits(row.get(name)) for name in names])
    return file.getvalue()


def _whole_digits(value: Any) -> Any:
    unknown = value is None or (is_number(value) and math.isnan(value))
    return "" if unknown else value.item() if isinstance(value, np.generic) else value


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns a table of Markdown; a bar in a cell, as architectures have them, is escaped."""
    names = columns_of(rows)
    right = [any(is_number(row.get(name)) for row in rows) for name in names]
    lines = [names, ["--:" if r else "---" for r in right]]
    lines += [[cell(row.get(name)) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def to_html(rows: Sequence[Row], caption: str = "") -> Html:
    """Returns an HTML table, as notebooks show it."""
    names = columns_of(rows)
    head = joined(fill("<th>{}</th>", name) for name in names)
    body = joined(
        fill("<tr>{}</tr>", joined(_html_cell(row.get(name)) for name in names)) for row in rows
    )
    said = fill("<p>{}</p>", caption) if caption else Html()
    return fill("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}", head, body, said)


def _html_cell(value: Any) -> Html:
    side = Html(' style="text-align:right"' if is_number(value) else "")
    return fill("<td{}>{}</td>", side, cell(value))
