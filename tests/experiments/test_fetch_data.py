"""What `fetch_data` says of data that is there, missing and damaged, and what it prepares."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_data_files import write_tfds

from saboc_jax import data
from saboc_jax.benchmarks.known_tables import KNOWN
from saboc_jax.data import tfds as registry_tfds


def test_every_data_set_and_table_is_told(tmp_path):
    (tmp_path / "darts_swap1000.csv").write_text("genotype\n")
    cell = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    rows = f"arch,raspi4_latency\n{cell},10.5\n"
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "hw_nas_bench_cifar10.csv").write_text(rows)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.fetch_data",
            f"--data_dir={tmp_path}",
            "--prepare=digits",
        ],
        env=dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert "failed   digits: digits is not prepared by TFDS" in done.stdout
    state = {
        line.split()[1].rstrip(":"): line.split()[0]
        for line in done.stdout.splitlines()
        if line.startswith(("there ", "missing ", "damaged "))
    }
    assert len(state) == 9 + len(KNOWN)
    assert state["digits"] == "there"
    assert state["darts_swap1000.csv"] == "damaged"
    assert state["cifar10"] == state["nas_bench_201.csv"] == "missing"
    assert "tfds build cifar10" in done.stdout
    assert "hw_nas_bench_cifar10.csv: 1 rows, arch, raspi4_latency (official files: " in done.stdout
    assert "nats_sss.csv: " in done.stdout and "NATS-sss-v1_0" in done.stdout


def builder(work):
    """A stand-in for `tfds.builder`, whose download is `work(folder)`."""

    def make(name, *, data_dir, file_format):
        assert (name, file_format) == ("cifar10", "array_record")

        class Builder:
            def download_and_prepare(self):
                work(os.path.join(data_dir, name, "3.0.2"))

        return Builder()

    return make


def test_what_tfds_prepares_is_read_and_not_prepared_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    names = [f"class {number}" for number in range(10)]
    splits = {"train": [(images, [4, 0, 9])], "test": [(images[:1], [7])]}
    done = []

    def work(folder):
        done.append(folder)
        write_tfds(Path(folder), "cifar10", splits, names)

    monkeypatch.setattr(tfds, "builder", builder(work))
    monkeypatch.setattr(registry_tfds, "_import_what_writes", lambda: None)
    assert str(data.prepare("cifar10", tmp_path)) == done[0] == f"{tmp_path}/cifar10/3.0.2"
    read, labels = data.load("cifar10", tmp_path).train.fetch([2, 0])
    np.testing.assert_array_equal(read, images[[2, 0]])
    assert labels.tolist() == [9, 4]
    data.prepare("cifar10", tmp_path)
    assert len(done) == 1


def test_what_tfds_cannot_prepare_is_one_error_with_a_way_out(tmp_path, monkeypatch):
    def work(folder):
        raise OSError("name resolution failed\nat length")

    monkeypatch.setattr(tfds, "builder", builder(work))
    command = f"`tfds build cifar10 --file_format=array_record --data_dir={tmp_path}`"
    missing = r"needs \w+, which the extra `prepare` brings: pip install 'saboc_jax\[prepare\]'; it"
    with pytest.raises(ValueError, match=missing) as caught:
        data.prepare("cifar10", tmp_path)
    assert command in str(caught.value)
    monkeypatch.setattr(registry_tfds, "_import_what_writes", lambda: None)
    with pytest.raises(ValueError, match=r"resolution failed\. Where the site") as caught:
        data.prepare("cifar10", tmp_path)
    assert command in str(caught.value) and "at length" not in str(caught.value)
    with pytest.raises(ValueError, match="digits is not prepared by TFDS: it comes with"):
        data.prepare("digits", tmp_path)
    with pytest.raises(ValueError, match="no data set 'mnist'"):
        data.prepare("mnist", tmp_path)
