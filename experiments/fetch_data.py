"""Says of every data set and table whether it is there, and if not, how to get and name it.

Examples:
  python -m experiments.fetch_data
  python -m experiments.fetch_data --data_dir=~/data
"""

from rich.console import Console

from experiments import common
from saboc_jax import benchmarks, data
from saboc_jax.data_registry import default_directory

TABLES = {
    "nas_bench_201.csv": benchmarks.load_nas_bench_201,
    "nas_bench_201_published_scores.csv": benchmarks.load_published_scores,
    "darts_nb301_surrogate.csv": benchmarks.load_darts_surrogate,
    "darts_swap1000.csv": benchmarks.load_darts_swap,
}


def main() -> None:
    """Opens everything, prints a line for each."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder = default_directory(common.DATA_DIR.value)
    console.print(f"Looking in {folder}\n")
    openers = {name: (lambda name=name: data.load(name, folder)) for name in data.DATASETS}
    openers |= {name: (lambda load=load: load(folder)) for name, load in TABLES.items()}
    for name, opener in openers.items():
        try:
            opener()
            console.print(f"there    {name}")
        except FileNotFoundError as error:
            console.print(f"missing  {name}: {error}")
        except ValueError as error:
            console.print(f"damaged  {name}: {error}")
    console.print("\nnas_bench_201.csv can also be made from official files: import_nats_bench")


if __name__ == "__main__":
    common.run(main)
