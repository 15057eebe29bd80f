"""The search tables: the paper's numbers as it sums them up, and the binaries at small size."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments.paper.published import METHODS_3, TABLE_3, TABLE_4, TABLE_5, TABLE_6
from saboc_jax.scorers import SCORERS
from saboc_jax.spaces.darts import costs as darts_costs
from saboc_jax.spaces.darts.codec import read_genotype
from saboc_jax.spaces.resnet import encoding


def gain(names):
    ours = np.array(TABLE_3["ntk_score"][:3])
    return ours - np.mean([TABLE_3[name][:3] for name in names], axis=0)


def test_published_rows_have_the_averages_that_the_text_states():
    assert len(TABLE_3) == 15
    kernels = ["knas", "lga", "te_nas", "teg_nas"]
    others = set(TABLE_3) - {*kernels, "ntk_score", "ete_nas"}
    np.testing.assert_allclose(gain(others), [0.94, 1.79, 3.27], atol=0.006)
    np.testing.assert_allclose(gain(kernels), [0.46, 0.80, 1.11], atol=0.006)
    gaps, seconds, to_az = [], [], []
    for search in ("reinforce", "evolution"):
        ours, teg, az = (TABLE_6[search, name] for name in ("ntk_score", "teg_nas", "az_nas"))
        gaps.append(np.subtract(ours[:3], teg[:3]))
        to_az.append(np.subtract(ours[:3], az[:3]))
        seconds.append(1 - ours.seconds / teg.seconds)
    assert np.mean(gaps) == pytest.approx(0.36, abs=0.005)
    assert np.max(to_az) == pytest.approx(4.14)
    assert np.mean(seconds) == pytest.approx(0.148, abs=0.0005)


def run(name, folder, *arguments):
    if not os.environ.get("SABOC_DATA_DIR"):
        pytest.skip("SABOC_DATA_DIR is unset: no accuracies to look up")
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu", COLUMNS="200")
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.paper.{name}", "--quick", "--out=o",
         "--store=s.sqlite", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "o" / f"{name}.json").read_text())


def test_table3_searches_by_the_papers_scores_and_naswot():
    assert set(TABLE_3) < set(METHODS_3) < set(SCORERS) and len(METHODS_3) == 16
    code = "from experiments.paper import table3; print(*table3.METHODS.default, sep=',')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ",".join(METHODS_3)


def difference_by_hand(runs, one, other):
    values = [
        {run["seed"]: run["cifar100"] for run in runs if (run["searcher"], run["scorer"]) == key}
        for key in (one, other)
    ]
    return np.mean([values[0][seed] - values[1][seed] for seed in values[0]])


def test_table3_has_controls_and_is_served_from_the_store_the_second_time(tmp_path):
    said, first = run("table3", tmp_path, "--methods=synflow,ntk_score")
    _, again = run("table3", tmp_path, "--methods=synflow,ntk_score")
    for one, other in zip(first["runs"], again["runs"], strict=True):
        assert one["architecture"] == other["architecture"]
        assert one["seconds"] == pytest.approx(other["seconds"])
    assert {run["evaluations"] for run in first["runs"]} == {57}
    assert len(first["runs"]) == 2 * 2 * 2
    for run_ in first["runs"]:
        assert run_["searcher"] != "random" or "none" not in run_["architecture"]
    rows = first["tables"]["Table 3"]
    ours = next(row for row in rows if row.get("score") == "ntk_score")
    assert ours["cifar100 paper"] == 71.06
    mean = np.mean(
        [
            r["cifar100"]
            for r in first["runs"]
            if (r["searcher"], r["scorer"]) == ("pruning", "ntk_score")
        ]
    )
    assert float(ours["cifar100"].split(" ± ")[0]) == pytest.approx(mean, abs=0.006)
    gaps = first["tables"]["Pruning is better than random search by"]
    for row, scorer in zip(gaps, ("synflow", "ntk_score"), strict=True):
        expected = difference_by_hand(first["runs"], ("pruning", scorer), ("random", scorer))
        assert float(row["cifar100"].split()[0]) == pytest.approx(expected, abs=0.006)
    assert "Table 3" in said
    assert "| 71.06 |" in (tmp_path / "o" / "table3.md").read_text()


def test_table6_compares_each_search_with_random_search_of_its_length(tmp_path):
    _, found = run("table6", tmp_path, "--methods=synflow", "--seeds=3")
    counts = {run["searcher"]: run["evaluations"] for run in found["runs"]}
    assert counts == {"reinforce": 12, "random 12": 12, "evolution": 16, "random 16": 16}
    (row,) = found["tables"]["evolution is better than random 16 by"]
    key = ("evolution", "synflow")
    expected = difference_by_hand(found["runs"], key, ("random 16", "synflow"))
    assert float(row["cifar100"].split()[0]) == pytest.approx(expected, abs=0.006)
    assert (tmp_path / "o" / "table6.csv").read_text().count("\n") == 1 + 3 * 4


def test_published_rows_of_darts_have_the_averages_that_the_text_states():
    ours = np.array(TABLE_4["ntk_score"][:2])
    kernels = np.mean([TABLE_4[name][:2] for name in ("knas", "lga", "te_nas", "teg_nas")], 0)
    np.testing.assert_allclose(ours - kernels, [0.51, 1.28], atol=0.006)
    assert ours[1] - TABLE_4["ete_nas"][1] == pytest.approx(1.74)


def test_table4_finds_genotypes_that_can_be_trained(tmp_path):
    said, found = run("table4", tmp_path, "--methods=random")
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert found["runs"][0]["architecture"] != found["runs"][1]["architecture"]
    for run_ in found["runs"]:
        # 28 edges with seven operations, then with four; then 24 inputs of the nodes.
        assert run_["evaluations"] == (1 + 28 * 7) + (1 + 28 * 4) + (1 + 2 * (3 + 4 + 5))
        genotype = read_genotype(run_["architecture"])
        assert "none" not in {name for cell in genotype.cells() for name, _ in cell}
        assert run_["params"] == darts_costs.cost(genotype).params
        words = shlex.split(run_["train"])
        assert words[:2] == ["saboc", "train"]
        assert words[-1] == f"--architecture={run_['architecture']}"
        assert run_["surrogate"] is None
    (row,) = found["tables"]["Table 4"]
    assert row["in the surrogate's table"] == "0 of 2"
    assert "table of 725 genotypes" in said.replace("\n", " ")


def test_table5_finds_networks_that_can_be_trained(tmp_path):
    sizes = ("--iterations=1", "--batch_size=4")
    said, found = run("table5", tmp_path, "--methods=te_nas,random", *sizes)
    te_nas, chance, *published = found["rows"]
    assert te_nas["metrics"] == "kappa" and chance["metrics"] == "random"
    assert te_nas["paper C100 top-1"] == 76.44 and "paper hours" not in chance
    assert {row["method"] for row in published} == set(TABLE_5) - {"te_nas"}
    assert te_nas["structure"] == encoding.START
    assert te_nas["scored"] == 1
    assert (
        te_nas["params"]
        == encoding.zen_size(encoding.from_text(encoding.START), (8, 8, 3), 10).params
    )
    assert shlex.split(te_nas["train"]) == [
        *("saboc", "train", "--space=resnet", "--recipe=resnet"),
        *("--dataset=cifar10", "--workdir=runs/resnet-te_nas-0-cifar10"),
        f"--architecture={encoding.START}",
    ]
    assert te_nas["train"] in said


def test_searcher_overhead_measures_every_searcher(tmp_path):
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu")
    command = ["experiments.searcher_overhead", "--population=8", "--evaluations=40", "--out=o"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o").read_text())["rows"]
    counts = {row["searcher"]: row["evaluations"] for row in rows}
    assert counts.pop("pruning") == 88
    assert set(counts.values()) == {40}
    assert all(row["ms per evaluation"] > 0 for row in rows)
