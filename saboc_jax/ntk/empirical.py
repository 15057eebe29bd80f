"""The empirical neural tangent kernel: one signature, several engines.

The kernel of images x_i (rows) and x_j (columns) is H_ij = <df(x_i)/dw, df(x_j)/dw> over the
chosen parameters w, where f is the sum of the network's outputs unless said otherwise.

Batch norm couples the images of a batch. Two protocols:

    frozen: the statistics are those of the columns (the training batch) and constants. Images
        do not interact and the kernel costs one backward pass. Our default.
    batch: every batch is normalised by its own statistics and gradients flow through them,
        as TE-NAS, TEG-NAS and the others do: n backward passes.

Engines:

    one_backward: one forward and one backward pass (`one_backward`); frozen only, layers it
        knows only.
    neural_tangents: `empirical_ntk_fn` of neural-tangents; any Flax module.
    jacobian: the Jacobian row by row; any Flax module; the oracle of the tests.
    auto: one_backward where it applies, else neural_tangents.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.rules import batch_norm_rule, fast_conv_rule
from saboc_jax.ntk import _neural_tangents
from saboc_jax.ntk import one_backward as one
from saboc_jax.ntk import output_blocks as blocks_of
from saboc_jax.ntk.network import (
    Network,
    Predicate,
    check_outputs,
    parameter_predicate,
    split_parameters,
)
from saboc_jax.precision import PRECISION

ENGINES = ("auto", "one_backward", "neural_tangents", "jacobian")
BATCH_NORMS = ("frozen", "batch")
OUTPUTS = ("sum", "trace", "full")


class NTKOptions(NamedTuple):
    """How a kernel is computed; hashable.

    Attributes:
        engine: one of `ENGINES`.
        params: "weights", "all", "cells" or a predicate of a parameter path.
        outputs: "sum": f is the sum of outputs; "trace": the mean over outputs of each
            output's kernel; "full": [n, m, k, k], every pair of outputs.
        batch_norm: "frozen" or "batch".
        implementation: of neural-tangents: 1 (Jacobian contraction) or 2 (NTK-vector
            products). Its automatic choice fails on current JAX.
        chunk: rows per pass, to bound memory; None: all at once. Where batch norm couples the
            rows, the rows of the Jacobian computed at once.
        outputs_chunk: for "trace" and "full", outputs that are differentiated at once, to bound
            memory; None: as many as make 256 gradients with the images (`output_blocks`).
    """

    engine: str = "auto"
    params: str | Predicate = "weights"
    outputs: str = "sum"
    batch_norm: str = "frozen"
    implementation: int = 1
    chunk: int | None = None
    outputs_chunk: int | None = None


DEFAULTS = NTKOptions()


def check_options(options: NTKOptions) -> NTKOptions:
    """Raises ValueError at the first option that does not exist."""
    allowed = {
        "engine": ENGINES,
        "outputs": OUTPUTS,
        "batch_norm": BATCH_NORMS,
        "implementation": (1, 2),
    }
    for name, values in allowed.items():
        if getattr(options, name) not in values:
            raise ValueError(f"{name}={getattr(options, name)!r}; allowed: {values}")
    for name in ("chunk", "outputs_chunk"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; allowed: 1 or more, or None")
    if options.engine == "one_backward" and options.batch_norm == "batch":
        raise ValueError(
            "engine 'one_backward' needs batch_norm='frozen': with batch statistics the images "
            "of a batch interact; use engine 'neural_tangents' or 'jacobian'"
        )
    return options


def empirical_ntk(
    network: Network,
    x1: Float[Array, "n ..."],
    x2: Float[Array, "m ..."] | None = None,
    options: NTKOptions = DEFAULTS,
) -> Float[Array, "n m ..."]:
    """The empirical NTK of x1 (rows) with x2 (columns), or of x1 with itself.

    Args:
        network: the network at fixed weights.
        x1: rows.
        x2: columns; frozen batch-norm statistics are theirs. None: x1.
        options: engine, parameters, outputs, batch norm, memory.

    Returns:
        [n, m]; [n, m, k, k] for `outputs="full"`.

    Raises:
        ValueError: if an option does not exist or the engine does not apply.
    """
    if x2 is None:
        return empirical_ntks(network, x1, (), options)[0]
    return empirical_ntks(network, x2, (x1,), options)[1]


def empirical_ntks(
    network: Network,
    columns: Float[Array, "m ..."],
    rows: Sequence[Float[Array, "n ..."]] = (),
    options: NTKOptions = DEFAULTS,
) -> list[Float[Array, "n m ..."]]:
    """The NTKs of the columns with themselves and of each batch of rows with the columns.

    One call shares the columns' part of the work. Arguments and errors as `empirical_ntk`.

    Returns:
        [[m, m], [n_1, m], ...]: first the columns' own kernel.
    """
    check_options(options)
    predicate = parameter_predicate(network, options.params)
    split_parameters(network.variables["params"], predicate)  # raises if it chooses none
    engine = choose_engine(network, columns, predicate, options)
    return symmetric(_ENGINES[engine](network, columns, rows, predicate, options))


def symmetric(kernels: Sequence[Array]) -> list[Array]:
    """The same kernels, of which the first, the columns' own, is symmetric to the last bit."""
    own = kernels[0]
    transposed = own.transpose(1, 0, 3, 2) if own.ndim == 4 else own.T
    return [(own + transposed) / 2, *kernels[1:]]


def choose_engine(
    network: Network, images: Array, predicate: Predicate, options: NTKOptions
) -> str:
    """The engine that runs.

    Raises:
        ValueError: if `one_backward` is asked for by name and does not apply.
    """
    if options.engine in ("neural_tangents", "jacobian"):
        return options.engine
    if options.batch_norm == "batch":
        return "neural_tangents"
    reason = one.why_not(network, images, predicate)
    if reason is None:
        return "one_backward"
    if options.engine == "one_backward":
        raise ValueError(f"engine 'one_backward' does not apply: {reason}")
    return "neural_tangents"


# --- one backward -----------------------------------------------------------------------------


def one_backward_kernels(
    network: Network,
    columns: Array,
    rows: Sequence[Array],
    predicate: Predicate,
    options: NTKOptions,
    axis: str | None = None,
) -> list[Array]:
    """The kernels of the engine `one_backward`, a chunk of rows at a time.

    Args:
        network: that the engine applies to, see `choose_engine`.
        columns: all, or this device's share of them.
        rows: of each batch all, or this device's share of them.
        predicate: which parameters count.
        options: outputs and memory; their chunk is that of one device.
        axis: of a mesh over whose devices images are shared out; None: all are here.
    """
    count = columns.shape[0]

    def run(images: Array) -> Array:
        if options.outputs == "full":
            size, width = _outputs_at_once(network, images, options)
            if size < width:
                return blocks_of.one_backward_full(network, images, count, predicate, size, axis)
        return one.one_backward(network, images, count, predicate, options.outputs, axis)

    if options.chunk is None:
        kernel = run(jnp.concatenate([columns, *rows]))
        ends = [count, *(r.shape[0] for r in rows)]
        return jnp.split(kernel, [sum(ends[:i]) for i in range(1, len(ends))])

    def blocks(batch: Array) -> Array:
        chunked = lambda part: run(jnp.concatenate([columns, part]))[count:]  # noqa: E731
        return _in_chunks(chunked, batch, options.chunk)

    return [blocks(batch) for batch in (columns, *rows)]


def _in_chunks(run: Callable[[Array], Array], batch: Array, chunk: int | None) -> Array:
    """`run` over rows, `chunk` at a time, one after another."""
    if chunk is None or chunk >= batch.shape[0]:
        return run(batch)
    whole = batch.shape[0] // chunk * chunk
    parts = batch[:whole].reshape(-1, chunk, *batch.shape[1:])
    done = lax.map(run, parts)
    done = done.reshape(-1, *done.shape[2:])
    return done if whole == batch.shape[0] else jnp.concatenate([done, run(batch[whole:])])


# --- engines over a function of the chosen parameters -------------------------------------------


Function = Callable[[list[Array], Any], Array]


def _outputs_at_once(network: Network, images: Array, options: NTKOptions) -> tuple[int, int]:
    """(Outputs to differentiate at once, all outputs)."""
    width = blocks_of.output_shape(network, images).shape[-1]
    return blocks_of.outputs_at_once(options.outputs_chunk, images.shape[0], width), width


def _by_outputs(
    network: Network,
    images: Array,
    options: NTKOptions,
    whole: Callable[[], list[Array]],
    block: Callable[[Array], list[Array]],
    pairs: blocks_of.Pairs,
) -> list[Array]:
    """Kernels of all outputs at once where they are few, else of blocks of them."""
    if options.outputs == "sum":
        return whole()
    size, width = _outputs_at_once(network, images, options)
    if size >= width:
        return whole()
    if options.outputs == "trace":
        return blocks_of.trace(block, width, size)
    return blocks_of.full(pairs, width, size)


def _functions(
    network: Network, columns: Array, predicate: Predicate, options: NTKOptions, fast: bool
) -> tuple[Function, list[Array]]:
    """f(chosen parameters, images) -> [n, k] with batch norm as asked, and the parameters."""
    variables = dict(network.variables)
    leaves, restore = split_parameters(variables.pop("params"), predicate)
    # The fast reverse rule serves XLA's CPU backend; elsewhere its own rules are better.
    rules = [fast_conv_rule()] if fast and jax.default_backend() == "cpu" else []
    mode = "batch"
    if options.batch_norm == "frozen":
        recorded = record_statistics(network, columns)
        if recorded:
            mode, variables["batch_stats"] = "stored", recorded

    def function(leaves: list[Array], images: Array) -> Array:
        with ExitStack() as stack:
            for rule in (*rules, batch_norm_rule(mode)):
                stack.enter_context(nn.intercept_methods(rule))
            applied = network.apply({**variables, "params": restore(leaves)}, images)
        outputs = check_outputs(applied[0])
        return outputs.sum(-1, keepdims=True) if options.outputs == "sum" else outputs

    return function, leaves


def record_statistics(network: Network, images: Array) -> Any:
    """Batch-norm statistics of a batch at every batch norm, as a collection (maybe empty)."""
    with nn.intercept_methods(batch_norm_rule("frozen")):
        state = network.apply(network.variables, images, ("batch_stats",))[1]
    return lax.stop_gradient(state.get("batch_stats", {}))


def _neural_tangents_engine(
    network: Network,
    columns: Array,
    rows: Sequence[Array],
    predicate: Predicate,
    options: NTKOptions,
) -> list[Array]:
    # Implementation 2 differentiates forwards, which the fast rule does not allow.
    function, leaves = _functions(
        network, columns, predicate, options, fast=options.implementation == 1
    )
    independent = options.batch_norm == "frozen"
    kernel = partial(
        _neural_tangents.empirical_ntk,
        implementation=options.implementation,
        vmap_axes=0 if independent else None,
        trace_axes=() if options.outputs == "full" else (-1,),
    )
    chunk = options.chunk if independent else None

    def whole(f: Function, left: Inputs, right: Inputs) -> list[Array]:
        run = lambda part: kernel(f, leaves, left(part), right(columns))  # noqa: E731
        if left is right and chunk is None:
            own = kernel(f, leaves, left(columns))  # one Jacobian serves both sides
        else:
            own = _in_chunks(run, columns, chunk)
        return [own, *(_in_chunks(run, r, chunk) for r in rows)]

    def weighted(leaves: list[Array], pair: tuple[Array, Array]) -> Array:
        outputs = function(leaves, pair[0])
        return jnp.einsum("nk,nbk->nb", outputs, pair[1], precision=PRECISION)

    def block(weights: Array) -> list[Array]:
        inputs = _with_weights(weights)
        return whole(weighted, inputs, inputs)

    return _by_outputs(
        network,
        columns,
        options,
        lambda: whole(function, _images_alone, _images_alone),
        block,
        lambda a: lambda b: whole(weighted, _with_weights(a), _with_weights(b)),
    )


Inputs = Callable[[Array], Any]


def _images_alone(images: Array) -> Array:
    return images


def _with_weights(weights: Float[Array, "b k"]) -> Inputs:
    """Images, each with the same weights of outputs: neural-tangents takes any tree of inputs."""
    return lambda images: (images, jnp.broadcast_to(weights, (len(images), *weights.shape)))


def _jacobian_engine(
    network: Network,
    columns: Array,
    rows: Sequence[Array],
    predicate: Predicate,
    options: NTKOptions,
) -> list[Array]:
    function, leaves = _functions(network, columns, predicate, options, fast=True)

    def jacobian(images: Array, weights: Array | None) -> list[Array]:
        def weighted(leaves: list[Array], images: Array) -> Array:
            outputs = function(leaves, images)
            if weights is None:
                return outputs
            return jnp.matmul(outputs, weights.T, precision=PRECISION)

        return _jacobian(weighted, leaves, images, options.chunk)

    def block(weights: Array | None) -> list[Array]:
        right = jacobian(columns, weights)
        lefts = [right, *(jacobian(r, weights) for r in rows)]
        return [_contract(left, right, options.outputs) for left in lefts]

    def pairs(weights: Array) -> Callable[[Array], list[Array]]:
        lefts = [jacobian(batch, weights) for batch in (columns, *rows)]

        def with_right(others: Array) -> list[Array]:
            right = jacobian(columns, others)
            return [_contract(left, right, "full") for left in lefts]

        return with_right

    return _by_outputs(network, columns, options, lambda: block(None), block, pairs)


def _jacobian(
    function: Function,
    leaves: list[Array],
    images: Array,
    chunk: int | None,
) -> list[Float[Array, "n k ..."]]:
    """Rows of the Jacobian of the batched function: one backward pass each."""
    y, pull = jax.vjp(lambda leaves: function(leaves, images), leaves)
    cotangents = jnp.eye(y.size, dtype=y.dtype).reshape(-1, *y.shape)
    if chunk and chunk > 1:
        rows = lax.map(lambda g: pull(g)[0], cotangents, batch_size=chunk)
    else:
        rows = lax.map(lambda g: pull(g)[0], cotangents)
    return [row.reshape(*y.shape, *row.shape[1:]) for row in rows]


def _contract(left: list[Array], right: list[Array], outputs: str) -> Array:
    """Inner products of Jacobians, leaf by leaf."""
    equation = "nkp,mlp->nmkl" if outputs == "full" else "nkp,mkp->nm"
    total: Any = 0.0
    for a, b in zip(left, right, strict=True):
        a, b = a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)
        total = total + jnp.einsum(equation, a, lax.optimization_barrier(b), precision=PRECISION)
    return total / left[0].shape[1] if outputs == "trace" else total


_ENGINES: dict[str, Callable[..., list[Array]]] = {
    "one_backward": one_backward_kernels,
    "neural_tangents": _neural_tangents_engine,
    "jacobian": _jacobian_engine,
}
