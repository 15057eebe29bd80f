"""The building blocks of every report: pages, sortable tables, pictures, text."""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Section = tuple[str, str]
"""A heading, and the HTML below it."""

_MEAN = re.compile(r"([+-]?\d+(?:\.\d+)?) (?:±|\[)")
"""Matches a number with its spread or interval; the table sorts by the number."""

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#1c2529;background:#fff;margin:0 auto;
max-width:68rem;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
img,svg{max-width:100%;height:auto;display:block}.row{display:flex;flex-wrap:wrap;gap:1rem}
.row>*{flex:1 1 20rem;min-width:0;max-width:32rem}.scroll{overflow-x:auto}
.picture{max-width:44rem}.picture img{min-width:30rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid #dfe4e6;text-align:left;
vertical-align:top}
td.long{min-width:14rem;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}
th button{all:unset;cursor:pointer;font-weight:600;white-space:nowrap}
th button:focus-visible{outline:2px solid #0a4f9e}
th[aria-sort=ascending] button::after{content:" \\25B4"}
th[aria-sort=descending] button::after{content:" \\25BE"}
pre{background:#f3f5f6;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.9rem;margin:.3rem 0}
code{overflow-wrap:anywhere;font-size:.92em}.note{color:#56636a;font-size:.92rem}
details>summary{cursor:pointer;padding:.4rem 0}
"""

_SCRIPT = """
document.querySelectorAll("th button").forEach(b=>b.addEventListener("click",()=>{
const th=b.parentNode,body=th.closest("table").tBodies[0],i=th.cellIndex;
const up=th.getAttribute("aria-sort")!=="ascending";
th.parentNode.querySelectorAll("th").forEach(o=>o.removeAttribute("aria-sort"));
th.setAttribute("aria-sort",up?"ascending":"descending");
const key=r=>r.cells[i].dataset.v??r.cells[i].textContent;
const num=v=>v!==""&&!isNaN(v);
[...body.rows].sort((p,q)=>{const a=key(p),b=key(q);
if(num(a)!==num(b))return num(a)?-1:1;
const c=num(a)?a-b:a.localeCompare(b);return up?c:-c}).forEach(r=>body.append(r))}));
"""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table that sorts by a click on a heading; numbers have four digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {n for n in names if any(_is_number(row.get(n)) for row in rows)}
    head = "".join(
        f'<th{" class=n" if name in numeric else ""}><button type="button">{text(name)}'
        "</button></th>"
        for name in names
    )
    body = "".join(
        f"<tr>{''.join(_cell(row.get(n), n in numeric) for n in names)}</tr>" for row in rows
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def picture(path: Path, alt: str) -> str:
    """Returns a PNG file embedded in the page; on a phone it stays large enough to read."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'
    return f'<div class="scroll picture">{image}</div>'


def page(title: str, sections: Sequence[Section]) -> str:
    """Returns a whole HTML document."""
    body = "".join(f"<section><h2>{text(head)}</h2>{inner}</section>" for head, inner in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><h1>{text(title)}</h1>"
        f"{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any, numeric: bool) -> str:
    if not _is_number(value):
        shown = text(plain(value))
        kind = " class=n" if numeric else " class=long" if len(shown) > 30 else ""
        mean = _MEAN.match(shown)
        sort = f' data-v="{mean[1]}"' if mean else ""
        return f"<td{kind}{sort}>{shown}</td>"
    sort = f' data-v="{value!r}"' if math.isfinite(value) else ' data-v=""'
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("nan", "–")
    return f"<td class=n{sort}>{shown}</td>"


def plain(value: Any) -> Any:
    """Returns a value as a cell shows it: lists joined by commas, nothing for None."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else value


def text(value: Any) -> str:
    """Returns a value as escaped text of a page."""
    return html.escape(str(value))


def folded(summary: str, inner: str) -> str:
    """Returns HTML that a click on its summary shows."""
    return f"<details><summary>{text(summary)}</summary>{inner}</details>"


def note(words: str) -> str:
    """Returns a remark in small grey letters."""
    return f'<p class="note">{text(words)}</p>'


def row(*parts: str) -> str:
    """Puts charts side by side, or one below another on a narrow page."""
    return f'<div class="row">{"".join(parts)}</div>'
