"""An NTK operator beside the dense kernel of the same images: seconds, memory, agreement.

One way for each process, so that the peak of memory is that way's: rows are added to a CSV file.

Examples:
  python experiments/benchmarking/ntk_operator.py --number=1000 --way=operator
  python experiments/benchmarking/ntk_operator.py --number=1000 --way=agreement --precision=float64
"""

import csv
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.data import Dataset
from saboc_jax.ntk import regression, spectrum
from saboc_jax.ntk.examples import Examples
from saboc_jax.ntk.network import Network
from saboc_jax.ntk.operator import PRODUCTS as PRODUCTS_OF
from saboc_jax.precision import computing_in
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.searching.assembly import ScoringSettings
from saboc_jax.spaces.dtype import DTYPES
from saboc_jax.types import Batch

CELL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
)
NEEDS = ("images", "labels", "test_images", "test_labels")
WAYS = ("operator", "dense", "product", "agreement")
NUMBER = flags.DEFINE_integer("number", 1000, "n, images.", 100)
WAY = flags.DEFINE_enum("way", WAYS[0], WAYS, "What is measured.")
TOP = flags.DEFINE_integer("top", 20, "Leading eigenvalues.", 1)
JITTER = flags.DEFINE_float("jitter", 1e-3, "Of the regression.")
TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "Relative residual of the regression.")
CHANNELS = flags.DEFINE_integer("channels", 16, "C.", 1)
CHUNK = flags.DEFINE_integer("chunk", 256, "Images of a pass.", 1)
PRECISION = flags.DEFINE_enum("precision", "float32", DTYPES, "What is computed in.")
PRODUCTS = flags.DEFINE_enum("products", "auto", PRODUCTS_OF, "How the operator takes products.")
DATASET = flags.DEFINE_string("dataset", "cifar10", "Images.")
OUT = flags.DEFINE_string("out", "runs/ntk_operator.csv", "CSV file to add rows to.")


def prepared(dataset: Dataset) -> tuple[Network, Batch]:
    """Returns a cell at fresh weights, and images with held-out ones."""
    space = sj.make_space(
        "nas_bench_201",
        channels=CHANNELS.value,
        num_cells=1,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
    )
    space = sj.in_dtype(space, PRECISION.value)
    drawn = ScoringSettings(1, NUMBER.value).draws(dataset, jax.random.key(0), NEEDS)
    gates = space.gates(space.from_string(CELL))
    batch = jax.tree.map(
        lambda leaf: leaf.astype(space.dtype) if leaf.dtype == np.float32 else leaf,
        drawn.batches[0],
    )
    return sj.bind(space, draw_weights(space, drawn.keys[0]), gates), batch


def seconds_of(run: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what a function gives, and CPU seconds, which other programs disturb less."""
    start = time.process_time()
    found = jax.block_until_ready(run())
    return found, time.process_time() - start


def steps(network: Network, batch: Batch, products: str) -> dict[str, Any]:
    """Returns seconds of eigenvalues and of a regression, the operator or its kernel first."""
    options = sj.NTKOptions(params="cells")
    operator = sj.ntk_operator(network, batch.images, options, chunk=CHUNK.value, products=products)
    counted: list[int] = []
    operator.on_product = counted.append
    _, first = seconds_of(lambda: operator.matvec(np.ones(operator.shape[0])))
    counted.clear()
    values, of_values = seconds_of(lambda: operator.top_eigenvalues(TOP.value))
    for_values = sum(counted)
    labels: Any = batch.labels
    targets = regression.encode_labels(labels, 10)
    fitted, of_solve = seconds_of(
        lambda: sj.ntk_regression(operator, targets, jitter=JITTER.value, tolerance=TOLERANCE.value)
    )
    f, of_test = seconds_of(lambda: fitted.predict(batch.test_images))
    right = np.asarray(f).argmax(1) == np.asarray(batch.test_labels)
    return {
        "first product s": first,
        "eigenvalues s": of_values,
        "products of eigenvalues": for_values,
        "largest": float(values[0]),
        "regression s": of_solve,
        "iterations": fitted.iterations,
        "residual": float(fitted.residuals.max()),
        "test s": of_test,
        "accuracy": float(right.mean()),
    }


def product(network: Network, batch: Batch) -> dict[str, Any]:
    """Returns the seconds of a product over those of a forward and backward pass of its images."""
    options = sj.NTKOptions(params="cells")
    operator = sj.ntk_operator(network, batch.images, options, chunk=CHUNK.value, products="passes")
    gradient = jax.jit(
        lambda v, x: jax.grad(lambda p: network.outputs({**v, "params": p}, x).sum())(v["params"])
    )
    ones = np.ones(operator.shape[0])

    def passes() -> Any:
        chunks = Examples(batch.images).chunks(CHUNK.value)
        return [gradient(network.variables, part.inputs) for part in chunks]

    operator.matvec(ones), passes()
    times = [(seconds_of(lambda: operator.matvec(ones))[1], seconds_of(passes)[1]) for _ in "123"]
    ours, theirs = np.median(times, axis=0)
    return {
        "product s": float(ours),
        "forward and backward s": float(theirs),
        "ratio": float(ours / theirs),
    }


def agreement(network: Network, batch: Batch) -> dict[str, Any]:
    """Returns how far the leading eigenvalues are from those of the dense kernel."""
    options = sj.NTKOptions(params="cells")
    operator = sj.ntk_operator(
        network, batch.images, options, chunk=CHUNK.value, products=PRODUCTS.value
    )
    counted: list[int] = []
    operator.on_product = counted.append
    values, of_values = seconds_of(lambda: operator.top_eigenvalues(TOP.value))
    dense, of_dense = seconds_of(lambda: spectrum.decompose(operator.dense()).values)
    return {
        "eigenvalues differ by": float(np.abs(values / np.asarray(dense[: TOP.value]) - 1).max()),
        "products": len(counted),
        "eigenvalues s": of_values,
        "dense s": of_dense,
    }


def run(argv: list[str]) -> None:
    """Measures one way and adds its row."""
    with computing_in(PRECISION.value):
        network, batch = prepared(data.load(DATASET.value))
        if WAY.value == "product":
            found = product(network, batch)
        elif WAY.value == "agreement":
            found = agreement(network, batch)
        else:
            found = steps(network, batch, "dense" if WAY.value == "dense" else PRODUCTS.value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    common = {"way": WAY.value, "n": NUMBER.value, "type": PRECISION.value, "peak GiB": peak}
    path = Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow([*common, "quantity", "value"])
        for name, value in (common | found).items():
            if name not in common:
                writer.writerow([*common.values(), name, value])
    print({**common, **found})


if __name__ == "__main__":
    app.run(run)
