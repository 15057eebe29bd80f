"""Gathers the kernel scores of timm's models from stores of `saboc correlate --space=timm`.

python experiments/results/timm/scores.py STORE [STORE ...] OUT

STORE: files given to --store. OUT: the CSV file to write, a row for each model with all scores.
"""

import csv
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

COLUMNS = ("S_t", "S_e", "S_g", "jacob_cov")


def main(stores: list[Path], out: Path) -> None:
    """Writes the file."""
    found: dict[str, dict[str, float]] = {}
    for path in stores:
        with closing(sqlite3.connect(path)) as store:
            for name, metrics in store.execute("select architecture, metrics from results"):
                own = found.setdefault(name.split("timm:")[1], {})
                own |= {key.rpartition(".")[2]: value for key, value in json.loads(metrics).items()}
    rows = [
        {"model": name, **{key: own[key] for key in COLUMNS}}
        for name, own in sorted(found.items())
        if set(COLUMNS) <= set(own)
    ]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("model", *COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    print(len(rows))


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:-1]], Path(sys.argv[-1]))
