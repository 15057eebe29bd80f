"""Verifies a kernel against the network itself, at the cost of about one gradient.

For a random vector v, the kernel H of a function f of parameters w satisfies

    v' H v = |d/dw sum_i v_i f(x_i)|^2,

whatever computed H. The right side is one plain backward pass of the whole batch, without anything
of ours in it. So a wrong kernel is found, and also a network whose examples interact or that draws
noise, for kernels are read from its program for one example. Two further comparisons say
what is wrong: outputs of single examples with those of the batch, and outputs at the frozen
statistics of batch norm with those of training mode.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saboc_jax.layers.jaxpr import FlatProgram, evaluate_all, trace
from saboc_jax.layers.tree import Predicate
from saboc_jax.ntk.batches import leading, number_of
from saboc_jax.ntk.network import STATISTICS, Network, split_parameters, statistics_shapes
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import PRECISION, enable_x64

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
HALF = 0.05  # of types of half precision
FEW = 4  # examples of the second opinion in float64, and of the search for a layer


class KernelWarning(UserWarning):
    """Says that a kernel is computed in another way than asked for, and why."""


class Differences(NamedTuple):
    """Relative differences, 0 where all is well.

    Attributes:
        gradient: of v' H v from the squared gradient of the weighted outputs.
        single: of the outputs of single examples from those of the batch.
        statistics: of the outputs at frozen statistics from those of training mode; 0 without.
        dead: the share of the chosen parameters whose gradient is exactly zero for the whole
            batch. Not a difference.
    """

    gradient: Float[Array, ""]
    single: Float[Array, ""]
    statistics: Float[Array, ""]
    dead: Float[Array, ""]

    def passed(self, tolerance: float) -> bool:
        """Are all differences below the tolerance? A NaN is no difference: it is flagged."""
        return not any(float(each) > tolerance for each in self[:3])


class NTKCheck(NamedTuple):
    """The result of `check_ntk`.

    Attributes:
        passed: are all differences below the tolerance?
        differences: see `Differences`.
        tolerance: 1e-4 in float32, 1e-10 in float64.
        reason: what failed, with the layer's path where it can be found; None: nothing.
    """

    passed: bool
    differences: Differences
    tolerance: float
    reason: str | None


def compare(
    network: Network,
    predicate: Predicate,
    original: Network,
    inputs: Any,
    kernel: Float[Array, "n n ..."] | None,
    options: NTKOptions,
) -> Differences:
    """Computes the differences; can be compiled.

    Args:
        network: as the kernel's engine saw it, see `compute.prepare`.
        predicate: which parameters count.
        original: the network as it was given.
        inputs: the batch that the kernel is of.
        kernel: of the inputs with themselves; None: only outputs are compared.
        options: of the kernel.
    """
    leaves, restore = split_parameters(network.variables["params"], predicate)

    def outputs(leaves: list[Array]) -> Array:
        variables = {**network.variables, "params": restore(leaves)}
        y: Array = network.apply(variables, inputs)[0]
        return y

    y, pull = jax.vjp(outputs, leaves)
    one = jax.vmap(lambda x: network.apply(network.variables, _batch_of_one(x))[0][0])(inputs)
    v = jax.random.normal(jax.random.key(0), y.shape[:1], y.dtype)
    weights = _output_weights(y.shape[1], options.outputs, y.dtype)
    squared = lambda w: _squared_gradient(pull, v[:, None] * w)  # noqa: E731
    if len(weights) == 1:  # XLA's CPU computes convolutions in a loop many times slower
        norms, squares = jax.tree.map(lambda a: a[None], squared(weights[0]))
    else:
        norms, squares = jax.lax.map(squared, weights)
    return Differences(
        jnp.zeros(()) if kernel is None else _identity(kernel, v, weights, norms, options.outputs),
        _relative(one, y),
        _of_statistics(original, network, inputs, y, options),
        _dead(leaves, squares),
    )


def _batch_of_one(example: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], example)


def _output_weights(width: int, outputs: str, dtype: Any) -> Float[Array, "b k"]:
    """Returns the sums of outputs whose gradients are needed."""
    if outputs == "sum":
        return jnp.ones((1, width), dtype)
    if outputs == "trace":
        return jnp.eye(width, dtype=dtype)
    return jax.random.normal(jax.random.key(1), (1, width), dtype)


def _squared_gradient(pull: Callable[..., Any], cotangent: Array) -> tuple[Array, list[Array]]:
    gradients = pull(cotangent)[0]
    squared = jnp.stack([jnp.square(g).sum() for g in gradients]).sum()
    return squared, [jnp.abs(g) for g in gradients]


def _identity(kernel: Array, v: Array, weights: Array, norms: Array, outputs: str) -> Array:
    if outputs == "full":
        w = weights[0]
        kernel = jnp.einsum("ijab,a,b->ij", kernel, w, w, precision=PRECISION)
    product = jnp.einsum("i,ij,j->", v, kernel, v, precision=PRECISION)
    # The trace is what v' H v is on average: dividing by it, not by v' H v, which may be small.
    scale = jnp.maximum(jnp.square(v) @ jnp.diagonal(kernel), _nothing(kernel.dtype))
    return jnp.abs(product - norms.mean()) / scale


def _relative(one: Array, other: Array) -> Array:
    scale = jnp.maximum(jnp.abs(other).max(), _nothing(other.dtype))
    difference: Array = jnp.abs(one - other).max() / scale
    return difference


def _nothing(dtype: Any) -> float:
    """Returns the size below which a number has lost digits to underflow."""
    limits = jnp.finfo(dtype)
    return float(limits.tiny) / float(limits.eps)


def _of_statistics(
    original: Network, network: Network, inputs: Any, y: Array, options: NTKOptions
) -> Array:
    stated = network.variables.get(STATISTICS)
    if not options.is_frozen or original.train is None or not jax.tree.leaves(stated):
        return jnp.zeros(())
    trained = original.train(network.variables, inputs)[0]
    return _relative(y, trained)


def _dead(leaves: list[Array], squares: list[Array]) -> Array:
    zeros = jnp.stack([jnp.sum(each.max(0) == 0) for each in squares])
    return zeros.sum() / sum(leaf.size for leaf in leaves)


# --- after the comparison, on the host ----------------------------------------------------------


def tolerance_for(network: Network, inputs: Any, kernel: Any) -> float:
    """Returns the largest difference that rounding explains: that of the coarsest type in use."""
    leaves = [kernel, *jax.tree.leaves((network.variables["params"], inputs))]
    names = {str(leaf.dtype) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    if names == {"float64"} and not network.known_layers:
        names |= _computed_in(network, inputs)
    return max(TOLERANCES.get(name, HALF) for name in names)


def _computed_in(network: Network, inputs: Any) -> set[str]:
    """Returns the floating-point types inside a network: Keras on JAX, say, knows no float64."""
    statistics = statistics_shapes(network, inputs)  # the network may not hold them
    held = {STATISTICS: statistics} if jax.tree.leaves(statistics) else {}
    variables = {**network.variables, **held}
    program = trace(lambda v, x: network.apply(v, x)[0], variables, leading(inputs, 1))
    places = (place for equation in program.equations for place in equation.outputs)
    types = (getattr(program.shapes[place], "dtype", None) for place in places)
    return {str(dtype) for dtype in types if dtype and jnp.issubdtype(dtype, jnp.floating)}


def reason_of(differences: Differences, tolerance: float, network: Network, inputs: Any) -> str:
    """Returns what failed, as a sentence that names the layer where it can be found."""
    where = f"network {network.name!r}"
    if float(differences.single) > tolerance:
        layer = first_difference(network, leading(inputs, min(FEW, number_of(inputs))))
        at = f" (first in layer {layer!r})" if layer else ""
        return f"in {where} examples interact, or noise is drawn inside{at}"
    if float(differences.statistics) > tolerance:
        return (
            f"{where} gives other outputs at the batch's statistics than in training mode: "
            "something else than batch norm depends on the mode, or its statistics are kept in "
            "another way"
        )
    return f"the kernel of {where} does not fit its gradient"


def initial_statistics(network: Network, options: NTKOptions) -> str | None:
    """Says that running statistics are those of a network that was never trained; None: not so."""
    kept = network.variables.get(STATISTICS)
    leaves = [leaf for leaf in jax.tree.leaves(kept) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    if options.batch_norm != "running" or not leaves:
        return None
    if not all(bool((leaf == 0).all() | (leaf == 1).all()) for leaf in leaves):
        return None
    return (
        f"the running statistics of {network.name!r} are still 0 and 1, as before any training: "
        "with batch_norm='frozen' they are those of the batch"
    )


def fall_back(options: NTKOptions, reason: str) -> None:
    """Warns that the whole batch's Jacobian is taken.

    Raises:
        ValueError: if the engine that does not apply was asked for by name.
    """
    if options.engine not in ("auto", "one_backward"):
        raise ValueError(f"engine {options.engine!r} does not apply: {reason}")
    warnings.warn(
        f"{reason}; its kernel is taken from the Jacobian of the whole batch, n backward passes",
        KernelWarning,
        stacklevel=3,
    )


def first_difference(network: Network, inputs: Any) -> str | None:
    """Returns the path of the first layer whose result for a batch is not that of each example.

    None if none is found, or the two programs do not have the same equations.
    """
    leaves, structure = jax.tree.flatten(network.variables)
    rows, inputs_structure = jax.tree.flatten(inputs)

    def run(leaves: list[Any], rows: list[Any]) -> Any:
        variables = jax.tree.unflatten(structure, leaves)
        return network.apply(variables, jax.tree.unflatten(inputs_structure, rows))[0]

    whole = trace(run, leaves, rows)
    single = trace(run, leaves, [row[:1] for row in rows])
    if [e.name for e in whole.equations] != [e.name for e in single.equations]:
        return None
    own = _values(whole, [*leaves, *rows])
    each = [_values(single, [*leaves, *(row[i : i + 1] for row in rows)]) for i in range(2)]
    for one, two in zip(whole.equations, single.equations, strict=True):
        for a, b in zip(one.outputs, two.outputs, strict=True):
            if _differ(own[a], [values[b] for values in each]):
                return one.layer or None
    return None


def _values(program: FlatProgram, args: list[Any]) -> dict[int, Any]:
    known = dict(zip(program.inputs, args, strict=True)) | program.constants
    return evaluate_all(program.equations, known)


def _differ(whole: Any, singles: list[Any]) -> bool:
    if not jnp.issubdtype(whole.dtype, jnp.inexact) or whole.ndim != singles[0].ndim:
        return False
    axes = [i for i, (a, b) in enumerate(zip(whole.shape, singles[0].shape, strict=True)) if a != b]
    if len(axes) != 1 or singles[0].shape[axes[0]] != 1:
        return False
    joined = jnp.concatenate(singles, axes[0])
    part = jax.lax.slice_in_dim(whole, 0, len(singles), axis=axes[0])
    return bool(_relative(joined, part) > TOLERANCES["float32"])


def in_float64(run: Callable[[Any, Any], Differences], network: Network, inputs: Any) -> bool:
    """Does the comparison of (variables, inputs) pass in float64, on a few examples?"""
    with enable_x64():
        variables, inputs = jax.tree.map(_to_double, (network.variables, leading(inputs, FEW)))
        double = network._replace(variables=variables)
        return run(variables, inputs).passed(tolerance_for(double, inputs, jnp.zeros(())))


def _to_double(leaf: Any) -> Any:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if floating else jnp.asarray(leaf)
