"""Store files that others wrote, or changed: nothing is written before they are recognised."""

import json
import random
import shutil
import sqlite3

import pytest

from saboc_jax.evaluation.records import IDENTITY, Request, Result
from saboc_jax.evaluation.store import Store

WANTED = Request(*[f"{name} 1" for name in IDENTITY])


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "a.sqlite"
    with Store(path) as opened:
        rows = [WANTED._replace(architecture=f"arch {n}") for n in range(3)]
        opened.put([Result(row, {"one": 1.0}, {"eigenvalues": [1.0]}, 0.5) for row in rows])
    return path


def test_a_file_of_another_program_is_not_written_to(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="SQLite file of another program"):
        Store(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["other.sqlite"]


@pytest.mark.parametrize("name", [":memory:", ""])
def test_a_store_that_keeps_nothing_is_refused(name):
    with pytest.raises(ValueError, match="keeps nothing; allowed: the path of a file"):
        Store(name)


def test_an_export_has_no_formulas(tmp_path, store):
    with Store(store) as opened:
        evil = WANTED._replace(architecture="=HYPERLINK(1)", dataset="-1+1")
        opened.put([Result(evil, {"@sum": -1.5})])
        opened.export(tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text()
    for cell in ("'=HYPERLINK(1)", "'-1+1", "'@sum", ",-1.5"):
        assert cell in text


CHANGED = ("metrics", "diagnostics", "seconds", "called", "space")
VALUES = (None, 3, -1.5, "x", b"\xff\x00", "[]", "{", '{"one": "a"}', '{"one": null}', "[" * 9000)


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_another_form_are_served_whole_or_named(tmp_path, store, seed):
    """Fuzz: one value of a row or of a setting is replaced, or bytes of the file are changed."""
    rng, bad = random.Random(seed), 0
    for number in range(15):
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(store, path)
        if number % 3:
            change_value(path, rng)
        else:
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
        try:
            with Store(path) as opened:
                for result in [*opened.select(), *filter(None, opened.get([WANTED]))]:
                    json.dumps([result.metrics, result.diagnostics])
                opened.export(tmp_path / "a.csv")
                opened.table()
        except (ValueError, sqlite3.Error) as error:
            bad += 1
            said = " ".join([str(error), *getattr(error, "__notes__", [])])
            assert str(path) in said and "\n" not in said
    assert bad > 1


def change_value(path, rng):
    with sqlite3.connect(path) as connection:
        table = rng.choice(["results"] * 4 + ["settings"])
        connection.execute("PRAGMA ignore_check_constraints = 1")
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column = rng.choice([name for name in columns if name in CHANGED])
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?", (rng.choice(VALUES),))
        except sqlite3.IntegrityError:  # SQLite itself refuses it
            connection.execute(f"DELETE FROM {table}")
    connection.close()
