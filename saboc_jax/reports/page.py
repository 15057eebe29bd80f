"""The building blocks of every report: pages, sortable tables, pictures, text.

Text enters a page at one place, `fill`: whatever is put into a template is escaped, unless it is
`Html`, which only `fill` and `joined` make. So no element and no attribute comes from data.
"""

import base64
import html
import math
import re
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, LiteralString

import numpy as np


class Html(str):
    """Text that is HTML already: it is put into a page as it is."""

    __slots__ = ()

    def __add__(self, other: str) -> "Html":
        """Returns both as HTML; the other is escaped unless it is HTML."""
        return joined([self, fill("{}", other)])


Section = tuple[str, Html]
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


def table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Returns a table that sorts by a click on a heading; numbers have four digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {n for n in names if any(_is_number(row.get(n)) for row in rows)}
    head = joined(
        fill('<th{}><button type="button">{}</button></th>', _kind(name in numeric), name)
        for name in names
    )
    body = joined(
        fill("<tr>{}</tr>", joined(_cell(row.get(n), n in numeric) for n in names)) for row in rows
    )
    inner = fill("<thead><tr>{}</tr></thead><tbody>{}</tbody>", head, body)
    return fill('<div class="scroll"><table>{}</table></div>', inner)


def fill(template: LiteralString, *values: Any) -> Html:
    """Puts values into a template as `str.format` does, escaped unless they are `Html`.

    Args:
        template: a constant of the program, never data.
        values: numbers may have a format, e.g. `{:.2f}`; what it gives is digits.
    """
    return Html(_Escaping().vformat(template, values, {}))


class _Escaping(string.Formatter):
    """Escapes every value after it was formatted."""

    def format_field(self, value: Any, format_spec: str) -> str:
        shown = format(value, format_spec)
        return shown if isinstance(value, Html) else html.escape(shown)


def joined(parts: Iterable[Html], between: LiteralString = "") -> Html:
    """Puts parts of a page one after another; parts that are no `Html` are escaped."""
    return Html(between.join(fill("{}", part) for part in parts))


def picture(path: Path, alt: str) -> Html:
    """Returns a PNG file embedded in the page; on a phone it stays large enough to read."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = fill('<img alt="{}" src="data:image/png;base64,{}">', alt, data)
    return fill('<div class="scroll picture">{}</div>', image)


def page(title: str, sections: Sequence[Section]) -> Html:
    """Returns a whole HTML document."""
    body = joined(fill("<section><h2>{}</h2>{}</section>", head, inner) for head, inner in sections)
    return fill(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<title>{0}</title><style>{1}</style></head><body><h1>{0}</h1>"
        "{2}<script>{3}</script></body></html>\n",
        title,
        Html(_STYLE),
        body,
        Html(_SCRIPT),
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > sys.float_info.max):
        return False
    return isinstance(value, (int, float, np.number))


def _kind(numeric: bool, long: bool = False) -> Html:
    return Html(" class=n" if numeric else " class=long" if long else "")


def _cell(value: Any, numeric: bool) -> Html:
    if not _is_number(value):
        shown = str(plain(value))
        mean = _MEAN.match(shown)
        sort = fill(' data-v="{}"', mean[1]) if mean else Html()
        return fill("<td{}{}>{}</td>", _kind(numeric, len(shown) > 30), sort, shown)
    sort = fill(' data-v="{!r}"', float(value)) if math.isfinite(value) else fill(' data-v=""')
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("nan", "–")
    return fill("<td class=n{}>{}</td>", sort, shown)


def plain(value: Any) -> Any:
    """Returns a value as a cell shows it: lists joined by commas, nothing for None."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else value


def folded(summary: str, inner: Html) -> Html:
    """Returns HTML that a click on its summary shows."""
    return fill("<details><summary>{}</summary>{}</details>", summary, inner)


def note(words: str) -> Html:
    """Returns a remark in small grey letters."""
    return fill('<p class="note">{}</p>', words)


def row(*parts: Html) -> Html:
    """Puts charts side by side, or one below another on a narrow page."""
    return fill('<div class="row">{}</div>', joined(parts))
