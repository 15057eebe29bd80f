"""The boundary for foreign files: every fault is one sentence that names the file and the place."""

import json
import random
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from saboc_jax.files import UNFINISHED, read_json, whole_file, write_json
from saboc_jax.forms import checked
from saboc_jax.reports import html as report_html
from saboc_jax.reports.records import read_records

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


class Form(TypedDict):
    number: float
    maybe: NotRequired[str | None]
    inner: dict[str, list[int]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"x.json: the content is \[\]; allowed: an object"),
        ({"inner": {}}, r"allowed: an object with 'number'"),
        ({"number": True, "inner": {}}, r"number is True; allowed: a number"),
        ({"number": 10**400, "inner": {}}, r"number is 1000.*\.\.\.; allowed: a number"),
        (
            {"number": 1, "inner": {"a": [1, 2.5]}},
            r"inner\.a\[1\] is 2\.5; allowed: a whole number",
        ),
        ({"number": 1, "inner": {"a": 1}}, r"inner\.a is 1; allowed: a list"),
        ({"number": 1, "inner": {}, "maybe": 3}, r"maybe is 3; allowed: a text or null"),
    ],
)
def test_a_fault_names_file_place_value_and_what_is_allowed(value, message):
    with pytest.raises(ValueError, match=message):
        checked(value, Form, "x.json")


def test_what_has_its_form_passes_unchanged():
    value = {"number": 1, "maybe": None, "inner": {"a": [1]}, "more": object()}
    assert checked(value, Form, "x.json") is value
    assert checked(value, Any, "x.json") is value


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 100_000, "1" * 5000])
def test_damaged_json_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_json(path)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / f".a.json.0123{UNFINISHED}").write_text("{")
    (tmp_path / f".b.json.0123{UNFINISHED}").write_text("{")
    write_json(path, {"a": 1})
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        f".b.json.0123{UNFINISHED}",
        "a.json",
    ]


def test_what_another_writes_is_left_alone_and_a_link_is_not_followed(tmp_path):
    path = tmp_path / "a.json"
    with whole_file(path) as unfinished:
        unfinished.write_text("{}")
        write_json(path, [])
        assert unfinished.exists() and read_json(path) == []
    assert read_json(path) == {} and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="No space"), whole_file(path):
        raise OSError(28, "No space left on device")
    assert read_json(path) == {} and len(list(tmp_path.iterdir())) == 1


def test_all_results_that_are_kept_have_their_form():
    folders = {path.parent for path in RESULTS.rglob("*.json")}
    read = [folder for folder in folders if _is_run(folder)]
    assert len(read) > 10


def _is_run(folder):
    try:
        read_records(folder)
    except ValueError as error:
        assert "holds no finished run" in str(error)
        return False
    return True


VALUES = (None, True, 3, -1.5, float("nan"), "x", "<b>", [], {}, [1], {"a": 1}, 10**400, "[red]")


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one part replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {name: each for name, each in value.items() if name != key}
        return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


@pytest.mark.parametrize("seed", range(3))
def test_records_of_any_form_are_a_page_or_a_sentence(tmp_path, seed):
    rng = random.Random(seed)
    records = [
        {
            "settings": {"space": "s", "trained_size": None},
            "text": "|a|",
            "cost": {"params": 10, "macs": 2e6, "depth": 3},
            "scores": {"one": {"mean": 1.5, "standard_error": None, "better": "lower"}},
            "evaluations": 3,
            "search_seconds": 1.5,
            "counts": {"scored": 3, "served": 0},
            "stopped": None,
            "accuracies": {"cifar10": {"accuracy": 93.5, "rank": 1}},
            "blocks": [{"a": 1}],
            "pareto_front": [{"params": 3}],
            "spectra": {"found": [[3.0, 1.0]], "others": {"b": [[2.0, 1.0]]}},
        },
        {
            "epochs": [
                {name: 1.0 for name in ("train_loss", "test_loss", "test_top1", "test_top5")}
                | {"epoch": n, "train_top1": 0.5, "seconds": 1.0}
                for n in (1, 2)
            ],
            "recipe": {"epochs": 2},
            "cost": {"params": 10, "macs": 2e6, "depth": 3},
        },
        {"rows": [{"score": "a", "tau": 0.5}], "tables": {"t": [{"a": 1}]}, "runs": [{"a": 1}]},
    ]
    candidates = {"architecture": ["|a|", "|b|"], "params": [1, 2], "macs": [1, 2], "one": [1, 2]}
    pages = 0
    for number in range(60):
        folder = tmp_path / str(number)
        write_json(folder / "result.json", changed(rng.choice(records), rng))
        write_json(
            folder / "candidates.json", changed(candidates, rng) if number % 2 else candidates
        )
        try:
            report_html.write(folder)
            report_html.compare([folder, folder])
            pages += 1
        except ValueError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
    assert 5 < pages < 60
    json.dumps(records)
