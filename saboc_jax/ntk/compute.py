"""Kernels by any engine, as pure functions."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from saboc_jax.ntk import check
from saboc_jax.ntk.batches import symmetric
from saboc_jax.ntk.jacobian import jacobian_kernels
from saboc_jax.ntk.network import (
    STATISTICS,
    Network,
    split_parameters,
    statistics_shapes,
    with_batch_statistics,
)
from saboc_jax.ntk.one_backward import Passes, one_backward_kernels
from saboc_jax.ntk.options import NTKOptions, check_options
from saboc_jax.ntk.reading import choose_parameters, read_network, read_statically
from saboc_jax.ntk.reference import reference_kernels
from saboc_jax.precision import products_at


def compute_kernels(
    network: Network, columns: Any, rows: Sequence[Any], options: NTKOptions
) -> list[Array]:
    """Computes the kernels of `empirical.empirical_ntks`, as part of a program and unchecked."""
    check_options(options)
    with products_at():
        passes = prepare(network, columns, options)
        if engine_of(options) == "one_backward":
            return symmetric(one_backward_kernels(passes, columns, rows, options))
        compute = jacobian_kernels if engine_of(options) == "jacobian" else reference_kernels
        return symmetric(compute(passes.network, columns, rows, passes.predicate, options))


def prepare(network: Network, columns: Any, options: NTKOptions, axis: str | None = None) -> Passes:
    """Returns the network at the statistics that the options ask for, and its parameters.

    Args:
        network: the network.
        columns: the inputs that give frozen statistics.
        options: which parameters, and the mode of batch norm.
        axis: the mesh axis that divides inputs over devices; None: one device has all.

    Raises:
        NoParameterError: if no parameter is chosen.
        ValueError: if the network's outputs are not [n, k].
    """
    if options.is_frozen:
        network = with_batch_statistics(network, columns)
    read = None
    if not network.known_layers:
        _check_running(network, columns, options)
        structure = read_statically if options.batch_norm == "batch" else read_network
        read = structure(network, columns)
    predicate = choose_parameters(network, options.params, read)
    split_parameters(network.variables["params"], predicate)
    return Passes(network, predicate, read, axis)


def _check_running(network: Network, columns: Any, options: NTKOptions) -> None:
    """Raises ValueError if running statistics are asked for and not there."""
    missing = options.batch_norm == "running" and network.variables.get(STATISTICS) is None
    if missing and jax.tree.leaves(statistics_shapes(network, columns)):
        raise ValueError(
            f"batch_norm='running', but {network.name} has no {STATISTICS!r} in its variables; "
            "allowed: variables with them, or batch_norm='frozen'"
        )


def differences_of(
    network: Network, inputs: Any, kernel: Array | None, options: NTKOptions
) -> check.Differences:
    """Compares a kernel of inputs with the network itself (`check.compare`); can be compiled."""
    with products_at():
        passes = prepare(network, inputs, options)
        return check.compare(passes.network, passes.predicate, network, inputs, kernel, options)


def is_only_rounding(network: Network, inputs: Any, options: NTKOptions, dtype: Any) -> bool:
    """Is the kernel right in float64, on a few examples? Asked where it fails in `dtype`."""
    if str(dtype) == "float64":
        return False

    def run(variables: Any, inputs: Any) -> check.Differences:
        double = network._replace(variables=variables)
        kernel = compute_kernels(double, inputs, (), options)[0]
        return differences_of(double, inputs, kernel, options)

    return check.in_float64(jax.jit(run), network, inputs)


def needs_check(options: NTKOptions) -> bool:
    """Is there something to verify? The Jacobian of a whole batch is right by itself."""
    return options.check and options.is_independent and engine_of(options) != "jacobian"


def engine_of(options: NTKOptions) -> str:
    """Returns the engine: the named one; for "auto" `one_backward` if examples do not interact."""
    if options.engine != "auto":
        return options.engine
    return "jacobian" if options.batch_norm == "batch" else "one_backward"
