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
        disconnected: pairs not run, for no path joins input and output; those that the store
            served are among them.
        non_finite: pairs that ran, now or when they were stored, and gave a metric that is not
            finite.
        isomorphic: pairs whose score is that of another architecture of their class.
        device_jobs: pairs that each of several devices ran; empty where there is one.
        shrunk: what is computed at once since memory did not suffice; empty: it did.
        compilations: scoring programs, or pieces of them, compiled.
        compile_seconds: time of it.
        run_seconds: time of running them.
        stored_seconds: time that what the store served took when it ran.
    """

    scored: int = 0
    served: int = 0
    disconnected: int = 0
    non_finite: int = 0
    isomorphic: int = 0
    device_jobs: list[int] = field(default_factory=list)
    shrunk: str = ""
    compilations: int = 0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    stored_seconds: float = 0.0

    def add(self, other: "Counts") -> None:
        """Adds what a runner has done."""
        for each in fields(self):
            if each.type in (int, float):
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        pairs = zip_longest(self.device_jobs, other.device_jobs, fillvalue=0)
        self.device_jobs = [ours + theirs for ours, theirs in pairs]
        self.shrunk = other.shrunk or self.shrunk


def is_flagged(rows: Mapping[str, tuple[Any, Mapping[str, Any]]], flag: str) -> bool:
    """Does the row of any part have that flag?"""
    return any(diagnostics.get("flag") == flag for _, diagnostics in rows.values())
