"""What a page of several runs says of them together: what is not alike, and which is better."""

from collections.abc import Mapping, Sequence
from typing import Any

from saboc_jax.reports import charts
from saboc_jax.reports.page import Section, is_number, joined, note, plain, row, warning
from saboc_jax.reports.records import Record, kind_of

Records = Mapping[str, Record]
SETTINGS = {
    "search": ("space", "dataset", "batch_size", "channels", "cells"),
    "training": ("dataset",),
    "study": ("space", "dataset", "batch_size", "channels", "cells"),
}
"""Settings by kind of run whose values must be equal for numbers to be compared."""


def unlike(records: Records) -> list[str]:
    """Returns what keeps the numbers of runs from being compared, in words."""
    kinds = {kind_of(record) for record in records.values()}
    if len(kinds) > 1:
        return [f"the runs are of different kinds ({', '.join(sorted(map(str, kinds)))})"]
    found = []
    for name in SETTINGS.get(str(kinds.pop()), ()):
        values = {run: plain(r.get("settings", {}).get(name)) for run, r in records.items()}
        if len({str(value) for value in values.values()}) > 1:
            told = ", ".join(f"{value or 'not told'} in {run}" for run, value in values.items())
            found.append(f"{name.replace('_', ' ')} differs ({told})")
    return found


def verdict(records: Records) -> str:
    """Returns which run is the best, or why none can be said to be."""
    if any(kind_of(record) == "study" for record in records.values()):
        return ""
    measures = {name: _measures(record) for name, record in records.items()}
    shared = set.intersection(*(set(own) for own in measures.values()))
    if len(records) < 2 or not shared:
        return (
            "No verdict: the true accuracies are not known, and a rank by scores belongs to the "
            "architectures of one search. Train what was found alike: saboc train --from=FOLDER."
        )
    told = []
    for measure in sorted(shared):
        order = sorted(measures, key=lambda name: -measures[name][measure])
        first, second = (measures[name][measure] for name in order[:2])
        lead = f"{first - second:.2f} points above {order[1]}" if first > second else "as others"
        told.append(f"{measure}: {order[0]} is the best with {first:.2f} %, {lead}")
    return ". ".join(told) + ". One run each: another seed moves such numbers."


def _measures(record: Record) -> dict[str, float]:
    """Returns accuracies in percent by what they are."""
    if kind_of(record) == "training":
        return {"Test top-1 after the last epoch": 100 * record["epochs"][-1]["test_top1"]}
    found = {}
    for name, value in (record.get("accuracies") or {}).items():
        accuracy = value.get("accuracy") if isinstance(value, Mapping) else None
        if is_number(accuracy):
            found[f"True accuracy on {name}"] = float(accuracy)  # type: ignore[arg-type]
    return found


def together(records: Records) -> list[Section]:
    """Returns the sections that stand before the tables of a comparison."""
    sections: list[Section] = []
    if reasons := unlike(records):
        words = [warning(f"{reason[0].upper()}{reason[1:]}.") for reason in reasons]
        end = note("Numbers that depend on it cannot be compared, and no run is called better.")
        sections.append(("Not alike", joined([*words, end])))
    elif said := verdict(records):
        sections.append(("Verdict", note(said)))
    return sections + _trajectories(records)


def _trajectories(records: Records) -> list[Section]:
    """Returns the true accuracy of what searches would have returned, in one picture."""
    series = {}
    for name, record in records.items():
        points = [p for p in record.get("trajectory") or () if _has_numbers(p)]
        if len(points) > 1:
            x, y = ([float(p[key]) for p in points] for key in ("evaluations", "found"))
            series[name] = (x, y)
    if len(series) < 2:
        return []
    labels = ("evaluations", "true accuracy %, of what would be returned")
    return [("How the searches came to it", row(charts.lines(series, labels)))]


def _has_numbers(point: Mapping[str, Any], keys: Sequence[str] = ("evaluations", "found")) -> bool:
    return all(is_number(point.get(key)) for key in keys)
