"""A run as one HTML file that needs no network: figures inline, tables that sort.

`build` reads the JSON files and pictures that a search, a training or a study left in its folder;
`compare` sets several runs side by side. The keys of a file tell its kind:

    search     `scores` of what was found       `saboc search`
    training   `epochs`                         `saboc train`
    study      `rows`, or `tables` by title     correlations, comparisons, the paper's tables
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saboc_jax.files import write_text
from saboc_jax.reports import charts
from saboc_jax.reports.comparison import together
from saboc_jax.reports.page import Html, Section, fill, folded, joined, page, plain, row, table
from saboc_jax.reports.records import Record, kind_of, read_records
from saboc_jax.reports.sections import CURVES, curves, search, study, training


def build(folder: Path) -> Html:
    """Returns the page of one run, or of a folder of runs.

    Raises:
        ValueError: if the folder holds no finished run, or a damaged one.
    """
    records = read_records(folder)
    if len(records) > 1 and all(kind_of(record) != "study" for record in records.values()):
        return _several({name: (folder, {name: record}) for name, record in records.items()})
    return page(*_read(folder, records))


def compare(folders: Sequence[Path]) -> Html:
    """Returns one page for several runs: a table of the differences, then each run folded up.

    Raises:
        ValueError: as in `build`.
    """
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return _several({n: (f, read_records(f)) for n, f in zip(names, folders, strict=True)})


def write(folder: Path) -> Path:
    """Writes `report.html` of a run into its folder."""
    path = folder / "report.html"
    write_text(path, build(folder))
    return path


def _several(runs: Mapping[str, tuple[Path, Mapping[str, Record]]]) -> Html:
    """Returns the page of several runs, given as (folder, records) by name."""
    records = {name: next(iter(own.values())) for name, (_, own) in runs.items()}
    everything = list(records.values())
    outcomes = [{"run": name, **_outcome(record)} for name, record in records.items()]
    settings = [{"run": name, **_differences(r, everything)} for name, r in records.items()]
    sections = together(records)
    sections += [("What came out", table(outcomes)), ("What differs", table(settings))]
    trained = {name: r["epochs"] for name, r in records.items() if kind_of(r) == "training"}
    if len(trained) > 1:
        plots = [
            charts.lines(
                {name: curves(epochs, f"test_{measure}") for name, epochs in trained.items()},
                ("epoch", f"test {label}"),
            )
            for measure, label in CURVES.items()
        ]
        sections.append(("Loss and accuracy on test images", row(*plots)))
    for name, (folder, own) in runs.items():
        title, parts = _read(folder, own)
        inner = joined(fill("<h3>{}</h3>{}", head, body) for head, body in parts)
        sections.append((name, folded(title, inner)))
    return page(f"{len(runs)} runs", sections)


def _read(folder: Path, records: Mapping[str, Record]) -> tuple[str, list[Section]]:
    """Returns the title and the sections of one folder."""
    name, record = next(iter(records.items()))
    kind = kind_of(record)
    make = {"search": search, "training": training}
    if kind in make:
        sections = make[kind](folder, record) + _made(record)
    else:
        sections = study(folder, records)
        # All tables of a study come from one command: show it once.
        commands = {each.get("command"): each for each in records.values()}
        sections += [part for each in commands.values() for part in _made(each)]
        kind = "correlations" if name == "correlations" else f"study {', '.join(records)}"
    settings = record.get("settings", {})
    where = " on ".join(str(settings[k]) for k in ("space", "dataset") if settings.get(k))
    return f"{kind.capitalize()}: {where} ({folder.name})", sections


def _made(record: Record) -> list[Section]:
    """Returns the section on how a run was made: command, settings, versions and device."""
    found: list[Section] = []
    if record.get("command"):
        found.append(("To repeat it", fill("<pre>{}</pre>", record["command"])))
    settings = record.get("settings", {})
    rows = [{"setting": k, "value": plain(v)} for k, v in settings.items() if v not in (None, [])]
    made = {**record.get("versions", {}), "device": record.get("device", "")}
    rows += [{"setting": name, "value": plain(value)} for name, value in made.items()]
    found.append(("Settings", folded(f"{len(rows)} settings and versions", table(rows))))
    return found


def _differences(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    every = [other.get("settings", {}) for other in records]
    names = dict.fromkeys(name for settings in every for name in settings)
    own = record.get("settings", {})
    return {n: plain(own.get(n)) for n in names if any(s.get(n) != own.get(n) for s in every)}


def _outcome(record: Record) -> dict[str, Any]:
    kind = kind_of(record)
    if kind == "training":
        epochs = record["epochs"]
        last, best = epochs[-1], max(line["test_top1"] for line in epochs)
        told = {"test top-1": last["test_top1"], "best test top-1": best}
        told |= {"test top-5": last["test_top5"], "test loss": last["test_loss"]}
        return told | {"train loss": last["train_loss"], "epochs": len(epochs)}
    if kind == "study":
        rows = record.get("rows", [])
        return {str(row["score"]): row["tau"] for row in rows if {"score", "tau"} <= set(row)}
    truth = record.get("accuracies", {})
    known = {f"{k} %": v.get("accuracy") for k, v in truth.items() if isinstance(v, Mapping)}
    means = {name: value["mean"] for name, value in record["scores"].items()}
    return {**known, **means, "found": record["text"]}
