"""Costs of timm's models as they were trained: 1,000 classes, each at its own image size.

python experiments/results/timm/costs.py TABLE OUT

TABLE: timm_imagenet.csv. OUT: the CSV file to write.
"""

import csv
import sys
from pathlib import Path

import saboc_jax as sj


def main(table: Path, out: Path) -> None:
    """Writes a row for each model of the table; refused ones have their reason."""
    space = sj.make_space("timm")
    structure = space.costs.structure
    if structure is None:
        raise ValueError("space timm has no structures")
    with table.open() as file:
        names = list(dict.fromkeys(row["model"] for row in csv.DictReader(file)))
    rows = []
    for name in names:
        try:
            found = structure(space.from_string(name))
            cost = sj.trained_cost(name, space)
            rows.append({"model": name, **found._asdict(), "macs": cost.macs, "depth": cost.depth})
        except Exception as error:
            rows.append({"model": name, "refused": " ".join(str(error).split())[:160]})
        print(name, flush=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
