"""Turns official NATS-Bench files into nas_bench_201.csv, which search and correlate read.

It holds 100-epoch training accuracies and costs too. Needs: pip install 'saboc_jax[nats]'.

Examples:
  saboc import_nats_bench --source=NATS-tss-v1_0-3ffb9-simple
  saboc import_nats_bench --source=NATS-tss-v1_0-3ffb9.pickle.pbz2 --out=t.csv
"""

from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import Progress

from saboc_jax.benchmarks import nats_bench as nats_bench_import
from saboc_jax.data.registry import default_directory

from .support import common

SOURCE = flags.DEFINE_string("source", None, "The file, or the folder of files, of the benchmark.")
OUT = flags.DEFINE_string("out", None, "Default: nas_bench_201.csv in the data directory.")
ALL = 15_625


def main() -> None:
    """Opens the files, converts them, prints the number of rows."""
    console = Console(highlight=False, markup=False)
    if not SOURCE.value:
        raise ValueError("--source is not given; allowed: a NATS-tss file or folder")
    path = Path(OUT.value or default_directory(common.DATA_DIR.value) / "nas_bench_201.csv")
    if path.exists():
        raise ValueError(f"{path} exists already; move it away or choose another --out")
    console.print(f"Opening {SOURCE.value} (a whole file takes minutes and gigabytes)")
    benchmark = nats_bench_import.open_benchmark(SOURCE.value)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("architectures", total=len(benchmark))
        count = nats_bench_import.write_table(benchmark, path, lambda: bar.advance(task))
    console.print(f"Wrote {count:,} architectures to {path}")
    if count < ALL:
        console.print(f"The benchmark has {ALL:,}: search and correlate refuse a part of it")


if __name__ == "__main__":
    common.run(
        main,
        unread=(*common.FILES_ONLY,),
    )
