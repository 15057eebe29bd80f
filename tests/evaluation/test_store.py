"""The results store: nothing lost, nothing doubled, nothing changed on the way."""

import contextlib
import csv
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from saboc_jax.evaluation.identity import current_versions
from saboc_jax.evaluation.store import Request, Result, Store, canonical_json

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {"jax": "1"}


def make(architecture: str = "a", seed: int | str = 0, scorer: str = "ntk", **options) -> Request:
    texts = canonical_json(options), canonical_json(VERSIONS)
    return Request(
        *("space", architecture, scorer, texts[0], "cifar10", "digest", str(seed), "{}", texts[1])
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "results.sqlite"


def test_round_trip_keeps_every_number(path: Path) -> None:
    metrics = {
        "third": 1 / 3,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "nan": math.nan,
        "inf": math.inf,
        "minus": -math.inf,
        "float32": np.float32(0.1),
        "integer": 7,
    }
    diagnostics = {"spectrum": np.array([1.5, math.inf]), "note": "é", "nested": {"x": (1, None)}}
    with Store(path) as store:
        assert store.put([Result(make(), metrics, diagnostics, 2.5)]) == 1
    with Store(path) as store:
        (found,) = store.select()
    assert found.request == make()
    assert {k: repr(float(v)) for k, v in metrics.items()} == {
        k: repr(v) for k, v in found.metrics.items()
    }
    assert found.diagnostics == {
        "spectrum": [1.5, math.inf],
        "note": "é",
        "nested": {"x": [1, None]},
    }
    assert found.seconds == 2.5
    assert found.created.endswith("+00:00")
    assert not found.finite


def test_every_field_of_the_identity_distinguishes(path: Path) -> None:
    base = make(n=1)
    others = [base._replace(**{name: getattr(base, name) + "x"}) for name in Request._fields]
    with Store(path) as store:
        assert store.put([Result(base, {"m": 0.0})]) == 1
        assert store.missing([base, *others]) == others
        store.put(Result(each, {"m": i}) for i, each in enumerate(others))
        assert len(store) == 1 + len(others) == 10
        values = [found.metrics["m"] for found in store.get(others) if found]
        assert values == list(range(len(others)))


def test_missing_keeps_order_and_drops_repeats(path: Path) -> None:
    requests = [make(str(i)) for i in (3, 1, 2, 1, 3)]
    with Store(path) as store:
        assert store.missing(requests) == [make("3"), make("1"), make("2")]
        store.put([Result(make("1"), {"m": 1.0})])
        assert store.missing(requests) == [make("3"), make("2")]
        assert [found is None for found in store.get(requests)] == [True, False, True, False, True]


def test_putting_twice_changes_nothing_unless_asked(path: Path) -> None:
    with Store(path) as store:
        first = [Result(make(str(i)), {"m": i}) for i in range(3)]
        assert store.put(first) == 3
        assert store.put([*first, *first]) == 0
        assert store.put([Result(make("0"), {"m": 9.0})]) == 0
        assert [found.metrics["m"] for found in store.select()] == [0, 1, 2]
        assert store.put([Result(make("0"), {"m": 9.0})], replace=True) == 1
        assert [found.metrics["m"] for found in store.select()] == [9, 1, 2]
        assert store.put([]) == 0


def test_equal_options_give_equal_texts() -> None:
    a = {"n": np.int64(3), "s": (1, 2), "f": np.float32(0.5), "set": {"b", "a"}, "x": None}
    b = {"x": None, "set": ["a", "b"], "f": 0.5, "s": [1, 2], "n": 3}
    assert canonical_json(a) == canonical_json(b)
    assert canonical_json({"n": 3}) != canonical_json({"n": 4})
    jnp = pytest.importorskip("jax.numpy")
    assert canonical_json(jnp.array([1.5, 2.0], dtype=jnp.bfloat16)) == "[1.5,2.0]"


@pytest.mark.parametrize("value", [len, object(), 1j, b"bytes"])
def test_values_without_a_text_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"cannot write .* as JSON"):
        canonical_json({"option": value})


def test_versions_name_what_decides_the_numbers() -> None:
    import jax

    assert current_versions()["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Result(make(), {}), "no metrics"),
        (Result(make(), {"seed": 1.0}), "must not be called"),
        (Result(make(), {"": 1.0}), "must not be called"),
        (Result(make(), {"m": "1"}), "metric 'm' is '1'"),  # type: ignore[dict-item]
        (Result(make(), {"m": [1.0, 2.0]}), "metric 'm' is"),  # type: ignore[dict-item]
        (Result(make(), {"m": 1.0}, {}, -1.0), "seconds is -1.0"),
        (Result(make(), {"m": 1.0}, {}, math.nan), "seconds is nan"),
        (Result(make(), {"m": 1.0}, {"f": len}), "as JSON"),
        (Result(make(""), {"m": 1.0}), "architecture of a request is ''"),
        (Result(make()._replace(seed=3), {"m": 1.0}), "seed of a request is 3"),
    ],
)
def test_a_result_that_cannot_be_stored_stores_nothing(
    bad: Result, reason: str, path: Path
) -> None:
    with Store(path) as store:
        with pytest.raises(ValueError, match=reason):
            store.put([Result(make("good"), {"m": 1.0}), bad])
        assert len(store) == 0


def test_selection_and_columns(path: Path) -> None:
    with Store(path) as store:
        store.put(
            [
                Result(make("a", 0, n=1), {"m": 1.0}, {}, 0.5),
                Result(make("a", 1, n=1), {"m": math.nan}),
                Result(make("b", 0, n=2), {"m": 3.0}),
                Result(make("b", 0, "zen"), {"zen": 4.0}),
            ]
        )
        assert len(store.select(scorer="ntk", architecture=["a", "b", "c"])) == 3
        assert len(store.select(seed=0)) == len(store.select(seed=["0", 7])) == 3
        assert len(store.select(options={"n": 2})) == len(store.select(options='{"n":2}')) == 1
        assert len(store.select(versions=VERSIONS)) == 4
        assert store.select(architecture=[]) == []
        columns = store.table()
        empty = store.table(scorer="none")
    order = list(zip(columns["architecture"], columns["scorer"], columns["seed"], strict=True))
    assert order == [("a", "ntk", "0"), ("a", "ntk", "1"), ("b", "ntk", "0"), ("b", "zen", "0")]
    np.testing.assert_array_equal(columns["m"], [1, math.nan, 3, math.nan])
    np.testing.assert_array_equal(columns["zen"], [math.nan, math.nan, math.nan, 4])
    np.testing.assert_array_equal(columns["finite"], [True, False, True, True])
    np.testing.assert_array_equal(columns["seconds"], [0.5, 0, 0, 0])
    assert empty["seed"].shape == (0,)
    with Store(path) as store, pytest.raises(ValueError, match=r"'metric'.*allowed are space"):
        store.select(metric="m")


def fill(store: Store) -> None:
    store.put(
        [
            Result(make("a~0", n=1), {"m": 0.1 + 0.2, "k": math.inf}, {"text": 'x,"y"\n'}, 1.5),
            Result(make("b"), {"m": math.nan}),
            Result(make("b", scorer="zen"), {"zen": -1e-300}),
        ]
    )


def test_csv_export(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "results.csv"
    with Store(path) as store:
        fill(store)
        assert store.export(target) == 3
        assert store.export(tmp_path / "zen.csv", scorer="zen") == 1
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["m"] for row in rows] == ["0.30000000000000004", "nan", ""]
    assert [row["k"] for row in rows] == ["inf", "", ""]
    assert [row["finite"] for row in rows] == ["False", "False", "True"]
    assert json.loads(rows[0]["diagnostics"]) == {"text": 'x,"y"\n'}
    assert rows[0]["options"] == '{"n":1}'
    assert sorted(each.name for each in target.parent.iterdir()) == ["results.csv"]
    assert "zen" in (tmp_path / "zen.csv").read_text()


def test_parquet_export(path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    target = tmp_path / "results.parquet"
    with Store(path) as store:
        fill(store)
        assert store.export(target) == 3
        assert store.export(tmp_path / "none.parquet", scorer="none") == 0
    rows = parquet.read_table(target).to_pylist()
    assert rows[0]["m"] == 0.1 + 0.2
    assert rows[0]["k"] == math.inf
    assert math.isnan(rows[1]["m"])
    assert rows[1]["k"] is None
    assert rows[2]["zen"] == -1e-300
    assert [row["finite"] for row in rows] == [False, False, True]
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_parquet_without_pyarrow(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Store(path) as store:
        with pytest.raises(ImportError, match=r"pip install 'saboc_jax\[parquet\]'"):
            store.export(tmp_path / "results.parquet")
        with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
            store.export(tmp_path / "results.json")
    assert not list(tmp_path.glob(".export*"))


def test_other_files_are_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"index,arch\n0,|none~0|\n" * 100)
    with pytest.raises(ValueError, match=r"results.sqlite is no intact results file"):
        Store(path)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(ValueError, match="of another program"):
        Store(path)


def test_another_format_is_refused(path: Path) -> None:
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(ValueError, match="has results format 999, this version reads 2"):
        Store(path)


@pytest.mark.parametrize("damage", ["half", "scrambled"])
def test_damaged_files_are_refused(path: Path, damage: str) -> None:
    with Store(path) as store:
        store.put([Result(make(str(i)), {"m": i}, {"text": "x" * 100}) for i in range(500)])
    content = bytearray(path.read_bytes())
    if damage == "half":
        del content[len(content) // 2 :]
    else:
        content[4096:] = np.random.default_rng(0).bytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no intact results file"):
        Store(path)


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with Store(path) as store:
        assert len(store) == 0


def test_a_lock_that_stays_is_reported(path: Path) -> None:
    with Store(path, timeout=0.2) as store, contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match=r"stayed locked by another process for 0\.2 s"):
            store.put([Result(make(), {"m": 1.0})])
        assert store.missing([make()]) == [make()]  # reading needs no lock
        other.execute("ROLLBACK")
        assert store.put([Result(make(), {"m": 1.0})]) == 1


def test_threads_may_share_a_store(path: Path) -> None:
    with Store(path) as store:

        def write(offset: int) -> None:
            for i in range(50):
                store.put([Result(make(str(offset + i)), {"m": i})])

        threads = [threading.Thread(target=write, args=(25 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 125


def test_a_store_does_not_cross_a_fork(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="open a Store in each"):
                len(store)
        assert len(store) == 0


WRITER = """
import sys
from saboc_jax.evaluation.store import Request, Result, Store
path, first, last, batch = sys.argv[1], *map(int, sys.argv[2:])
print("ready", flush=True)
sys.stdin.readline()
with Store(path) as store:
    for start in range(first, last, batch):
        wanted = [
            Request("s", str(i), "k", "{}", "d", "digest", "0", "{}", "{}")
            for i in range(start, start + batch)
        ]
        store.put([Result(each, {"m": int(each.architecture)}) for each in store.missing(wanted)])
        print(start, flush=True)
"""


def start_writer(path: Path, first: int, last: int, batch: int) -> subprocess.Popen:
    """A process that waits for a line, then stores rows and prints each batch it finished."""
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(last), str(batch)]
    writer = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def go(writer: subprocess.Popen) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


@pytest.mark.parametrize("batch", [1, 1000])
def test_a_killed_process_loses_no_finished_row(path: Path, batch: int) -> None:
    finished: set[int] = set()
    for wait, delay in ((1, 0.0), (3, 0.01), (2, 0.02), (2, 0.03), (8, 0.04)):
        with start_writer(path, 0, 10**9, batch) as writer:
            go(writer)
            assert writer.stdout is not None
            fresh = 0
            while fresh < wait:
                start = int(writer.stdout.readline())
                fresh += start not in finished
                finished.add(start)
            time.sleep(delay)  # to hit different parts of the next batch
            writer.send_signal(signal.SIGKILL)
            finished |= {int(line) for line in writer.stdout if line.endswith("\n")}
        assert writer.returncode == -signal.SIGKILL
        with Store(path) as store:
            stored = {int(row.architecture) for row in (each.request for each in store.select())}
            for each in store.select():
                assert each.metrics == {"m": int(each.request.architecture)}
        assert {start + i for start in finished for i in range(batch)} <= stored
        assert len(stored) % batch == 0  # a transaction is whole or absent
        assert len(stored) <= (len(finished) + 1) * batch  # at most the one it was writing


def test_several_processes_may_write_at_once(path: Path) -> None:
    # None of them has created the file; their ranges overlap.
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(start_writer(path, 40 * k, 40 * k + 80, 2)) for k in range(4)
        ]
        for writer in writers:
            go(writer)
        outputs = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert [len(output.split()) for output in outputs] == [40] * 4
    with Store(path) as store:
        columns = store.table()
    assert sorted(map(int, columns["architecture"])) == list(range(200))
    np.testing.assert_array_equal(columns["m"], columns["architecture"].astype(float))
