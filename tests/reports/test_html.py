"""Reports as HTML: what they show of a run, that they need no network, and their charts."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from saboc_jax.reports import charts
from saboc_jax.reports import html as report_html
from saboc_jax.reports.cell_figure import draw_cell
from saboc_jax.reports.page import page as whole_page
from saboc_jax.reports.page import table as page_table

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
VOID = {"meta", "img", "input", "path", "circle", "polyline", "br"}


class Checker(HTMLParser):
    """Collects attributes and text; every element must be closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.rows, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "td":
            self.rows[-1].append(data)


def parsed(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def make_run(folder, seed=0, text="|a<b>|"):
    folder.mkdir()
    record = {
        "settings": {"space": "toy", "scorer": "two", "searcher": "random", "seed": seed},
        "command": f"python -m experiments.search --seed={seed}",
        "versions": {"jax": "1"},
        "device": "cpu",
        "text": text,
        "scores": {
            "one": {"mean": 1.5 + seed, "standard_error": float("nan"), "better": "lower"},
            "other": {"mean": -2.0, "standard_error": 0.25, "better": "lower"},
        },
        "cost": {"params": 1234, "macs": 5_000_000, "depth": 7},
        "spectra": {
            "found": [[100.0, 1.0, 10.0, -1e-9], [90.0, 2.0, 9.0, 1.0]],
            "others": {"plain": [[50.0, 40.0, 30.0, 20.0]]},
        },
        "accuracies": {"missing": "no table here"},
        "evaluations": 3,
        "counts": {"scored": 3, "served": 0},
        "search_seconds": 1.25,
        "pareto_front": [{"text": "x", "macs": 5}],
    }
    (folder / "result.json").write_text(json.dumps(record))
    draw_cell([(0, 1, "skip")], title="t" * 80).savefig(folder / "cell.png")
    columns = {
        "architecture": [text, "plain", "supernet:11/10"],
        "params": [1234, 99, float("nan")],
        "macs": [5_000_000, 7, float("nan")],
        "one": [1.5, 2.5, 3.5],
        "other": [-1.0, -2.0, -3.0],
    }
    (folder / "candidates.json").write_text(json.dumps(columns))
    return folder


def test_a_run_is_all_there_and_needs_no_network(tmp_path):
    path = report_html.write(make_run(tmp_path / "run"))
    page = path.read_text()
    found = parsed(page)
    text = "".join(found.text)
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert len(found.links) == 1
    assert "http" not in page
    for shown in ("|a<b>|", "no table here", "--seed=0", "1,234 parameters", "1.2 s"):
        assert shown in text
    assert "<b>" not in page  # escaped
    assert ["one", "1.5", "–", "lower"] in found.rows
    assert ["plain", "99", "7", "2.5", "-2"] in found.rows
    assert not any(row[:1] == ["supernet:11/10"] for row in found.rows)
    assert page.count("<circle") == 3
    assert page.count('r="7"') == 1
    assert "1 not positive" in text


def test_what_pruning_found_is_marked_though_the_search_scored_supernets_alone(tmp_path):
    folder = make_run(tmp_path / "run")
    columns = json.loads((folder / "candidates.json").read_text())
    columns["architecture"] = ["supernet:01/11", "supernet:11/01", "supernet:11/10"]
    (folder / "candidates.json").write_text(json.dumps(columns))
    page = report_html.build(folder)
    assert page.count("<circle") == 4
    assert page.count('r="7"') == 1


def test_runs_are_compared_by_what_differs(tmp_path):
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=4)]
    rows = parsed(report_html.compare(folders)).rows
    assert ["a", "1.5", "-2", "|a<b>|"] in rows
    assert ["b", "5.5", "-2", "|a<b>|"] in rows
    assert ["a", "0"] in rows
    assert ["b", "4"] in rows


def test_a_single_metric_is_plotted_against_costs(tmp_path):
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "result.json").read_text())
    del record["scores"]["other"]
    record["blocks"] = [{"block": "stem", "channels": 8}, {"block": "K3K3", "channels": 16}]
    (folder / "result.json").write_text(json.dumps(record))
    found = parsed(page := report_html.build(folder))
    assert 'aria-label="one against params"' in page
    assert 'aria-label="one against macs"' in page
    assert ["K3K3", "16"] in found.rows


def make_training(folder, top1=(0.1, 0.5, 0.4)):
    folder.mkdir()
    epochs = [
        {"epoch": i + 1, "train_loss": 2.0 / (i + 1), "train_top1": v, "test_loss": 2.5 / (i + 1)}
        | {"test_top1": v, "test_top5": 0.9, "seconds": 2.0}
        for i, v in enumerate(top1)
    ]
    record = {
        "command": "python -m experiments.train --recipe=tiny",
        "text": "|a~0|",
        "cost": {"params": 1234, "macs": 5_000_000, "depth": 7},
        "recipe": {"epochs": 3, "learning_rate": 0.25},
        "epochs": epochs,
    }
    (folder / "result.json").write_text(json.dumps(record))
    settings = {"space": "toy", "dataset": "digits", "recipe": "tiny", "seed": top1[-1]}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_a_training_shows_curves_epochs_recipe_and_command(tmp_path):
    page = report_html.build(make_training(tmp_path / "run"))
    found = parsed(page)
    text = "".join(found.text)
    assert page.count("<polyline") == 4  # train and test, loss and accuracy
    assert ["2", "1", "0.5", "1.25", "0.5", "0.9", "2"] in found.rows
    assert ["learning_rate", "0.25"] in found.rows
    assert "50.00%, in epoch 2" in text
    assert "python -m experiments.train --recipe=tiny" in text
    assert "Training: toy on digits (run)" in text
    assert ["recipe", "tiny"] in found.rows  # of settings.json


def test_trainings_are_compared_by_their_curves(tmp_path):
    folders = [make_training(tmp_path / "a"), make_training(tmp_path / "b", (0.2, 0.3))]
    page = report_html.compare(folders)
    assert 'aria-label="test top-1 accuracy over epoch"' in page
    rows = parsed(page).rows
    assert ["a", "0.4", "0.5", "0.9", "0.8333", "0.6667", "3"] in rows
    assert ["a", "0.4"] in rows
    # One folder with two records that are no studies is a comparison as well.
    for folder in folders:
        (tmp_path / f"{folder.name}.json").write_text((folder / "result.json").read_text())
    assert "2 runs" in report_html.build(tmp_path)


def test_tables_and_runs_of_a_study_are_shown(tmp_path):
    tables = {
        "Table 3": [{"score": "zen", "cifar10": "93.30 ± 0.28"}],
        "Better by": [{"than": "x"}],
    }
    record = {"caption": "C=4", "tables": tables, "runs": [{"seed": 0}], "settings": {"space": "s"}}
    (tmp_path / "table3.json").write_text(json.dumps(record))
    (tmp_path / "more.json").write_text(json.dumps({"rows": [{"variant": "base"}]}))
    page = report_html.build(tmp_path)
    found = parsed(page)
    assert ["zen", "93.30 ± 0.28"] in found.rows and ["x"] in found.rows and ["0"] in found.rows
    assert ["base"] in found.rows
    assert 'data-v="93.30"' in page
    assert "C=4" in "".join(found.text)


def test_the_kept_tables_have_a_page():
    page = report_html.build(RESULTS / "table3")
    assert "Pruning is better than random search by" in page
    assert parsed(page).rows


def test_a_study_shows_its_rows_and_pictures(tmp_path):
    rows = [{"score": "S_t", "tau": 0.5}, {"score": "S_e", "tau": float("nan")}]
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "correlations.json").write_text(json.dumps({"settings": {}, "rows": rows}))
    draw_cell([(0, 1, "skip")]).savefig(tmp_path / "scatter-digits.png")
    found = parsed(report_html.build(tmp_path))
    assert ["S_t", "0.5"] in found.rows
    assert len(found.links) == 1


@pytest.mark.parametrize(("content", "said"), [(None, "no finished run"), ("{", "damaged")])
def test_what_is_no_run_is_named(tmp_path, content, said):
    if content:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        report_html.build(tmp_path)


def test_a_correlation_report_begins_with_a_picture_and_shows_what_matters(tmp_path):
    rows = [
        {"scored on": "digits", "accuracy": "test", "score": name, "better": "lower", "tau": tau}
        | {"low": tau - 0.1, "high": tau + 0.1, "rho": tau, "regret@1%": 0.2}
        for name, tau in (("S_t", -0.3), ("S_g", -0.7), ("flat", float("nan")))
    ]
    curve = [
        {"score": "S_g", "m": m, "expected": 90 + m / 100, "low": 89.0, "high": 92.0}
        for m in (8, 16, 32)
    ]
    (tmp_path / "correlations.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "winners.json").write_text(json.dumps({"rows": curve}))
    page = report_html.build(tmp_path)
    assert page.index("<svg") < page.index("<table")
    names = re.findall(r">(S_\w|flat)</text>", page)
    assert names == ["S_g", "S_t"]  # the largest magnitude above
    assert page.count("<polyline") == 1  # the winner's curve
    assert re.findall(r'<th(?: class="n")?><button type="button">([^<]+)', page)[:4] == [
        "score", "tau", "low", "high"
    ]  # fmt: skip
    assert '<th class="n more"><button type="button">rho' in page and "all 9 columns" in page
    parsed(page)


def test_narrow_pages_show_the_first_columns_and_dark_ones_have_their_colours():
    rows = [{f"c{i}": i for i in range(6)}]
    assert page_table(rows).count('<td class="n more"') == 2
    assert "checkbox" not in page_table([{"a": 1, "b": 2}])
    style = whole_page("t", [])
    assert "prefers-color-scheme:dark" in style
    for colour in set(re.findall(r"var\(--(\w+)\)", style + charts.spectrum([1.0, 2.0]))):
        assert style.count(f"--{colour}:#") == 2, colour


@pytest.mark.parametrize(("low", "high"), [(0.9, 2.1), (-0.2, 3.4), (10, 1000)])
def test_ticks_of_whole_numbers_are_whole(low, high):
    found = charts.ticks(low, high, whole=True)
    assert found and all(value == int(value) for value in found)


def test_runs_that_are_not_alike_are_not_judged(tmp_path):
    folders = [make_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    truth = {"cifar10": {"accuracy": 93.0, "rank": 3, "of": 10}}
    for number, folder in enumerate(folders):
        record = json.loads((folder / "result.json").read_text())
        record["accuracies"] = {
            name: own | {"accuracy": 93.0 + number} for name, own in truth.items()
        }
        record["trajectory"] = [{"evaluations": n, "found": 90.0 + n} for n in (1, 2)]
        (folder / "result.json").write_text(json.dumps(record))
    page = report_html.compare(folders)
    said = "True accuracy on cifar10: b is the best with 94.00 %, 1.00 points above a"
    assert said in page and "Not alike" not in page
    assert 'aria-label="true accuracy %, of what would be returned over evaluations"' in page
    record["settings"]["space"] = "other"
    (folders[1] / "result.json").write_text(json.dumps(record))
    page = report_html.compare(folders)
    assert "Space differs (toy in a, other in b)." in page and "is the best" not in page
    unknown = [make_run(tmp_path / name, seed) for seed, name in enumerate("cd")]
    assert "No verdict: the true accuracies are not known" in report_html.compare(unknown)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12.2), (1e-9, 3e-9), (99.9, 100.1)])
def test_ticks_are_round_and_inside(low, high):
    found = np.array(charts.ticks(low, high))
    assert 2 <= len(found) <= 11
    assert (found >= low - 1e-9 * (high - low)).all()
    assert (found <= high + 1e-9 * (high - low)).all()
    step = np.diff(found)
    np.testing.assert_allclose(step, step[0], rtol=1e-6)
    leading = step[0] / 10 ** np.floor(np.log10(step[0] * 1.0000001))
    assert min(abs(leading - digit) for digit in (1, 2, 5)) < 1e-4


def test_scatter_places_points_in_proportion_and_counts_the_rest():
    x, y = np.array([0.0, 1.0, 4.0, np.nan]), np.array([0.0, 2.0, 8.0, 1.0])
    picture = charts.scatter(x, y, ("a & b", "c"))
    points = np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture), float)
    assert len(points) == 3
    right, down = np.diff(points, axis=0).T
    assert right[1] / right[0] == pytest.approx(3, abs=0.02)
    assert down[1] / down[0] == pytest.approx(3, abs=0.02)
    assert (down < 0).all()  # larger is higher
    assert "1 not finite" in picture
    assert "a &amp; b" in picture
    assert "No finite" in charts.scatter(x[3:], y[3:], ("a", "b"))
    assert charts.scatter(x[:1], y[:1], ("a", "b")).count("<circle") == 1


def test_spectrum_is_logarithmic_and_sorted():
    picture = charts.spectrum([1.0, 1000.0, 10.0, 100.0])
    points = re.search(r'points="([^"]+)"', picture)[1].split()
    heights = np.array([float(point.split(",")[1]) for point in points])
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=0.11)
    assert np.diff(heights)[0] > 0
    assert "No positive" in charts.spectrum([-1.0])
    several = charts.spectrum([[4.0, 2.0], [3.0, 1.0]], [[[9.0, 1.0]], [[-1.0, -2.0]]])
    assert several.count('stroke="var(--blue)"') == 2  # repeats
    assert several.count("<polyline") == 3


def test_curves_leave_out_what_is_not_finite_and_name_themselves():
    picture = charts.lines({"a<b": ([1, 2, 3], [1.0, np.nan, 3.0]), "c": ([1], [2.0])}, ("x", "y"))
    (one, other) = re.findall(r'points="([^"]+)"', picture)
    assert (len(one.split()), len(other.split())) == (2, 1)
    assert "a&lt;b" in picture
    assert "No finite y" in charts.lines({"a": ([1], [np.nan])}, ("x", "y"))


class Structure(HTMLParser):
    """The elements of a page and the names of their attributes, without any text."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, tuple(name for name, _ in attributes)))


EVIL = "\"'><img src=x onerror=alert(1)><b>&lt;"


def evil(value):
    """The record with every text that a form allows, and every name of an entry shown, replaced."""
    if isinstance(value, dict):
        return {name: evil(each) for name, each in value.items()}
    if isinstance(value, list):
        return [evil(each) for each in value]
    return EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("make", [make_run, make_training])
def test_no_element_and_no_attribute_comes_from_data(tmp_path, make):
    """Case: `evaluations`, `counts`, `cost.depth` of another's result.json were put in as HTML."""
    pages = []
    for name, change in (("plain", lambda value: value), ("evil", evil)):
        folder = make(tmp_path / name)
        for path in folder.glob("*.json"):
            record = change(json.loads(path.read_text()))
            more = {"rows": [{EVIL: EVIL}], "command": EVIL, "text": EVIL, "stopped": EVIL}
            more |= {"accuracies": {EVIL: {EVIL: 1.0}}, "recipe": {EVIL: EVIL}}
            if name == "plain":
                more = {"rows": [{"a": "b" * 40}], "command": "c", "text": "t", "stopped": "s"}
                more |= {"accuracies": {"k": {"v": 1.0}}, "recipe": {"r": "r" * 40}}
            path.write_text(json.dumps(record | more if path.stem == "result" else record))
        page = report_html.compare([folder, folder])
        structure = Structure()
        structure.feed(page)
        pages.append(structure.found)
        assert "onerror=alert(1)><" not in page
    names = [{attribute for _, own in page for attribute in own} for page in pages]
    assert names[1] <= names[0] | {"class"}
    tags = [{tag for tag, _ in page} for page in pages]
    assert tags[1] <= tags[0] | {"p"} and "b" not in tags[1]
    images = [[own for own in page if own[0] == "img"] for page in pages]
    assert images[0] == images[1]


@pytest.mark.parametrize("place", ["evaluations", "search_seconds", "cost", "counts"])
def test_text_where_a_number_belongs_is_refused(tmp_path, place):
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "result.json").read_text())
    inner = {"cost": "depth", "counts": "scored"}.get(place)
    record[place] = record[place] | {inner: EVIL} if inner else EVIL
    (folder / "result.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"result\.json: {place}.* is .*; allowed: a .*number"):
        report_html.build(folder)
