"""Measures NTK engines against each other and against a plain training step, in one run.

Contestants take turns on the same random cells, weights and images; compile time and run time
are apart. Ratios are to one forward and backward pass of the same gated network and batch.

Examples:
  python -m experiments.benchmark --channels=16 --num_archs=8
  python -m experiments.benchmark --cells=5 --contestants=train_step,one_backward
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn
from rich.console import Console

from experiments import common
from saboc_jax.ntk.empirical import NTKOptions, empirical_ntks
from saboc_jax.ntk.network import bind
from saboc_jax.report import results_table
from saboc_jax.spaces.base import sample_architectures
from saboc_jax.spaces.layers import batch_norm_rule, fast_conv_rule
from saboc_jax.types import SearchSpace

NUM_ARCHS = flags.DEFINE_integer("num_archs", 8, "Random cells to measure on.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over contestants and cells.", 1)
CONTESTANTS = flags.DEFINE_list("contestants", [], "Which ones; default all.")
OUT = flags.DEFINE_string("out", None, "JSON file to write.")

Contestant = Callable[[Any, Any, Any], Any]


def ntk(space: SearchSpace, engine: str, batch_norm: str, others: int = 0) -> Contestant:
    """The NTK of the batch, and of `others` further batches with it."""
    options = NTKOptions(engine=engine, batch_norm=batch_norm)

    def run(variables: Any, gates: Any, images: Any) -> Any:
        rows = [images + 0.1 * number for number in range(1, others + 1)]
        return empirical_ntks(bind(space, variables, gates), images, rows, options)

    return run


def train_step(space: SearchSpace, variables: Any, gates: Any, images: Any) -> Any:
    """One forward and backward pass with batch statistics."""

    def loss(params: Any) -> Any:
        with (
            nn.intercept_methods(fast_conv_rule()),
            nn.intercept_methods(batch_norm_rule("batch")),
        ):
            return jnp.square(space.apply({"params": params}, gates, images)[0]).mean()

    return jax.grad(loss)(variables["params"])


def contestants(space: SearchSpace) -> dict[str, Contestant]:
    """All contestants by name."""
    return {
        "train_step": lambda *arguments: train_step(space, *arguments),
        "one_backward": ntk(space, "one_backward", "frozen"),
        "ntk_score_kernels": ntk(space, "one_backward", "frozen", others=2),
        "neural_tangents": ntk(space, "neural_tangents", "frozen"),
        "jacobian_batch": ntk(space, "jacobian", "batch"),
    }


def measure(space: SearchSpace, names: list[str]) -> dict[str, dict[str, float]]:
    """Compile seconds, and median run seconds over cells and rounds."""
    key = jax.random.key(common.SEED.value)
    variables = jax.jit(space.init)(key)
    images = jax.random.normal(key, (common.BATCH_SIZE.value, *space.image_shape))
    gates = [
        space.gates(arch) for arch in sample_architectures(key, space.choices, NUM_ARCHS.value)
    ]
    programs, results = {}, {}
    for name in names:
        start = time.perf_counter()
        jitted = jax.jit(contestants(space)[name])
        programs[name] = jitted.lower(variables, gates[0], images).compile()
        results[name] = {"compile s": time.perf_counter() - start}
        jax.block_until_ready(programs[name](variables, gates[0], images))
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(ROUNDS.value):
        for name in names:
            seconds[name].append([])
            for gate in gates:
                start = time.perf_counter()
                jax.block_until_ready(programs[name](variables, gate, images))
                seconds[name][-1].append(time.perf_counter() - start)
    for name in names:
        means = np.mean(seconds[name], axis=1)
        results[name] |= {
            "run s": float(np.median(means)),
            "min s": float(means.min()),
            "max s": float(means.max()),
        }
    return results


def main() -> None:
    """Measures, prints, writes."""
    space = common.build_space(common.load_dataset())
    known = list(contestants(space))
    names = CONTESTANTS.value or known
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"contestants {unknown} are unknown; allowed: {known}")
    results = measure(space, names)
    base = results[names[0]]["run s"]
    rows = [
        {"contestant": name, **values, "ratio": values["run s"] / base}
        for name, values in results.items()
    ]
    title = (
        f"C={common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, mean "
        f"over {NUM_ARCHS.value} random cells, median of {ROUNDS.value} rounds"
    )
    Console(highlight=False).print(results_table(rows, title=title))
    if OUT.value:
        common.write_json(
            Path(OUT.value),
            {"settings": common.flag_values("out"), **common.environment(), "results": results},
        )


if __name__ == "__main__":
    common.run(main)
