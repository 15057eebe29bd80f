"""What runs by itself is what a developer types: hosted CI, `.ci/run`, the hooks of pre-commit."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOSTED = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_hosted_ci_makes_what_ci_makes():
    typed = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert re.findall(r"- run: make (\w+)", HOSTED) == typed == ["test", "docs"]


def test_hosted_ci_tests_every_python_that_the_package_names():
    (tested,) = re.findall(r"python: \[(.*)\]", HOSTED)
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert re.findall(r'"([\d.]+)"', tested) == named


def test_the_hooks_are_the_linters_of_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    linters = [line.strip().removesuffix(" .") for line in recipe[1].splitlines()]
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    plain = [hook.removesuffix(" --force-exclude").replace(".venv/bin", "$(BIN)") for hook in hooks]
    assert plain == linters
