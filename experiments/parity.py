"""Compares our values with those another implementation computed on the same weights.

The golden file is an npz: `meta` (JSON: C, N, num_classes and per net its cell string and
values), images and labels, and per net `i/w/NAME` (torch weights) and `i/QUANTITY`. Everything
runs in float64, with batch statistics, once through the gated program and once through the
specialised module. Exits 1 where the relative error exceeds `--tolerance`, or where the file
holds a value that is not known here (unless `--allow_missing`).

Example:
  saboc parity --golden=nas_bench_201_c4n1.npz
"""

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.benchmarks import parity
from saboc_jax.reports.tables import results_table

from .support import common

GOLDEN = flags.DEFINE_string("golden", None, "The golden npz file.", required=True)
TOLERANCE = flags.DEFINE_float("tolerance", 1e-6, "Largest relative error.", 0.0)
ALLOW_MISSING = flags.DEFINE_bool("allow_missing", False, "Pass over values not known here.")


def main() -> None:
    """Compares and prints."""
    console = Console(highlight=False, markup=False)
    with progress.bar("networks", None, console) as bar:

        def on_net(done: int, nets: int) -> None:
            bar.expect(nets)
            bar.reach(done)

        rows, unknown = parity.compare(GOLDEN.value, on_net)
    for row in rows:
        row["ok"] = "yes" if row["error"] <= TOLERANCE.value else "NO"
    console.print(results_table(rows))
    if unknown:
        console.print(f"Not known here: {', '.join(unknown)}")
    failed = [row for row in rows if row["ok"] == "NO"]
    console.print(f"{len(rows)} values compared, {len(failed)} beyond {TOLERANCE.value:g}")
    if failed or not rows or (unknown and not ALLOW_MISSING.value):
        raise SystemExit(1)


if __name__ == "__main__":
    common.run(
        main,
        unread=(
            *common.NETWORK,
            *common.SCORING,
            *common.RAY,
            "batch_size",
            "data_dir",
            "dataset",
            "repeats",
            "resize",
            "seed",
        ),
    )
