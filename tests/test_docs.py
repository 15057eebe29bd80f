"""What the documentation says runs: its Python, its commands, its tables."""

import contextlib
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

from experiments import cli
from saboc_jax.scorers import SCORERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
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


@pytest.mark.parametrize("page", with_python()[1:], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
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
import experiments.common, matplotlib.pyplot, saboc_jax.report_html, scipy.stats  # once for all
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
    """The lines of shell blocks, joined where they go on, and commands within text."""
    for language, text in BLOCK.findall(page.read_text()):
        if language in SHELL:
            lines = text.replace("\\\n", " ").splitlines()
            if language in ("", "text"):  # output, unless it looks like a command
                lines = [line for line in lines if re.match(r"(make|saboc|python) ", line)]
            yield from (line.removeprefix("$ ").strip() for line in lines if line.strip())
    prose = BLOCK.sub("", page.read_text())
    for inline in re.findall(r"`([^`\n]+)`", prose):
        if re.match(r"(make|saboc|python -m) ", inline):
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
    known = cli.subcommands()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    wanted, wrong = {}, []
    for page in PAGES:
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


# Studies that no other test runs, at their smallest; most compare with tables of accuracies.
NET = ["--channels=2", "--batch_size=4", "--repeats=1"]
STUDIES = {
    "ablation": ["--dataset=cifar10", "--variants=C=3,onehot labels", "--num_archs=4"],
    "darts_correlations": ["--dataset=digits", "--limit=20", "--scorers=params", *NET],
    "published_scores": ["--datasets=cifar10", "--limit=3", *NET],
    "paper.table2": ["--dataset=cifar100", "--sizes=4", "--num_archs=4", *NET],
}
RUN = """
import json, os, runpy, sys
import experiments.common, matplotlib.pyplot, saboc_jax.report_html, scipy.stats  # once for all
for binary, words in json.load(sys.stdin).items():
    if os.fork() == 0:
        sys.argv = [binary, *words]
        runpy.run_module(f"experiments.{binary}", run_name="__main__", alter_sys=True)
    if os.wait()[1]:
        print(binary, "failed", flush=True)
"""


def test_every_binary_of_a_page_is_run_by_a_test(tmp_path):
    tiny = ["--dataset=digits", "--batch_size=4", "--repeats=1", "--scorers=params"]
    kept = ROOT / "experiments" / "results" / "correlation_cifar100"
    here = {
        "score_your_own": tiny,
        "precision": ["--scorers=naswot", "--dataset=digits", "--num_archs=3", *NET],
        "report": [f"--workdir={kept}", f"--out={tmp_path}/report.html"],
        "scorer_seconds": ["--dataset=digits", "--num_archs=2", "--scorers=params,snip", *NET],
    }
    not_run = set()
    if importlib.util.find_spec("ray"):
        here["ray_throughput"] = ["--dataset=digits", "--num_archs=4", "--workers=1", *NET]
    else:
        not_run |= {"ray_throughput"}
    if os.environ.get("SABOC_DATA_DIR"):
        here |= STUDIES
    else:
        not_run |= set(STUDIES)
    named = {binary_and_flags(command)[0] for page in PAGES for command in commands(page)}
    texts = "".join(
        path.read_text() for path in ROOT.glob("tests/**/test_*.py") if path.name != "test_docs.py"
    )
    # Tests name a binary as a module, and those of the paper by a name in a list.
    run = {
        binary
        for binary in named & set(cli.subcommands())
        if re.search(rf'experiments\.{re.escape(binary)}"', texts)
        or ("." in binary and f'"{binary.removeprefix("paper.")}"' in texts)
    }
    assert (named & set(cli.subcommands())) - run - set(here) == not_run
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(here),
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    assert "Best first, on digits" in done.stdout
    assert "ntk_score borda" in (tmp_path / "report.html").read_text()


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
        for row in json.loads((hooks.RESULTS / "table1" / "table1.json").read_text())["rows"]
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
