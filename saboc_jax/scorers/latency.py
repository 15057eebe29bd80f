"""Measured latency of an architecture's plain network on this machine's device.

The specialised network (`SearchSpace.specialise`) is compiled, warmed up in inference mode on noise
images, and then timed:

    latency = median over runs of (time at which the outputs are ready - time of the call), in ms.

The time does not depend on the values of the weights. So the weights are noise, scaled to keep
activations near 1, for every initialiser of the space.

Unlike every other score it is a measurement: the same key gives a different value each time
(`Scorer.measured`). A store makes a search repeatable, because it returns the stored value. The
options, which are part of the key of a stored value, name the device.
"""

import inspect
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.devices import cores
from saboc_jax.scorers.single import single_metric
from saboc_jax.types import (
    Architecture,
    Batch,
    Diagnostics,
    Gates,
    Passes,
    PRNGKey,
    Scorer,
    SearchSpace,
)

KEPT = 4  # cached compiled networks: repeats of an architecture follow each other


class Timing(NamedTuple):
    """How the runs are made.

    Attributes:
        batch_size: the number of images in a run.
        image_size: height and width of the images; None: those of the space.
        runs: the number of timed runs.
        warmup: the number of runs before them.
    """

    batch_size: int = 1
    image_size: int | None = None
    runs: int = 30
    warmup: int = 3


def latency(
    space: SearchSpace,
    batch_size: int = 1,
    image_size: int | None = None,
    runs: int = 30,
    warmup: int = 3,
) -> Scorer:
    """Median latency of warm runs in milliseconds; lower is better. Supernets score NaN.

    Args:
        space: the search space; its specialised networks are timed.
        batch_size: the number of images in a run.
        image_size: height and width of the images; None: those of the space.
        runs: the number of timed runs.
        warmup: the number of runs before them.

    Raises:
        ValueError: if a number is less than 1.
    """
    timing = Timing(batch_size, image_size, runs, warmup)
    for name, value in timing._asdict().items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; allowed: 1 or more")

    def finish(runs: Mapping[str, Any], batch: Batch) -> tuple[Array, Diagnostics]:
        quartiles = jnp.asarray(runs["quartiles"])
        return quartiles[1], {"quartiles_ms": quartiles}

    return single_metric(
        "latency",
        Latency(space, timing),
        finish,
        needs=(),
        passes=Passes(runs + warmup, 0),
        options={**timing._asdict(), "device": device_name()},
        metric="latency_ms",
        higher_is_better=False,
        measured=True,
    )


@dataclass(frozen=True)
class Latency:
    """Observable: quartiles of the milliseconds of a run, and the compile time in seconds."""

    space: SearchSpace
    timing: Timing
    runs_apart: ClassVar[bool] = True

    def __call__(self, key: PRNGKey, gates: Gates, batch: Batch) -> dict[str, Any]:
        """Returns {"quartiles": [3] ms, "compile_seconds": 0 if the program was cached}.

        Raises:
            ValueError: if the gates are traced: a clock inside a compiled program is meaningless.
        """
        if isinstance(gates, jax.core.Tracer):
            raise ValueError(
                "latency is measured, but the gates are traced; allowed: outside of jax.jit and "
                "jax.vmap, e.g. by saboc_jax.score or an Evaluator"
            )
        active = np.asarray(gates) > 0
        if (active.sum(-1) != 1).any():
            return {"quartiles": np.full(3, np.nan), "compile_seconds": 0.0}
        arch = tuple(active.argmax(-1).tolist())
        misses = _compiled.cache_info().misses
        run, seconds = _compiled(self.space, arch, self.timing.batch_size, self.timing.image_size)
        fresh = _compiled.cache_info().misses > misses
        times = timed(run, self.timing.runs, self.timing.warmup)
        return {
            "quartiles": 1000 * np.quantile(times, (0.25, 0.5, 0.75)),
            "compile_seconds": seconds * fresh,
        }


def timed(run: Callable[[], Any], runs: int, warmup: int) -> Float[np.ndarray, " runs"]:
    """Measures the seconds of each of `runs` calls, until the outputs are ready.

    Args:
        run: the call.
        runs: the number of timed calls.
        warmup: the number of calls before them.
    """
    for _ in range(warmup):
        jax.block_until_ready(run())
    seconds = np.empty(runs)
    for number in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds[number] = time.perf_counter() - start
    return seconds


@lru_cache(KEPT)
def _compiled(
    space: SearchSpace, arch: tuple[int, ...], batch_size: int, image_size: int | None
) -> tuple[Callable[[], Any], float]:
    """Returns a call of the compiled network, and the seconds of compiling it."""
    module, call = inference(space, np.array(arch, np.int32))
    height, width, channels = space.image_shape
    size = (image_size, image_size) if image_size else (height, width)
    shape = (batch_size, *size, channels)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    arguments = jax.device_put((_weights(module, call, shape), images))
    start = time.perf_counter()
    program = jax.jit(lambda variables, x: module.apply(variables, x, **call))
    with jax.default_matmul_precision(None):  # as it will be used, not as it is scored
        compiled = program.lower(*arguments).compile()
    return (lambda: compiled(*arguments)), time.perf_counter() - start


def inference(space: SearchSpace, arch: Architecture) -> tuple[nn.Module, dict[str, Any]]:
    """Returns an architecture's plain module, and the keyword arguments of inference calls."""
    module, call = space.specialise(arch), space.networks.call()
    if "train" in inspect.signature(type(module).__call__).parameters:
        call.setdefault("train", False)
    return module, call


def _weights(module: nn.Module, call: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """Returns variables: weights of variance 1 / inputs, batch norm variances of 1, else 0."""
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes: Any = jax.eval_shape(lambda x: nn.unbox(module.init(keys, x, **call)), images)
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        names = [str(getattr(part, "key", part)) for part in path]
        if names[0] == "params":
            scale = np.sqrt(np.prod(leaf.shape[:-1]) or 1.0)
            return (rng.standard_normal(leaf.shape) / scale).astype(leaf.dtype)
        return np.full(leaf.shape, names[-1] == "var", leaf.dtype)

    kept = {name: tree for name, tree in shapes.items() if name != "intermediates"}
    return jax.tree_util.tree_map_with_path(fill, kept)


@lru_cache(1)
def device_name() -> str:
    """Returns the name of the device for the record; a CPU by its model and cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform}: {device.device_kind}"
    return f"cpu: {_cpu_model()}, {cores()} cores"


def _cpu_model() -> str:
    """Returns the processor's name on Linux, else its architecture."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(errors="replace") if listed.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return match[1].strip() if match else platform.processor() or platform.machine()
