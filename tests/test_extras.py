"""What is left out of an installation is named in one sentence, and only asked for when used."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from saboc_jax.extras import WITHOUT_TENSORFLOW, MissingExtraError, install_line, needed

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_a_missing_package_is_one_sentence_with_the_line_to_type():
    with (
        pytest.raises(MissingExtraError) as raised,
        needed("figures", "A picture"),
    ):
        import no_such_package.part  # noqa: F401
    said = str(raised.value)
    assert said == (
        "A picture needs no_such_package, which the extra `figures` brings: "
        "pip install 'saboc_jax[figures]'"
    )


def test_a_mistake_of_ours_is_not_taken_for_a_missing_package():
    with (
        pytest.raises(ModuleNotFoundError, match=r"saboc_jax\.no_such") as raised,
        needed("figures", "A picture"),
    ):
        import saboc_jax.no_such  # noqa: F401
    assert not isinstance(raised.value, MissingExtraError)


def test_every_extra_that_the_code_names_exists():
    named = {
        name
        for folder in ("saboc_jax", "experiments")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'\bneeded\("(\w+)"', path.read_text())
    }
    assert {"figures", "parquet", "ray", "training"} <= named <= set(EXTRAS)


def test_all_is_every_extra_that_brings_no_tensorflow():
    (everything,) = EXTRAS["all"]
    names = re.fullmatch(r"saboc_jax\[([\w,]+)\]", everything)[1].split(",")
    assert set(names) == set(EXTRAS) - {"all", "reference"}


def test_the_line_for_the_reference_engine_brings_no_tensorflow():
    (pinned,) = EXTRAS["reference"]
    assert install_line("reference") == WITHOUT_TENSORFLOW["reference"]
    assert f"--no-deps {pinned}" in install_line("reference")


WITHOUT = """
import sys

class Absent:  # as if they were not installed
    def find_spec(name, path=None, target=None):
        if name in {absent}:
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Absent)
{code}
"""
OPTIONAL = [
    "matplotlib", "neural_tangents", "nats_bench", "pyarrow", "ray", "sklearn", "tensorboardX",
    "tensorflow", "torch", "orbax.checkpoint",
]  # fmt: skip


def without(code: str, tmp_path: Path, *flags: str, absent=OPTIONAL) -> subprocess.CompletedProcess:
    """Runs code where packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent, code=code), *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


SEARCH = """
import runpy
runpy.run_module("experiments.search", run_name="__main__", alter_sys=True)
"""


def test_a_search_without_matplotlib_keeps_the_rest_and_says_what_was_left_out(tmp_path):
    flags = ["--dataset=digits", "--channels=2", "--batch_size=6", "--repeats=1", "--workdir=w"]
    flags += ["--searcher=random", "--scorer=params", "--max_evaluations=4"]
    done = without(SEARCH, tmp_path, *flags, absent=["matplotlib"])
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == (
        "Left out trajectory.png, cell.png: pictures need matplotlib: "
        "pip install 'saboc_jax[figures]'"
    )
    kept = {path.name for path in (tmp_path / "w").iterdir()}
    assert {"result.json", "candidates.json", "report.html", "scores.sqlite"} <= kept
    assert not list((tmp_path / "w").glob("*.png"))


EVERY_BINARY = """
import importlib, os
import experiments.support.common
from experiments.commands import COMMANDS
for name in COMMANDS:  # each in a fork, for binaries define flags of one name
    if os.fork() == 0:
        importlib.import_module(f"experiments.{name}")
        os._exit(0)
    if os.wait()[1]:
        print("FAILED:", name, flush=True)
"""


def test_every_binary_can_be_loaded_without_any_extra(tmp_path):
    done = without(EVERY_BINARY, tmp_path)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
