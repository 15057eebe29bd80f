"""What `fetch_data` says of data that is there, missing and damaged."""

import os
import subprocess
import sys


def test_every_data_set_and_table_is_told(tmp_path):
    (tmp_path / "darts_swap1000.csv").write_text("genotype\n")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.fetch_data", f"--data_dir={tmp_path}"],
        env=dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    state = {
        line.split()[1].rstrip(":"): line.split()[0]
        for line in done.stdout.splitlines()
        if line.startswith(("there", "missing", "damaged"))
    }
    assert len(state) == 9
    assert state["digits"] == "there"
    assert state["darts_swap1000.csv"] == "damaged"
    assert state["cifar10"] == state["nas_bench_201.csv"] == "missing"
    assert "tfds build cifar10" in done.stdout
