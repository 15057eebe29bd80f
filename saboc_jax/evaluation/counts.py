"""What an evaluator has done, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from typing import Any


@dataclass
class Counts:
    """What an evaluator has done.

    Attributes:
        scored: (architecture, repeat) pairs that ran.
        served: pairs found in memory or in the store.
        disconnected: pairs not run because no path joins input and output, including pairs that
            the store served.
        non_finite: pairs that ran, now or when they were stored, and gave a metric that is not
            finite.
        refused: pairs whose network could not be scored.
        isomorphic: pairs that took the score of another architecture of their class.
        device_jobs: pairs that each device ran; empty with a single device.
        shrunk: the chunk size after memory ran out; empty if it never did.
        elsewhere: the platform that computed what the store served, if it is not this one.
        compilations: compiled scoring programs, or pieces of them.
        compile_seconds: time to compile them.
        run_seconds: time to run them.
        stored_seconds: time that the pairs served by the store took when they ran.
    """

    scored: int = 0
    served: int = 0
    disconnected: int = 0
    non_finite: int = 0
    refused: int = 0
    isomorphic: int = 0
    device_jobs: list[int] = field(default_factory=list)
    shrunk: str = ""
    elsewhere: str = ""
    compilations: int = 0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    stored_seconds: float = 0.0

    def add(self, other: "Counts") -> None:
        """Adds the counts of a runner."""
        for each in fields(self):
            if each.type in (int, float):
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        pairs = zip_longest(self.device_jobs, other.device_jobs, fillvalue=0)
        self.device_jobs = [ours + theirs for ours, theirs in pairs]
        self.shrunk = other.shrunk or self.shrunk


def is_flagged(rows: Mapping[str, tuple[Any, Mapping[str, Any]]], flag: str) -> bool:
    """Returns whether the row of any part has that flag."""
    return any(diagnostics.get("flag") == flag for _, diagnostics in rows.values())
