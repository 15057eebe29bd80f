"""What the documentation says runs: its Python, its commands, its tables."""

import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.commands import COMMANDS
from saboc_jax.scorers import SCORERS
from saboc_jax.searchers import SEARCHERS
from saboc_jax.spaces.nas_bench_201 import cells

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
# What was decided and measured: its commands exist, but they took hours.
RECORDS = [
    ROOT / "BUILD_NOTES.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "decisions.md",
    ROOT / "docs" / "measurements.md",
    *sorted(ROOT.glob("experiments/results/**/README.md")),
]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
ABSL = {"help", "helpfull", "verbosity"}


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def with_python():
    return [page for page in PAGES if blocks(page, "python")]


def run_python(page):
    """Runs the blocks of a page in one namespace, as a reader would; gives what they print."""
    namespace = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, text in enumerate(blocks(page, "python")):
            exec(compile(text, f"{page.name}, block {number + 1}", "exec"), namespace)
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def readme_run():
    page = ROOT / "README.md"
    return blocks(page, "python")[0], run_python(page)


NEEDS = {
    "frameworks.md": ("equinox", "haiku", "keras"),
    "keras.md": ("keras",),
    "pytorch.md": ("torch", "torchax"),
}
"""What the Python of a page needs beside the package."""


@pytest.mark.parametrize("page", with_python()[1:], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed: an extra brings it")
    monkeypatch.chdir(tmp_path)
    run_python(page)


def test_the_first_example_is_short_and_prints_what_the_readme_says(readme_run):
    first, printed = readme_run
    assert len([line for line in first.splitlines() if line.strip()]) < 15
    assert [line.split()[0] for line in printed[:3]] == ["S_t", "S_e", "S_g"]
    assert all("±" in line and line.endswith("(lower is better)") for line in printed[:3])


# --- commands -----------------------------------------------------------------------------------

SHELL = ("", "sh", "bash", "console", "text")
OTHERS = {"pip", "git", "cd", "tfds", "export", "open"}
# One process reads the flags of all binaries: each in a fork, for binaries define the same names.
PARSE = """
import importlib, json, os, sys
from absl import flags
import experiments.support.common, matplotlib.pyplot, saboc_jax.reports.html, scipy.stats
for binary, lines in json.load(sys.stdin).items():
    if os.fork() == 0:
        importlib.import_module(f"experiments.{binary}")
        for line in lines:
            try:
                flags.FLAGS.unparse_flags()
                flags.FLAGS([binary, *line])
            except flags.Error as error:
                print(binary, *line, "->", error, flush=True)
        os._exit(0)
    if os.wait()[1]:
        print(binary, "cannot be imported", flush=True)
"""


def commands(page):
    """The lines of shell blocks, joined where they go on, and commands within or beside text."""
    for language, text in BLOCK.findall(page.read_text()):
        if language in SHELL:
            lines = text.replace("\\\n", " ").splitlines()
            if language in ("", "text"):  # output, unless it looks like a command
                lines = [line for line in lines if re.match(r"(make|saboc|python) ", line)]
            yield from (line.removeprefix("$ ").strip() for line in lines if line.strip())
    prose = BLOCK.sub("", page.read_text()).replace("\\\n", " ")
    for inline in re.findall(r"`([^`\n]+)`|^ {4}(\S.*)$", prose, re.M):
        inline = "".join(inline)
        if re.match(r"(?:[A-Z_]+=\S+ )*(make|saboc|python -m) ", inline):
            yield inline


def binary_and_flags(command):
    """(binary, flags) of a command of ours; (None, words) of another."""
    words = shlex.split(command, comments=True)
    words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
        return words[2].removeprefix("experiments."), words[3:]
    if words[0] == "saboc":
        return words[1].replace("-", "_"), words[2:]
    if words[0] == "make" and (given := [w for w in words if w.startswith("ARGS=")]):
        program = {"search": "search", "bench": "benchmark"}[words[1]]
        return program, shlex.split(given[0].removeprefix("ARGS="))
    return None, words


def placeholder(word):
    return word.endswith("...") or re.search(r"=[A-Z]+$", word) or word in ("--help", "--flags")


def test_every_command_of_a_page_names_what_exists():
    assert len(PAGES) > 10
    known = COMMANDS
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    wanted, wrong = {}, []
    for page in dict.fromkeys([*PAGES, *RECORDS]):
        for command in commands(page):
            binary, words = binary_and_flags(command)
            if binary in known:
                wanted.setdefault(binary, []).append(words)
            elif binary is not None:
                if binary not in ("COMMAND", "__help"):
                    wrong.append(f"{page.name}: {command}: no such binary")
            elif words[0] == "make":
                if words[1] not in targets:
                    wrong.append(f"{page.name}: {command}: no such target")
            elif words[:2] != ["python", "-m"] and words[0] not in OTHERS:
                wrong.append(f"{page.name}: {command}: unknown command")
    checked = {b: [[w for w in ws if not placeholder(w)] for ws in c] for b, c in wanted.items()}
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(checked),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    wrong += done.stdout.splitlines()
    assert not wrong, "\n".join(wrong)
    assert {"search", "correlate", "score", "train"} <= set(wanted)


# --- what they do --------------------------------------------------------------------------------

NET = ["--channels=2", "--cells=1", "--batch_size=4", "--repeats=1"]
QUICK = [*NET, "--dataset=digits"]
STUDY = [*NET, "--num_archs=4", "--resamples=5"]
SMALL = {
    "ablation": [*NET, "--num_archs=4", "--channels=3"],
    "correlate": [*STUDY, "--scorers=params"],
    "darts_correlations": [*QUICK, "--limit=20", "--scorers=params"],
    "fetch_data": [],
    "ntk": [*NET[:3], "--dataset=digits", "--tile=4"],
    "paper.table1": ["--quick", *QUICK, "--num_archs=4"],
    "paper.table2": ["--quick", *QUICK, "--num_archs=4", "--sizes=4"],
    "paper.table3": ["--methods=params", "--seeds=2"],
    "paper.table4": ["--methods=random", "--seeds=2"],
    "precision": [*QUICK, "--num_archs=3", "--scorers=naswot"],
    "published_scores": [*NET, "--limit=3"],
    "ray_throughput": [*QUICK, "--num_archs=4", "--workers=1"],
    "report": [],
    "score": [*QUICK, "--num_archs=2", "--scorers=params"],
    "score_your_own": ["--batch_size=4", "--repeats=1", "--scorers=params"],
    "scorer_seconds": [*QUICK, "--num_archs=2", "--scorers=params,snip"],
    "search": [*QUICK, "--scorer=params"],
    "train": ["--channels=2", "--epochs=1", "--train_examples=64"],
}
"""Flags that make a command of a page small: they follow its own, and the last of a flag counts."""
SHORT = ["--max_evaluations=6", "--max_params=5000", "--max_latency_ms=60000"]
IN_THE_TABLE_ONLY = {
    "train_compare": [
        *("--archs=random", "--number=1", "--seeds=1", "--recipe=tiny", "--dataset=digits"),
        *("--epochs=1", "--channels=2", "--train_examples=64", "--workdir=runs/compare"),
    ],
}
"""Binaries of README's table of which no page has a line, and no other test a run."""
TOO_LONG = {
    "resnet_compile": "measures compilations, without any cache: a minute at its smallest",
    "scaling": "compiles for each size, without any cache: a minute at its smallest",
}
"""Binaries of README's table that no test runs, and why."""
NEED_TABLES = {
    "ablation", "correlate", "darts_correlations", "paper.table1", "paper.table2", "paper.table3",
    "published_scores",
}  # fmt: skip
NOT_RUN = {
    "make test": "it is this",
    "make install": "it installs",
    "make docs": "it installs; test_the_site_builds_without_a_warning builds",
    "saboc fetch_data --prepare": "it downloads",
    "saboc fetch_data --archive": "it needs published archives; tests/data/test_archives.py",
    "saboc rank": "it needs timm and a folder; tests/experiments/test_rank.py",
    "saboc correlate --space=timm": "it needs timm; tests/spaces/test_named.py",
    "saboc import_nats_bench": "it needs the official files; tests/benchmarks/test_nats_bench.py",
    "tfds build": "another program, which downloads",
    "pip install": "it installs",
}
"""How lines begin that no test runs, and why."""
# One process, which has imported what is slow; each line in a fork, for binaries define flags of
# one name. A line is (environment, binary, words).
RUN = """
import json, os, runpy, sys, traceback
import experiments.support.common, matplotlib.pyplot, saboc_jax.reports.html, scipy.stats
for line in json.load(sys.stdin):
    environment, binary, words = line
    if os.fork() == 0:
        os.environ.update(environment)
        sys.argv = [binary, *words]
        try:
            runpy.run_module(f"experiments.{binary}", run_name="__main__", alter_sys=True)
        except SystemExit as error:
            sys.stdout.flush()
            os._exit(1 if error.code else 0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        print("FAILED:", *line, flush=True)
"""


def shrunk(binary, words):
    """The words of a command, and flags that make it small."""
    if "--help" in words or binary == "cli":
        return words
    chosen = any("--searcher=" in word and "pruning" not in word for word in words)
    return [*words, *SMALL[binary], *(SHORT if binary == "search" and chosen else ())]


def literal_lines():
    """(command, environment, binary, words) of what the pages say to type, as written there."""
    for page in (page for page in PAGES if page not in RECORDS):
        for command in commands(page):
            words = shlex.split(command, comments=True)
            environment = dict(w.split("=", 1) for w in words if re.match(r"[A-Z_]+=", w))
            binary, own = binary_and_flags(command)
            if words[:2] == ["make", "search"]:
                binary, own = "search", own if binary else []
            if binary == "__help":
                binary, own = "cli", ["--help"]
            if words[-1] not in OTHERS and "COMMAND" not in command:
                yield command, environment, binary, own


def write_files(folder):
    """The files that pages name: a table of accuracies, one of latencies, numbers of NASLib."""
    archs = cells.all_architectures()[::31]
    for name, column in (
        ("my_accuracies", "cifar10_test"),
        ("hw_nas_bench_cifar10", "raspi4_latency"),
    ):
        rows = [f"{cells.to_string(arch)},{5 + place % 80}" for place, arch in enumerate(archs)]
        (folder / f"{name}.csv").write_text("\n".join([f"arch,{column}", *rows]) + "\n")
    (folder / "naslib.txt").write_text("(2, 2, 0, 3, 4, 1)\n")


def test_every_line_of_a_page_runs_as_it_is_written(tmp_path):
    ray, tables = importlib.util.find_spec("ray"), os.environ.get("SABOC_DATA_DIR")
    lines, stale = [], set(NOT_RUN)
    for command, environment, binary, words in literal_lines():
        reasons = {start for start in NOT_RUN if command.startswith(start)}
        stale -= reasons
        if reasons or (binary in NEED_TABLES and not tables):
            continue
        if not ray and (binary == "ray_throughput" or "--executor=ray" in words):
            continue
        assert binary, f"{command}: neither ours nor in NOT_RUN"
        words = [word.replace("=~/", f"={tmp_path}/") for word in shrunk(binary, words)]
        lines.append((environment, binary, words))
    assert not stale
    assert len(lines) > 20
    lines += [({}, b, w) for b, w in IN_THE_TABLE_ONLY.items() if tables or b != "train_compare"]
    write_files(tmp_path)
    said = run_lines(lines, tmp_path)
    assert "Best first, on digits" in said
    assert "ntk_score borda" in said or not tables
    assert (tmp_path / "runs" / "comparison.html").stat().st_size > 1000
    for name in ("cell", *(("compare",) if tables else ())):
        assert (tmp_path / "runs" / name / "report.html").is_file()


def run_lines(lines, folder):
    """Runs lines one after another in a folder; gives what they print."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(lines),
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu", COLUMNS="120"),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    return done.stdout


def named_in_the_readme():
    """Binaries in the first column of README's table; `.table2` is of the folder before it."""
    page = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \|", page[page.index("## The binaries") :], re.M)
    for row in rows:
        folder = ""
        for name in re.findall(r"`([\w.]+)`", row):
            folder = name.rpartition(".")[0] or folder
            yield f"{folder}{name}" if name.startswith(".") else name


def test_every_binary_of_the_readme_is_run_by_a_test():
    named = set(named_in_the_readme())
    assert named <= set(COMMANDS)
    assert {"paper.table6", "train_compare", "scaling"} <= named
    texts = "".join(
        path.read_text() for path in ROOT.glob("tests/**/test_*.py") if path.name != "test_docs.py"
    )
    # Tests name a binary as a module, and those of the paper by a name in a list.
    elsewhere = {
        binary
        for binary in named
        if re.search(rf'experiments\.{re.escape(binary)}"', texts)
        or ("." in binary and f'"{binary.removeprefix("paper.")}"' in texts)
    }
    here = {binary for *_, binary, _ in literal_lines()}
    assert named - elsewhere - here == {*IN_THE_TABLE_ONLY, *TOO_LONG}


# --- the site -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_scorers_holds_every_registered_one(hooks):
    assert set(hooks.PAPERS) == set(SCORERS)
    rows = hooks.scorer_rows()
    assert [row[0] for row in rows] == [f"`{name}`" for name in SCORERS]
    assert all(cell for row in rows for cell in row)
    by_name = {row[0]: [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in rows}
    assert by_name["`ntk_score`"][4] == "S_t ↓, S_e ↓, S_g ↓"
    assert by_name["`te_nas`"][4] == "kappa ↓, regions ↑"
    assert by_name["`synflow`"][5] == "none"
    assert by_name["`latency`"][7] == "not measured"
    page = (ROOT / "docs" / "scorers.md").read_text()
    assert page.count(hooks.TABLE) == page.count(hooks.PAGES) == 1


def test_every_scorer_has_its_limits_and_every_searcher_its_options():
    page = (ROOT / "docs" / "scorers.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page[page.index("## Limits") :], re.M) == list(SCORERS)
    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert {f"{f.__module__}.{f.__name__}" for f in SEARCHERS.values()} <= set(listed)
    for name in listed:  # modules whose name a function of the package has are found, too
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)


def test_tau_in_the_table_is_that_of_the_kept_results(hooks, tmp_path):
    def keep(name, repeats, tau, **settings):
        ends = {"low": tau - 0.1, "tau": tau, "high": tau + 0.2}
        rows = [
            {"score": "zen", "better": "higher", **ends},
            {"score": "te_nas borda", "better": "lower", **ends},
        ]
        (tmp_path / name).mkdir()
        record = {"settings": hooks.STUDY | {"repeats": repeats} | settings, "rows": rows}
        (tmp_path / name / "correlations.json").write_text(json.dumps(record))

    keep("correlation_cifar100_a", 1, -0.3)
    keep("correlation_cifar100_b", 3, -0.4)
    keep("correlation_cifar100_c", 9, -0.5, channels=16)
    assert hooks.taus(tmp_path) == {
        "zen": "-0.40 [-0.50, -0.20]",
        "te_nas borda": "0.40 [0.20, 0.50]",
    }
    (tmp_path / "correlation_cifar100_b" / "correlations.json").unlink()
    assert hooks.taus(tmp_path)["zen"].endswith(" one draw")
    # What is kept here, beside Table 1, which another binary computed from the same scores.
    (tau,) = (
        row["tau"]
        for row in json.loads(
            (hooks.RESULTS / "table1" / "keys_before" / "table1.json").read_text()
        )["rows"]
        if row["score"] == "ntk_score borda"
    )
    by_name = {row[0]: row[7] for row in hooks.scorer_rows()}
    assert by_name["`ntk_score`"].startswith(f"{tau:.2f} [")
    assert "measured" not in by_name["`swap`"] + by_name["`az_nas`"] + by_name["`te_nas`"]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert len(pages) >= 10
    assert pages == set(re.findall(r"[\w/-]+\.md", navigation))


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; `make docs` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, NO_MKDOCS_2_WARNING="1", PYTHONPATH=path)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    concepts = (tmp_path / "concepts" / "index.html").read_text()
    assert concepts.count("<math") > 10 and "$$" not in concepts
    assert "saboc_jax.scorers.zico" in (tmp_path / "scorers" / "index.html").read_text()
    elsewhere = (
        r'<(?:script|img|link)[^>]* (?:src|href)="(https?:[^"]*\.(?:js|css|png|svg|woff2?))"'
    )
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(elsewhere, page.read_text()), page
