"""The empirical neural tangent kernel: one signature, several engines.

The kernel of inputs x_i (rows) and x_j (columns) is H_ij = <df(x_i)/dw, df(x_j)/dw> over the
chosen parameters w; f is the sum of the network's outputs unless `outputs` says otherwise.
`NTKOptions` chooses how it is computed.

Kernels are compiled here, once for a network, its shapes and the options, and verified once when
they are (`ntk.check`). Under a trace of the user's own (`jax.jit`, `jax.vmap`) they become part of
that program and are not verified; `check_ntk` does it apart.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
from jaxtyping import Array, Float

from saboc_jax.layers.fast_programs import with_fast_convolutions
from saboc_jax.layers.programs import is_traced, signature_of
from saboc_jax.ntk import check
from saboc_jax.ntk.compute import (
    compute_kernels,
    differences_of,
    engine_of,
    is_only_rounding,
    needs_check,
)
from saboc_jax.ntk.memory import chunk_that_fits
from saboc_jax.ntk.network import Network, Template
from saboc_jax.ntk.options import DEFAULTS, NTKOptions, check_options
from saboc_jax.precision import chosen_precision

_verified: dict[Any, NTKOptions] = {}
MAX_VERIFIED = 1024  # kernels that are known to be right, the oldest forgotten


def empirical_ntk(
    network: Network,
    x1: Any,
    x2: Any = None,
    options: NTKOptions = DEFAULTS,
    *,
    key: Any = None,
) -> Float[Array, "n m ..."]:
    """Computes the empirical NTK of x1 (rows) with x2 (columns), or of x1 with itself.

    Args:
        network: the network at fixed weights.
        x1: inputs of the rows, any tree of arrays with a leading axis of examples.
        x2: inputs of the columns, which give frozen batch norm statistics. None: x1.
        options: engine, parameters, outputs, batch norm, memory.
        key: draws the weights of a network that has none of its own; consumed. None: as they are.

    Returns:
        [n, m]; [n, m, k, k] for `outputs="full"`.

    Raises:
        ValueError: if an option does not exist, the engine does not apply, or the network has
            weights of its own and a key is given, or neither.

    Warns:
        KernelWarning: if the kernel had to be computed in another way than by one backward pass,
            or with batch_norm="running" at statistics that are still initial.
    """
    network = _at_weights(network, x1, key)
    if x2 is None:
        return empirical_ntks(network, x1, (), options)[0]
    return empirical_ntks(network, x2, (x1,), options)[1]


def empirical_ntks(
    network: Network, columns: Any, rows: Sequence[Any] = (), options: NTKOptions = DEFAULTS
) -> list[Float[Array, "n m ..."]]:
    """Computes the NTKs of the columns with themselves and of each batch of rows with the columns.

    One call shares the work on the columns. Arguments and errors as in `empirical_ntk`.

    Returns:
        [[m, m], [n_1, m], ...]: first the columns' own kernel.
    """
    check_options(options)
    rows = tuple(rows)
    given = (network.variables, columns, rows)
    if network.source is None or is_traced(given):
        return compute_kernels(network, columns, rows, options)
    signature = (Template(network), options, signature_of(given))
    options = _verified.get(signature, options)
    program = compiled_kernels(Template(network), options._replace(check=True), chosen_precision())
    kernels = program(*given)
    if needs_check(options) and signature not in _verified:
        options = _verified_options(network, columns, kernels[0], options)
        _verified[signature] = options
        if len(_verified) > MAX_VERIFIED:
            del _verified[next(iter(_verified))]
        if not options.check:
            return empirical_ntks(network, columns, rows, options)
    return kernels


def _at_weights(network: Network, inputs: Any, key: Any) -> Network:
    """Returns the network at weights that a key draws, or at its own."""
    if key is not None and network.keeps_weights:
        raise ValueError(f"key= with {network.name}, which keeps its weights; allowed: None")
    if key is not None:
        return network._replace(variables=network.draw(key, inputs))
    if not network.variables:
        raise ValueError(f"{network.name} draws its weights; allowed: key=jax.random.key(...)")
    return network


def check_ntk(
    network: Network, inputs: Any, options: NTKOptions = DEFAULTS, *, key: Any = None
) -> check.NTKCheck:
    """Verifies the kernel of inputs; see `ntk.check`.

    Args:
        network: the network at fixed weights.
        inputs: a batch.
        options: of the kernel; with engine "auto" and "one_backward" its one backward pass.
        key: see `empirical_ntk`.

    Examples:
        >>> import jax, saboc_jax as sj
        >>> network = sj.from_function(lambda w, x: jax.numpy.tanh(x @ w), jax.numpy.ones((3, 2)))
        >>> sj.check_ntk(network, jax.numpy.eye(3)).passed
        True
    """
    check_options(options)
    network = _at_weights(network, inputs, key)
    kernel = jax.jit(lambda v, x: compute_kernels(network._replace(variables=v), x, (), options))(
        network.variables, inputs
    )[0]
    return _checked(network, inputs, kernel, options)


def _checked(network: Network, inputs: Any, kernel: Array, options: NTKOptions) -> check.NTKCheck:
    """Verifies a kernel; what fails in float32 may be only rounding."""

    def run(variables: Any, inputs: Any, kernel: Array) -> check.Differences:
        return differences_of(network._replace(variables=variables), inputs, kernel, options)

    differences = jax.device_get(
        jax.jit(with_fast_convolutions(run))(network.variables, inputs, kernel)
    )
    tolerance = check.tolerance_for(network, inputs, kernel)
    passed = differences.passed(tolerance) or is_only_rounding(
        network, inputs, options, kernel.dtype
    )
    reason = None if passed else check.reason_of(differences, tolerance, network, inputs)
    return check.NTKCheck(passed, differences, tolerance, reason)


def _verified_options(
    network: Network, columns: Any, kernel: Array, options: NTKOptions
) -> NTKOptions:
    """Returns the options if the kernel is right, else those of an engine that is.

    Raises:
        ValueError: if no engine is right.
    """
    initial = check.initial_statistics(network, options)
    if initial is not None:
        warnings.warn(initial, check.KernelWarning, stacklevel=4)
    reason = _checked(network, columns, kernel, options).reason
    if reason is None:
        return options
    check.fall_back(options, reason)
    return options._replace(engine="jacobian", check=False)


@lru_cache(64)
def compiled_kernels(
    template: Template, options: NTKOptions, precision: str
) -> Callable[..., list[Array]]:
    """Returns the compiled kernels of a network: (variables, columns, rows).

    The precision of products is that of `saboc_jax.precision.chosen_precision`, for which they are
    kept.
    """
    network = template.network

    def run(options: NTKOptions) -> Callable[..., list[Array]]:
        def kernels(variables: Any, columns: Any, rows: Any) -> list[Array]:
            own = network._replace(variables=variables)
            return compute_kernels(own, columns, rows, options)

        return kernels if network.known_layers else with_fast_convolutions(kernels)

    return chunk_that_fits(run, options)


__all__ = ["check_ntk", "empirical_ntk", "empirical_ntks", "engine_of"]
