"""`saboc ntk` gives the scores of `saboc score` for the same images, and goes on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

TINY = ["--dataset=digits", "--channels=2", "--batch_size=70"]
CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|\n"


def run(*arguments, cwd, **variables):
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu", COLUMNS="120")
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment | variables,
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ntk")
    (folder / "cell.txt").write_text(CELL)
    steps = ["--what=kernel,spectrum,density,solve", "--tile=80", "--jitter=1e-2", "--workdir=w"]
    flags = [*TINY, "--archs=cell.txt", *steps, "--tolerance=1e-6"]
    return folder, flags, run("experiments.ntk", *flags, cwd=folder)


def rows(folder):
    return json.loads((folder / "result.json").read_text())["rows"]


def test_the_scores_are_those_of_score(computed):
    folder, _, done = computed
    assert done.returncode == 0, done.stderr
    first = rows(folder / "w")[0]
    given = [
        *TINY,
        "--archs=cell.txt",
        "--scorers=ntk_score:jitter=1e-2",
        "--repeats=1",
        "--out=o",
    ]
    scored = run("experiments.score", *given, cwd=folder)
    assert scored.returncode == 0, scored.stderr
    wanted = json.loads((folder / "o" / "scores.json").read_text())["rows"][0]
    assert first["architecture"] == wanted["architecture"]
    for name in ("S_t", "S_e", "S_g"):
        assert first[name] == pytest.approx(wanted[name], rel=1e-3)
    assert first["residual"] < 1e-4 and 0 <= first["accuracy"] <= 1
    kernel = np.load(folder / "w" / "0000" / "kernel.npy")
    values = np.linalg.eigvalsh(kernel.astype(float))[::-1]
    np.testing.assert_allclose(first["eigenvalues"], values[:9], rtol=1e-4)
    assert 1 < first["effective rank"] < 70


def test_a_second_run_computes_what_is_missing_only(computed):
    folder, flags, _ = computed
    before = (folder / "w" / "0000" / "spectrum.json").read_bytes()
    (folder / "w" / "0000" / "solve.json").unlink()
    (folder / "w" / "0000" / "kernel.npy.tiles").write_bytes(b"")
    done = run("experiments.ntk", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "w" / "0000" / "spectrum.json").read_bytes() == before
    assert (folder / "w" / "0000" / "solve.json").exists()


def test_without_a_kernel_the_numbers_are_the_same(computed):
    folder, flags, _ = computed
    kept = rows(folder / "w")[0]
    done = run("experiments.ntk", *flags, "--workdir=v", "--what=spectrum,solve", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list((folder / "v").glob("*/kernel.npy"))
    for name in ("S_t", "S_e", "S_g"):
        assert rows(folder / "v")[0][name] == pytest.approx(kept[name], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--what=trace"], "--what=trace; allowed"),
        (["--top=most"], "--top='most'; allowed"),
        (["--batch_norm=batch"], "--batch_norm='batch' of an operator; allowed"),
        (["--seed=1", "--workdir=w"], "seed: 0 there, 1 now"),
    ],
)
def test_bad_input_gets_one_clear_error(computed, flags, said, tmp_path):
    folder, given, _ = computed
    more = flags if "--workdir=w" in flags else [*flags, f"--workdir={tmp_path}/x"]
    done = run("experiments.ntk", *given, *more, cwd=folder)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
