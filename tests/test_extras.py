"""What is left out of an installation is named in one sentence, and only asked for when used."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import saboc_jax as sj
from saboc_jax.benchmarks.nats_bench import open_benchmark
from saboc_jax.evaluation.ray import RayExecutor
from saboc_jax.evaluation.records import write_parquet
from saboc_jax.extras import WITHOUT_TENSORFLOW, MissingExtraError, install_line, needed
from saboc_jax.reports.canvas import blank
from saboc_jax.training.run import run

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
    assert set(names) == set(EXTRAS) - {"all", "prepare", "reference"}


def test_the_line_for_the_reference_engine_brings_no_tensorflow():
    (pinned,) = EXTRAS["reference"]
    assert install_line("reference") == WITHOUT_TENSORFLOW["reference"]
    assert f"--no-deps {pinned}" in install_line("reference")


def test_make_installs_extras_by_name_and_none_that_brings_tensorflow():
    def told(names: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "requirements_of.py"), names]
        return subprocess.run(command, capture_output=True, text=True)

    assert told("ray,figures").stdout.split("\n")[:-1] == [*EXTRAS["ray"], *EXTRAS["figures"]]
    everything = told("all").stdout
    assert "torch" in everything and not re.search("saboc|tensorflow|neural", everything)
    for name in ("prepare", "reference", "rays"):
        done = told(name)
        assert done.returncode and done.stderr.startswith(f"error: EXTRAS={name}: ")


def anew(framework):
    """Asks for a candidate of a framework as if for the first time."""
    sys.modules.pop(f"saboc_jax.frameworks.{framework}", None)
    getattr(sj, f"from_{framework}")(None)


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("equinox", "equinox", lambda folder: anew("equinox")),
        ("haiku", "haiku", lambda folder: anew("haiku")),
        ("keras", "keras", lambda folder: anew("keras")),
        ("matplotlib", "figures", lambda folder: blank(1, 1)),
        ("nats_bench", "nats", lambda folder: open_benchmark(folder)),
        ("pyarrow", "parquet", lambda folder: write_parquet(folder / "scores.parquet", [])),
        ("ray", "ray", lambda folder: RayExecutor()),
        ("torch", "torch", lambda folder: anew("torch")),
        ("tensorboardX", "training", lambda folder: run(None, None, 1, folder)),
    ],
)
def test_what_needs_an_extra_says_so(package, extra, use, monkeypatch, tmp_path):
    loaded = [name for name in sys.modules if name.startswith(f"{package}.")]
    for name in (package, *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as raised:
        use(tmp_path)
    said = str(raised.value)
    assert said.endswith(
        f"needs {package}, which the extra `{extra}` brings: {install_line(extra)}"
    )
    assert not list(tmp_path.iterdir())


WITHOUT = """
import importlib.machinery as machinery
import sys
find = machinery.PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name in {absent} else find(name, path, target)

machinery.PathFinder.find_spec = find_others
{code}
"""
OPTIONAL = [
    "equinox", "haiku", "keras", "matplotlib", "neural_tangents", "nats_bench", "pyarrow", "ray",
    "sklearn", "tensorboardX", "tensorflow", "torch", "orbax.checkpoint",
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


PEERS = """
from experiments import benchmark
from saboc_jax.spaces import make_space
benchmark.chosen(make_space("nas_bench_201", channels=2, num_cells=1), ["torch_step"])
"""


def test_a_contestant_of_pytorch_names_its_extra(tmp_path):
    done = without(PEERS, tmp_path)
    said = done.stderr.splitlines()[-1]
    assert said.endswith(f"needs torch, which the extra `peers` brings: {install_line('peers')}")


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
