"""A search that was killed ten times ends as one that never was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
