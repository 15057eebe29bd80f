"""The contestants of the benchmark: NTK engines, training steps, their peers in PyTorch.

A contestant prepares for a case (a cell, weights, images): it compiles, once for all cells or
once per cell, runs once, and returns a function of no arguments that runs and waits.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from saboc_jax.layers.interceptors import rules_in_force
from saboc_jax.layers.rules import batch_norm_rule, fast_conv_rule
from saboc_jax.ntk import _neural_tangents
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import (
    bind,
    from_module,
    named_predicate,
    split_parameters,
    with_batch_statistics,
)
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.types import SearchSpace

MATMUL = 1024  # side of the matrices; their product shows the machine's limit
TORCH = ("torch_step", "torch_ntk")


class Case(NamedTuple):
    """The input of a contestant; `arch` is None for a supernet."""

    space: SearchSpace
    arch: Any
    gates: Any
    variables: Any
    images: Any
    channels: int
    cells: int
    threads: int


class Prepared(NamedTuple):
    """A contestant ready to run, and its compile seconds; None: it compiled nothing."""

    run: Callable[[], Any]
    compile_seconds: float | None


class Contestant(NamedTuple):
    """How to prepare. `few`: it is slow or compiles for every cell, so it gets few cells.

    `gated`: one program serves every cell, and supernets.
    """

    prepare: Callable[[Case], Prepared]
    what: str
    few: bool = False
    gated: bool = False


def all_contestants(space: SearchSpace) -> dict[str, Contestant]:
    """Returns all contestants by name; ratios are relative to the first."""
    compiled_apart = lambda function, what: Contestant(partial(_own_program, function), what, True)  # noqa: E731
    found = {
        "one_backward": _gated(ntk(space, "one_backward", "frozen"), "NTK, one backward pass"),
        "ntk_score_kernels": _gated(
            ntk(space, "one_backward", "frozen", others=2), "train, test and perturbed kernels"
        ),
        "one_backward_cells": _gated(
            ntk(space, "one_backward", "frozen", params="cells"),
            "NTK of the weights of the cells alone, as the NTK-score takes it",
        ),
        "ntk_score_kernels_cells": _gated(
            ntk(space, "one_backward", "frozen", others=2, params="cells"),
            "the NTK-score's kernels: train, test and perturbed, weights of the cells",
        ),
        "neural_tangents": _gated(
            ntk(space, "neural_tangents", "frozen"),
            "NTK, neural-tangents on the gated program with fast convolution rules",
        ),
        "train_step": _gated(
            partial(train_step, space), "forward and backward of the gated program, fast rules"
        ),
        "one_backward_module": compiled_apart(
            module_one_backward, "NTK, one backward pass, plain module"
        ),
        "neural_tangents_module": compiled_apart(
            module_neural_tangents, "NTK, neural-tangents as a user calls it on the plain module"
        ),
        "train_step_module": compiled_apart(
            module_train_step, "forward and backward of the plain module, XLA's own rules"
        ),
        "jacobian_batch": _gated(
            ntk(space, "jacobian", "batch"), "NTK, n backward passes, gated program", few=True
        ),
        "matmul": Contestant(_matmul, f"float32 product of {MATMUL} x {MATMUL} matrices"),
    }
    if importlib.util.find_spec("torch"):
        whats = ("forward and backward in PyTorch", "NTK, n backward passes in PyTorch")
        for name, what in zip(TORCH, whats, strict=True):
            found[name] = Contestant(partial(_torch, name), what, few=name == "torch_ntk")
    return found


# --- one program for every cell ---------------------------------------------------------------


def _gated(function: Callable[..., Any], what: str, few: bool = False) -> Contestant:
    """Makes a contestant of `function(variables, gates, images)`, compiled at the first case."""
    programs: list[Any] = []

    def prepare(case: Case) -> Prepared:
        arguments = (case.variables, case.gates, case.images)
        seconds = None
        if not programs:
            program, seconds = compiled(function, arguments)
            programs.append(program)
        return _ready(partial(programs[0], *arguments), seconds)

    return Contestant(prepare, what, few, gated=True)


def compiled(function: Callable[..., Any], arguments: tuple) -> tuple[Any, float]:
    """Returns (program, seconds to trace and compile it)."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def _ready(run: Callable[[], Any], seconds: float | None) -> Prepared:
    def wait() -> Any:
        return jax.block_until_ready(run())

    wait()
    return Prepared(wait, seconds)


def ntk(
    space: SearchSpace, engine: str, batch_norm: str, others: int = 0, params: str = "weights"
) -> Callable[..., Any]:
    """Computes the NTK of the batch, and of `others` further batches with it."""
    options = NTKOptions(engine=engine, batch_norm=batch_norm, params=params)

    def run(variables: Any, gates: Any, images: Any) -> Any:
        rows = [images + 0.1 * number for number in range(1, others + 1)]
        return empirical_ntks(bind(space, variables, gates), images, rows, options)

    return run


def train_step(space: SearchSpace, variables: Any, gates: Any, images: Any) -> Any:
    """Runs one forward and backward pass with batch statistics."""

    def loss(params: Any) -> Any:
        with rules_in_force(fast_conv_rule(), batch_norm_rule("batch")):
            return jnp.square(space.apply({"params": params}, gates, images)[0]).mean()

    return jax.grad(loss)(variables["params"])


def _matmul(case: Case) -> Prepared:
    """Prepares a matrix product, which any machine does well; it is the same for every case."""
    a, b = jax.random.normal(jax.random.key(0), (2, MATMUL, MATMUL))
    program, _ = compiled(jnp.matmul, (a, b))
    return _ready(partial(program, a, b), None)


# --- a program for each cell --------------------------------------------------------------------


def _own_program(make: Callable[[nn.Module, Any, Any], tuple], case: Case) -> Prepared:
    """Compiles a program for one cell; `make(module, variables, images)` gives (function, args)."""
    module = case.space.specialise(case.arch)
    variables = case.space.extract(case.variables, case.arch)
    function, arguments = make(module, variables, case.images)
    program, seconds = compiled(function, arguments)
    return _ready(partial(program, *arguments), seconds)


def module_one_backward(module: nn.Module, variables: Any, images: Any) -> tuple:
    """Our engine on the plain module."""
    options = NTKOptions("one_backward")
    run = lambda v, x: empirical_ntks(from_module(module, v, train=True), x, (), options)  # noqa: E731
    return run, (variables, images)


def module_neural_tangents(module: nn.Module, variables: Any, images: Any) -> tuple:
    """`empirical_ntk_fn` of the module in evaluation mode, over weights; no rules of ours."""
    network = from_module(module, variables, train=True)
    recorded = jax.jit(lambda x: with_batch_statistics(network, x).variables["batch_stats"])
    statistics = recorded(images)
    predicate = named_predicate("weights", None)
    leaves, restore = split_parameters(variables["params"], predicate)

    def summed(leaves: Any, images: Any) -> Any:
        stored = {"params": restore(leaves), "batch_stats": statistics}
        outputs: Any = module.apply(stored, images, train=False)
        return outputs.sum(-1, keepdims=True)

    kernel = _neural_tangents.load().empirical_ntk_fn(
        summed, trace_axes=(-1,), vmap_axes=0, implementation=1
    )
    return (lambda leaves, images: kernel(images, None, leaves)), (leaves, images)


def module_train_step(module: nn.Module, variables: Any, images: Any) -> tuple:
    """An ordinary JAX training step without an optimiser."""

    def loss(params: Any, images: Any) -> Any:
        logits, _ = module.apply({"params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).mean()

    return jax.grad(loss), (variables["params"], images)


def _torch(name: str, case: Case) -> Prepared:
    from saboc_jax.spaces.nas_bench_201.space import operation_names

    from . import torch_peers

    runs = torch_peers.contestants(
        operation_names(case.arch),
        case.channels,
        case.cells,
        case.space.num_classes,
        np.asarray(case.images),
        case.threads,
    )
    runs[name]()
    return Prepared(runs[name], None)
