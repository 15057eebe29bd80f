"""Kills a search ten times, lets it finish, and prints that and an uninterrupted one as JSON.

Run by `test_interruption.py` as a program of its own: it imports everything once, before JAX
has any thread, and then forks a process for each attempt.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.evaluation.store import Store
from saboc_jax.scorers import make_scorer
from saboc_jax.scorers.combine import combine
from saboc_jax.searchers import SEARCHERS
from saboc_jax.searching.result import evaluations
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import make_space
from saboc_jax.types import Batch

KILLS, REPEATS = 10, 2


def search(name: str, folder: Path, pause: float) -> None:
    """A whole search over the store in the folder; writes its result there."""
    space = make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(8, 8, 1))
    scorer = combine([make_scorer(each, space) for each in ("random", "params")])
    options = {"max_evaluations": 70, "population_size": 20} if name == "evolution" else {}
    searcher = SEARCHERS[name](space.choices, scorer.higher_is_better, **options)
    keys = [jax.random.key(repeat) for repeat in range(REPEATS)]
    batch = Batch(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))
    with Store(folder / "scores.sqlite") as store:
        evaluator = Evaluator(Runner(space, scorer, Draws(keys, [batch] * REPEATS)), store)
        evaluator.on_score = lambda: time.sleep(pause)
        found = run_search(searcher, evaluator, jax.random.key(5))
        rows = [
            (row.request.architecture, row.request.scorer, row.request.seed, str(row.metrics))
            for row in store.select()
        ]
    digest = hashlib.sha256()
    for masks, scores in found.history:
        digest.update(masks.tobytes() + scores.tobytes())
    result = {
        "arch": found.arch.tolist(),
        "scores": found.scores.tobytes().hex(),
        "history": digest.hexdigest(),
        "steps": len(found.history),
        "evaluations": evaluations(found.history),
        "rows": sorted(rows),
    }
    (folder / "result.json").write_text(json.dumps(result))


def start(name: str, folder: Path, pause: float) -> int:
    """Forks a process that searches; gives its number."""
    pid = os.fork()
    if pid == 0:
        search(name, folder, pause)
        os._exit(0)
    return pid


def rows_in(folder: Path) -> int:
    """How many scores are on disk."""
    try:
        path = f"file:{folder / 'scores.sqlite'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as store:
            return store.execute("SELECT count(*) FROM results").fetchone()[0]
    except sqlite3.Error:  # not there yet, or being made
        return 0


def main() -> None:
    """One search whole, one killed again and again."""
    name, base, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    whole, killed = base / "whole", base / "killed"
    whole.mkdir()
    killed.mkdir()
    assert os.waitpid(start(name, whole, 0), 0)[1] == 0
    total = rows_in(whole)
    kills = []
    for threshold in sorted(rng.sample(range(total - 10), KILLS)):
        pid = start(name, killed, 0.003)
        while rows_in(killed) < threshold and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.005)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills.append({"rows": rows_in(killed), "signal": os.WTERMSIG(status)})
    assert not (killed / "result.json").exists()
    assert os.waitpid(start(name, killed, 0), 0)[1] == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, killed)]
    print(json.dumps({"whole": results[0], "killed": results[1], "kills": kills, "total": total}))


if __name__ == "__main__":
    main()
