"""Records of the results store: what identifies a result, and its text, CSV and Parquet forms.

`Request` names one repeat of one score by nine texts; `Result` adds its outcome.
Equal options give equal texts (`canonical_json`), so a request is its own database key.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from saboc_jax.extras import needed
from saboc_jax.files import as_cells, parse_json
from saboc_jax.forms import checked

IDENTITY = (
    *("space", "architecture", "scorer", "options", "dataset", "data", "seed"),
    *("computing", "versions"),
)
"""Fields of a `Request`."""

SETTING = ("space", "scorer", "options", "dataset", "computing", "versions")
"""Fields of a `Request` that many results share."""

RECORD = ("called", "platform", "finite", "seconds", "created", "diagnostics")
"""Columns of an exported result between its identity and its metrics."""


class Request(NamedTuple):
    """The identity of one result, made by `saboc_jax.evaluation.identity`.

    Attributes:
        space: the search space and what configures it, e.g. "nas_bench_201/c16n5#1f0a...".
        architecture: the space's own text of the architecture or supernet, or the digest of its
            program.
        scorer: name of the scorer.
        options: canonical JSON of its options.
        dataset: name of the data scored on.
        data: digest of the key and the images of this repeat.
        seed: name of that key and those images, e.g. "0/3".
        computing: canonical JSON of the settings that the result depends on.
        versions: canonical JSON of the software versions that the result depends on.
    """

    space: str
    architecture: str
    scorer: str
    options: str
    dataset: str
    data: str
    seed: str
    computing: str
    versions: str


class Result(NamedTuple):
    """One repeat of one score.

    Attributes:
        request: the identity of the result.
        metrics: numbers by name; NaN and infinities are kept as they are.
        diagnostics: anything else worth keeping, made of numbers, texts, lists and mappings;
            arrays are stored as lists.
        seconds: wall time, not negative.
        created: UTC time in ISO format; empty until stored.
        called: the text of the architecture, useful if its program identifies it.
        platform: the platform that computed it, e.g. "gpu: NVIDIA H100"; empty: unknown.
    """

    request: Request
    metrics: Mapping[str, float]
    diagnostics: Mapping[str, Any] = {}
    seconds: float = 0.0
    created: str = ""
    called: str = ""
    platform: str = ""

    @property
    def finite(self) -> bool:
        """Whether all metrics are finite."""
        return all(math.isfinite(value) for value in self.metrics.values())


def canonical_json(value: Any) -> str:
    """Returns JSON text that is the same for equal values: sorted keys, no blanks, arrays as lists.

    Raises:
        ValueError: names the type of a value that has no such text, e.g. a function.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def setting_of(wanted: Request) -> tuple[str, ...]:
    """Returns the fields of an identity that many results share, in the order of `SETTING`."""
    return tuple(getattr(wanted, name) for name in SETTING)


def checked_request(wanted: Request) -> Request:
    """Returns the request; raises ValueError naming a field that is empty or not a text."""
    for name, value in zip(IDENTITY, wanted, strict=True):
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} of a request is {value!r}; it must be a text, not empty")
    return wanted


def encode(result: Result) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Returns (setting, values of the other columns); raises ValueError if it cannot be stored."""
    wanted = checked_request(result.request)
    if not result.metrics:
        raise ValueError(f"the result of {wanted} has no metrics")
    clash = set(result.metrics) & {*IDENTITY, *RECORD, ""}
    if clash:
        raise ValueError(f"a metric must not be called {sorted(clash)}: a column has that name")
    if not 0 <= result.seconds < math.inf:
        raise ValueError(f"seconds is {result.seconds}; it must be finite and not negative")
    metrics = {name: _number(name, value) for name, value in result.metrics.items()}
    finite = all(math.isfinite(value) for value in metrics.values())
    created = result.created or datetime.now(UTC).isoformat(timespec="seconds")
    texts = json.dumps(metrics), canonical_json(result.diagnostics)
    seconds = float(result.seconds)
    row = (wanted.architecture, wanted.data, wanted.seed)
    of_row = (int(finite), seconds, created, result.called, result.platform)
    return setting_of(wanted), (*row, *texts, *of_row)


def decode(wanted: Request, row: Sequence[Any], where: object) -> Result:
    """Returns the result that `encode` wrote.

    Args:
        wanted: its identity.
        row: metrics, diagnostics, seconds, and the last fields of a result, as they are stored.
        where: the file, for messages.

    Raises:
        ValueError: if the row is of another form, which no version of ours wrote.
    """
    where = f"{where}, the row of {wanted.architecture!r}"
    metrics, diagnostics, seconds, *texts = row
    stored = checked({"metrics": metrics, "diagnostics": diagnostics, "texts": texts}, Row, where)
    return Result(
        wanted,
        checked(parse_json(stored["metrics"], f"{where}: metrics"), dict[str, float], where),
        checked(parse_json(stored["diagnostics"], f"{where}: notes"), dict[str, Any], where),
        checked(seconds, float, f"{where}: seconds"),
        *texts,
    )


class Row(TypedDict):
    """The texts of a stored row."""

    metrics: str
    diagnostics: str
    texts: list[str]


def metric_names(results: Iterable[Result]) -> list[str]:
    """Returns the names of all metrics, in the order in which they first occur."""
    return list(dict.fromkeys(name for each in results for name in each.metrics))


def _records(results: Sequence[Result]) -> Iterator[tuple[Any, ...]]:
    """Yields results as rows of identity, record and metrics; None for an absent metric."""
    names = metric_names(results)
    for each in results:
        metrics = [each.metrics.get(name) for name in names]
        record = (each.called, each.platform, each.finite, each.seconds, each.created)
        yield (*each.request, *record, canonical_json(each.diagnostics), *metrics)


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Writes one line per result; a metric that a result does not have is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(as_cells([*IDENTITY, *RECORD, *metric_names(results)]))
        writer.writerows(map(as_cells, _records(results)))


def write_parquet(path: Path, results: Sequence[Result]) -> None:
    """Writes one row per result; raises MissingExtraError if pyarrow is not installed."""
    with needed("parquet", "A Parquet file (a .csv needs nothing)"):
        import pyarrow
        import pyarrow.parquet
    text, number = pyarrow.string(), pyarrow.float64()
    schema = [(name, text) for name in (*IDENTITY, "called", "platform")]
    schema += [("finite", pyarrow.bool_()), ("seconds", number)]
    schema += [("created", text), ("diagnostics", text)]
    schema += [(name, number) for name in metric_names(results)]
    rows = [dict(zip(dict(schema), record, strict=True)) for record in _records(results)]
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(schema))
    pyarrow.parquet.write_table(table, path)


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        raise ValueError(f"metric {name!r} is {value!r}; it must be a number")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name!r} is {value!r}; it must be one real number") from error


def _plain(value: Any) -> Any:
    """Returns the value as numbers, texts, lists and dicts with text keys."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(each) for each in value), key=canonical_json)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    array = np.asarray(value)
    if array.dtype.name.startswith(("bfloat", "float")):
        return array.astype(np.float64).tolist()
    if array.dtype.kind not in "biuU":
        raise ValueError(
            f"cannot write {value!r} of type {type(value).__name__} as JSON; allowed are "
            "numbers, texts, arrays, lists and mappings of them"
        )
    return array.tolist()
