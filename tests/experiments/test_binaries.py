"""The binaries as a user runs them: results, repeatability, and errors a person can act on."""

import csv
import html
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from saboc_jax.benchmarks.tables import load_nas_bench_201
from saboc_jax.evaluation.store import Store
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts.cells import make_genotype
from saboc_jax.spaces.darts.codec import write_genotype
from saboc_jax.spaces.darts.trained import trained
from saboc_jax.spaces.nas_bench_201 import cells

UNREPEATED = ["--dataset=digits", "--channels=2", "--batch_size=6"]
TINY = [*UNREPEATED, "--repeats=1"]


def run(*arguments, cwd, **variables):
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), JAX_PLATFORMS="cpu", COLUMNS="120")
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, run("experiments.search", *TINY, "--workdir=w", cwd=folder)


def test_search_says_what_it_found(searched):
    folder, done = searched
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "w" / "result.json").read_text())
    assert result["text"] in done.stdout
    assert result["counts"]["compilations"] == 1
    assert result["evaluations"] == 57
    assert result["settings"]["dataset"] == "digits"
    assert set(result["scores"]) == {"S_t", "S_e", "S_g"}
    assert "jax" in result["versions"]
    assert (folder / "w" / "trajectory.png").stat().st_size > 5_000
    assert len(result["spectra"]["found"]) == 1 and len(result["spectra"]["others"]) == 8
    assert (folder / "w" / "cell.png").stat().st_size > 10_000
    assert "digits" in done.stdout
    page = (folder / "w" / "report.html").read_text()
    assert result["text"] in page
    assert "saboc search --dataset=digits" in page


def test_same_flags_give_the_same_bits_from_the_store(searched):
    folder, _ = searched
    before = json.loads((folder / "w" / "result.json").read_text())
    again = run("experiments.search", *TINY, "--workdir=w", cwd=folder)
    assert again.returncode == 0, again.stderr
    after = json.loads((folder / "w" / "result.json").read_text())
    assert after["scores"] == before["scores"]
    assert after["text"] == before["text"]
    assert after["counts"]["scored"] == 0


def test_a_workdir_of_another_run_is_refused(searched):
    folder, _ = searched
    before = (folder / "w" / "result.json").read_bytes()
    done = run("experiments.search", *TINY, "--seed=5", "--workdir=w", cwd=folder)
    assert done.returncode == 1
    assert "seed: 0 there, 5 now" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "w" / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset=imagenet"], "cifar100"),
        (["--scorer=best"], "ntk_score"),
        (["--dataset=digits", "--batch_size=5000"], "5000"),
        (["--dataset=digits", "--batch_norm=batch", "--ntk_engine=one_backward"], "frozen"),
        (["--dataset=digits", "stray"], "stray"),
        (["--dataset=digits", "--scorer=params:of=3"], "no option 'of'; allowed: none"),
        (["--dataset=digits", "--population=4"], "of evolution, aging_evolution"),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, said, tmp_path):
    done = run("experiments.search", *arguments, "--workdir=w", cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def golden():
    folder = os.environ.get("SABOC_GOLDEN_DIR")
    if not folder:
        pytest.skip("SABOC_GOLDEN_DIR is unset: no golden values to compare with")
    return os.path.join(folder, "nas_bench_201_c4n1.npz")


def test_parity_passes_and_fails(tmp_path):
    flags = {"cwd": tmp_path, "XLA_FLAGS": ""}  # n backward passes want LLVM's optimisation
    with np.load(golden()) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    # Each network is compiled by itself, so two stand for all; the tests of scorers take all.
    kept = {index: meta["nets"][index] for index in sorted(meta["nets"])[:2]}
    few = {**arrays, "meta": np.array(json.dumps({**meta, "nets": kept}))}
    np.savez(tmp_path / "few.npz", **few)
    good = run("experiments.parity", "--golden=few.npz", **flags)
    assert good.returncode == 0, good.stdout + good.stderr
    meta["nets"] = {"0": {"arch": meta["nets"]["0"]["arch"], "unheard_of": 1.0}}
    arrays = {name: value for name, value in arrays.items() if not name.startswith("0/ntk")}
    arrays["meta"] = np.array(json.dumps(meta))
    arrays["0/logits"] = arrays["0/logits"] * (1 + 1e-5)
    np.savez(tmp_path / "other.npz", **arrays)
    other = run("experiments.parity", "--golden=other.npz", **flags)
    assert other.returncode == 1
    assert "Not known here: unheard_of" in other.stdout
    assert "2 beyond 1e-06" in other.stdout  # the logits of both programs
    (tmp_path / "short.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:1000])
    short = run("experiments.parity", "--golden=short.npz", **flags)
    assert short.returncode == 1
    assert "short.npz is damaged" in short.stderr


def test_score_resumes_and_exports(tmp_path):
    flags = [*TINY, "--num_archs=4", "--store=s.sqlite"]
    first = run("experiments.score", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    more = [*TINY, "--num_archs=5", "--store=s.sqlite", "--export=s.csv", "--out=o"]
    second = run("experiments.score", *more, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "4 from the store" in second.stdout
    assert "passes of n=6 images per score: ntk_score 3 + 3" in second.stdout
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert len(lines) == 6
    assert "S_t" in lines[0]
    rows = json.loads((tmp_path / "o" / "scores.json").read_text())["rows"]
    metrics = np.array([[row[m] for m in ("S_t", "S_e", "S_g")] for row in rows], float)
    metrics[~np.isfinite(metrics).all(1)] = np.inf  # No kernel: last by every metric.
    sums = scipy.stats.rankdata(metrics, axis=0).sum(1)
    assert [row["borda"] for row in rows] == sorted(sums.tolist()) == sums.tolist()
    page = (tmp_path / "o" / "report.html").read_text()
    assert html.escape(rows[0]["architecture"]) in page
    assert "Best 5 of 5" in second.stdout


def test_correlate_agrees_with_scipy(tmp_path):
    if not os.environ.get("SABOC_DATA_DIR"):
        pytest.skip("SABOC_DATA_DIR is unset: no accuracies to correlate with")
    flags = [*TINY, "--num_archs=12", "--store=s.sqlite", "--out=o", "--trained_on=cifar100"]
    more = ["--resamples=20", "--top_k=0.1,0.5"]
    done = run("experiments.correlate", *flags, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "o" / "correlations.json").read_text())
    assert record["command"].startswith("saboc correlate --dataset=digits")
    assert {"saboc_jax", "jax"} <= set(record["versions"])
    rows = record["rows"]
    assert all(row["regret@10%"] >= row["regret@50%"] >= 0 for row in rows)
    assert [row["score"] for row in rows][:3] == ["S_t", "S_e", "S_g"]
    assert len(rows) == 8  # three metrics, three pairs, two aggregations of all
    with Store(tmp_path / "s.sqlite") as store:
        table = store.table()
    truth = load_nas_bench_201().accuracy("cifar100", list(table["architecture"]))
    finite = np.isfinite(table["S_g"])
    values = np.where(finite, table["S_g"], np.inf)
    expected = scipy.stats.kendalltau(scipy.stats.rankdata(values), truth).statistic
    assert abs(rows[2]["tau"] - expected) < 1e-12
    assert all(row["low"] <= row["tau"] <= row["high"] or row["bad"] for row in rows)
    won = json.loads((tmp_path / "o" / "winners.json").read_text())["rows"]
    points = [row for row in won if row["score"] == "S_g"]
    assert [row["m"] for row in points] == [8, 12] and "S_g" in (
        tmp_path / "o/report.html"
    ).read_text()
    assert points[-1]["expected"] == pytest.approx(truth[values.argmin()]) or not finite.all()
    assert (tmp_path / "o" / "winners-digits.png").stat().st_size > 500
    with (tmp_path / "o" / "scores-digits.csv").open() as file:
        kept = list(csv.DictReader(file))
    again = [np.nan_to_num(float(row["S_g (repeat 1)"]), nan=np.inf) for row in kept]
    accuracies = [float(row["accuracy"]) for row in kept]
    assert scipy.stats.kendalltau(again, accuracies).statistic == pytest.approx(expected)


def test_correlate_within_the_groups_of_a_table(tmp_path):
    texts = [cells.to_string(arch) for arch in cells.all_architectures()[700::1500]]
    rows = [f"{text},{how},{50 + n}" for how in "ab" for n, text in enumerate(texts)]
    (tmp_path / "t.csv").write_text("\n".join(["arch,recipe,test", *rows, f"{texts[0]},c,7"]))
    flags = [*TINY, "--table=t.csv", "--archs=all", "--scorers=params", "--out=o"]
    done = run("experiments.correlate", *flags, "--within=recipe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row, *_) = json.loads((tmp_path / "o" / "correlations.json").read_text())["rows"]
    params = [
        make_space("nas_bench_201", channels=2).cost(cells.from_string(t)).params for t in texts
    ]
    tau = scipy.stats.kendalltau(params, range(len(texts))).statistic
    assert row["groups"] == 2 and row["tau within recipe"] == pytest.approx(tau)
    wrong = run("experiments.correlate", *flags, "--within=test", cwd=tmp_path)
    assert wrong.returncode == 1 and "allowed: recipe" in wrong.stderr


def test_the_papers_tables_and_figures_share_one_store(tmp_path):
    if not os.environ.get("SABOC_DATA_DIR"):
        pytest.skip("SABOC_DATA_DIR is unset: no accuracies to correlate with")
    flags = ["--quick", "--channels=2", "--num_archs=10", "--store=s.sqlite", "--out=o"]
    for name, result in {"table1": "table1.md", "figure2": "figure2.png"}.items():
        done = run(f"experiments.paper.{name}", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "o" / result).stat().st_size > 500
    assert "0 scores computed" in done.stdout
    figure2 = json.loads((tmp_path / "o" / "figure2.json").read_text())
    assert "saboc paper.figure2 --quick" in figure2["command"]
    assert "saboc_jax" in figure2["versions"] and figure2["settings"]["num_archs"] == 10
    assert np.isnan([row["paper"] for row in figure2["rows"]]).all()  # its images are others
    assert f"{figure2['rows'][0]['tau']:.4f}" in done.stdout
    rows = json.loads((tmp_path / "o" / "table1.json").read_text())["rows"]
    assert len(rows) == 8 and all(row["tau"] == -row["signed tau"] for row in rows)
    more = [*flags, "--scorers=ntk_score,params"]
    done = run("experiments.paper.figure1", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o" / "figure1.json").read_text())["rows"]
    assert {"params", "ntk_score.S_t", "ntk_score borda"} <= {row["score"] for row in rows}
    assert {row["trained"] for row in rows} == {"final training accuracy"}


def test_benchmark_measures_compile_and_run_apart(tmp_path):
    done = run(
        "experiments.benchmark", *UNREPEATED, "--num_archs=2", "--rounds=1", "--out=b.json",
        "--nomemory", "--contestants=one_backward,matmul,train_step_module", "--few_cells=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "b.json").read_text())
    ours, step = record["results"]["one_backward"], record["results"]["train_step_module"]
    assert ours["compile s"] > ours["run s"] > 0 and ours["wall ratio"] == 1
    assert (ours["cells"], ours["programs"], step["cells"], step["programs"]) == (2, 1, 1, 1)
    assert step["cpu ratio q1"] <= step["cpu ratio"] <= step["cpu ratio q3"]
    assert record["roofline"]["share"] > 0
    assert set(record["supernet"]) == {"one_backward"}
    assert record["machine"]["threads"] >= 1
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_budgets_of_darts_may_be_those_of_the_trained_network(tmp_path):
    flags = ["--space=darts", "--dataset=digits", "--channels=1", "--batch_size=4", "--repeats=1",
             "--searcher=random", "--scorer=params", "--max_evaluations=12"]  # fmt: skip
    size = ["--trained_size=12,5", "--max_params=90000", "--workdir=w"]
    done = run("experiments.search", *flags, *size, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    space = trained(make_space("darts", num_classes=10, image_shape=(32, 32, 3)), 12, 5)
    cost = space.cost(space.from_string(result["text"]))
    assert result["cost"] == cost._asdict()
    assert result["scores"]["params"]["mean"] == cost.params
    assert 0 < result["rejected"] < 12 and cost.params <= 90_000
    assert "Trained network: " in done.stdout
    assert "Trained network: " in (tmp_path / "w" / "report.html").read_text()
    bad = run("experiments.search", "--space=resnet", *size, cwd=tmp_path)
    assert bad.returncode == 1 and "allowed: channels and cells" in " ".join(bad.stderr.split())


def test_search_between_objectives_within_a_budget(tmp_path):
    flags = [*TINY, "--searcher=random", "--scorer=params", "--max_evaluations=40", "--workdir=w"]
    done = run("experiments.search", *flags, "--against=macs", "--max_depth=12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert result["rejected"] > 0
    assert f"{result['rejected']} candidates over budget" in done.stdout
    front = result["pareto_front"]
    assert [row["macs"] for row in front] == sorted(row["macs"] for row in front)
    assert [row["params"] for row in front] == sorted(row["params"] for row in front)
    assert (tmp_path / "w" / "front.png").stat().st_size > 5000
    assert re.search(r"evaluations: .*rank 1 of \d+ \(params [\d.e+]+\) would be", done.stdout)
    page = (tmp_path / "w" / "report.html").read_text()
    assert 'aria-label="params against macs"' in page  # a single metric
    if not os.environ.get("SABOC_DATA_DIR"):
        return
    assert result["trajectory"][-1]["evaluations"] == 40
    assert "evaluations: true accuracy" in done.stdout
    assert (tmp_path / "w" / "trajectory.png").stat().st_size > 5000
    best = [point["best"] for point in result["trajectory"]]
    assert best == sorted(best)


def test_a_stopped_search_goes_on_in_the_same_workdir(tmp_path):
    flags = [*TINY, "--searcher=random", "--scorer=params", "--max_evaluations=200", "--workdir=w"]
    stopped = run("experiments.search", *flags, "--time_budget=0.05", cwd=tmp_path)
    result = (
        json.loads((tmp_path / "w" / "result.json").read_text())
        if not (stopped.returncode)
        else {"stopped": "time_budget"}
    )
    assert result["stopped"] == "time_budget"
    assert "time_budget" in stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = run("experiments.search", *flags, cwd=tmp_path)
    whole = run("experiments.search", *flags[:-1], "--workdir=v", cwd=tmp_path)
    assert done.returncode == whole.returncode == 0, done.stderr
    ours, other = (json.loads((tmp_path / f / "result.json").read_text()) for f in "wv")
    assert ours["stopped"] is None
    for name in ("architecture", "scores", "evaluations"):
        assert ours[name] == other[name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max_params=10"], r"exceeds the budget: params"),
        (["--against=macs"], "pruning ends with one architecture"),
        (["--max_evaluations=30"], "stopped by max_evaluations after 25 evaluations"),
    ],
)
def test_limits_that_leave_nothing_are_one_clear_error(arguments, said, tmp_path):
    done = run("experiments.search", *TINY, "--scorer=params", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_evolution_shares_a_store_and_says_when_it_is_random_search(tmp_path):
    flags = [*TINY, "--searcher=aging_evolution", "--population=4", "--scorer=params"]
    more = ["--max_evaluations=4", "--store=s.sqlite", "--workdir=w"]
    done = run("experiments.search", *flags, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not exceed the population of 4" in done.stdout
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert (result["evaluations"], result["settings"]["population"]) == (4, 4)
    assert "store" not in result["settings"]
    assert not (tmp_path / "w" / "scores.sqlite").exists()
    with Store(tmp_path / "s.sqlite") as store:
        assert len(store) == result["counts"]["scored"] + result["counts"]["disconnected"] > 0


def test_the_architectures_of_a_flag():
    code = (
        "import sys; from experiments.support import common, scoring; common.flags.FLAGS(sys.argv);"
        "print(len(scoring.architectures(scoring.common.make_space('nas_bench_201'))))"
    )
    counts = {}
    for name in ("distinct", "representatives"):
        done = subprocess.run(
            [sys.executable, "-c", code, f"--archs={name}"], capture_output=True, text=True
        )
        assert not done.returncode, done.stderr
        counts[name] = int(done.stdout)
    assert counts == {"distinct": 6466, "representatives": 7700}


def test_architectures_are_drawn_from_spaces_of_any_size():
    code = (
        "import sys; from experiments.support import common, scoring; common.flags.FLAGS(sys.argv);"
        "print(len(scoring.architectures(scoring.common.make_space(sys.argv[3]))))"
    )
    for space, flag in (("darts", "--num_archs=3"), ("darts_genotypes", "--archs=all")):
        done = subprocess.run(
            [sys.executable, "-c", code, flag, "--", space], capture_output=True, text=True
        )
        if flag == "--archs=all":
            assert "darts_genotypes has" in done.stderr and "at most 262144" in done.stderr
        else:
            assert not done.returncode, done.stderr
            assert int(done.stdout) == 3


def test_architectures_of_a_file_are_lines_and_a_bad_one_is_named(tmp_path):
    """Texts of genotypes have blanks; here a node has the same edge twice."""
    cell = [("sep_conv_3x3", 0)] * 2 + [("skip_connect", 1), ("none", 0)] * 3
    texts = [write_genotype(make_genotype(tuple(cell), tuple(c))) for c in (cell, cell[::-1])]
    (tmp_path / "archs.txt").write_text("\n".join([*texts, ""]))
    flags = ["--dataset=digits", "--space=darts_genotypes", "--archs=archs.txt", "--scorers=params"]
    done = run("experiments.score", *flags, "--repeats=1", "--out=o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o" / "scores.json").read_text())["rows"]
    assert {row["architecture"] for row in rows} == set(texts)
    (tmp_path / "archs.txt").write_text("\n".join([*texts, "", "Genotype"]))
    bad = run("experiments.score", *flags, cwd=tmp_path)
    assert bad.returncode == 1
    assert "archs.txt, line 4: genotype 'Genotype'" in " ".join(bad.stderr.split())


def test_a_limit_on_latency_is_measured_once_and_kept(tmp_path):
    flags = [*TINY, "--searcher=random", "--scorer=params", "--max_evaluations=1", "--workdir=w"]
    done = run("experiments.search", *flags, "--max_latency_ms=1000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "w" / "scores.sqlite") as store:
        rows = {row.request.architecture: row.metrics for row in store.select(scorer="latency")}
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert result["latency_ms"] == rows[result["text"]]["latency_ms"] > 0
    assert f"latency: {result['latency_ms']:.3g} ms" in done.stdout
