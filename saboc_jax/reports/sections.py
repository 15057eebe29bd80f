"""The sections of a report: of a search, of a training, of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax.reports import charts
from saboc_jax.reports.page import (
    Html,
    Section,
    fill,
    folded,
    is_number,
    joined,
    note,
    picture,
    plain,
    row,
    table,
)
from saboc_jax.reports.records import read_candidates

CURVES = {"loss": "loss (nats)", "top1": "top-1 accuracy"}
"""Metrics of training that are drawn over epochs."""

CANDIDATES = "candidates.json"
"""File of all candidates that a search scored, as columns."""

_CELLS = {
    "cell.png": "The cell",
    "cell-normal.png": "The normal cell",
    "cell-reduce.png": "The reduction cell",
}
_PICTURES = {name: f"{heading} that was found" for name, heading in _CELLS.items()} | {
    "trajectory.png": "How the search came to it",
    "front.png": "Scores against cost, and the Pareto front",
}
_MOST_ROWS = 2000  # of the table of candidates


# --- a search -------------------------------------------------------------------------------------


def search(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Returns the sections of a search: its settings, its result, and all its candidates."""
    sections = [("What was asked", _asked(record)), ("What was found", _found(record))]
    sections.append(("True accuracy", _accuracies(record.get("accuracies", {}))))
    sections += _pictures(folder, _PICTURES)
    if record.get("blocks"):
        sections.append(("Its blocks, in order", table(record["blocks"])))
    if record.get("pareto_front"):
        sections.append(("Architectures on the front", table(record["pareto_front"])))
    return sections + _spectra(record) + _candidates(folder, record)


def _pictures(folder: Path, headings: Mapping[str, str]) -> list[Section]:
    """Returns a section for each picture that exists in the folder."""
    there = {name: heading for name, heading in headings.items() if (folder / name).is_file()}
    return [(heading, picture(folder / name, heading)) for name, heading in there.items()]


def score_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the scores of a search's result as rows of a table."""
    return [
        {
            "metric": name,
            "mean": value["mean"],
            "standard error": value["standard_error"],
            "better": value["better"],
        }
        for name, value in scores.items()
    ]


def _asked(record: Mapping[str, Any]) -> Html:
    asked, counts = record.get("settings", {}), record.get("counts", {})
    told = fill(
        "<p>Searched by {} with {}, seed {}, {} repeats: {} networks, {} scores computed, {} "
        "served, {:.1f} s.</p>",
        *(asked.get(name, "?") for name in ("searcher", "scorer", "seed", "repeats")),
        *(record["evaluations"], counts.get("scored", 0), counts.get("served", 0)),
        record["search_seconds"],
    )
    if record.get("stopped"):
        told = joined([told, fill("<p>Stopped by --{} before its own end.</p>", record["stopped"])])
    return told


def _found(record: Mapping[str, Any]) -> Html:
    whose = "Trained" if record.get("settings", {}).get("trained_size") else "Scoring"
    return joined(
        [
            fill("<p><code>{}</code></p>", record["text"]),
            fill("<p>{} network: {}</p>", whose, _cost(record["cost"])),
            table(score_rows(record["scores"])),
            note(
                "A score orders architectures of one space on one batch; differences within the "
                "standard error are noise."
            ),
        ]
    )


def _cost(cost: Mapping[str, Any]) -> Html:
    return fill(
        "{:,} parameters, {:.1f} M multiply-adds, {} layers deep.",
        *(cost["params"], cost["macs"] / 1e6, cost["depth"]),
    )


def _accuracies(truth: Mapping[str, Any]) -> Html:
    """Returns a table of true accuracies, or a note why there are none."""
    if not truth or "missing" in truth:
        return note(f"Unknown: {truth.get('missing', 'no table')}")
    known = {name: values for name, values in truth.items() if isinstance(values, Mapping)}
    return table([{"trained on": name, **values} for name, values in known.items()])


def _spectra(record: Mapping[str, Any]) -> list[Section]:
    """Returns a chart of the result's eigenvalues over those of a few others of the run."""
    spectra = record.get("spectra") or {}
    found = spectra.get("found") or record.get("eigenvalues")
    if not found:
        return []
    others = spectra.get("others", {})
    chart = charts.spectrum(found, list(others.values()))
    words = "Largest first. A flat line is easy to train. Blue: what was found, a line a repeat."
    if others:
        words += f" Grey: {len(others)} others that were scored, spread evenly over the search."
    return [("Eigenvalues of the kernel", row(chart) + note(words))]


def _candidates(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Returns scatter plots and a table of all scored candidates, as means over repeats."""
    path = folder / CANDIDATES
    if not path.is_file():
        return []
    columns = read_candidates(path)
    names = [name for name in record["scores"] if name in columns]
    texts = np.array(columns["architecture"])
    if not names or not len(texts):
        return []
    supernet = np.char.startswith(texts, "supernet:")
    values = {n: np.array(columns[n], float) for n in ("params", "macs", *names)}
    sections: list[Section] = []
    if plots := _scatters(names, *_with_found(record, values, texts, supernet)):
        words = "Orange: found. " + ("Hollow: supernets." if supernet.any() else "")
        sections.append(("Scores of all candidates", row(plots) + note(words)))
    kept = np.flatnonzero(~supernet)[:_MOST_ROWS]
    rows = [
        {"architecture": str(texts[i]), **{name: float(v[i]) for name, v in values.items()}}
        for i in kept
    ]
    if rows:
        sections.append(("Architectures scored", folded(f"Show {len(rows)}", table(rows))))
    return sections


def _with_found(
    record: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    texts: np.ndarray,
    supernet: np.ndarray,
) -> tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns (values, is a supernet, is the result), with the result added if it is missing.

    Pruning scores its result only after the search, so its candidates lack it.
    """
    found = texts == record["text"]
    if found.any():
        return values, supernet, found
    own = record["cost"] | {name: value["mean"] for name, value in record["scores"].items()}
    # JSON holds null for a mean that is not finite.
    more = {name: [np.nan if own[name] is None else own[name]] for name in values}
    values = {name: np.append(column, more[name]) for name, column in values.items()}
    return values, np.append(supernet, False), np.append(found, True)


def _scatters(
    names: Sequence[str], values: Mapping[str, np.ndarray], supernet: np.ndarray, found: np.ndarray
) -> Html:
    """Plots metrics against one another, or a single metric against params and MACs."""
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]][:3]
    if not pairs:
        pairs = [(cost, names[0]) for cost in ("params", "macs") if cost != names[0]]
    return joined(
        charts.scatter(values[a], values[b], (a, b), faint=supernet, marked=found)
        for a, b in pairs
        if np.isfinite(values[a]).any()
    )


# --- a training -----------------------------------------------------------------------------------


def training(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Returns the sections of a training: curves of loss and accuracy, all epochs, the recipe."""
    epochs = record["epochs"]
    last, best = epochs[-1], max(epochs, key=lambda line: line["test_top1"])
    told = fill(
        "<p>After {} epochs: test top-1 {:.2%}, top-5 {:.2%}, loss {:.4g}; the best top-1 of an "
        "epoch was {:.2%}, in epoch {}.</p>",
        *(last["epoch"], last["test_top1"], last["test_top5"], last["test_loss"]),
        *(best["test_top1"], best["epoch"]),
    )
    if seconds := sum(line.get("seconds", 0) for line in epochs):
        told = joined([told, fill("<p>{:,.0f} s of training and evaluation.</p>", seconds)])
    plots = joined(
        charts.lines(
            {split: curves(epochs, f"{split}_{name}") for split in ("train", "test")},
            ("epoch", label),
        )
        for name, label in CURVES.items()
    )
    sections: list[Section] = [("What was trained", _trained(record)), ("What came out", told)]
    sections += _pictures(folder, _CELLS)
    sections += [("Loss and accuracy", row(plots)), ("Epochs", table(epochs))]
    if recipe := record.get("recipe"):
        rows = [{"setting": name, "value": plain(value)} for name, value in recipe.items()]
        sections.append(("Recipe", folded(f"{len(rows)} settings of training", table(rows))))
    return sections


def curves(epochs: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Returns the epochs that have a metric, and its values."""
    kept = [line for line in epochs if name in line]
    return [line["epoch"] for line in kept], [line[name] for line in kept]


def _trained(record: Mapping[str, Any]) -> Html:
    settings, cost = record.get("settings", {}), record.get("cost")
    told = [fill("<p><code>{}</code></p>", record.get("text", settings.get("architecture", "")))]
    if cost:
        told.append(fill("<p>{}</p>", _cost(cost)))
    asked = (settings.get(name, "?") for name in ("recipe", "dataset", "seed"))
    told.append(fill("<p>Recipe {} on {}, seed {}.</p>", *asked))
    return joined(told)


# --- a study --------------------------------------------------------------------------------------


MAIN_OF_TAU = ("score", "tau", "low", "high")
MOST_CURVES = 6


def _by_data(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the rows by what they were scored on and correlated with."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for each in rows:
        named = [str(each[name]) for name in ("scored on", "accuracy") if each.get(name)]
        found.setdefault(", ".join(named), []).append(each)
    return found


def _taus(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Returns a picture of tau with its interval, the largest magnitude above."""
    sections: list[Section] = []
    for name, own in _by_data(rows).items():
        drawn = [
            (str(each["score"]), _number(each["tau"]), _number(each["low"]), _number(each["high"]))
            for each in own
            if "score" in each and is_number(each.get("tau")) and {"low", "high"} <= set(each)
        ]
        if drawn:
            words = note("Points: Kendall tau. Lines: its interval over architectures.")
            chart = row(charts.intervals(drawn, "Kendall tau"))
            heading = f"Which score orders best{f': {name}' if name else ''}"
            sections.append((heading, chart + words))
    return sections


def _winners(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Returns a picture of the winner's curves; of many scores the best at the largest m."""
    sections: list[Section] = []
    for name, own in _by_data(rows).items():
        curves: dict[str, list[tuple[float, float]]] = {}
        for each in own:
            if {"score", "m", "expected"} <= set(each) and is_number(each["m"]):
                point = (float(each["m"]), _number(each["expected"]))
                curves.setdefault(str(each["score"]), []).append(point)
        best = sorted(curves, key=lambda score: -curves[score][-1][1])[:MOST_CURVES]
        if best:
            series = {s: (list(np.log2([m for m, _ in curves[s]])), [e for _, e in curves[s]])
                      for s in best}  # fmt: skip
            labels = ("log2 of m, random candidates that are scored", "accuracy of the first")
            heading = f"What the first of m is worth{f': {name}' if name else ''}"
            sections.append((heading, row(charts.lines(series, labels))))
    return sections


def _number(value: Any) -> float:
    return float(value) if is_number(value) else float("nan")


def study(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Returns the tables of every record, then its runs, then all pictures of the folder."""
    sections: list[Section] = []
    for name, record in records.items():
        if record.get("caption"):
            sections.append(("What was measured", note(record["caption"])))
        if "rows" in record:
            drawn = _taus(record["rows"]) + _winners(record["rows"])
            sections += drawn
            known = name == "correlations" and any("tau" in row for row in record["rows"])
            heading = "Kendall tau and its interval" if known else name.replace("_", " ")
            inner = table(record["rows"], MAIN_OF_TAU if known else ())
            curve = drawn and not known
            sections.append((heading, folded("Show the numbers", inner) if curve else inner))
        for title, rows in record.get("tables", {}).items():
            sections.append((title, table(rows)))
        if runs := record.get("runs"):
            sections.append(("Every run", folded(f"Show {len(runs)}", table(runs))))
    for path in sorted(folder.glob("*.png")):
        sections.append((path.stem.replace("_", " ").replace("-", ", "), picture(path, path.stem)))
    return sections
