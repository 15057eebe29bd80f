"""Seconds to evaluate a candidate of the ResNet space, compilation included.

Runs an evolution whose kernels are compiled link by link and kept by shape (with channels padded to
powers of two unless told otherwise), then scores the last candidates of that evolution again with
one program for each. JAX's own cache on disk is off.

Examples:
  saboc resnet_compile --steps=40 --one_program=3 --batch_size=8
  saboc resnet_compile --steps=40 --nopad_widths --out=runs/resnet_exact_widths
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import data, progress
from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.files import write_json
from saboc_jax.keys import root_key
from saboc_jax.searchers import make_searcher
from saboc_jax.searching.run import run_search

from .paper import resnets
from .support import common, workdir

STEPS = flags.DEFINE_integer("steps", 500, "Steps of the evolution.", 4)
ONE_PROGRAM = flags.DEFINE_integer("one_program", 3, "Candidates compiled as one program.", 1)
PAD_WIDTHS = flags.DEFINE_bool(
    "pad_widths", True, "Pad channels with zeros to powers of two, so that more links are shared."
)
MAX_WIDTH = flags.DEFINE_integer("max_width", 128, "Widest layer.", 8)
BUDGET_SECONDS = flags.DEFINE_float("seconds", 400.0, "Stop the evolution after this long.")
OUT = flags.DEFINE_string("out", "runs/resnet_compile", "Folder of result.json.")


class Meter:
    """Seconds and compilations from one score to the next, what is between them included."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.rows: list[dict[str, float]] = []
        self._counts, self._last = evaluator.counts, time.perf_counter()
        self._before = (0, 0, 0.0)
        evaluator.on_score = self.on_score

    def on_score(self) -> None:
        """A candidate was scored, or served from memory, which counts to the next."""
        counts = self._counts
        now = (counts.scored, counts.compilations, counts.compile_seconds)
        if now[0] == self._before[0]:
            return
        seconds, self._last = time.perf_counter() - self._last, time.perf_counter()
        _, number, compiling = (a - b for a, b in zip(now, self._before, strict=True))
        self.rows.append({"seconds": seconds, "compile_seconds": compiling, "compilations": number})
        self._before = now


def scored_last(history: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """The last different candidates that were scored, `--one_program` of them."""
    found: dict[bytes, np.ndarray] = {}
    for masks, scores in history:
        for mask, finite in zip(masks, np.isfinite(scores).all((1, 2)), strict=True):
            if finite:
                found[mask.tobytes()] = mask
    return list(found.values())[-ONE_PROGRAM.value :]


def mean(rows: list[dict[str, float]], name: str) -> float | None:
    """Mean of a column; None for no rows."""
    return float(np.mean([row[name] for row in rows])) if rows else None


def main() -> None:
    """Measures and writes."""
    jax.config.update("jax_enable_compilation_cache", False)
    dataset = common.load_dataset()
    if common.PRECISION.value != "float32":
        raise ValueError(f"--precision={common.PRECISION.value}; links run in float32 only")
    space = resnets.build_space(
        dataset, MAX_WIDTH.value, common.INIT.value, pad_widths=PAD_WIDTHS.value
    )
    scorer = common.build_scorer(["ntk_score"], space)
    key = root_key(common.SEED.value)
    batch = data.draw(dataset, key, common.BATCH_SIZE.value, needs=scorer.needs)
    draws = Draws([key], [batch])
    pieces = Evaluator(Runner(space, scorer, draws))
    searcher = make_searcher(
        "evolution",
        space,
        scorer.higher_is_better,
        max_evaluations=STEPS.value,
        population_size=min(256, STEPS.value),
    )
    allows = resnets.zen_budget(space)
    meter = Meter(pieces)
    with progress.bar("link by link", STEPS.value, calm=True) as bar:
        found = run_search(
            searcher,
            pieces,
            key,
            on_step=lambda step, candidates: bar.reach(step),
            allows=allows,
            time_budget=BUDGET_SECONDS.value,
        )
    rows = meter.rows
    if not rows:
        raise ValueError(
            f"--seconds={BUDGET_SECONDS.value} ended before a candidate was scored; allowed: more"
        )
    one = Evaluator(Runner(space, scorer, draws, pieces=None))
    alone = Meter(one)
    for mask in progress.track(scored_last(found.history), "one program each", calm=True):
        one.evaluate(mask[None])
    whole = alone.rows
    last = rows[-max(len(rows) // 4, 1) :]
    result = {
        **workdir.run_record("out"),
        "steps": len(found.history),
        "stopped_by": found.stopped,
        "scored": len(rows),
        "link_by_link": {name: mean(rows, name) for name in rows[0]},
        "link_by_link_last_quarter": {name: mean(last, name) for name in rows[0]},
        "one_program_each": {name: mean(whole, name) for name in whole[0]},
        "each_candidate": rows,
        "each_one_program": whole,
    }
    write_json(Path(OUT.value) / "result.json", result)
    shown = {k: v for k, v in result.items() if not k.startswith("each")}
    Console().print_json(data=shown)


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation
    common.run(
        main,
        unread=(
            "cells",
            "channels",
            "redraw_zeros",
            "space",
            "trained_size",
        ),
    )
