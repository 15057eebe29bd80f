"""A run as one HTML file that needs no network: figures inline, tables that sort.

`build` reads what a search (`result.json`, `scores.sqlite`, pictures) or a study of correlations
(`*.json` with rows, pictures) left in its folder; `compare` sets several side by side.
"""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax import charts
from saboc_jax.store import Store

Section = tuple[str, str]
"""A heading, and the HTML below it."""

_PICTURES = {
    "cell.png": "The cell that was found",
    "trajectory.png": "How the search came to it",
    "front.png": "Scores against cost, and the Pareto front",
}

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#1c2529;background:#fff;margin:0 auto;
max-width:68rem;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
img,svg{max-width:100%;height:auto;display:block}.row{display:flex;flex-wrap:wrap;gap:1rem}
.row>*{flex:1 1 20rem;min-width:0;max-width:32rem}.scroll{overflow-x:auto}
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
    """Rows as a table that sorts by a click on a heading; numbers to four digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {n for n in names if any(_is_number(row.get(n)) for row in rows)}
    head = "".join(
        f'<th{" class=n" if name in numeric else ""}><button type="button">{_text(name)}'
        "</button></th>"
        for name in names
    )
    body = "".join(
        f"<tr>{''.join(_cell(row.get(n), n in numeric) for n in names)}</tr>" for row in rows
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def picture(path: Path, alt: str) -> str:
    """A PNG file inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{data}">'


def page(title: str, sections: Sequence[Section]) -> str:
    """A whole HTML document."""
    body = "".join(f"<section><h2>{_text(head)}</h2>{inner}</section>" for head, inner in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><h1>{_text(title)}</h1>"
        f"{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def build(folder: Path) -> str:
    """The page of one run.

    Raises:
        ValueError: if the folder holds no finished run, or a damaged one.
    """
    title, sections = _read(folder)
    return page(title, sections)


def compare(folders: Sequence[Path]) -> str:
    """One page for several runs: what differs in a table, then each run folded up.

    Raises:
        ValueError: as in `build`.
    """
    runs = [_read(folder) for folder in folders]
    records = [_record(folder) for folder in folders]
    summary = [
        {"run": folder.name, **_differences(record, records), **_outcome(record)}
        for folder, record in zip(folders, records, strict=True)
    ]
    sections = [("What differs and what came out", table(summary))]
    for folder, (title, parts) in zip(folders, runs, strict=True):
        inner = "".join(f"<h3>{_text(head)}</h3>{body}" for head, body in parts)
        opened = f"<details><summary>{_text(title)}</summary>{inner}</details>"
        sections.append((folder.name, opened))
    return page(f"{len(folders)} runs", sections)


def write(folder: Path) -> Path:
    """Writes `report.html` of a run into its folder."""
    path = folder / "report.html"
    path.write_text(build(folder), encoding="utf-8")
    return path


def _record(folder: Path) -> dict[str, Any]:
    """What a run wrote about itself."""
    found = [folder / "result.json"] if (folder / "result.json").is_file() else []
    found = found or sorted(p for p in folder.glob("*.json") if p.name != "settings.json")
    for path in found:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if isinstance(record, dict) and ("scores" in record or "rows" in record):
            return record
    raise ValueError(
        f"{folder} holds no finished run: neither a result.json of a search nor a .json with rows"
    )


def _read(folder: Path) -> tuple[str, list[Section]]:
    record = _record(folder)
    settings = record.get("settings", {})
    sections = _search(folder, record) if "scores" in record else _study(folder, record)
    if record.get("command"):
        sections.append(("To repeat it", f"<pre>{_text(record['command'])}</pre>"))
    rows = [{"setting": k, "value": _plain(v)} for k, v in settings.items() if v not in (None, [])]
    made = {**record.get("versions", {}), "device": record.get("device", "")}
    rows += [{"setting": name, "value": _plain(value)} for name, value in made.items()]
    folded = f"<details><summary>{len(rows)} settings and versions</summary>{table(rows)}</details>"
    sections.append(("Settings", folded))
    kind = "Search" if "scores" in record else "Correlations"
    where = settings.get("dataset", "")
    return f"{kind}: {settings.get('space', 'space')} on {where} ({folder.name})", sections


def _search(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    asked = record.get("settings", {})
    cost, counts = record["cost"], record.get("counts", {})
    scores = [
        {
            "metric": name,
            "mean": value["mean"],
            "standard error": value["standard_error"],
            "better": value["better"],
        }
        for name, value in record["scores"].items()
    ]
    told = (
        f"<p>Searched by {_text(asked.get('searcher', '?'))} with "
        f"{_text(asked.get('scorer', '?'))}, seed {_text(asked.get('seed', '?'))}, "
        f"{_text(asked.get('repeats', '?'))} repeats: {record['evaluations']} networks, "
        f"{counts.get('scored', 0)} scores computed, {counts.get('served', 0)} served, "
        f"{record['search_seconds']:.1f} s.</p>"
    )
    if record.get("stopped"):
        told += f"<p>Stopped by --{_text(record['stopped'])} before its own end.</p>"
    found = (
        f"<p><code>{_text(record['text'])}</code></p><p>Scoring network: {cost['params']:,} "
        f"parameters, {cost['macs'] / 1e6:.1f} M multiply-adds, {cost['depth']} layers deep.</p>"
        f'{table(scores)}<p class="note">A score orders architectures of one space on one batch; '
        "differences within the standard error are noise.</p>"
    )
    sections = [("What was asked", told), ("What was found", found)]
    sections.append(("True accuracy", _accuracies(record.get("accuracies", {}))))
    for name, heading in _PICTURES.items():
        if (folder / name).is_file():
            shown = f'<div style="max-width:44rem">{picture(folder / name, heading)}</div>'
            sections.append((heading, shown))
    if record.get("pareto_front"):
        sections.append(("Architectures on the front", table(record["pareto_front"])))
    if record.get("eigenvalues"):
        chart = charts.spectrum(record["eigenvalues"])
        note = (
            '<p class="note">Largest first, in the first repeat. A flat line is easy to train.</p>'
        )
        sections.append(("Eigenvalues of the kernel", f'<div class="row">{chart}</div>{note}'))
    if (folder / "scores.sqlite").is_file():
        sections += _candidates(folder, record)
    return sections


def _accuracies(truth: Mapping[str, Any]) -> str:
    """True accuracies, or why there are none."""
    if not truth or "missing" in truth:
        return f'<p class="note">Unknown: {_text(truth.get("missing", "no table"))}</p>'
    rows = [{"trained on": name, **values} for name, values in truth.items()]
    return table(rows)


def _candidates(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Scatter plots of all that was scored, and the table of it; means over repeats."""
    with Store(folder / "scores.sqlite") as store:
        columns = store.table(scorer=record.get("settings", {}).get("scorer", ""))
    names = [name for name in record["scores"] if name in columns]
    if not names or not len(columns["architecture"]):
        return []
    texts, inverse = np.unique(columns["architecture"], return_inverse=True)
    count = np.bincount(inverse)
    means = {n: np.bincount(inverse, weights=columns[n]) / count for n in names}
    supernet = np.char.startswith(texts, "supernet:")
    found = texts == record["text"]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:3]
    plots = "".join(
        charts.scatter(means[a], means[b], (a, b), faint=supernet, marked=found) for a, b in pairs
    )
    sections: list[Section] = []
    if plots:
        legend = "Orange: found. " + ("Hollow: supernets." if supernet.any() else "")
        note = f'<p class="note">{legend}</p>'
        sections.append(("Scores of all candidates", f'<div class="row">{plots}</div>{note}'))
    rows = [
        {"architecture": str(texts[i]), **{name: float(means[name][i]) for name in names}}
        for i in np.flatnonzero(~supernet)[:2000]
    ]
    if rows:
        head = "Architectures scored"
        sections.append(
            (head, f"<details><summary>Show {len(rows)}</summary>{table(rows)}</details>")
        )
    return sections


def _study(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    sections = [("Kendall tau and its interval", table(record["rows"]))]
    for path in sorted(folder.glob("*.png")):
        sections.append((path.stem.replace("_", " ").replace("-", ", "), picture(path, path.stem)))
    return sections


def _differences(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    every = [other.get("settings", {}) for other in records]
    names = dict.fromkeys(name for settings in every for name in settings)
    own = record.get("settings", {})
    return {n: _plain(own.get(n)) for n in names if any(s.get(n) != own.get(n) for s in every)}


def _outcome(record: Mapping[str, Any]) -> dict[str, Any]:
    if "scores" not in record:
        return {str(row.get("score")): row.get("tau") for row in record["rows"]}
    truth = record.get("accuracies", {})
    known = {f"{k} %": v["accuracy"] for k, v in truth.items() if isinstance(v, Mapping)}
    means = {name: value["mean"] for name, value in record["scores"].items()}
    return {**known, **means, "found": record["text"]}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _cell(value: Any, numeric: bool) -> str:
    if not _is_number(value):
        shown = _text(_plain(value))
        kind = " class=n" if numeric else " class=long" if len(shown) > 30 else ""
        return f"<td{kind}>{shown}</td>"
    sort = f' data-v="{value!r}"' if math.isfinite(value) else ' data-v=""'
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("nan", "–")
    return f"<td class=n{sort}>{shown}</td>"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else value


def _text(value: Any) -> str:
    return html.escape(str(value))
