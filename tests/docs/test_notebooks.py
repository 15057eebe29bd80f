"""The notebooks: their code runs from top to bottom, at a small size; git holds no output."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "colab"
NAMES = (
    *("nas_bench_201_on_a_tpu", "ntk_of_many_images", "quick_start", "reproduce_table_1"),
    *("score_your_own_model", "twenty_timm_models"),
)
PRINTED = {
    "nas_bench_201_on_a_tpu": r"\d+ connected cells[\s\S]*~0\|\+\|[\s\S]*tau: ",
    "ntk_of_many_images": r"no kernel held[\s\S]*± [\s\S]*accuracy: 0[\s\S]*steps to a loss",
    "quick_start": r"S_t .* ± .*\(lower is better\)[\s\S]*disconnected[\s\S]*params ",
    "reproduce_table_1": r"ntk_score borda +0\.532",
    "score_your_own_model": r"S_g: .* between width[\s\S]*latency_ms",
    "twenty_timm_models": r"params[\s\S]*S_g[\s\S]*largest by both: test_",
}
TRUTH = {"nas_bench_201_on_a_tpu", "reproduce_table_1"}


def notebook(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def code(name):
    return ["".join(c["source"]) for c in notebook(name)["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(
    name, monkeypatch, tmp_path, tmp_path_factory, capsys, made_lines
):
    if name == "twenty_timm_models":
        pytest.importorskip("torchax")
        pytest.importorskip("timm")
    if name in TRUTH and not os.environ.get("SABOC_DATA_DIR"):
        folder = tmp_path_factory.mktemp("table")  # made-up accuracies of all cells
        (folder / "nas_bench_201.csv").write_text("\n".join(made_lines) + "\n")
        monkeypatch.setenv("SABOC_DATA_DIR", str(folder))
    monkeypatch.setenv("SABOC_SMALL", "1")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "notebook"}
    for number, text in enumerate(code(name)):
        exec(compile(text, f"{name}.ipynb, code cell {number + 1}", "exec"), namespace)
    assert re.search(PRINTED[name], capsys.readouterr().out)
    assert not list(tmp_path.iterdir())  # nothing was cloned


def test_git_holds_them_without_output_and_with_one_way_to_install():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        held = notebook(name)
        assert held["nbformat"] == 4 and held["metadata"]["kernelspec"]["name"] == "python3"
        for cell in held["cells"]:
            assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        install, *cells = code(name)
        assert install == code(NAMES[0])[0]
        assert "SMALL = " in install and any("SMALL" in cell for cell in cells)
        assert "colab_tpu" not in "".join(cells) + install  # jax.tools.colab_tpu is gone


def test_outside_of_a_clone_the_address_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tree = ast.parse(code("quick_start")[0])
    (search,) = (node for node in tree.body if isinstance(node, ast.If))
    search.test = ast.Constant(True)  # as if the package were not there
    with pytest.raises(ValueError, match="REPOSITORY is empty: write the address"):
        exec(compile(ast.fix_missing_locations(tree), "install", "exec"), {})
