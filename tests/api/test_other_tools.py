"""A score as a function of a module, and the page that says how other tools use it."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "other-tools.md"
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
DATASET = sj.data.from_arrays(IMAGES, np.arange(40) % 2)


class Net(nn.Module):
    factor: float = 1.0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(2)(images.reshape(len(images), -1)) * self.factor


def test_it_is_the_mean_of_the_metric_and_what_is_bad_is_worst() -> None:
    function = sj.score_function(DATASET, KEY, "grad_norm", repeats=2, batch_size=8)
    assert (function.metric, function.direction, function.mode) == ("grad_norm", "maximize", "max")
    scored = sj.score(Net(), DATASET, KEY, "grad_norm", repeats=2, batch_size=8, progress=False)
    assert function(Net()) == scored.mean()["grad_norm"]
    assert function(Net(np.nan)) == -np.inf
    lower = sj.score_function(DATASET, KEY, "ntk_score", "S_g")
    assert (lower.higher_is_better, lower.direction) == (False, "minimize")


def test_a_scorer_of_several_metrics_needs_one() -> None:
    with pytest.raises(ValueError, match="metric=None of ntk_score; allowed: S_t, S_e, S_g"):
        sj.score_function(DATASET, KEY, "ntk_score")
    with pytest.raises(ValueError, match="metric='S_x' of ntk_score; allowed: S_t"):
        sj.score_function(DATASET, KEY, "ntk_score", "S_x")


def blocks() -> list[str]:
    return re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_study_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: the extra `optuna`")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    exec(compile(blocks()[0], "other-tools.md", "exec"), namespace)
    assert len(namespace["study"].trials) == 4
    assert (tmp_path / "study.db").stat().st_size > 0
