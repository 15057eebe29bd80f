"""The reader of anybody's table: units, byte order marks, repeated rows, costs, errors."""

import os
from pathlib import Path

import numpy as np
import pytest

from saboc_jax.benchmarks import load_nas_bench_201
from saboc_jax.benchmarks.accuracies import is_accuracy, read_table
from saboc_jax.spaces import make_space
from saboc_jax.spaces.nas_bench_201 import cells

ARCHS = cells.all_architectures()[[7, 1000, 15624]]
TEXTS = [cells.to_string(arch) for arch in ARCHS]
SPACE = make_space("nas_bench_201")


def read(tmp_path, content, **options):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, SPACE, **options)


def table(header, *columns, texts=TEXTS):
    rows = zip(texts, *columns, strict=True)
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def test_accuracies_costs_and_words(tmp_path):
    content = table("arch,set,raspi4_latency,cifar10_test", "abc", [1.5, "", 3], [91.5, 10, 93])
    found = read(tmp_path, content)
    np.testing.assert_array_equal(found.architectures, ARCHS)
    assert (found.main, found.accuracies, found.others) == (
        "cifar10_test",
        ("cifar10_test",),
        ("raspi4_latency",),
    )
    others = [ARCHS[2], [0] * 6, ARCHS[1]]
    np.testing.assert_array_equal(found.values(others), [93, np.nan, 10])
    np.testing.assert_array_equal(found.values(others, "raspi4_latency"), [3, np.nan, np.nan])
    assert found.notes == ()
    with pytest.raises(ValueError, match="no column 'x'; allowed: raspi4_latency, cifar10_test"):
        found.column("x")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";").replace(".", ","),
        lambda text: text.replace(",", "\t"),
        lambda text: text.rstrip("\n"),
        lambda text: text + ",\n",
        lambda text: text.replace("arch,", "Architecture,"),
        lambda text: text.replace("91.5", "91.5 %").replace("0.5\n", "0.5 %\n"),
        lambda text: "arch,cifar10_test\n" + "".join(f'"{t}",{v}\n' for t, v in ROWS),
    ],
)
def test_what_spreadsheets_do_to_a_table(tmp_path, change):
    found = read(tmp_path, change(table("arch,cifar10_test", [91.5, 20.25, 33])))
    np.testing.assert_array_equal(found.column(), [91.5, 20.25, 33])


ROWS = list(zip(TEXTS, [91.5, 20.25, 33], strict=True))


def test_fractions_are_made_per_cents_and_that_is_said(tmp_path):
    found = read(tmp_path, table("arch,val_acc", [0.915, 0.1, 0]))
    np.testing.assert_allclose(found.column(), [91.5, 10, 0])
    assert found.notes == ("val_acc holds fractions, read as per cents up to 91.5 %",)
    one = read(tmp_path, table("arch,val_acc", [0.915], texts=TEXTS[:1]))
    np.testing.assert_allclose(one.column(), [91.5])
    low = read(tmp_path, table("arch,val_acc", [0.9, 0.5, 0.8]), unit="percent")
    np.testing.assert_array_equal(low.column(), [0.9, 0.5, 0.8])


def test_repeated_rows_count_once(tmp_path):
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]]
    found = read(tmp_path, table("arch,test,cost", [50, 60, 50, 62], [1, 2, 1, 2], texts=texts))
    np.testing.assert_array_equal(found.column(), [50, 61])
    np.testing.assert_array_equal(found.column("cost"), [1, 2])
    assert found.notes == (
        "test: 1 architectures have several values; the mean counts",
        "2 rows repeat an architecture",
    )


def test_groups_of_rows_keep_what_each_row_says(tmp_path):
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]]
    found = read(tmp_path, table("arch,how,test", "abba", [50, 60, 52, ""], texts=texts))
    assert found.words == {"how": ("a", "b", "b", "a")}
    groups = found.groups("how", least=2)
    assert list(groups) == ["b"]  # a row of a has no accuracy
    np.testing.assert_array_equal(found.architectures[groups["b"][0]], ARCHS[[1, 0]])
    np.testing.assert_array_equal(groups["b"][1], [60, 52])
    for wrong, said in (("test", "allowed: how"), ("how", "no how has 10 rows")):
        with pytest.raises(ValueError, match=said):
            found.groups(wrong)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("arch,test\n", "no rows"),
        (b"\xff\xfea\x00", "no CSV file in UTF-8"),
        ("cells,test\nx,1\n", "lacks a column `arch`; it has"),
        (table("arch,test", [91, 0.915, 80]), "line 3: test is 0.915, a fraction among per cents"),
        (table("arch,test", [91, 101, 80]), "line 3: test is 101.0; allowed is 0 to 100"),
        (table("arch,test", [91, "inf", 80]), "line 3: test is inf; allowed"),
        (table("arch,test", [91, "x", 80]), "line 3: test is 'x'; allowed: numbers"),
        (table("arch,test,test", [1, 2, 3], [1, 2, 3]), "more than once"),
        ("arch,test\n" + TEXTS[0] + "\n", "line 2 has 1 fields"),
        (table("arch,test", [1], texts=["|none~0|"]), "line 2: cell .* allowed in space"),
        (
            table("arch,c10,c11", [91, 2, 80], [1, 2, 3]),
            "like an accuracy; choose one of c10",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, content, said):
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path, content).column()
    assert str(tmp_path / "table.csv") in str(error.value)


def test_a_column_that_is_asked_for_is_the_accuracy(tmp_path):
    content = table("arch,test,loss", [91, 2, 80], [-1, 2, 3])
    assert read(tmp_path, content, column="test").main == "test"
    found = read(tmp_path, content, column="loss")
    np.testing.assert_array_equal(found.column(), [-1, 2, 3])
    with pytest.raises(ValueError, match="unit='x'; allowed: percent, fraction"):
        read(tmp_path, content, unit="x")
    with pytest.raises(ValueError, match=r"line 2: test is 91.0; allowed as fractions: 0 to 1"):
        read(tmp_path, content, unit="fraction")


def test_names_of_accuracies():
    yes = ("cifar10_test", "val_accuracy", "Top-1", "c100_base_acc", "imagenet_top5", "cifar100")
    no = (
        "params",
        "val_loss",
        "train_time",
        "std",
        "raspi4_latency",
        "index",
        "test error",
        "snip",
    )
    assert [is_accuracy(name) for name in (*yes, *no)] == [True] * len(yes) + [False] * len(no)


# --- a table of NAS-Bench-201 that went through a spreadsheet ------------------------------------


@pytest.fixture(scope="module")
def lines():
    folder = os.environ.get("SABOC_DATA_DIR")
    if not folder:
        pytest.skip("SABOC_DATA_DIR is not set: no table of NAS-Bench-201")
    return Path(folder, "nas_bench_201.csv").read_text().splitlines()


def changed(lines, columns, rows, change):
    names = lines[0].split(",")
    found = list(lines)
    for row in rows:
        fields = found[row].split(",")
        for name in columns:
            at = names.index(name)
            fields[at] = change(fields[at])
        found[row] = ",".join(fields)
    return found


def fraction(text):
    return repr(float(text) / 100)


@pytest.mark.parametrize(
    ("columns", "rows", "change", "said"),
    [
        (["cifar100_test"], range(1, 15626), fraction, "cifar100_test holds fractions, up to"),
        (["cifar100_test"], [700], fraction, "line 701: cifar100_test is .* of the same cell"),
        (["imagenet16_120_val"], [700], fraction, "line 701: imagenet16_120_val is"),
        (["cifar10_test", "cifar10_valid_val", "cifar10_valid_train", "cifar10_valid_val_12ep"],
         [700], fraction, "line 701: cifar10_.* a fraction among per cents"),
        (["index"], [700], lambda text: text + ".5", "line 701: index is .*.5; allowed: whole"),
        (["index"], [700, 701], lambda text: "3", "repeats the index of line"),
        (["index"], [700], lambda text: "15625", "allowed: whole numbers from 0 to 15624"),
    ],
)  # fmt: skip
def test_a_spreadsheets_damage_is_named(lines, tmp_path, columns, rows, change, said):
    content = "\n".join(changed(lines, columns, rows, change)) + "\n"
    (tmp_path / "nas_bench_201.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        load_nas_bench_201(tmp_path)


def test_a_byte_order_mark_is_skipped(lines, tmp_path):
    (tmp_path / "nas_bench_201.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    assert load_nas_bench_201(tmp_path).accuracy("cifar10", ARCHS[1]) > 0
