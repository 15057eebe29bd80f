"""Studies that train cells: which cells, what is made of them, and going on after a stop."""

import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from experiments.support import trained_cells, training
from saboc_jax.benchmarks.tables import load_nas_bench_201
from saboc_jax.spaces import make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_201.cells import from_string, is_connected
from saboc_jax.training.recipes import TINY
from saboc_jax.training.train import Examples

PLAIN = "|skip_connect~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
OTHER = "|avg_pool_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"


@pytest.fixture(scope="module")
def table():
    if not os.environ.get("SABOC_DATA_DIR"):
        pytest.skip("SABOC_DATA_DIR is unset: no accuracies to compare with")
    return load_nas_bench_201()


def test_cells_of_a_study(table, tmp_path):
    random = trained_cells.cells("random", 5, 0, table, "")
    assert random == trained_cells.cells("random", 5, 0, table, "")
    assert random != trained_cells.cells("random", 5, 1, table, "")
    assert len(set(random)) == 5
    spread = trained_cells.cells("spread", 20, 0, table, "")
    for text in random + spread:
        assert is_connected(architecture_to_mask(from_string(text), 5))
    accuracies = table.accuracy("cifar10", spread)
    # A twentieth of the connected cells lies between two of them.
    assert (np.diff(accuracies) > 0).all()
    assert accuracies[0] < 80 and accuracies[-1] > 93
    (tmp_path / "seed0.json").write_text(f'{{"text": "{PLAIN}"}}')
    (tmp_path / "seed1.json").write_text(f'{{"text": "{PLAIN}"}}')
    assert trained_cells.cells("found", 5, 0, table, f"{tmp_path}/seed*.json") == [PLAIN]
    (tmp_path / "mine.txt").write_text(f"{OTHER}\n\n{PLAIN}\n")
    assert trained_cells.cells(str(tmp_path / "mine.txt"), 5, 0, table, "") == [OTHER, PLAIN]
    with pytest.raises(ValueError, match="--archs=best; allowed: found, random, spread"):
        trained_cells.cells("best", 5, 0, table, "")


def test_what_is_made_of_the_accuracies(table):
    texts = trained_cells.cells("spread", 6, 0, table, "")
    rng = np.random.default_rng(0)
    top1 = rng.uniform(20, 60, (6, 3))
    runs = [
        {
            "group": "a" if cell < 3 else "b",
            "cell": texts[cell],
            "seed": seed,
            "top1 %": top1[cell, seed],
            "table %": table.accuracy("cifar10", texts[cell]),
        }
        for seed in range(3)
        for cell in range(6)
    ]
    tables = trained_cells.summary(runs, table, resamples=30)
    rows = tables["cells"]
    np.testing.assert_allclose([row["top1 %"] for row in rows], top1.mean(1))
    np.testing.assert_allclose([row["sd of seeds"] for row in rows], top1.std(1, ddof=1))
    assert [row["cell"] for row in rows] == texts
    # Welch's interval by its formulas.
    a, b = top1[:3].mean(1), top1[3:].mean(1)
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    reach = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    found = tables["differences"][0]
    assert found["groups"] == "a - b"
    np.testing.assert_allclose(found["difference"], a.mean() - b.mean())
    np.testing.assert_allclose(found["low"], a.mean() - b.mean() - reach)
    np.testing.assert_allclose(tables["groups"][1]["sd of cells"], b.std(ddof=1))
    whole = trained_cells.correlations([run | {"group": "c"} for run in runs], table, "c", 30)
    for row, truth in zip(whole, ("test", "12ep"), strict=True):
        accuracies = table.accuracy("cifar10", texts, truth)
        expected = scipy.stats.kendalltau(top1.mean(1), accuracies).statistic
        assert row["tau"] == pytest.approx(expected)
        assert row["low"] <= row["tau"] <= row["high"]
    assert "correlations" not in trained_cells.summary(runs[:2], table)
    assert len(trained_cells.plot(rows).axes[0].containers) == 2


def test_images_are_averaged_over_squares():
    images = np.arange(32, dtype=np.float32).reshape(1, 4, 8, 1)
    small = training.shrunk(Examples(images, np.zeros(1, np.int32)), 2)
    assert small.images.shape == (1, 2, 4, 1)
    assert small.images[0, 1, 2, 0] == np.mean([20, 21, 28, 29])
    with pytest.raises(ValueError, match="factor=3"):
        training.shrunk(Examples(images, np.zeros(1, np.int32)), 3)


def test_a_stopped_study_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    space = make_space("nas_bench_201", num_classes=3, image_shape=(8, 8, 1), channels=2)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
    examples = Examples(images, (np.arange(16) % 3).astype(np.int32))
    recipe = replace(TINY, epochs=1, batch_size=8, warmup_epochs=0)
    real, trained = [], []
    train_on = training.train_on

    def stopping(of, arch, *rest):
        if len(real) == 1:
            raise KeyboardInterrupt
        real.append(of.to_string(arch))
        return train_on(of, arch, *rest)

    def study():
        return trained_cells.finish(
            space, [PLAIN, OTHER], [3], (examples, examples), recipe, tmp_path,
            lambda text, seed, line: trained.append((text, seed)),
        )  # fmt: skip

    monkeypatch.setattr(training, "train_on", stopping)
    with pytest.raises(KeyboardInterrupt):
        study()
    assert trained == [(PLAIN, 3)]
    monkeypatch.setattr(training, "train_on", lambda *_: [{"test_top1": 0.5}])
    results = study()
    assert trained == [(PLAIN, 3), (OTHER, 3)]
    assert results[OTHER, 3] == {"test_top1": 0.5}
    assert set(results[PLAIN, 3]) >= {"test_top1", "train_loss"}
    assert results[PLAIN, 3]["epoch"] == 1
