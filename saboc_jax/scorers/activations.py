"""Observes a forward pass: ReLU patterns, block outputs, batch norm variances, layer costs.

Flax interceptors record every quantity into the collection "observed", so the same code works for
the gated supernet, its specialised modules and any other module. In the supernet a leaf is stacked
[cells, edges, ...] and zero where an operation did not run. So a recorded value either adds up over
layers or marks that it was recorded.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from saboc_jax.keys import Purpose, key_for
from saboc_jax.layers import landmarks
from saboc_jax.layers.initialise import draw_parameters, find_initialiser
from saboc_jax.layers.interceptors import Interceptor, is_call, is_outermost
from saboc_jax.layers.jaxpr import EXAMPLE
from saboc_jax.layers.ops import Relu
from saboc_jax.layers.tree import flatten, path_names
from saboc_jax.ntk.batches import number_of, one_more
from saboc_jax.ntk.network import Network, soundness
from saboc_jax.precision import as_dtype
from saboc_jax.scorers.observables import draw_weights
from saboc_jax.types import Images, PRNGKey, SearchSpace, Variables

OBSERVED = "observed"
BAD = "bad"  # how many values of a ReLU are not finite
DRAWN = ("kernel", "scale", "bias")  # parameters that an initialiser draws or sets
WORD = 32  # bits in a word of a code


def redraw(space: SearchSpace, key: PRNGKey, init: str | None) -> Variables:
    """Draws the supernet's weights with a scorer's own initialiser (None: the space's).

    The same key draws the same normal numbers for every normal initialiser. Other parameters than
    kernels, scales and biases (embeddings of tokens or positions) are drawn by the space.

    Raises:
        ValueError: if the initialiser is unknown.
    """
    if init is None:
        return draw_weights(space, key)
    program = space.one_program
    shapes = jax.eval_shape(program.init, key)["params"]
    drawn = draw_parameters(
        key_for(key, Purpose.WEIGHTS), shapes, find_initialiser(init), program.layers_per_leaf
    )
    drawn = as_dtype(drawn, program.dtype)
    by_space = draw_weights(space, key)
    # A network whose own weights are not finite is no better for being drawn anew.
    sound = soundness(*jax.tree.leaves(by_space["params"]))
    drawn = jax.tree.map(lambda leaf: leaf * sound.astype(leaf.dtype), drawn)
    if all(path[-1] in DRAWN for path in flatten(shapes)):
        return {**by_space, "params": drawn}

    def choose(path: Any, ours: Array, theirs: Array) -> Array:
        return ours if path_names(path)[-1] in DRAWN else theirs

    params = jax.tree_util.tree_map_with_path(choose, drawn, by_space["params"])
    return {**by_space, "params": params}


def check_init(init: str | None) -> str | None:
    """Returns the name unchanged; ValueError if there is no such initialiser."""
    if init is not None:
        find_initialiser(init)
    return init


def record(
    network: Network, images: Images, *rules: Interceptor, batch_norm: str = "batch"
) -> tuple[Float[Array, "n ..."], Variables]:
    """Runs a network and returns (its outputs, the recorded values).

    Args:
        network: at fixed weights.
        images: one batch.
        *rules: interceptors that record with `put`; they wrap the layer rules.
        batch_norm: "batch" (train mode, as the proxies' released codes run) or "frozen".
    """
    outputs, state = network.run(network.variables, images, batch_norm, rules, (OBSERVED,))
    return outputs, state.get(OBSERVED, {})


def put(
    module: nn.Module,
    name: str,
    value: Array,
    merge: Callable[[Array, Array], Array] = operator.add,
) -> None:
    """Records an array at a module; `merge` joins the arrays of several calls."""
    module.sow(
        OBSERVED,
        name,
        value,
        reduce_fn=lambda old, new: new if old is None else merge(old, new),
        init_fn=lambda: None,
    )


def recorded(observed: Variables, name: str) -> list[Array]:
    """Returns everything recorded under a name, in the order of the paths."""
    return [leaf for path, leaf in flatten(observed).items() if path[-1] == name]


def soundness_of(outputs: Array, observed: Variables) -> Float[Array, ""]:
    """Returns 1 if the outputs and all that `relu_rule` saw are finite, else NaN."""
    bad = [jnp.where(leaf > 0, jnp.nan, leaf) for leaf in recorded(observed, BAD)]
    return soundness(outputs, *bad)


def require_recorded(observed: Variables, name: str, what: str) -> list[Array]:
    """Returns the values of `recorded`.

    Raises:
        ValueError: if nothing was recorded; `what` names the missing layers.
    """
    values = recorded(observed, name)
    if not values:
        raise ValueError(
            f"the network has no {what} that can be observed; allowed: Linen modules with at "
            "least one (what a module calls as a plain function is not seen)"
        )
    return values


def relu_rule(
    name: str, measure: Callable[[Bool[Array, "n units"]], Array], axis: int | None
) -> Interceptor:
    """Returns an interceptor that records `measure(active)` of every ReLU on feature maps.

    Args:
        name: the name of the recorded value.
        measure: a function of [n, units]: which units of the ReLU are above zero.
        axis: the axis that joins several calls of one ReLU; None: they are added.
    """

    def merge(old: Array, new: Array) -> Array:
        return old + new if axis is None else jnp.concatenate([old, new], axis)

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        if is_call(context, Relu) and y.ndim == 4:
            put(context.module, name, measure(_active(y)), merge)
            put(context.module, BAD, (~jnp.isfinite(y)).sum(dtype=jnp.float32))
        return y

    return rule


def _active(y: Float[Array, "n h w c"]) -> Bool[Array, "n units"]:
    return (y > 0).reshape(y.shape[0], -1)


def measure_relus(
    network: Network,
    images: Any,
    measure: Callable[[Bool[Array, "n units"]], Array],
    axis: int | None,
    *rules: Interceptor,
) -> tuple[list[Array], Variables, Float[Array, ""]]:
    """Returns `measure(active)` of every activation, recorded values, and soundness.

    Soundness is 1 if the outputs and what the activations see are finite, else NaN.

    The activations are the `ops.Relu` modules on feature maps or, in a network of another origin
    that has none, what its program calls: a unit is active where what goes in is above zero.

    Args:
        network: at fixed weights; train-mode batch norm.
        images: one batch.
        measure: see `relu_rule`.
        axis: see `relu_rule`.
        *rules: further recording interceptors of the same forward pass.

    Raises:
        ValueError: if there is no activation.
    """
    outputs, observed = record(network, images, relu_rule("relus", measure, axis), *rules)
    measured = recorded(observed, "relus")
    sound = soundness_of(outputs, observed)
    if not measured:
        seen = activations_of(network, images)
        measured = [measure(each > 0) for each in seen]
        sound = soundness(outputs, *seen)
    if not measured:
        raise ValueError(
            f"{network.name} has no activation; allowed: at least one, of those in jax.nn, or "
            "another that is told apart by the sign of what goes in"
        )
    return measured, observed, sound


def activations_of(network: Network, inputs: Any) -> list[Float[Array, "n units"]]:
    """Returns what decides which units of a network are active, read from its program.

    Args:
        network: at fixed weights; train-mode batch norm.
        inputs: one batch.

    Raises:
        ValueError: if an activation is in a branch, or acts on an array without an axis of
            examples.
    """

    def look(inputs: Any) -> landmarks.Landmarks:
        run = lambda x: record(network, x)[0]  # noqa: E731
        return landmarks.read(run, (EXAMPLE,), inputs)

    n, marks = number_of(inputs), look(inputs)
    shapes = landmarks.activations_in(marks)
    if not shapes:
        return []
    axes = landmarks.example_axes(
        shapes, landmarks.activations_in(look(one_more(inputs))), n, n + 1
    )
    _, seen = landmarks.run_activations(marks, jax.tree.leaves(inputs))
    return [
        jnp.moveaxis(each, axis, 0).reshape(n, -1) for each, axis in zip(seen, axes, strict=True)
    ]


def cost_rule() -> Interceptor:
    """Returns an interceptor that records multiply-accumulates and parameters of every layer.

    Operations of the supernet that do not run cost nothing, so the cost of an architecture is
    data like the architecture itself. Layers: convolutions, dense layers, batch norms.
    """

    def rule(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        if is_call(context, (nn.Conv, nn.Dense, nn.BatchNorm)) and is_outermost(context):
            params = context.module.variables.get("params", {})
            positions = y.size // (y.shape[0] * y.shape[-1])
            macs = params["kernel"].size * positions if "kernel" in params else 0
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            put(context.module, "cost", jnp.array([macs, size], jnp.float32))
        return y

    return rule


def layer_costs(observed: Variables) -> Float[Array, "layers 2"]:
    """Returns (multiply-accumulates, parameters) of every layer that ran, zeros for the others.

    They are not summed here: a layer's count is exact in float32, a network's may not be.
    """
    costs = require_recorded(observed, "cost", "convolution, dense layer or batch norm")
    return jnp.concatenate([leaf.reshape(-1, 2) for leaf in costs])


# --- binary codes -------------------------------------------------------------------------------


def pack_bits(bits: Bool[Array, "codes bits"]) -> UInt32[Array, "codes words"]:
    """Packs codes into words of 32 bits."""
    codes, length = bits.shape
    words = -(-length // WORD)
    padded = jnp.pad(bits, ((0, 0), (0, words * WORD - length)))
    shifted = padded.reshape(codes, words, WORD).astype(jnp.uint32) << jnp.arange(
        WORD, dtype=jnp.uint32
    )
    return shifted.sum(-1, dtype=jnp.uint32)


def count_distinct(codes: UInt32[Array, "codes words"]) -> Int[Array, ""]:
    """Counts distinct codes exactly: sorts them and counts the changes."""
    columns = lax.sort(tuple(codes.T), num_keys=codes.shape[1])
    changes = [column[1:] != column[:-1] for column in columns]
    return 1 + jnp.stack(changes).any(0).sum()
