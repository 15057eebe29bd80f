"""A search that was killed ends as one that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupted_search import rows_in

SCRIPT = Path(__file__).with_name("interrupted_search.py")


@pytest.mark.parametrize("name", ["evolution", "pruning"])
def test_ten_kills_change_nothing(name, tmp_path):
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), name, str(tmp_path), "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [kill["signal"] for kill in told["kills"]] == [signal.SIGKILL] * 10
    moments = [kill["rows"] for kill in told["kills"]]
    assert moments == sorted(moments)
    assert len(set(moments)) >= 8
    assert moments[-1] < told["total"]
    assert told["killed"] == told["whole"]
    assert told["whole"]["evaluations"] == (70 if name == "evolution" else 88)
    assert len(told["whole"]["rows"]) == told["total"]


def test_the_binary_goes_on_after_a_kill(tmp_path):
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu")
    flags = ["--dataset=digits", "--channels=2", "--batch_size=6", "--repeats=1", "--seed=4"]
    flags += ["--searcher=random", "--scorer=random", "--max_evaluations=600"]

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.search", *flags, f"--workdir={folder}"],
            cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    whole, killed = start("whole"), start("killed")
    while rows_in(tmp_path / "killed") < 20 and killed.poll() is None:
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    stored = rows_in(tmp_path / "killed")
    resumed = start("killed")
    for process in (whole, resumed):
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, said
    one, other = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")
    )
    for name in ("architecture", "scores", "evaluations", "rejected"):
        assert one[name] == other[name]
    assert 20 <= stored <= other["counts"]["served"]
    for name in ("disconnected", "non_finite"):
        assert one["counts"][name] == other["counts"][name]
    assert rows_in(tmp_path / "whole") == rows_in(tmp_path / "killed") > stored
