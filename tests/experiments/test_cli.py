"""The command `saboc`: its list, its help, its errors, and what an installation holds."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import flag_reads
import pytest

import saboc_jax
from experiments import cli
from experiments.commands import COMMANDS, GROUPS
from experiments.support import common, workdir
from saboc_jax.files import read_json, write_json

ROOT = Path(__file__).parents[2]
KEPT = r"workdir\.(environment|run_record)\("


def saboc(*arguments, cwd=None):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu", COLUMNS="100")
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_every_binary_is_listed_with_the_first_line_of_its_docstring():
    binaries = {}
    for path in [*ROOT.glob("experiments/*.py"), *ROOT.glob("experiments/paper/*.py")]:
        text = path.read_text()
        if re.search(r"^if __name__ == .__main__.:\n(.*\n)*.*common\.run", text, re.M):
            name = ".".join(path.relative_to(ROOT / "experiments").with_suffix("").parts)
            binaries[name] = ast.get_docstring(ast.parse(text)).partition("\n")[0]
    assert len(binaries) >= 10
    assert binaries == COMMANDS
    assert list(COMMANDS) == sorted(COMMANDS, key=lambda name: ("." in name, name))
    assert all(line.endswith(".") for line in COMMANDS.values())
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)


def test_the_wheel_holds_every_package_below_saboc_jax_and_nothing_beside_it():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    setup = project["tool"]["setuptools"]
    folders = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for top in ("saboc_jax", "experiments")
        for path in (ROOT / top).rglob("__init__.py")
    }
    installed = {name.removeprefix("saboc_jax.") if ".experiments" in name else name
                 for name in setup["packages"]}  # fmt: skip
    assert installed == folders
    assert len(setup["packages"]) == len(folders)
    assert {name.partition(".")[0] for name in setup["packages"]} == {"saboc_jax"}
    assert setup["package-dir"] == {"saboc_jax.experiments": "experiments"}
    for package, names in setup["package-data"].items():
        assert all((ROOT / package.replace(".", "/") / name).is_file() for name in names)
    assert project["project"]["scripts"] == {"saboc": "saboc_jax.experiments.cli:main"}


def test_binaries_name_each_other_relatively_since_they_are_installed_elsewhere():
    for path in ROOT.glob("experiments/**/*.py"):
        names = re.findall(r"^\s*(?:from|import) (experiments[\w.]*)", path.read_text(), re.M)
        assert not names, f"{path}: {names}"


def test_the_list_imports_no_jax():
    code = "import sys; from experiments import cli; cli.main(['-h']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "\x1b" not in done.stdout  # no colours in a pipe


def test_the_version_is_that_of_the_package(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"saboc_jax {saboc_jax.__version__}\n"


@pytest.mark.parametrize("name", ["search"])
def test_help_shows_examples_and_our_flags_only(name):
    done = saboc(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"saboc {name}" in done.stdout
    assert "--seed=0" in done.stdout
    assert "Scoring network\n" in done.stdout
    assert "verbosity=0" in done.stdout
    assert "pdb" not in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.count("kaiming_normal_fan_out") == 1


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["serach"], "did you mean search?", 2),
        (["cli"], "no such command", 2),
        (["search", "--sede=1"], "error: Unknown command line flag 'sede'. Did you mean: seed", 1),
        (["train", "--from=."], "--from=. holds no finished search; allowed", 1),
        (["search", "--max_evaluations=0"], "`saboc search --help` lists the flags", 1),
        (
            ["train", "--space=darts", "--cells=2", "--workdir=w", "--architecture=x"],
            "--cells=2; allowed",
            1,
        ),
    ],
)
def test_mistakes_end_with_a_code_and_a_line(arguments, said, code, tmp_path):
    done = saboc(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "said", "code"),
    [
        (PermissionError(13, "Permission denied", "runs"), "error: [Errno 13] Permission", 1),
        (ImportError("Parquet needs pyarrow: pip install it"), "error: Parquet needs", 1),
        (KeyboardInterrupt(), "interrupted: what is in the store", 130),
    ],
)
def test_what_a_user_can_mend_is_a_line_and_not_a_traceback(
    raised, said, code, monkeypatch, capsys
):
    def main():
        raise raised

    run = lambda guarded, flags_parser: guarded(common.flags.FLAGS(["program"]))  # noqa: E731
    monkeypatch.setattr(common.app, "run", run)
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        common.run(main)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_every_help_has_an_example():
    for name in COMMANDS:
        path = ROOT / "experiments" / Path(*name.split(".")).with_suffix(".py")
        text = path.read_text()
        assert re.search(rf"\nExamples?:\n  saboc {re.escape(name)}", text), name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_flags_that_it_reads_and_no_others(name):
    path = ROOT / "experiments" / Path(*name.split(".")).with_suffix(".py")
    call = ast.parse(path.read_text()).body[-1].body[-1].value  # common.run(main, ...)
    given = {each.arg: each.value for each in call.keywords}.get("unread", ast.Tuple([]))
    names = set()
    for each in given.elts:
        starred = isinstance(each, ast.Starred)
        names |= set(getattr(common, each.value.attr)) if starred else {each.value}
    assert names == flag_reads.unread(path)


def test_settings_do_not_depend_on_how_it_was_called(tmp_path):
    flags = ["--dataset=digits", "--channels=2", "--batch_size=6", "--repeats=1"]
    flags += ["--searcher=random", "--scorer=params", "--max_evaluations=4", "--workdir=w"]
    done = saboc("search", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"scorer": "params"' in (tmp_path / "w" / "settings.json").read_text()


def test_what_a_kill_leaves_of_the_settings_does_not_lock_a_workdir(tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / ".settings.json.4711.unfinished").write_text('{"seed"')
    assert workdir.open_workdir(str(folder), {"seed": 0}) == folder
    assert read_json(folder / "settings.json") == {"seed": 0}
    workdir.open_workdir(str(folder), {"seed": 0})
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        workdir.open_workdir(str(folder), {"seed": 1})
    other = tmp_path / "o"
    other.mkdir()
    (other / ".settings.json.bak").write_text("{}")
    with pytest.raises(ValueError, match="not a run of ours"):
        workdir.open_workdir(str(other), {"seed": 0})


def test_a_result_makes_its_folder(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {"x": 1})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"x": 1}
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.json"]


def test_every_binary_that_keeps_json_keeps_command_and_versions():
    writers = {
        path.name: path.read_text()
        for path in [*ROOT.glob("experiments/*.py"), *ROOT.glob("experiments/paper/*.py")]
        if "write_json(" in path.read_text()
    }
    assert len(writers) > 8
    assert [name for name, text in writers.items() if not re.search(KEPT, text)] == []
    assert {"command", "versions"} <= set(workdir.environment())
    assert {"saboc_jax", "jax"} <= set(workdir.environment()["versions"])
