"""Lookups against the files themselves, read by other means, and against damaged copies."""

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.spaces.nas_bench_201 import cells

LOADERS = {
    "nas_bench_201.csv": benchmarks.load_nas_bench_201,
    "nas_bench_201_published_scores.csv": benchmarks.load_published_scores,
    "darts_nb301_surrogate.csv": benchmarks.load_darts_surrogate,
    "darts_swap1000.csv": benchmarks.load_darts_swap,
}


@pytest.fixture(scope="module")
def data_dir() -> Path:
    directory = os.environ.get("SABOC_DATA_DIR")
    if not directory:
        pytest.skip("SABOC_DATA_DIR is not set: the benchmark tables are not available")
    return Path(directory)


def write(directory: Path, lines: list[str], name: str = "nas_bench_201.csv") -> Path:
    path = directory / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made(made_lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> benchmarks.Table:
    directory = tmp_path_factory.mktemp("table")
    write(directory, made_lines)
    return benchmarks.load_nas_bench_201(directory)


def test_lookup_by_text_indices_and_batches(made: benchmarks.Table) -> None:
    # Row i of the made table is the i-th cell in lexicographic order.
    arch = np.array([1, 2, 3, 4, 0, 2])
    row = int("123402", base=5)
    assert made.row(arch) == row
    assert made.indices[row] == 15624 - row
    text = cells.to_string(arch)
    for given in (arch, arch.tolist(), text):
        assert made.accuracy("cifar100", given) == pytest.approx((row + 1) / 1000)
    assert made.accuracy("imagenet16_120", text, "val") == pytest.approx((row + 8) / 1000)
    assert made.columns["cifar10_12ep_seconds"][row] == pytest.approx((row + 10) / 1000)
    rows = made.row([text, cells.to_string(np.zeros(6, int))])
    np.testing.assert_array_equal(rows, [row, 0])
    np.testing.assert_array_equal(made.row(cells.all_architectures()), np.arange(15625))
    assert made.row([]).shape == (0,)


def test_a_table_says_what_it_has(made: benchmarks.Table) -> None:
    assert made.has("cifar100", "train") and made.has("cifar10", "12ep")
    assert not made.has("cifar100", "train_100ep") and not made.has("cifar100", "12ep")


def test_lookup_accepts_jax_arrays(made: benchmarks.Table) -> None:
    jnp = pytest.importorskip("jax.numpy")
    assert made.row(jnp.array([0, 0, 0, 0, 0, 3])) == 3


def test_rank_and_percentile_count_cells(made: benchmarks.Table) -> None:
    best, second = made.architectures[-1], made.architectures[-2]
    np.testing.assert_array_equal(made.rank("cifar10", [best, second]), [1, 2])
    assert made.rank("cifar10", made.architectures[0]) == 15625
    assert made.percentile("cifar10", best) == 100.0
    assert made.percentile("cifar10", made.architectures[0]) == pytest.approx(100 / 15625)
    np.testing.assert_array_equal(made.best("cifar10"), best)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("|none~0|", "nodes"),
        (["|none~0|"], "nodes"),
        ([0] * 5, r"shape \(5,\)"),
        ([[[0] * 6]], "shape"),
        ([0.0] * 6, "dtype float64"),
        ([0, 0, 0, 0, 0, 5], "0 to 5"),
        ([-1, 0, 0, 0, 0, 0], "-1 to 0"),
    ],
)
def test_malformed_cells_are_refused(made: benchmarks.Table, bad: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        made.row(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", [("svhn", "test"), ("cifar100", "12ep"), ("cifar10", "dev")])
def test_unknown_columns_list_what_exists(made: benchmarks.Table, pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{pair[0]}/{pair[1]}; there are .*cifar10/12ep"):
        made.column(*pair)


def drop(lines: list[str]) -> list[str]:
    return lines[:5000] + lines[5002:]


def double(lines: list[str]) -> list[str]:
    return [*lines[:100], lines[50], *lines[101:]]


def cut(lines: list[str]) -> list[str]:
    return [*lines[:7000], lines[7000][:60]]


def without_column(lines: list[str]) -> list[str]:
    return [line.rpartition(",")[0] for line in lines]


def replaced(old: str, new: str) -> Callable[[list[str]], list[str]]:
    """Changes `old` in line 9 of the file."""
    return lambda lines: [*lines[:8], lines[8].replace(old, new), *lines[9:]]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop, r"15,623 of 15,625 cells: 2 are missing, among them .skip_connect~0.*pool_3x3~2"),
        (double, "line 101 repeats the architecture of line 51"),
        (cut, "line 7001 has .* fields, expected 13: is it cut off"),
        (without_column, "lacks the columns cifar10_12ep_seconds"),
        (replaced("0.011", "nan"), "line 9: cifar10_valid_val is 'nan'"),
        (replaced("0.011", "1e3"), "line 9: .* is 1000.0; allowed is 0 to 100"),
        (replaced("0.011", "x"), "line 9, column .*: could not convert string to float: 'x'"),
        (replaced("0.011", ""), "line 9, column .*: could not convert"),
        (replaced("none~0", "conv~0"), "line 9, column arch: .* unknown operation 'conv'"),
        (lambda lines: lines[:1], "no rows"),
    ],
)
def test_damage_is_named(
    damage: Callable, reason: str, made_lines: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, damage(made_lines))
    with pytest.raises(ValueError, match=reason) as error:
        benchmarks.load_nas_bench_201(tmp_path)
    assert str(path) in str(error.value)


def test_a_last_number_cut_short_is_noticed(made_lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "nas_bench_201.csv"
    path.write_text("\n".join(made_lines)[:-1])
    with pytest.raises(ValueError, match="ends within line 15626"):
        benchmarks.load_nas_bench_201(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'a,b\n"c,d\n'])
@pytest.mark.parametrize("name", LOADERS)
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is|lacks)"):
        LOADERS[name](tmp_path)


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_file_is_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SABOC_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"GitHub .* save them as {name}") as error:
        LOADERS[name]()
    assert str(tmp_path / name) in str(error.value)


def test_the_argument_precedes_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SABOC_DATA_DIR", str(tmp_path / "environment"))
    with pytest.raises(FileNotFoundError, match="argument"):
        benchmarks.load_darts_swap(tmp_path / "argument")
    monkeypatch.delenv("SABOC_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/tensorflow_datasets"):
        benchmarks.load_darts_swap()


GENOTYPE = "normal=[{0}], normal_concat=[2, 3, 4, 5], reduce=[{0}], reduce_concat=[2, 3, 4, 5]"
PAIRS = ["('skip_connect', 0)"] * 8


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (PAIRS[:7], "7 edges, expected 8"),
        ([*PAIRS[:7], "('conv', 0)"], "unknown operation 'conv'"),
        (["('none', 2)", *PAIRS[1:]], "node 2 reads '2'; allowed are 0 to 1"),
    ],
)
def test_malformed_genotypes_are_named(cell: list[str], reason: str, tmp_path: Path) -> None:
    line = f'"Genotype({GENOTYPE.format(", ".join(cell))})",50.0'
    write(tmp_path, ["genotype,val_accuracy", line], "darts_swap1000.csv")
    with pytest.raises(ValueError, match=f"line 2, column genotype: .*{reason}"):
        benchmarks.load_darts_swap(tmp_path)


def raw(data_dir: Path, name: str) -> list[dict[str, str]]:
    with (data_dir / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_real_table(data_dir: Path) -> None:
    start = time.perf_counter()
    table = benchmarks.load_nas_bench_201(data_dir)
    assert time.perf_counter() - start < 2.0  # 0.16 s on an idle core; the rest is for busy ones
    rows = raw(data_dir, "nas_bench_201.csv")
    assert len(table) == len(rows) == 15625
    for row in rows[::997]:
        assert table.indices[table.row(row["arch"])] == int(row["index"])
        assert table.accuracy("cifar10", row["arch"]) == float(row["cifar10_test"])
        assert table.accuracy("cifar10", row["arch"], "12ep") == float(
            row["cifar10_valid_val_12ep"]
        )
        assert table.accuracy("cifar100", row["arch"], "train") == float(row["cifar100_train"])
        accuracy = float(row["imagenet16_120_val"])
        better = sum(float(other["imagenet16_120_val"]) > accuracy for other in rows)
        assert table.rank("imagenet16_120", row["arch"], "val") == better + 1
        assert table.percentile("imagenet16_120", row["arch"], "val") == pytest.approx(
            100 * (1 - better / 15625)
        )
    assert [table.column(d).max() for d in benchmarks.DATASETS] == [94.3733, 73.5133, 47.3111]


def test_real_published_scores(data_dir: Path) -> None:
    scores = benchmarks.load_published_scores(data_dir)
    rows = raw(data_dir, "nas_bench_201_published_scores.csv")
    assert len(scores.datasets) == len(rows)
    for i in range(0, len(rows), 301):
        assert cells.to_string(scores.architectures[i]) == rows[i]["arch"]
        assert scores.columns["snip"][i] == float(rows[i]["snip"])
    assert np.isnan(scores.columns["synflow"]).sum() == sum(not r["synflow"] for r in rows)
    sizes = [len(scores.of(name).architectures) for name in benchmarks.DATASETS]
    assert sizes == [725, 725, 724]
    with pytest.raises(ValueError, match="svhn"):
        scores.of("svhn")


def test_real_darts_tables(data_dir: Path) -> None:
    surrogate = benchmarks.load_darts_surrogate(data_dir)
    rows = raw(data_dir, "darts_nb301_surrogate.csv")
    assert surrogate.operations.shape == surrogate.inputs.shape == (len(rows), 2, 4, 2)
    for i in range(0, len(rows), 101):
        for cell, name in enumerate(("normal", "reduce")):
            operations, inputs = surrogate.operations[i, cell], surrogate.inputs[i, cell]
            pairs = zip(operations.ravel(), inputs.ravel(), strict=True)
            text = " ".join(f"{benchmarks.DARTS_OPERATIONS[op]}@{source}" for op, source in pairs)
            assert text == rows[i][name]
        assert surrogate.accuracies[i] == float(rows[i]["surrogate_val_accuracy"])
        assert surrogate.columns["params"][i] == float(rows[i]["params"])
    swap = benchmarks.load_darts_swap(data_dir)
    assert len(swap.accuracies) == 1000
    np.testing.assert_array_equal(swap.operations[:, 0], swap.operations[:, 1])
    first = raw(data_dir, "darts_swap1000.csv")[0]["genotype"]
    names = [benchmarks.DARTS_OPERATIONS[op] for op in swap.operations[0, 0].ravel()]
    pairs = list(zip(names, swap.inputs[0, 0].ravel().tolist(), strict=True))
    assert f"normal={pairs}" in first
