"""What the documentation says runs: its Python, its commands, its tables."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
ABSL = {"help", "helpfull", "verbosity"}


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def with_python():
    return [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Classes need the module they are said to be in, here that of the page.
    namespace = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    for number, text in enumerate(blocks(page, "python")):
        exec(compile(text, f"{page.name}, block {number + 1}", "exec"), namespace)


def test_the_first_example_is_short_and_prints_what_the_readme_says(capsys):
    first = blocks(ROOT / "README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) < 15
    exec(compile(first, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["S_t", "S_e", "S_g"]
    assert all("±" in line and line.endswith("(lower is better)") for line in printed)
