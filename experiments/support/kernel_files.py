"""The steps of `saboc ntk`: a kernel, its leading eigenvalues, a regression, each to a file."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from saboc_jax import progress
from saboc_jax.data import Dataset
from saboc_jax.files import read_json, write_json
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.ntk import regression
from saboc_jax.ntk.density import spectral_density
from saboc_jax.ntk.network import Network, bind
from saboc_jax.ntk.operator import NTKOperator, ntk_operator
from saboc_jax.ntk.operator_scores import ntk_regression, operator_trainability
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.solves import NotConverged
from saboc_jax.ntk.tiles import empirical_ntk_blocks
from saboc_jax.scorers.ntk_score import METRICS
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.searching.assembly import ScoringSettings
from saboc_jax.types import Batch, PRNGKey, SearchSpace

STEPS = ("kernel", "spectrum", "density", "solve")
NEEDS = ("images", "labels", "test_images", "test_labels", "perturbed_images")


class Request(NamedTuple):
    """What is asked of every architecture.

    Attributes:
        steps: of `STEPS`, in their order.
        options: of the kernel.
        top: eigenvalues that count as large.
        jitter: of the regression.
        tolerance: of the regression.
        chunk: images of a pass.
        tile: images of a tile.
        classes: of the labels.
        key: of the random vectors of a density.
    """

    steps: tuple[str, ...]
    options: NTKOptions
    top: int
    jitter: float
    tolerance: float
    chunk: int
    tile: int
    classes: int
    key: PRNGKey


def draws(dataset: Dataset, seed: int, number: int) -> tuple[PRNGKey, Batch]:
    """The key of the weights and the images of the first repeat of a scoring run.

    Raises:
        ValueError: if the data set has too few images.
    """
    drawn = ScoringSettings(1, number).draws(dataset, root_key(seed), NEEDS)
    return drawn.keys[0], drawn.batches[0]


def network(space: SearchSpace, mask: np.ndarray, key: PRNGKey) -> Network:
    """The network of an architecture at the weights that scorers draw by that key."""
    own = space.program(mask)
    return bind(own, draw_weights(own, key), space.gates(mask))


def compute(
    folder: Path, network: Network, batch: Batch, asked: Request, console: Console
) -> dict[str, Any]:
    """Takes the steps that the folder lacks, and gives what all of them found.

    Args:
        folder: of this architecture.
        network: at its weights.
        batch: its training and test images.
        asked: the steps and their options.
        console: where progress is shown.
    """
    kernel = _kernel(folder, network, batch, asked, console) if "kernel" in asked.steps else None
    found: dict[str, Any] = {}
    operator: NTKOperator | None = None
    for step in asked.steps:
        record = folder / f"{step}.json"
        if step in TAKE and not record.exists():
            operator = operator or ntk_operator(
                network, batch.images, asked.options, chunk=asked.chunk, kernel=kernel
            )
            write_json(record, _counted(step, operator, batch, asked, console))
        if step in TAKE:
            found |= read_json(record, dict[str, Any])
    return found


def _kernel(
    folder: Path, network: Network, batch: Batch, asked: Request, console: Console
) -> np.ndarray:
    """The kernel in its file, whole."""
    with progress.bar("tiles of the kernel", None, console) as bar:

        def on_tile(done: int, total: int) -> None:
            bar.expect(total)
            bar.reach(done)

        path = folder / "kernel.npy"
        return empirical_ntk_blocks(
            network, batch.images, path, asked.options, tile=asked.tile, on_tile=on_tile
        )


def _counted(
    step: str, operator: NTKOperator, batch: Batch, asked: Request, console: Console
) -> dict[str, Any]:
    """Takes a step, shows how many products it has taken and says what did not converge."""
    started = time.monotonic()
    with (
        progress.bar(f"{step}: products", None, console) as bar,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always", NotConverged)
        operator.on_product = lambda columns: bar.advance()
        found = TAKE[step](operator, batch, asked)
    for warning in told:
        console.print(f"{step}: {warning.message}")
    return {**found, f"{step} products": bar.done, f"{step} s": time.monotonic() - started}


def _spectrum(operator: NTKOperator, batch: Batch, asked: Request) -> dict[str, Any]:
    """The leading eigenvalues, and S_t with its error."""
    found = operator_trainability(operator, asked.top)
    return {
        METRICS[0]: found.value,
        "error of S_t": found.error,
        "eigenvalues": found.eigenvalues.tolist(),
    }


def _density(operator: NTKOperator, batch: Batch, asked: Request) -> dict[str, Any]:
    """The density of all eigenvalues as nodes with weights, and the effective rank."""
    density = spectral_density(operator, key_for(asked.key, Purpose.SPECTRUM_SIGNS))
    rank = density.effective_rank()
    return {
        "effective rank": rank.value,
        "error of rank": rank.error,
        "nodes": density.nodes.tolist(),
        "weights": density.weights.tolist(),
    }


def _solve(operator: NTKOperator, batch: Batch, asked: Request) -> dict[str, Any]:
    """Kernel regression: S_e, S_g and the accuracy on the test images."""
    if not operator.trace() > 0:
        return dict.fromkeys(METRICS[1:], float("nan"))
    labels: list[Any] = [batch.labels, batch.test_labels]
    targets, wanted = (regression.encode_labels(each, asked.classes) for each in labels)
    fitted = ntk_regression(operator, targets, jitter=asked.jitter, tolerance=asked.tolerance)
    f, perturbed = fitted.predict(batch.test_images), fitted.predict(batch.perturbed_images)
    right = np.asarray(f).argmax(1) == np.asarray(batch.test_labels)
    return {
        METRICS[1]: float(regression.expressivity(f, perturbed)),
        METRICS[2]: float(regression.generalisation(f, wanted)),
        "accuracy": float(right.mean()),
        "residual": float(fitted.residuals.max()),
        "iterations": fitted.iterations,
    }


TAKE: dict[str, Callable[[NTKOperator, Batch, Request], dict[str, Any]]] = {
    "spectrum": _spectrum,
    "density": _density,
    "solve": _solve,
}
