"""What a run leaves in its folder, by form: reports read records that others may have written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from saboc_jax.files import read_json
from saboc_jax.forms import checked

Rows = list[dict[str, Any]]
"""Rows of a table; a cell shows any value as text."""


class Cost(TypedDict):
    """Costs of a network."""

    params: float
    macs: float
    depth: float


class Summary(TypedDict):
    """One metric of what was found; null: not finite."""

    mean: float | None
    standard_error: float | None
    better: str


class Made(TypedDict):
    """How any run was made."""

    settings: NotRequired[dict[str, Any]]
    command: NotRequired[str]
    versions: NotRequired[dict[str, Any]]
    device: NotRequired[str]


class Counts(TypedDict):
    """What a search computed; its other entries are not shown."""

    scored: NotRequired[int]
    served: NotRequired[int]


class Spectra(TypedDict):
    """Eigenvalues in every repeat: of what was found, and of others by text."""

    found: NotRequired[list[list[float]]]
    others: NotRequired[dict[str, list[list[float]]]]


class SearchRecord(Made):
    """A search: `scores` of what was found."""

    text: str
    cost: Cost
    scores: dict[str, Summary]
    evaluations: int
    search_seconds: float
    counts: NotRequired[Counts]
    stopped: NotRequired[str | None]
    accuracies: NotRequired[dict[str, Any]]
    blocks: NotRequired[Rows | None]
    pareto_front: NotRequired[Rows | None]
    spectra: NotRequired[Spectra | None]
    trajectory: NotRequired[list[dict[str, Any]] | None]
    eigenvalues: NotRequired[list[float] | list[list[float]] | None]


class Epoch(TypedDict):
    """One epoch of a training."""

    epoch: int
    train_loss: float
    test_loss: float
    test_top1: float
    test_top5: float
    train_top1: NotRequired[float]
    seconds: NotRequired[float]


class TrainingRecord(Made):
    """A training: `epochs`."""

    epochs: list[Epoch]
    text: NotRequired[str]
    cost: NotRequired[Cost | None]
    recipe: NotRequired[dict[str, Any] | None]


class StudyRecord(Made):
    """A study: `rows`, or `tables` by title."""

    rows: NotRequired[Rows]
    tables: NotRequired[dict[str, Rows]]
    runs: NotRequired[Rows | None]
    caption: NotRequired[str | None]


FORMS: Mapping[str, tuple[str, Any]] = {
    "scores": ("search", SearchRecord),
    "epochs": ("training", TrainingRecord),
    "rows": ("study", StudyRecord),
    "tables": ("study", StudyRecord),
}
"""The kind and the form of a record, by the key that tells them."""

Record = Mapping[str, Any]


def kind_of(record: Any) -> str | None:
    """Returns the kind of a record; None: it is not the record of a run."""
    return next((FORMS[key][0] for key in FORMS if key in record), None)


def read_records(folder: Path) -> dict[str, Record]:
    """Returns the records of a folder by name: result.json alone, else all records of runs.

    Raises:
        ValueError: if there is none, or one is damaged or of another form.
    """
    first = [folder / "result.json"]
    others = {path for path in folder.glob("*.json") if not path.name.startswith(".")}
    for paths in (first, sorted(others - set(first))):
        found = {path.stem: _read(path) for path in paths if path.is_file()}
        if runs := {name: record for name, record in found.items() if record}:
            settings = folder / "settings.json"
            shared = {"settings": read_json(settings, dict[str, Any])} if settings.is_file() else {}
            return {name: {**shared, **record} for name, record in runs.items()}
    raise ValueError(
        f"{folder} holds no finished run: no .json of a search, a training, or a study with rows "
        "or tables"
    )


def _read(path: Path) -> Record:
    """Returns a record by its form; {}: it is not the record of a run."""
    record = read_json(path)
    if not isinstance(record, dict) or kind_of(record) is None:
        return {}
    form = next(FORMS[key][1] for key in FORMS if key in record)
    found: Record = checked(record, form, path)
    if kind_of(found) == "training" and not found["epochs"]:
        raise ValueError(f"{path}: epochs is []; allowed: one epoch or more")
    return found


def read_candidates(path: Path) -> dict[str, list[Any]]:
    """Returns all candidates of a search as columns of one length.

    Raises:
        ValueError: if the file is damaged or of another form.
    """
    columns: dict[str, list[Any]] = read_json(path, dict[str, list[str | float | None]])
    for needed in ("architecture", "params", "macs"):
        if needed not in columns:
            raise ValueError(f"{path}: the content lacks {needed!r}; allowed: a column of it")
    checked(columns["architecture"], list[str], f"{path}: architecture")
    for name, column in columns.items():
        if len(column) != len(columns["architecture"]):
            raise ValueError(
                f"{path}: {name} has {len(column)} values; allowed: as many as architecture has, "
                f"{len(columns['architecture'])}"
            )
        if name != "architecture":
            checked(column, list[float | None], f"{path}: {name}")
    return columns
