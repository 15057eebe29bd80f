"""Results of `saboc_jax.api.functions`: they print, draw, and are written and read again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from saboc_jax.files import read_json, write_json
from saboc_jax.reports import result_figures, rows
from saboc_jax.searching.front import Front
from saboc_jax.searching.result import SearchResult
from saboc_jax.statistics.correlation import CorrelationRow
from saboc_jax.statistics.ranking import standard_error
from saboc_jax.statistics.winners import Winner
from saboc_jax.types import Architecture, Cost, SearchSpace

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

CURVE = "winners"  # the cell of a row of correlations that is a curve
PathLike = str | os.PathLike[str]


class Tabular:
    """A result with rows: it is shown in notebooks, and written as JSON, CSV and Markdown."""

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the result's table."""
        raise NotImplementedError

    def note(self) -> str:
        """Returns what stands below the table."""
        return ""

    def to_csv(self) -> str:
        """Returns the table as CSV, with all digits."""
        return rows.to_csv(self.rows())

    def to_markdown(self) -> str:
        """Returns the table as Markdown."""
        return rows.to_markdown(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, for JSON."""
        raise NotImplementedError

    def save(self, path: PathLike) -> None:
        """Writes the result as JSON, a space by its name alone."""
        write_json(Path(path), {"kind": type(self).__name__.lower(), **self.to_dict()})

    def __str__(self) -> str:
        return "\n".join(filter(None, (rows.to_text(self.rows()), self.note())))

    def _repr_html_(self) -> str:
        return rows.to_html(self.rows(), self.note())


@dataclass(frozen=True, repr=False)
class Score(Tabular):
    """The scores of one architecture.

    Attributes:
        name: the architecture, in the space's own text.
        metrics: names of the columns of `values`.
        higher_is_better: the direction of each metric.
        values: [repeats, metrics]; NaN in every metric of a repeat that is bad.
        flag: "disconnected" or "non_finite" if a repeat is bad; None: all are good.
        cost: parameters, multiply-accumulates, depth.
        diagnostics: diagnostics of the first repeat, e.g. the eigenvalues of the kernel.
        warnings: (code, sentence) of everything that makes the score doubtful.
        needs_a_set: what the metrics alone do not give: a rank, if the scorer brings an
            aggregation of its own; "": nothing.
    """

    name: str
    metrics: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    values: Float[np.ndarray, "repeats k"]
    flag: str | None
    cost: Cost
    diagnostics: Mapping[str, Any]
    warnings: tuple[tuple[str, str], ...] = ()
    needs_a_set: str = ""

    def mean(self) -> dict[str, float]:
        """Returns the mean of each metric over repeats."""
        return dict(zip(self.metrics, self.values.mean(0).tolist(), strict=True))

    def standard_error(self) -> dict[str, float]:
        """Returns the standard error of each mean; NaN for one repeat.

        Differences within it are noise.
        """
        return dict(zip(self.metrics, standard_error(self.values).tolist(), strict=True))

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each metric."""
        errors = self.standard_error()
        return [
            {"metric": name, "mean": value, "standard error": errors[name], "better": _better(up)}
            for (name, value), up in zip(self.mean().items(), self.higher_is_better, strict=True)
        ]

    def note(self) -> str:
        """Returns the name, the cost, and what is bad."""
        bad = f"; bad: {self.flag}" if self.flag else ""
        return f"{self.name}, {self.cost.params:,} parameters{bad}"

    def plot(self) -> Figure:
        """Returns a figure of every repeat's value of each metric (extra `figures`)."""
        return result_figures.dots([self.name], self.values[None], self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, for JSON."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)} | {
            "cost": self.cost._asdict()
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Score:
        """Returns the result of `to_dict`; raises KeyError if the record lacks a field."""
        return cls(
            record["name"],
            tuple(record["metrics"]),
            tuple(record["higher_is_better"]),
            np.array(record["values"], float),
            record["flag"],
            Cost(**record["cost"]),
            {name: np.array(value) for name, value in record["diagnostics"].items()},
            tuple((code, sentence) for code, sentence in record.get("warnings", ())),
            record.get("needs_a_set", ""),
        )

    @classmethod
    def load(cls, path: PathLike) -> Score:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        return cls.from_dict(_read(path, "score"))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={rows.cell(mean)}" for name, mean in self.mean().items())
        return f"Score({self.name!r}, {values}, repeats={len(self.values)})"

    def __str__(self) -> str:
        errors = self.standard_error()
        lines = [
            f"{metric} {rows.cell(value)} ± {_error(errors[metric])} ({_better(up)} is better)"
            for (metric, value), up in zip(self.mean().items(), self.higher_is_better, strict=True)
        ]
        lines += [f"bad: {self.flag}"] if self.flag else []
        lines += [self.needs_a_set] if self.needs_a_set else []
        return "\n".join([*lines, *(f"warning: {sentence}" for _, sentence in self.warnings)])


@dataclass(frozen=True, repr=False)
class Ranked(Tabular):
    """Several architectures in order.

    Attributes:
        scores: scores of each architecture, in the order given.
        ranking: how the metrics that vote became one rank.
        ranks: [n] the aggregated ranks, lower is better. They belong to this set: a sum of ranks
            says nothing about an architecture outside it.
        order: [n] indices, the best first, those over budget after all others; ties fall as
            `saboc_jax.statistics.ranking.best_first` says.
        voted: which metrics vote and which stand beside, in words.
        over: the limits of a budget that each architecture exceeds, in words; (): no budget.
        holds: [n] for each place of the order, how probably its candidate is really better than
            the next, by ranks that are paired over repeats (`saboc_jax.statistics.sureness`); NaN
            for the last, and with one repeat.
        groups: [n] for each place of the order, its group from 1; members of a group cannot be
            told apart from its first.
        warning: says that the first is one that only a minority of metrics puts in the best fifth;
            "": it is not, or fewer than three metrics vote.
    """

    scores: tuple[Score, ...]
    ranking: str
    ranks: Float[np.ndarray, " n"]
    order: Int[np.ndarray, " n"]
    voted: str = ""
    over: tuple[tuple[str, ...], ...] = ()
    holds: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    groups: Int[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, int))
    warning: str = ""

    @property
    def names(self) -> list[str]:
        """The names, the best first."""
        return [self.scores[i].name for i in self.order]

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each architecture, the best first."""
        found = [self._row(place, i) for place, i in enumerate(self.order)]
        # A column that nobody fills says nothing.
        fillable = ("group", "sure", "over budget", "bad", "warnings")
        empty = [name for name in fillable if not any(row[name] for row in found)]
        return [{name: row[name] for name in row if name not in empty} for row in found]

    def _row(self, place: int, i: int) -> dict[str, Any]:
        score = self.scores[i]
        # With one repeat nothing is known of how sure an order is.
        sure = len(self.holds) > place and len(score.values) > 1
        known = sure and not np.isnan(self.holds[place])
        return {
            self.ranking: float(self.ranks[i]),
            "candidate": score.name,
            "parameters": score.cost.params,
            **score.mean(),
            "group": str(self.groups[place]) if sure else "",
            "sure": f"{self.holds[place]:.2f}" if known else "",
            "over budget": ", ".join(self.over[i]) if self.over else "",
            "bad": score.flag or "",
            "warnings": ", ".join(code for code, _ in score.warnings),
        }

    def note(self) -> str:
        """Returns what voted, and a warning if only a minority loves the winner."""
        return "\n".join(filter(None, (self.voted, self.warning)))

    def plot(self) -> Figure:
        """Returns a figure of every repeat's value of each metric, the best above."""
        values = np.stack([self.scores[i].values for i in self.order])
        return result_figures.dots(self.names, values, self.scores[0].metrics)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, for JSON."""
        record = {each.name: plain(getattr(self, each.name)) for each in fields(self)}
        return record | {"scores": [score.to_dict() for score in self.scores]}

    @classmethod
    def load(cls, path: PathLike) -> Ranked:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        record = _read(path, "ranked")
        return cls(
            tuple(map(Score.from_dict, record["scores"])),
            record["ranking"],
            np.array(record["ranks"], float),
            np.array(record["order"], int),
            record["voted"],
            tuple(map(tuple, record["over"])),
            np.array(record["holds"], float),
            np.array(record["groups"], int),
            record["warning"],
        )

    def __repr__(self) -> str:
        return f"Ranked({len(self.scores)} candidates, best {self.names[0]!r})"


@dataclass(frozen=True, repr=False)
class Found(Tabular):
    """What a search found.

    Attributes:
        space: the space that was searched.
        arch: [decisions] the architecture.
        score: its scores.
        search: history, rejected candidates, and the limit that stopped it, if one did.
        voted: which metrics the search ranked by, in words.
        front: scores and costs of a search with `against`; None: there was no such cost.
    """

    space: SearchSpace
    arch: Architecture
    score: Score
    search: SearchResult
    voted: str = ""
    front: Front | None = None

    def module(self) -> nn.Module:
        """The plain Flax module of the architecture, to train."""
        return self.space.specialise(self.arch)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of its score."""
        return self.score.rows()

    def note(self) -> str:
        """Returns what was found and by what."""
        return ". ".join(filter(None, (self.score.note(), self.voted)))

    def plot(self) -> Figure:
        """Returns a figure of what the search told, evaluation by evaluation."""
        return result_figures.course(self.search.history, self.score.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the space as plain types, for JSON."""
        search = {each.name: plain(getattr(self.search, each.name)) for each in fields(self.search)}
        record = {"space": self.space.name, "arch": plain(self.arch), "voted": self.voted}
        record |= {"front": plain(self.front._asdict()) if self.front else None}
        return record | {"score": self.score.to_dict(), "search": search}

    @classmethod
    def load(cls, path: PathLike, space: SearchSpace) -> Found:
        """Reads what `save` wrote.

        Args:
            path: the file.
            space: the space that was searched.

        Raises:
            ValueError: if the file holds something else, or another space was searched.
        """
        record = _read(path, "found")
        if record["space"] != space.name:
            raise ValueError(f"{path} is of space {record['space']!r}; allowed: {space.name!r}")
        search = dict(record["search"])
        search["arch"], search["scores"] = (
            np.array(search["arch"]),
            np.array(search["scores"], float),
        )
        search["diagnostics"] = {k: np.array(v) for k, v in search["diagnostics"].items()}
        search["history"] = [
            (np.array(masks, bool), np.array(scores, float)) for masks, scores in search["history"]
        ]
        score, arch = Score.from_dict(record["score"]), np.array(record["arch"], np.int32)
        kept = record.get("front")
        front = Front(**{name: np.array(values) for name, values in kept.items()}) if kept else None
        return cls(space, arch, score, SearchResult(**search), record["voted"], front)

    def __repr__(self) -> str:
        return f"Found({self.score.name!r}, space={self.space.name!r})"

    def __str__(self) -> str:
        lines = (f"{self.score.name}, {self.score.cost.params} parameters", self.score, self.voted)
        return "\n".join(str(line) for line in lines if line)


class Correlations(list[CorrelationRow], Tabular):
    """Rows of correlations: a list that prints, draws, and is written and read again."""

    def __init__(self, found: Iterable[CorrelationRow] = ()) -> None:
        super().__init__(found)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of numbers, without the winner's curves."""
        return [{name: row[name] for name in row if name != CURVE} for row in self]

    def plot(self) -> Figure:
        """Returns a figure of tau of every score with its interval, the largest above."""
        return result_figures.taus(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """Returns the rows as plain types, for JSON."""
        return {"rows": plain(list(self))}

    @classmethod
    def load(cls, path: PathLike) -> Correlations:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        found = _read(path, "correlations")["rows"]
        for row in found:
            row[CURVE] = [Winner(*point) for point in row.get(CURVE, ())]
        return cls(found)

    def __repr__(self) -> str:
        return f"Correlations({len(self)} rows)"

    __str__ = Tabular.__str__


def plain(value: Any) -> Any:
    """Returns a value made of what JSON has."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _read(path: PathLike, kind: str) -> dict[str, Any]:
    record = read_json(Path(path))
    found = record.get("kind") if isinstance(record, dict) else None
    if found != kind:
        raise ValueError(f"{path} holds {found or 'no result'}; allowed: {kind}, written by save")
    return record


def _better(higher: bool) -> str:
    return "higher" if higher else "lower"


def _error(value: float) -> str:
    return rows.DASH if np.isnan(value) else f"{value:.2g}"
