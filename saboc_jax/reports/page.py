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

MAIN = 4  # columns that a table shows on a narrow page

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2529;--paper:#fff;--line:#dfe4e6;--soft:#f3f5f6;
--quiet:#56636a;--faint:#b5b5b5;--blue:#0a4f9e;--orange:#c04f00;--green:#00795a;--plum:#9c2f7a;
--olive:#8a6d00}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ec;--paper:#14191c;--line:#3a454b;--soft:#20282c;
--quiet:#a7b3b9;--faint:#66727a;--blue:#7fb5f6;--orange:#ff9d57;--green:#4fcaa6;--plum:#e58ac6;
--olive:#d3b64a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:68rem;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h1,h2,h3,p{overflow-wrap:anywhere}
img,svg{max-width:100%;height:auto;display:block}img{background:#fff}
.row{display:flex;flex-wrap:wrap;gap:1rem}
.row>*{flex:1 1 20rem;min-width:0;max-width:32rem}.scroll{overflow-x:auto}
.picture{max-width:44rem}.picture img{min-width:30rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top}
td.long{min-width:14rem;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}
th button{all:unset;cursor:pointer;font-weight:600;white-space:nowrap}
th button:focus-visible{outline:2px solid var(--blue)}
th[aria-sort=ascending] button::after{content:" \\25B4"}
th[aria-sort=descending] button::after{content:" \\25BE"}
pre{background:var(--soft);padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.9rem;margin:.3rem 0}
code{overflow-wrap:anywhere;font-size:.92em}.note{color:var(--quiet);font-size:.92rem}
.warning{border-left:4px solid var(--orange);padding-left:.7rem}
details>summary{cursor:pointer;padding:.4rem 0}
.all{display:block}.main:has(.all input:not(:checked)) .more{display:none}
.narrow .all{display:none}
@media(max-width:40rem){.narrow .all{display:block}
.narrow:has(.all input:not(:checked)) .more{display:none}
td.long{min-width:8rem}th button{white-space:normal}}
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


def table(rows: Sequence[Mapping[str, Any]], main: Sequence[str] = ()) -> Html:
    """Returns a table that sorts by a click on a heading; numbers have four digits.

    Args:
        rows: cells by column.
        main: columns that come first, and alone until all are asked for; (): all are shown, on a
            narrow page the first `MAIN`.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = [name for name in main if name in names]
    names = [*first, *(name for name in names if name not in first)]
    more = set(names[len(first) or MAIN :])
    numeric = {n for n in names if any(is_number(row.get(n)) for row in rows)}
    head = joined(
        fill(
            '<th{}><button type="button">{}</button></th>',
            _kind(name in numeric, more=name in more),
            name,
        )
        for name in names
    )
    body = joined(
        fill("<tr>{}</tr>", joined(_cell(row.get(n), n in numeric, n in more) for n in names))
        for row in rows
    )
    inner = fill("<thead><tr>{}</tr></thead><tbody>{}</tbody>", head, body)
    if not more:
        return fill('<div class="scroll"><table>{}</table></div>', inner)
    return fill(
        '<div class="scroll {}"><label class="all note"><input type="checkbox"> all {} columns'
        "</label><table>{}</table></div>",
        Html("main" if first else "narrow"),
        len(names),
        inner,
    )


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


def is_number(value: Any) -> bool:
    """Returns whether a cell is a number that a page can show and sort by."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > sys.float_info.max):
        return False
    return isinstance(value, (int, float, np.number))


def _kind(numeric: bool, long: bool = False, more: bool = False) -> Html:
    words = [("n", numeric), ("long", long and not numeric), ("more", more)]
    names = " ".join(name for name, is_it in words if is_it)
    return fill(' class="{}"', names) if names else Html()


def _cell(value: Any, numeric: bool, more: bool) -> Html:
    if not is_number(value):
        shown = str(plain(value))
        mean = _MEAN.match(shown)
        sort = fill(' data-v="{}"', mean[1]) if mean else Html()
        return fill("<td{}{}>{}</td>", _kind(numeric, len(shown) > 30, more), sort, shown)
    sort = fill(' data-v="{!r}"', float(value)) if math.isfinite(value) else fill(' data-v=""')
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("nan", "–")
    return fill("<td{}{}>{}</td>", _kind(True, more=more), sort, shown)


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


def warning(words: str) -> Html:
    """Returns a remark that shall not be overlooked."""
    return fill('<p class="warning">{}</p>', words)


def row(*parts: Html) -> Html:
    """Puts charts side by side, or one below another on a narrow page."""
    return fill('<div class="row">{}</div>', joined(parts))
