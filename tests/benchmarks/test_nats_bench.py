"""Import of NATS-Bench files, on small ones written by the benchmark's own classes."""

import bz2
import csv
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saboc_jax.benchmarks import nats_bench as imports
from saboc_jax.benchmarks.tables import load_nas_bench_201
from saboc_jax.spaces.nas_bench_201 import cells

api = pytest.importorskip("nats_bench.api_utils", reason="nats_bench is not installed")

ARCHS = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|",
)
EVALUATED = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}
NUMBERS = {name: number for number, name in enumerate(EVALUATED)}


def accuracy(arch, dataset, split, seed, epoch, epochs):
    """A number that tells all of where it belongs."""
    place = 1 + ("train", "x-valid", "x-test", "ori-test").index(split)
    return 10 * place + 2 * NUMBERS[dataset] + arch + seed / 1000 + epoch / 1e5 + epochs / 1e3


def trial(arch, dataset, seed, epochs):
    def curve(split):
        return {e: accuracy(arch, dataset, split, seed, e, epochs) for e in range(epochs)}

    config = {"arch_str": ARCHS[arch], "channel": 16, "num_cells": 5}
    losses = dict.fromkeys(range(epochs), 1.0)
    result = api.ResultsCount(
        dataset, {}, curve("train"), losses, 0.5 + arch, 7.0 + arch, config, seed, epochs, [0.01]
    )
    result.update_train_info(curve("train"), None, losses, dict.fromkeys(range(epochs), 2.0))
    keys = [f"{split}@{e}" for split in EVALUATED[dataset] for e in range(epochs)]
    accuracies = {k: curve(k.split("@")[0])[int(k.split("@")[1])] for k in keys}
    result.update_eval(accuracies, dict.fromkeys(keys, 1.0), dict.fromkeys(keys, 3.0))
    return result


def results(arch, epochs):
    found = api.ArchResults(arch, ARCHS[arch])
    for dataset in EVALUATED:
        for seed in (777, 888):
            found.update(dataset, seed, trial(arch, dataset, seed, epochs))
    return found.state_dict()


@pytest.fixture(scope="module")
def benchmark():
    return {
        "meta_archs": list(ARCHS),
        "arch2infos": {
            arch: {str(epochs): results(arch, epochs) for epochs in (12, 200)} for arch in range(2)
        },
        "evaluated_indexes": {0, 1},
    }


def dump(path, value):
    with bz2.open(path, "wb") as file:
        pickle.dump(value, file)


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_every_number_is_the_right_one(benchmark, layout, tmp_path):
    source = tmp_path / "NATS-tss.pickle.pbz2"
    if layout == "file":
        dump(source, benchmark)
    else:
        source = tmp_path / "simple"
        source.mkdir()
        dump(source / "meta.pickle.pbz2", {**benchmark, "arch2infos": None})
        for arch in range(2):
            dump(source / f"{arch:06d}.pickle.pbz2", benchmark["arch2infos"][arch])
    seen = []
    out = tmp_path / "out" / "nas_bench_201.csv"
    count = imports.write_table(imports.open_benchmark(source), out, lambda: seen.append(1))
    assert count == len(seen) == 2
    with out.open() as file:
        table = list(csv.DictReader(file))
    assert [row["arch"] for row in table] == list(ARCHS)
    for arch, row in enumerate(table):
        assert row["canonical"] == cells.canonical(cells.from_string(ARCHS[arch]))
        expected = {
            "cifar10_test": ("cifar10", "ori-test", 199, 200),
            "cifar100_test": ("cifar100", "x-test", 199, 200),
            "imagenet16_120_val": ("ImageNet16-120", "x-valid", 199, 200),
            "cifar10_valid_train": ("cifar10-valid", "train", 199, 200),
            "cifar10_valid_val_12ep": ("cifar10-valid", "x-valid", 11, 12),
            "cifar10_train_100ep": ("cifar10", "train", 99, 200),
            "imagenet16_120_train_100ep": ("ImageNet16-120", "train", 99, 200),
        }
        for column, (dataset, split, epoch, epochs) in expected.items():
            truth = np.mean([accuracy(arch, dataset, split, s, epoch, epochs) for s in (777, 888)])
            assert float(row[column]) == pytest.approx(truth, abs=5.1e-5), column
        assert float(row["cifar10_12ep_seconds"]) == 12 * 2 + 3
        assert (float(row["params"]), float(row["flops"])) == (0.5 + arch, 7 + arch)


def test_the_binary_converts_and_overwrites_nothing(benchmark, tmp_path):
    dump(tmp_path / "tss.pickle.pbz2", benchmark)
    command = [
        sys.executable, "-m", "experiments.import_nats_bench",
        f"--source={tmp_path}/tss.pickle.pbz2", f"--out={tmp_path}/table.csv",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    done, again = (
        subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
        for _ in range(2)
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote 2 architectures" in done.stdout
    assert "refuse a part of it" in " ".join(done.stdout.split())
    assert (tmp_path / "table.csv").read_text().count("\n") == 3
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_what_cannot_be_read_is_named(benchmark, tmp_path):
    with pytest.raises(FileNotFoundError, match="D-X-Y/NATS-Bench"):
        imports.open_benchmark(tmp_path / "absent")
    (tmp_path / "text").write_text("no pickle")
    with pytest.raises(ValueError, match="text is no NATS-Bench file"):
        imports.open_benchmark(tmp_path / "text")
    infos = {0: benchmark["arch2infos"][0], 1: {"200": benchmark["arch2infos"][1]["200"]}}
    dump(tmp_path / "half.pbz2", {**benchmark, "arch2infos": infos})
    with pytest.raises(ValueError, match="architecture 1 is not complete"):
        imports.write_table(imports.open_benchmark(tmp_path / "half.pbz2"), tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_the_reader_knows_the_halfway_accuracies(tmp_path):
    archs = cells.all_architectures()
    names = [name for name in imports.HEADER if name not in ("index", "arch", "canonical")]
    lines = [
        f"{i},{cells.to_string(arch)},c,"
        + ",".join(str(i % 90 + k / 100) for k in range(len(names)))
        for i, arch in enumerate(archs)
    ]
    path = tmp_path / "nas_bench_201.csv"
    path.write_text("\n".join([",".join(imports.HEADER), *lines]) + "\n")
    table = load_nas_bench_201(tmp_path)
    place = names.index("cifar100_train_100ep")
    assert table.has("cifar100", "train_100ep") and not table.has("svhn", "train_100ep")
    assert table.accuracy("cifar100", archs[7], "train_100ep") == pytest.approx(7 + place / 100)
    without = {k: v for k, v in table.columns.items() if "100ep" not in k}
    with pytest.raises(ValueError, match="import_nats_bench"):
        table.__class__(table.architectures, table.indices, without, table.positions).column(
            "cifar100", "train_100ep"
        )


class Runs:
    """What an evil pickle holds: code that runs when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "NATS-tss-v1_0-00000.pickle.pbz2"
    with bz2.BZ2File(path, "wb") as file:
        pickle.dump({"meta_archs": [Runs()]}, file)
    with pytest.raises(ValueError, match=r"pbz2 is no NATS-Bench file.*it asks for .*; allowed"):
        imports.open_benchmark(path)
    assert not (tmp_path / "ran").exists()
