"""Writes report.html of a run anew, or one page that compares several runs.

A run is a search, a training, or a study: correlations, a comparison, a table of the paper.

Examples:
  saboc report --workdir=runs/one
  saboc report --workdir=runs/one,runs/two --out=comparison.html
  saboc report --workdir=experiments/results/table3 --out=table3.html
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from saboc_jax.files import write_text
from saboc_jax.reports import html as report_html

from .support import common

WORKDIR = flags.DEFINE_list("workdir", [], "Folders of runs, by commas.")
OUT = flags.DEFINE_string(
    "out", None, "The page; default: report.html in the folder, comparison.html for several."
)


def main() -> None:
    """Reads the folders, writes one page."""
    folders = [Path(name) for name in WORKDIR.value]
    if not folders:
        raise ValueError("--workdir is empty; allowed: one folder of a run, or several by commas")
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"--workdir={folder} does not exist")
    one = len(folders) == 1
    path = Path(OUT.value or (folders[0] / "report.html" if one else "comparison.html"))
    text = report_html.build(folders[0]) if one else report_html.compare(folders)
    write_text(path, text)
    Console(highlight=False, markup=False).print(f"Wrote {path}")


if __name__ == "__main__":
    common.run(
        main,
        unread=(
            *common.NETWORK,
            *common.SCORING,
            *common.RAY,
            "batch_size",
            "compilation_cache",
            "data_dir",
            "dataset",
            "devices",
            "repeats",
            "resize",
            "seed",
        ),
    )
